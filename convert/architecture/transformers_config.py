"""A `config.json` as transformers' AutoConfig would give it back: defaults filled in, spellings moved, or refused.

It matters because the reference reads the config so, and where transformers refuses takes the JSON as it stands: no
default then reaches the GGUF. What is said of a class is in `transformers_defaults`; here are the few rules.
Parity: an operation that raises there raises here too (a null compared, a layer count that is text), and that is a
refusal; a check of our own before it would accept or refuse other configs than transformers does.
Source: transformers 5.23, configuration_utils.py (PreTrainedConfig.__post_init__, to_dict), modeling_rope_utils.py
(RotaryEmbeddingConfigMixin) and the classes' own __post_init__.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from convert.architecture import transformers_defaults as table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_Values = dict[str, Any]

_RAISED: Final = (TypeError, ValueError, LookupError, AttributeError, ZeroDivisionError, OverflowError)
_TYPES: Final[Mapping[str, Callable[[Any], bool]]] = {
    "int": lambda value: type(value) is int,
    "float": lambda value: isinstance(value, float),
    "bool": lambda value: isinstance(value, bool),
    "str": lambda value: isinstance(value, str),
    "dict": lambda value: isinstance(value, dict),
    "None": lambda value: value is None,
    "list[int]": lambda value: isinstance(value, list) and all(type(item) is int for item in value),
    "list[str]": lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
}
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
_SCALED_FROM: Final = ("llama3", "yarn", "longrope")  # take the original length where none is said
_LENGTH: Final = "original_max_position_embeddings"


def as_transformers(config: Mapping[str, Any]) -> _Values | None:
    """Give the values that AutoConfig.from_pretrained(…).to_dict() would, or None where it refuses the config.

    Only keys that a GGUF can depend on are alike; nested text and vision configs stay nested. Takes time and memory
    by the number of layers, which the caller has checked; knows nothing of `per_layer_config`.
    """
    try:
        "AutoConfig" in config.get("auto_map", ())  # noqa: B015 - raises as it does there
        model_type = config["model_type"]
        if model_type == "mistral" and "layer_types" in config:
            model_type = "ministral"  # AutoConfig.from_pretrained
        return _resolved(model_type, config) if model_type in table.FIELDS else None
    except _RAISED:
        return None


def _resolved(model_type: str, config: Mapping[str, Any]) -> _Values:
    fields, aliases = table.FIELDS[model_type], table.ALIASES.get(model_type, {})
    values = {aliases.get(key, key): _checked(model_type, key, config) for key in fields}
    extra = {key: value for key, value in config.items() if key not in fields}
    _POST_INIT.get(model_type, _nothing)(values, extra)
    for key, kind in table.SUB_CONFIGS.get(model_type, {}).items():
        values[key] = _sub_config(kind, values[key] or {})
    _check_dtype(extra)
    _check_labels(extra)
    _check_attention(extra)
    if model_type == "gemma3_text":
        _convert_rope_of_gemma3(values, extra)
    elif model_type in table.DEFAULT_THETA or (extra.get("rope_scaling") and extra.get("rope_theta")):
        _convert_rope(values, extra, table.DEFAULT_THETA.get(model_type))
    # A class that knows no rotary embedding keeps both spellings under one key, the later of the two.
    _keep(extra, values, {**aliases, "rope_scaling": "rope_parameters"})
    if isinstance(values.get("rope_parameters"), dict):
        values["rope_parameters"] = _copied(values["rope_parameters"])  # the check below writes into it
    _rename_layer_types(values)
    _validate(model_type, values)
    values["model_type"] = model_type
    if model_type == "gemma3_text" and values["use_bidirectional_attention"]:
        values["sliding_window"] = (values["sliding_window"] - 1) * 2  # to_dict
    return values


def _checked(model_type: str, key: str, config: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
    default, accepted = table.FIELDS[model_type][key]
    value = config.get(key, default)
    least, greatest = table.INTERVALS.get(model_type, {}).get(key, (value, value))
    if not any(_TYPES[name](value) for name in accepted.split(" | ")):
        raise TypeError(key)
    if (least, greatest) != (value, value) and not least <= value <= greatest:
        raise ValueError(key)
    return value


def _sub_config(model_type: str, config: Mapping[str, Any]) -> _Values:
    # Only the vision config's own `model_type` is looked at; of another kind than usual we know nothing.
    if model_type == "siglip_vision_model" and config.get("model_type", model_type) != model_type:
        raise ValueError(model_type)
    return _resolved(model_type, config)


def _nothing(_values: _Values, _extra: _Values) -> None:
    pass


def _fill_head_dim(values: _Values, _extra: _Values) -> None:
    if values["head_dim"] is None:
        values["head_dim"] = values["hidden_size"] // values["num_attention_heads"]
    _fill_kv_heads(values, _extra)


def _fill_kv_heads(values: _Values, _extra: _Values) -> None:
    if values["num_key_value_heads"] is None:
        values["num_key_value_heads"] = values["num_attention_heads"]


def _of_ministral(values: _Values, _extra: _Values) -> None:
    if values["layer_types"] is None:
        kind = "full_attention" if values["sliding_window"] is None else "sliding_attention"
        values["layer_types"] = [kind] * values["num_hidden_layers"]


def _of_qwen3_moe(values: _Values, _extra: _Values) -> None:
    if not values["use_sliding_window"]:
        values["sliding_window"] = None
    values["mlp_only_layers"] = values["mlp_only_layers"] or []


def _of_gemma3_text(values: _Values, extra: _Values) -> None:
    if values["use_bidirectional_attention"]:
        values["sliding_window"] = values["sliding_window"] // 2 + 1
    if values["layer_types"] is None:
        every = extra.get("sliding_window_pattern", 6)
        kinds = ("full_attention", "sliding_attention")
        values["layer_types"] = [kinds[bool((i + 1) % every)] for i in range(values["num_hidden_layers"])]


def _of_bloom(values: _Values, extra: _Values) -> None:
    n_embed = extra.pop("n_embed", None)
    if n_embed is not None and type(n_embed) is not int:
        raise TypeError(n_embed)
    values["hidden_size"] = values["hidden_size"] if n_embed is None else n_embed


def _of_deepseek_v3(values: _Values, extra: _Values) -> None:
    _fill_kv_heads(values, extra)
    values["qk_head_dim"] = values["qk_nope_head_dim"] + values["qk_rope_head_dim"]
    values["head_dim"] = values["qk_rope_head_dim"]


_POST_INIT: Final[Mapping[str, Callable[[_Values, _Values], None]]] = {
    "llama": _fill_head_dim,
    "mistral": _fill_head_dim,
    "ministral": _of_ministral,
    "qwen3_moe": _of_qwen3_moe,
    "gemma3_text": _of_gemma3_text,
    "bloom": _of_bloom,
    "deepseek_v3": _of_deepseek_v3,
}


def _check_dtype(extra: _Values) -> None:
    dtype = extra.get("dtype") if extra.get("dtype") is not None else extra.get("torch_dtype")
    if isinstance(dtype, str) and dtype not in table.DTYPES:
        raise AttributeError(dtype)
    if dtype is not None and not isinstance(dtype, (str, int, dict)):
        str(dtype).split(".")[1]


def _check_labels(extra: _Values) -> None:
    names = extra.get("id2label")
    if names is None:
        n_labels = len(range(extra.get("num_labels", 2)))
    else:
        n_labels = len({int(key): name for key, name in names.items()})
        if "num_labels" in extra and extra["num_labels"] != n_labels:
            range(extra["num_labels"])
    if extra.get("problem_type") == "single_label_classification" and n_labels == 1:
        raise ValueError(n_labels)


def _check_attention(extra: _Values) -> None:
    if extra.get("output_attentions", False) and extra.get("attn_implementation") not in {"eager", None}:
        raise ValueError(extra["attn_implementation"])


def _keep(extra: _Values, values: _Values, aliases: Mapping[str, str]) -> None:
    for key, value in extra.items():
        if key in table.READ_ONLY_KEYS:
            raise AttributeError(key)
        if key not in table.GENERATION_KEYS and key not in _DROPPED:
            values[aliases.get(key, key)] = value


def _convert_rope(values: _Values, extra: _Values, default_theta: float | None) -> None:
    rope = _copied(extra.pop("rope_scaling", None) or values["rope_parameters"] or {})
    theta = extra.pop("rope_theta", default_theta)
    rotary_part = extra.pop("partial_rotary_factor", None)
    for section in _sections(rope, values):
        if section is not None:
            section.setdefault("rope_theta", theta)
            if rotary_part is not None:
                section.setdefault("partial_rotary_factor", rotary_part)
    _standardize_rope(rope, values)


def _convert_rope_of_gemma3(values: _Values, extra: _Values) -> None:
    scaling = extra.pop("rope_scaling", None)
    kinds = {"sliding_attention": {"rope_type": "default"}, "full_attention": {"rope_type": "default"}}
    rope = _copied(kinds if values["rope_parameters"] is None else values["rope_parameters"])
    if scaling is not None:
        rope["full_attention"].update(scaling)
    theta = table.DEFAULT_THETA["gemma3_text"]
    for kind, key, default in (
        ("full_attention", "rope_theta", theta["global"]),
        ("sliding_attention", "rope_local_base_freq", theta["local"]),
    ):
        if rope.get(kind) is None:
            rope[kind] = {"rope_type": "default"}
        rope[kind].setdefault("rope_theta", extra.pop(key, default))
    _standardize_rope(rope, values)


def _copied(section: Any) -> _Values:  # noqa: ANN401 - JSON
    if not isinstance(section, dict):
        raise TypeError(section)
    return {key: dict(value) if isinstance(value, dict) else value for key, value in section.items()}


def _sections(rope: _Values, values: _Values) -> list[Any]:
    """Give the parts that are for a kind of layer each, or the whole where it is for all."""
    labels = values.get("layer_types") or ()
    return [rope[key] for key in rope if key in labels] or [rope]


def _standardize_rope(rope: _Values, values: _Values) -> None:
    for section in _sections(rope, values):
        if section is not None:
            section.setdefault("rope_type", section.get("type", "default"))
            section.setdefault("rope_theta", None)
            if section["rope_type"] in _SCALED_FROM:
                section.setdefault(_LENGTH, values["max_position_embeddings"])
    values["rope_parameters"] = rope


def _rename_layer_types(values: _Values) -> None:
    for key in ("layer_types", "mtp_layer_types"):
        if values.get(key) is not None:
            values[key] = [table.RENAMED_LAYER_TYPES.get(kind, kind) for kind in values[key]]


def _validate(model_type: str, values: _Values) -> None:
    if model_type in table.HEADS_DIVIDE and values["hidden_size"] % values["num_attention_heads"]:
        raise ValueError(values["hidden_size"])
    if model_type not in table.HEADS_DIVIDE and {"head_dim", "num_heads", "embed_dim"} <= values.keys():
        _require(values["head_dim"] * values["num_heads"] == values["embed_dim"])
    _require(sum(values.get(key) is not None for key in ("decoder", "generator", "text_config")) <= 1)
    quantization = values.get("quantization_config")
    _require(quantization is None or isinstance(quantization, dict))
    _validate_layer_types(model_type, values)
    _validate_rope(values)


def _validate_layer_types(model_type: str, values: _Values) -> None:
    n_key = table.ALIASES.get(model_type, {}).get("num_hidden_layers", "num_hidden_layers")
    for key, known in (("layer_types", table.LAYER_TYPES), ("mlp_layer_types", table.MLP_LAYER_TYPES)):
        layers = values.get(key)
        if layers is None or n_key not in values:
            return
        _require(all(kind in known for kind in layers) and values[n_key] in {None, len(layers)})


def _validate_rope(values: _Values) -> None:
    rope = values.get("rope_parameters")
    if not rope:
        return
    head_dim = values.get("head_dim")
    for section in _sections(rope, values):
        if section is None:
            continue
        kind = section.get("rope_type", section.get("type", "default"))
        section["rope_type"] = kind
        required, check = _ROPE_TYPES.get(str(kind), ((), _nothing))
        _require(all(key in section for key in required))
        check(section, values)
        part = section.get("partial_rotary_factor", 1.0)
        # Heads of up to 4 are let through: synthetic models have them.
        _require(head_dim is None or head_dim <= 4 or head_dim % 2 == 0 or int(head_dim * part) != head_dim)  # noqa: PLR2004


def _check_yarn(section: _Values, values: _Values) -> None:
    factor = section.get("attention_factor")
    if isinstance(factor, float):
        factor < 0  # noqa: B015 - as there
    (section.get("beta_fast") or 32) < (section.get("beta_slow") or 1)  # noqa: B015
    values["max_position_embeddings"] / section[_LENGTH]


def _check_longrope(section: _Values, values: _Values) -> None:
    n_heads = values["num_attention_heads"] if "num_attention_heads" in values else values["n_head"]
    head_dim = values.get("head_dim", values["hidden_size"] // n_heads)
    int(head_dim * section.get("partial_rotary_factor", 1.0))
    len(section["short_factor"]), len(section["long_factor"])


def _check_llama3(section: _Values, values: _Values) -> None:
    section["high_freq_factor"] <= section["low_freq_factor"]  # noqa: B015 - as there
    section[_LENGTH] >= values["max_position_embeddings"]  # noqa: B015


# rope type → the keys it must have, and what else can raise.
_ROPE_TYPES: Final[Mapping[str, tuple[tuple[str, ...], Callable[[_Values, _Values], None]]]] = {
    "linear": (("factor",), _nothing),
    "dynamic": (("factor",), _nothing),
    "yarn": (("factor", _LENGTH), _check_yarn),
    "longrope": (("short_factor", "long_factor", _LENGTH), _check_longrope),
    "llama3": (("factor", _LENGTH, "low_freq_factor", "high_freq_factor", "rope_theta"), _check_llama3),
    "proportional": (("rope_theta",), _nothing),
}


def _require(holds: bool) -> None:  # noqa: FBT001 - what must hold
    if not holds:
        raise ValueError
