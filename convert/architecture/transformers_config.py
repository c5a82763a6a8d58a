"""A `config.json` as transformers' AutoConfig would give it back: defaults filled in, spellings moved, or refused.

It matters because the reference reads the config so, and where transformers refuses takes the JSON as it stands: no
default then reaches the GGUF. What is said of a class is in `transformers_defaults`; here are the few rules.
Parity: an operation that raises there raises here too (a null compared, a layer count that is text), and that is a
refusal; a check of our own before it would accept or refuse other configs than transformers does.
Source: transformers 5.23, configuration_utils.py (PreTrainedConfig.__post_init__, to_dict). transformers_classes: what
classes derive; transformers_rope: rotary parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from convert.architecture import transformers_defaults as table
from convert.architecture.transformers_classes import POST_INIT
from convert.architecture.transformers_rope import Values, convert_rope, copied, require, validate_rope

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_RAISED: Final = (TypeError, ValueError, LookupError, AttributeError, ZeroDivisionError, OverflowError)
_TYPES: Final[Mapping[str, Callable[[Any], bool]]] = {
    "int": lambda value: type(value) is int,
    "float": lambda value: isinstance(value, float),
    "bool": lambda value: isinstance(value, bool),
    "str": lambda value: isinstance(value, str),
    "dict": lambda value: isinstance(value, dict),
    "None": lambda value: value is None,
    "list[int]": lambda value: isinstance(value, list) and all(type(item) is int for item in value),
    "list[float]": lambda value: isinstance(value, list) and all(isinstance(item, float) for item in value),
    "list[str]": lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
}
_PART: Final = "mpt_attention"  # of MPT's config, and no model's
# Read by PreTrainedConfig and not kept under their own name.
_DROPPED: Final = (
    "torch_dtype",
    "name_or_path",
    "_commit_hash",
    "output_attentions",
    "attn_implementation",
    "experts_implementation",
    "num_labels",
    "model_type",
)


def as_transformers(config: Mapping[str, Any]) -> Values | None:
    """Give the values that AutoConfig.from_pretrained(…).to_dict() would, or None where it refuses the config.

    Only keys that a GGUF can depend on are alike; nested text and vision configs stay nested. Takes time and memory
    by the number of layers, which the caller has checked; knows nothing of `per_layer_config`.
    """
    try:
        "AutoConfig" in config.get("auto_map", ())  # noqa: B015 - raises as it does there
        model_type = config["model_type"]
        if model_type == "mistral" and "layer_types" in config:
            model_type = "ministral"  # AutoConfig.from_pretrained
        return _resolved(model_type, config) if model_type in table.FIELDS and model_type != _PART else None
    except _RAISED:
        return None


def _resolved(model_type: str, config: Mapping[str, Any]) -> Values:
    fields, aliases = table.FIELDS[model_type], table.ALIASES.get(model_type, {})
    values = {aliases.get(key, key): _checked(model_type, key, config) for key in fields}
    extra = {key: value for key, value in config.items() if key not in fields}
    if model_type in POST_INIT:
        POST_INIT[model_type](values, extra)
    if model_type == "mpt":
        values["attn_config"] = _resolved(_PART, values["attn_config"] or {})
    for key, (kind, usual, may_be_another) in table.SUB_CONFIGS.get(model_type, {}).items():
        config = dict(usual) if values[key] is None else values[key]
        values[key] = _resolved(config.get("model_type", kind) if may_be_another else kind, config)
    _check_dtype(extra)
    _check_labels(extra)
    _check_attention(extra)
    convert_rope(model_type, values, extra)
    # A class that knows no rotary embedding keeps both spellings under one key, the later of the two.
    _keep(model_type, extra, values, {**aliases, "rope_scaling": "rope_parameters"})
    if isinstance(values.get("rope_parameters"), dict):
        values["rope_parameters"] = copied(values["rope_parameters"])  # the check below writes into it
    _rename_layer_types(values)
    _validate(model_type, values)
    values["model_type"] = model_type
    if model_type in ("gemma3_text", "gemma3n_text") and values.get("use_bidirectional_attention"):
        values["sliding_window"] = (values["sliding_window"] - 1) * 2  # to_dict
    return values


def _checked(model_type: str, key: str, config: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
    default, accepted = table.FIELDS[model_type][key]
    value = config.get(key, default)
    least, greatest = table.INTERVALS.get(model_type, {}).get(key, (value, value))
    if not any(_is(value, name) for name in accepted.split(" | ")):
        raise TypeError(key)
    if (least, greatest) != (value, value) and not least <= value <= greatest:
        raise ValueError(key)
    return value


def _is(value: object, name: str) -> bool:
    return value == name[1:-1] if name.startswith("'") else _TYPES[name](value)


def _check_dtype(extra: Values) -> None:
    dtype = extra.get("dtype") if extra.get("dtype") is not None else extra.get("torch_dtype")
    if isinstance(dtype, str) and dtype not in table.DTYPES:
        raise AttributeError(dtype)
    if dtype is not None and not isinstance(dtype, (str, int, dict)):
        str(dtype).split(".")[1]


def _check_labels(extra: Values) -> None:
    names = extra.get("id2label")
    if names is None:
        n_labels = len(range(extra.get("num_labels", 2)))
    else:
        n_labels = len({int(key): name for key, name in names.items()})
        if "num_labels" in extra and extra["num_labels"] != n_labels:
            range(extra["num_labels"])
    if extra.get("problem_type") == "single_label_classification" and n_labels == 1:
        raise ValueError(n_labels)


def _check_attention(extra: Values) -> None:
    if extra.get("output_attentions", False) and extra.get("attn_implementation") not in {"eager", None}:
        raise ValueError(extra["attn_implementation"])


def _keep(model_type: str, extra: Values, values: Values, aliases: Mapping[str, str]) -> None:
    for key, value in extra.items():
        if key in (*table.READ_ONLY_KEYS, *table.OWN_READ_ONLY_KEYS.get(model_type, ())):
            raise AttributeError(key)
        if key not in table.GENERATION_KEYS and key not in _DROPPED:
            values[aliases.get(key, key)] = value


def _rename_layer_types(values: Values) -> None:
    for key in ("layer_types", "mtp_layer_types"):
        if values.get(key) is not None:
            values[key] = [table.RENAMED_LAYER_TYPES.get(kind, kind) for kind in values[key]]


def _validate(model_type: str, values: Values) -> None:
    values = values | {key: values[kept] for key, kept in table.ALIASES.get(model_type, {}).items() if kept in values}
    if model_type in table.HEADS_DIVIDE and values["hidden_size"] % values["num_attention_heads"]:
        raise ValueError(values["hidden_size"])
    if model_type not in table.HEADS_DIVIDE and {"head_dim", "num_heads", "embed_dim"} <= values.keys():
        require(values["head_dim"] * values["num_heads"] == values["embed_dim"])
    require(sum(values.get(key) is not None for key in ("decoder", "generator", "text_config")) <= 1)
    quantization = values.get("quantization_config")
    require(quantization is None or isinstance(quantization, dict))
    _validate_layer_types(values)
    validate_rope(model_type, values)


def _validate_layer_types(values: Values) -> None:
    for key, known in (("layer_types", table.LAYER_TYPES), ("mlp_layer_types", table.MLP_LAYER_TYPES)):
        layers = values.get(key)
        if layers is None or "num_hidden_layers" not in values:
            return
        require(all(kind in known for kind in layers) and values["num_hidden_layers"] in {None, len(layers)})
