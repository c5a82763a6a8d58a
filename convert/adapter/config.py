"""`adapter_config.json` as typed values: what merging needs of it.

Every kind of adapter that cannot be merged as LoRA or DoRA is an error that names it.
Source: peft 0.21.2, tuners/lora/config.py (LoraConfig), utils/peft_types.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from convert.checkpoint.json_file import read_json
from convert.checkpoint.no_weights import adapters_inside
from convert.errors import CheckpointError, UnsupportedError
from convert.fields import Fields
from convert.shown import shown, shown_list

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

CONFIG_FILE: Final = "adapter_config.json"
MAX_RANK: Final = 1 << 16
_MAX_CONFIG_NBYTES: Final = 4 << 20
_MAX_PATTERNS: Final = 4096
_DEFAULT: Final = 8  # of r and lora_alpha

_MERGE_THERE: Final = "merge it with peft: `merge_and_unload()`, then `save_pretrained()`, and convert that"
# What changes more than LoRA's factors say. Source: peft 0.21.2, tuners/lora/variants.py.
_VARIANTS: Final[Mapping[str, str]] = {
    "use_qalora": "QA-LoRA",
    "use_bdlora": "BD-LoRA",
    "arrow_config": "Arrow",
    "alora_invocation_tokens": "aLoRA, which cannot be merged",
    "monteclora_config": "MonteCLoRA",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "layer_replication": "replicated layers",
    "megatron_config": "Megatron layers",
}
# Loading one of these, peft first takes the factors it started from away from the base's weights.
_CHANGED_BASES: Final[Mapping[str, str]] = {
    "pissa": "PiSSA",
    "olora": "OLoRA",
    "corda": "CorDA",
    "lora_ga": "LoRA-GA",
    "loftq": "LoftQ",
}
_HEADS: Final = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What an adapter says of itself.

    r, alpha: rank and lora_alpha, except where a pattern matches. target_modules: None, a regular expression,
    "all-linear", or names. layers_to_transform: None for all. base: the name or path of the base model, with its
    revision. where: the file, for errors.
    """

    where: str
    r: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    use_rslora: bool
    use_dora: bool
    lora_bias: bool
    fan_in_fan_out: bool
    ensure_weight_tying: bool
    target_modules: str | tuple[str, ...] | None
    exclude_modules: str | tuple[str, ...]
    target_parameters: tuple[str, ...]
    modules_to_save: tuple[str, ...]
    layers_to_transform: tuple[int, ...] | None
    layers_pattern: tuple[str, ...]
    token_indices: Mapping[str, tuple[int, ...]]
    base: str | None
    revision: str | None


def read_adapter_config(directory: Path) -> AdapterConfig:
    """Read and check `adapter_config.json`.

    Raises CheckpointError if it is missing, or a value is of the wrong type or absurd; UnsupportedError for an adapter
    that is not LoRA or DoRA of a causal language model.
    """
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise _no_config(directory)
    values = _Values(read_json(path, max_nbytes=_MAX_CONFIG_NBYTES), shown(path), error=CheckpointError)
    _refuse_others(values)
    ranks, alphas = values.patterns("rank_pattern"), values.patterns("alpha_pattern")
    return AdapterConfig(
        where=values.where,
        r=values.rank("r") if values.has("r") else _DEFAULT,
        alpha=values.alpha("lora_alpha") if values.has("lora_alpha") else _DEFAULT,
        rank_pattern={key: ranks.rank(key) for key in ranks.values},
        alpha_pattern={key: alphas.alpha(key) for key in alphas.values},
        use_rslora=values.flag("use_rslora"),
        use_dora=values.flag("use_dora"),
        lora_bias=values.flag("lora_bias"),
        fan_in_fan_out=values.flag("fan_in_fan_out"),
        ensure_weight_tying=values.flag("ensure_weight_tying"),
        target_modules=values.pattern_or_names("target_modules"),
        exclude_modules=values.pattern_or_names("exclude_modules") or (),
        target_parameters=values.names("target_parameters"),
        modules_to_save=values.names("modules_to_save"),
        layers_to_transform=values.layers("layers_to_transform"),
        layers_pattern=values.names("layers_pattern"),
        token_indices=values.token_indices("trainable_token_indices"),
        base=values.text("base_model_name_or_path") or None,
        revision=values.text("revision") or None,
    )


