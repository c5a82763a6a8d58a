"""Stored numbers that concern activations or the key-value cache only: a GGUF has no place for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from convert.shown import shown_list

if TYPE_CHECKING:
    from collections.abc import Iterable

_OF: Final = ("input", "output", "q", "k", "v", "kv")
_WHAT: Final = ("scale", "zero_point", "global_scale")
# `prob_output_scale` and `bmm` are modelopt's; `qscale_act` is Mistral's, also under `kv_fake_quantizer` and others;
# `input_scale_ub` is fbgemm's; `act_scale`, `in_scale` and `out_scale` are what AutoFP8's first files call theirs.
_SUFFIXES: Final = frozenset(
    {f"{of}_{what}" for of in _OF for what in _WHAT}
    | {
        "activation_scale",
        "act_scale",
        "in_scale",
        "out_scale",
        "qscale_act",
        "input_scale_ub",
        "prob_scale",
        "prob_output_scale",
        "k_bias",
        "v_bias",
    }
)


def is_activation_scale(name: str) -> bool:
    """Tell whether a stored tensor, by its name, is used with activations only: weights decode without it."""
    return name.rpartition(".")[2] in _SUFFIXES or name.endswith("_activation_scale")


def activation_notes(names: Iterable[str]) -> tuple[str, ...]:
    """Return the line that says what is left out; nothing where nothing is."""
    kinds: dict[str, int] = {}
    for name in names:
        if is_activation_scale(name):
            suffix = name.rpartition(".")[2]
            kinds[suffix] = kinds.get(suffix, 0) + 1
    if not kinds:
        return ()
    listed = shown_list(sorted(kinds))
    return (f"{sum(kinds.values())} tensors that only concern quantized activations are left out: {listed}",)
