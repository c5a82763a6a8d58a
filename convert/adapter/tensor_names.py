"""What the tensors of an adapter are, by their names: low-rank factors of a module, or values that replace the base's.

    base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight             (r, in)
    base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight     (out, r); older: with the name
    base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias               (out,), with lora_bias
    base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector     (out,), DoRA
    base_model.model.model.embed_tokens.lora_embedding_A                       (r, vocabulary); …_B: (hidden, r)
    base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta   (tokens, hidden)
    base_model.model.model.layers.0.mlp.experts.base_layer.lora_A.weight       (experts * r, in): see `experts`
    base_model.model.lm_head.weight, ….base_layer.weight, ….modules_to_save.default.weight    in place of the base's

Source: peft 0.21.2, utils/save_and_load.py, get_peft_model_state_dict.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

from convert.errors import CheckpointError, UnsupportedError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.checkpoint import TensorSource

_PREFIXES: Final = ("base_model.model.", "base_model.")
_LORA: Final = re.compile(
    r"(?P<module>.+)\.lora_(?P<part>A|B|embedding_A|embedding_B|magnitude_vector)"
    r"(\.(?P<adapter>(?!(weight|bias)$)[^.]+))?(\.(?P<leaf>weight|bias))?"
)
_TOKENS: Final = re.compile(r"(?P<module>.+)\.token_adapter\.trainable_tokens_delta(\.(?P<adapter>[^.]+))?")
_WRAPPED: Final = re.compile(
    r"\.modules_to_save(\.[^.]+)?(?=\.[^.]+$)|\.base_layer(?=\.)|\.token_adapter(?=\.base_layer\.)"
)
_TRAINED: Final = ".modules_to_save."
_UNREAD: Final = re.compile(r"\.(lora_\w+|ia3_\w+|hada_\w+|lokr_\w+|oft_\w+|vera_\w+)(\.|$)")


class Part(Enum):
    """A tensor's part in a module's change, as its name says it."""

    A = "lora_A"
    B = "lora_B"
    BIAS = "lora_B's bias"
    EMBEDDING_A = "lora_embedding_A"
    EMBEDDING_B = "lora_embedding_B"
    MAGNITUDE = "lora_magnitude_vector"
    TOKENS = "trainable_tokens_delta"


@dataclass(slots=True)
class NamedTensors:
    """An adapter's tensors, sorted by what they are.

    parts: by module. whole: what replaces tensors of the base, by those's names.
    untrained: what some of those were before, of a resized vocabulary. ignored: names of tensors that say nothing new.
    """

    parts: dict[str, dict[Part, TensorSource]] = field(default_factory=dict)
    whole: dict[str, TensorSource] = field(default_factory=dict)
    untrained: dict[str, TensorSource] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)


def sort_tensors(tensors: Mapping[str, TensorSource]) -> NamedTensors:
    """Sort an adapter's tensors by what their names say.

    Raises CheckpointError if two are the same part, UnsupportedError for factors of another kind.
    """
    named = NamedTensors()
    adapters: set[str] = set()
    for name, source in tensors.items():
        plain = _without_prefix(name)
        if found := _LORA.fullmatch(plain) or _TOKENS.fullmatch(plain):
            adapters |= {found["adapter"]} if found["adapter"] else set()
            _put_part(named, found["module"], _part(found), source)
        elif unread := _UNREAD.search(plain):
            raise UnsupportedError(
                f"adapter tensor {shown(name)} is a {shown(unread[1])}, which is no part of LoRA or DoRA"
            )
        elif ".original_module." in plain:
            named.ignored.append(name)
        else:
            _put_whole(named, plain, source)
    if len(adapters) > 1:
        listed = ", ".join(shown(adapter) for adapter in sorted(adapters)[:8])
        raise CheckpointError(f"the file holds several adapters: {listed}", hint="save one: selected_adapters=[NAME]")
    return named


def _without_prefix(name: str) -> str:
    prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
    return name.removeprefix(prefix)


def _part(found: re.Match[str]) -> Part:
    groups = found.groupdict()
    if "part" not in groups:
        return Part.TOKENS
    if groups["leaf"] == "bias":
        return Part.BIAS
    return Part(f"lora_{groups['part']}")


def _put_part(named: NamedTensors, module: str, part: Part, source: TensorSource) -> None:
    parts = named.parts.setdefault(module, {})
    if (first := parts.setdefault(part, source)) is not source:
        raise CheckpointError(f"adapter tensors {shown(first.name)} and {shown(source.name)} are the same part")


def _put_whole(named: NamedTensors, plain: str, source: TensorSource) -> None:
    """Take a whole tensor. Of a resized vocabulary peft saves the old embeddings too: the trained ones count."""
    name = _WRAPPED.sub("", plain)
    first = named.whole.setdefault(name, source)
    if first is source:
        return
    is_trained, was_trained = _TRAINED in source.name, _TRAINED in first.name
    if is_trained == was_trained:
        raise CheckpointError(f"adapter tensors {shown(first.name)} and {shown(source.name)} are both {shown(name)}")
    named.whole[name], named.untrained[name] = (source, first) if is_trained else (first, source)