def _no_config(directory: Path) -> CheckpointError:
    if inner := adapters_inside(directory):
        return CheckpointError(f"{shown(directory)} has adapters in it: {shown_list(inner)}", hint="name one of them")
    return CheckpointError(
        f"{shown(directory)} has no {CONFIG_FILE}: without its rank and alpha an adapter cannot be merged",
        hint="copy the file from where the adapter was saved; peft's save_pretrained() writes it",
    )


def _refuse_others(values: _Values) -> None:
    where = values.where
    if values.has("fine_tune_type") or (values.has("lora_parameters") and not values.has("peft_type")):
        raise UnsupportedError(
            f"{where} is of an MLX adapter, which is not read",
            hint="fuse it where it was trained: `mlx_lm.fuse --model BASE --adapter-path ADAPTER`, and convert that",
        )
    kind = values.text("peft_type")
    if not kind:
        raise CheckpointError(f"{where} lacks `peft_type`", hint="peft's save_pretrained() writes it")
    if kind.upper() != "LORA":
        raise UnsupportedError(f"{where} is of the kind {shown(kind)}; LoRA and DoRA are merged", hint=_MERGE_THERE)
    task = values.text("task_type")
    if task in _HEADS:
        raise UnsupportedError(
            f"{where} is for the task {shown(task)}, whose head has no place in a language model's GGUF",
            hint="only adapters of causal language models are merged",
        )
    if task == "SEQ_2_SEQ_LM":
        raise UnsupportedError(f"{where} is for the task {shown(task)}; only causal language models are converted")
    for key, name in _VARIANTS.items():
        if values.get(key):
            raise UnsupportedError(f"{where} has `{key}`: {name}; plain LoRA and DoRA are merged", hint=_MERGE_THERE)
    _refuse_changed_base(values)


def _refuse_changed_base(values: _Values) -> None:
    start = values.get("init_lora_weights")
    name = next((name for key, name in _CHANGED_BASES.items() if str(start).lower().startswith(key)), None)
    if name is not None:
        raise UnsupportedError(
            f"{values.where} has `init_lora_weights` {shown(start)}: the adapter belongs to what {name} left of"
            " the base, not to the base itself",
            hint="save it as plain LoRA, with save_pretrained(…, path_initial_model_for_weight_conversion=…); or, if"
            " the base given is the changed one that was saved with it, set `init_lora_weights` to true",
        )


class _Values(Fields):
    """The config's keys, with the types that only an adapter's have."""

    def rank(self, key: str) -> int:
        return self.size(key, limit=MAX_RANK + 1)

    def alpha(self, key: str) -> float:
        value = self.number(key)
        if value is None:
            raise self.wrong((key,), "a finite number")
        return value

    def patterns(self, key: str) -> _Values:
        """Give what each pattern says of the modules that it matches."""
        self._refuse_many(key, inner := self.mapping(key))
        return _Values(inner, f"{shown(key)} in {self.where}", error=self.error)

    def names(self, key: str) -> tuple[str, ...]:
        value = self.get(key)
        listed = [value] if isinstance(value, str) else self.texts(key) or []
        self._refuse_many(key, listed)
        return tuple(listed)

    def pattern_or_names(self, key: str) -> str | tuple[str, ...] | None:
        value = self.get(key)
        return value if value is None or isinstance(value, str) else self.names(key)

    def layers(self, key: str) -> tuple[int, ...] | None:
        value = self.get(key)
        listed = [value] if type(value) is int else value
        if listed is not None and not (isinstance(listed, list) and all(type(index) is int for index in listed)):
            raise self.wrong((key,), "a list of whole numbers")
        return tuple(listed) if listed else None

    def token_indices(self, key: str) -> Mapping[str, tuple[int, ...]]:
        value = self.get(key) or {}
        by_module = {"embed_tokens": value} if isinstance(value, list) else value
        if not isinstance(by_module, dict):
            raise self.wrong((key,), "a list of token ids")
        for indices in by_module.values():
            if not isinstance(indices, list) or not all(type(index) is int and index >= 0 for index in indices):
                raise self.wrong((key,), "token ids: whole numbers from 0")
            if len(set(indices)) != len(indices):
                raise self.wrong((key,), "each token id once")
        return {module: tuple(indices) for module, indices in by_module.items()}

    def _refuse_many(self, key: str, value: Collection[object]) -> None:
        if len(value) > _MAX_PATTERNS:
            raise self.error(f"`{key}` in {self.where} has {len(value)} entries, at most {_MAX_PATTERNS} are read")
