"""Rotary parameters of a `config.json` as transformers' configs bring them into one spelling, and check them.

Source: transformers 5.23, modeling_rope_utils.py (RotaryEmbeddingConfigMixin) and the classes' own
convert_rope_params_to_dict. See transformers_config.py for why an operation that raises there raises here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from convert.architecture import transformers_defaults as table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Values = dict[str, Any]

_SCALED_FROM: Final = ("llama3", "yarn", "longrope")  # take the original length where none is said
_LENGTH: Final = "original_max_position_embeddings"


def convert_rope(model_type: str, values: Values, extra: Values) -> None:
    """Bring both spellings into `rope_parameters`, of the classes that have it and of configs that say so."""
    if model_type in _OWN:
        _OWN[model_type](values, extra, table.DEFAULT_THETA[model_type])
    elif model_type in table.DEFAULT_THETA or (extra.get("rope_scaling") and extra.get("rope_theta")):
        _convert(values, extra, table.DEFAULT_THETA.get(model_type))


def _convert(values: Values, extra: Values, default_theta: float | None) -> None:
    rope = copied(extra.pop("rope_scaling", None) or values["rope_parameters"] or {})
    theta = extra.pop("rope_theta", default_theta)
    rotary_part = extra.pop("partial_rotary_factor", None)
    for section in _sections(rope, values):
        if section is not None:
            section.setdefault("rope_theta", theta)
            if rotary_part is not None:
                section.setdefault("partial_rotary_factor", rotary_part)
    _standardize(rope, values)


def _by_kind_of_layer(values: Values, extra: Values, theta: tuple[float, float], keys: tuple[str, str]) -> None:
    """Keep an object for each kind of layer. theta, keys: of layers with full attention, of those with a window."""
    scaling = extra.pop("rope_scaling", None)
    kinds = {"sliding_attention": {"rope_type": "default"}, "full_attention": {"rope_type": "default"}}
    rope = copied(kinds if values["rope_parameters"] is None else values["rope_parameters"])
    if scaling is not None:
        rope["full_attention"].update(scaling)
    for kind, key, default in zip(("full_attention", "sliding_attention"), keys, theta, strict=True):
        if rope.get(kind) is None:
            rope[kind] = {"rope_type": "default"}
        rope[kind].setdefault("rope_theta", extra.pop(key, default))
    _standardize(rope, values)


def _of_gemma3(values: Values, extra: Values, theta: Mapping[str, float]) -> None:
    _by_kind_of_layer(values, extra, (theta["global"], theta["local"]), ("rope_theta", "rope_local_base_freq"))


def _of_olmo3(values: Values, extra: Values, theta: float) -> None:
    _by_kind_of_layer(values, extra, (theta, theta), ("rope_theta", "rope_theta"))


def _of_gpt_neox(values: Values, extra: Values, theta: float) -> None:
    rope = copied(extra.pop("rope_scaling", None) or values["rope_parameters"] or {})
    rope.setdefault("rope_theta", extra.pop("rotary_emb_base", theta))
    rope.setdefault("partial_rotary_factor", extra.pop("rotary_pct", 0.25))
    _standardize(rope, values)


def _of_minimax_m2(values: Values, extra: Values, theta: float) -> None:
    if extra.get("rotary_dim") is not None:
        extra.setdefault("partial_rotary_factor", extra["rotary_dim"] / values["head_dim"])
    _convert(values, extra, theta)


def _of_phi3(values: Values, extra: Values, theta: float) -> None:
    rope = copied(extra.pop("rope_scaling", None) or values["rope_parameters"] or {})
    rope.setdefault("rope_theta", extra.pop("rope_theta", theta))
    rope.setdefault("partial_rotary_factor", extra.get("partial_rotary_factor", 1.0))
    _standardize(rope, values)
    if rope["rope_type"] in ("su", "yarn"):
        rope["rope_type"] = "longrope"


def _of_phimoe(values: Values, extra: Values, theta: float) -> None:
    _convert(values, extra, theta)
    rope = values["rope_parameters"]
    if rope["rope_type"] != "default" and _LENGTH in rope:
        extra[_LENGTH] = rope[_LENGTH]


_OWN: Final[Mapping[str, Callable[[Values, Values, Any], None]]] = {
    "gemma3_text": _of_gemma3,
    "gemma3n_text": _of_gemma3,
    "gpt_neox": _of_gpt_neox,
    "minimax_m2": _of_minimax_m2,
    "olmo3": _of_olmo3,
    "phi3": _of_phi3,
    "phimoe": _of_phimoe,
}


def copied(section: Any) -> Values:  # noqa: ANN401 - JSON
    """Copy the object with the objects in it; TypeError for anything else."""
    if not isinstance(section, dict):
        raise TypeError(section)
    return {key: dict(value) if isinstance(value, dict) else value for key, value in section.items()}


def _sections(rope: Values, values: Values) -> list[Any]:
    """Give the parts that are for a kind of layer each, or the whole where it is for all."""
    labels = values.get("layer_types") or ()
    return [rope[key] for key in rope if key in labels] or [rope]


def _standardize(rope: Values, values: Values) -> None:
    for section in _sections(rope, values):
        if section is not None:
            section.setdefault("rope_type", section.get("type", "default"))
            section.setdefault("rope_theta", None)
            if section["rope_type"] in _SCALED_FROM:
                key = "n_positions" if "n_positions" in values else "max_position_embeddings"  # GPT-2 calls it so
                section.setdefault(_LENGTH, values[key])
                section[_LENGTH] = values.get(_LENGTH, section[_LENGTH])
    values["rope_parameters"] = rope


def validate_rope(model_type: str, values: Values) -> None:
    """Raise where transformers does."""
    if values.get("rope_parameters"):
        _validate_sections(values["rope_parameters"], values)
    if model_type in _OWN_CHECKS:
        _OWN_CHECKS[model_type](values["rope_parameters"], values)


def _validate_sections(rope: Values, values: Values) -> None:
    head_dim = values.get("head_dim")
    for section in _sections(rope, values):
        if section is None:
            continue
        kind = section.get("rope_type", section.get("type", "default"))
        section["rope_type"] = kind
        required, check = _ROPE_TYPES.get(str(kind), ((), _fine))
        require(all(key in section for key in required))
        check(section, values)
        part = section.get("partial_rotary_factor", 1.0)
        # Heads of up to 4 are let through: synthetic models have them.
        require(head_dim is None or head_dim <= 4 or head_dim % 2 == 0 or int(head_dim * part) != head_dim)  # noqa: PLR2004


def _check_yarn(section: Values, values: Values) -> None:
    factor = section.get("attention_factor")
    if isinstance(factor, float):
        factor < 0  # noqa: B015 - as there
    (section.get("beta_fast") or 32) < (section.get("beta_slow") or 1)  # noqa: B015
    values["max_position_embeddings"] / section[_LENGTH]


def _check_longrope(section: Values, values: Values) -> None:
    head_dim = values.get("head_dim", values["hidden_size"] // values["num_attention_heads"])
    int(head_dim * section.get("partial_rotary_factor", 1.0))
    len(section["short_factor"]), len(section["long_factor"])


def _check_llama3(section: Values, values: Values) -> None:
    section["high_freq_factor"] <= section["low_freq_factor"]  # noqa: B015 - as there
    section[_LENGTH] >= values["max_position_embeddings"]  # noqa: B015


def _fine(_section: Values, _values: Values) -> None:
    pass


# rope type → the keys it must have, and what else can raise.
_ROPE_TYPES: Final[Mapping[str, tuple[tuple[str, ...], Callable[[Values, Values], None]]]] = {
    "linear": (("factor",), _fine),
    "dynamic": (("factor",), _fine),
    "yarn": (("factor", _LENGTH), _check_yarn),
    "longrope": (("short_factor", "long_factor", _LENGTH), _check_longrope),
    "llama3": (("factor", _LENGTH, "low_freq_factor", "high_freq_factor", "rope_theta"), _check_llama3),
    "proportional": (("rope_theta",), _fine),
}


def _check_phi3(rope: Values, values: Values) -> None:
    size = int(values["hidden_size"] // values["num_attention_heads"] * rope["partial_rotary_factor"])
    require(rope["rope_type"] in {"default", "longrope"})
    for factors in (rope.get("short_factor"), rope.get("long_factor")):
        numbers = isinstance(factors, list) and all(isinstance(factor, (int, float)) for factor in factors)
        require(factors is None or (numbers and len(factors) == size // 2))


def _check_phimoe(rope: Values, _values: Values) -> None:
    scales = (rope.get("short_mscale"), rope.get("long_mscale"))
    require(rope["rope_type"] == "default" or all(isinstance(scale, (int, float)) for scale in scales))


_OWN_CHECKS: Final[Mapping[str, Callable[[Values, Values], None]]] = {"phi3": _check_phi3, "phimoe": _check_phimoe}


def require(holds: bool) -> None:  # noqa: FBT001 - what must hold
    """Raise ValueError, as a check there does."""
    if not holds:
        raise ValueError
