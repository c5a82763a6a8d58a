"""What single config classes of transformers derive from other keys, by `model_type`.

Source: transformers 5.23, the classes' own __post_init__. `values`: what the class declares; `extra`: the other keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Values = dict[str, Any]


def _fill_head_dim(values: Values, _extra: Values) -> None:
    if values["head_dim"] is None:
        values["head_dim"] = values["hidden_size"] // values["num_attention_heads"]
    _fill_kv_heads(values, _extra)


def _fill_kv_heads(values: Values, _extra: Values) -> None:
    if values["num_key_value_heads"] is None:
        values["num_key_value_heads"] = values["num_attention_heads"]


def _of_ministral(values: Values, _extra: Values) -> None:
    if values["layer_types"] is None:
        kind = "full_attention" if values["sliding_window"] is None else "sliding_attention"
        values["layer_types"] = [kind] * values["num_hidden_layers"]


def _of_gpt_oss(values: Values, _extra: Values) -> None:
    _windows_but_every(values, 2)
    if values["rope_parameters"] is None:
        values["rope_parameters"] = dict(_ROPE_OF_GPT_OSS)


_ROPE_OF_GPT_OSS: Final = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def _of_llama4(values: Values, _extra: Values) -> None:
    layers, every = range(values["num_hidden_layers"]), values["no_rope_layer_interval"]
    rotated, step = [int((layer + 1) % every != 0) for layer in layers], values["interleave_moe_layer_step"]
    values["no_rope_layers"] = values["no_rope_layers"] or rotated
    if values["moe_layers"] is None:
        values["moe_layers"] = list(range(step - 1, values["num_hidden_layers"], step))
    if values["layer_types"] is None:
        kinds = ("full_attention", "chunked_attention")
        values["layer_types"] = [kinds[bool(is_rotated)] for is_rotated in values["no_rope_layers"]]


def _of_ministral3(values: Values, _extra: Values) -> None:
    if values["rope_parameters"] is None:
        values["rope_parameters"] = _ROPE_OF_MINISTRAL3 | {"max_position_embeddings": values["max_position_embeddings"]}


_ROPE_OF_MINISTRAL3: Final = {
    "type": "yarn",
    "rope_theta": 1000000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "llama_4_scaling_beta": 0.1,
}


def _of_phi(values: Values, extra: Values) -> None:
    _fill_kv_heads(values, extra)
    extra.setdefault("partial_rotary_factor", 0.5)


def _of_qwen(values: Values, extra: Values) -> None:
    values["sliding_window"] = values["sliding_window"] if values["use_sliding_window"] else None
    _fill_kv_heads(values, extra)
    has_windows, first = values["sliding_window"] is not None, values["max_window_layers"]
    _fill_layer_types(values, lambda layer: has_windows and layer >= first)


def _of_qwen2_moe(values: Values, _extra: Values) -> None:
    values["mlp_only_layers"] = [] if values["mlp_only_layers"] is None else values["mlp_only_layers"]
    has_windows, first = values["use_sliding_window"], values["max_window_layers"]
    values["sliding_window"] = values["sliding_window"] if has_windows else 0
    _fill_layer_types(values, lambda layer: layer % 2 == 0 and layer < first and has_windows)


def _fill_layer_types(values: Values, has_window: Callable[[int], bool]) -> None:
    if values["layer_types"] is None:
        kinds = ("full_attention", "sliding_attention")
        values["layer_types"] = [kinds[has_window(layer)] for layer in range(values["num_hidden_layers"])]


def _of_qwen3_moe(values: Values, _extra: Values) -> None:
    if not values["use_sliding_window"]:
        values["sliding_window"] = None
    values["mlp_only_layers"] = values["mlp_only_layers"] or []


def _of_gemma(values: Values, _extra: Values) -> None:
    if values["hidden_act"] == "gelu":
        values["hidden_act"] = "gelu_pytorch_tanh"


def _of_gemma2(values: Values, _extra: Values) -> None:
    _windows_but_every(values, 2)


def _of_gemma3_text(values: Values, extra: Values) -> None:
    if values["use_bidirectional_attention"]:
        values["sliding_window"] = values["sliding_window"] // 2 + 1
    if values["layer_types"] is None:
        every = extra.get("sliding_window_pattern", 6)
        kinds = ("full_attention", "sliding_attention")
        values["layer_types"] = [kinds[bool((i + 1) % every)] for i in range(values["num_hidden_layers"])]


def _of_bloom(values: Values, extra: Values) -> None:
    n_embed = extra.pop("n_embed", None)
    if n_embed is not None and type(n_embed) is not int:
        raise TypeError(n_embed)
    values["hidden_size"] = values["hidden_size"] if n_embed is None else n_embed


def _of_deepseek_v3(values: Values, extra: Values) -> None:
    _fill_kv_heads(values, extra)
    values["qk_head_dim"] = values["qk_nope_head_dim"] + values["qk_rope_head_dim"]
    values["head_dim"] = values["qk_rope_head_dim"]


def _with_rotary_part(part: float) -> Callable[[Values, Values], None]:
    def default(_values: Values, extra: Values) -> None:
        extra.setdefault("partial_rotary_factor", part)

    return default


def _of_smollm3(values: Values, extra: Values) -> None:
    _fill_kv_heads(values, extra)
    n_layers, every = values["num_hidden_layers"], values["no_rope_layer_interval"]
    if values["no_rope_layers"] is None:
        values["no_rope_layers"] = [int((layer + 1) % every != 0) for layer in range(n_layers)]
    if values["layer_types"] is None:
        has_windows = values["use_sliding_window"] and values["sliding_window"] is not None
        kinds = ("full_attention", "sliding_attention")
        has_rope = values["no_rope_layers"]
        values["layer_types"] = [kinds[not has_rope[layer] and has_windows] for layer in range(n_layers)]


def _windows_but_every(values: Values, every: int) -> None:
    """Name the kinds of layers where the config does not: every nth has full attention."""
    if values["layer_types"] is None:
        kinds = ("full_attention", "sliding_attention")
        values["layer_types"] = [kinds[bool((i + 1) % every)] for i in range(values["num_hidden_layers"])]


def _of_olmo3(values: Values, extra: Values) -> None:
    _fill_kv_heads(values, extra)
    _windows_but_every(values, 4)


def _of_cohere2(values: Values, extra: Values) -> None:
    _fill_kv_heads(values, extra)
    values["head_dim"] = values["hidden_size"] // values["num_attention_heads"]
    if values["layer_types"] is None:
        _windows_but_every(values, extra.pop("sliding_window_pattern", 4))


def _of_exaone4(values: Values, _extra: Values) -> None:
    if values["sliding_window"] is None:
        values["sliding_window_pattern"] = 0
    _windows_but_every(values, values["sliding_window_pattern"])


def _of_falcon(values: Values, extra: Values) -> None:
    _of_bloom(values, extra)
    values["hidden_size"] // values["num_attention_heads"]  # its property head_dim is looked at
    if values["num_kv_heads"] is None:
        values["num_kv_heads"] = values["num_attention_heads"]
    if values["ffn_hidden_size"] is None:
        values["ffn_hidden_size"] = values["hidden_size"] * 4


def _of_gpt_bigcode(values: Values, _extra: Values) -> None:
    values["num_key_value_heads"] = 1 if values["multi_query"] else values["n_head"]


def _of_glm4(values: Values, extra: Values) -> None:
    extra.setdefault("partial_rotary_factor", 0.5)
    if values["eos_token_id"] is None:
        values["eos_token_id"] = [151329, 151336, 151338]


def _of_ernie4_5_moe(values: Values, _extra: Values) -> None:
    if values["moe_layer_end_index"] == -1:
        values["moe_layer_end_index"] = values["num_hidden_layers"] - 1


def _of_nemotron(values: Values, extra: Values) -> None:
    if values["head_dim"] is None:
        values["head_dim"] = values["hidden_size"] // values["num_attention_heads"]
    extra.setdefault("partial_rotary_factor", 0.5)


def _of_apertus(values: Values, extra: Values) -> None:
    _fill_kv_heads(values, extra)
    if values["rope_parameters"] is None:
        values["rope_parameters"] = dict(_ROPE_OF_APERTUS)


_ROPE_OF_APERTUS: Final = {
    "rope_type": "llama3",
    "rope_theta": 12000000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}


def _of_lfm2(values: Values, extra: Values) -> None:
    if values["layer_types"] is None:
        n_layers, full = values["num_hidden_layers"], values["full_attn_idxs"]
        values["full_attn_idxs"] = list(range(n_layers)) if full is None else full
        kinds = ("conv", "full_attention")
        values["layer_types"] = [kinds[layer in values["full_attn_idxs"]] for layer in range(n_layers)]
    _of_lfm2_moe(values, extra)
    values["intermediate_size"] = _typed(int, extra.pop("block_ff_dim", values["intermediate_size"]))


def _of_lfm2_moe(values: Values, extra: Values) -> None:
    values["tie_word_embeddings"] = _typed(bool, extra.pop("tie_embedding", values["tie_word_embeddings"]))


def _typed(wanted: type, value: Any) -> Any:  # noqa: ANN401 - JSON
    """Refuse a value of another type, as the classes do of a field that is set later too."""
    if type(value) is not wanted:
        raise TypeError(value)
    return value


def _of_glm4_moe_lite(values: Values, _extra: Values) -> None:
    if values["mlp_layer_types"] is None:
        values["mlp_layer_types"] = ["dense"] + ["sparse"] * (values["num_hidden_layers"] - 1)
    values["qk_head_dim"] = values["qk_nope_head_dim"] + values["qk_rope_head_dim"]


def _of_qwen3_5(values: Values, extra: Values) -> None:
    extra.setdefault("partial_rotary_factor", 0.25)
    if values["layer_types"] is None:
        every, kinds = extra.pop("full_attention_interval", 4), ("full_attention", "linear_attention")
        values["layer_types"] = [kinds[bool((i + 1) % every)] for i in range(values["num_hidden_layers"])]


def _of_qwen3_next(values: Values, extra: Values) -> None:
    values["mlp_only_layers"] = [] if values["mlp_only_layers"] is None else values["mlp_only_layers"]
    _of_qwen3_5(values, extra)


def _of_gemma3n_text(values: Values, _extra: Values) -> None:
    n_layers, inner = values["num_hidden_layers"], values["intermediate_size"]
    values["intermediate_size"] = _for_each(n_layers, inner if isinstance(inner, list) else [inner] * n_layers)
    _windows_but_every(values, 5)
    sparse, n_sparse = values["activation_sparsity_pattern"], 10
    if sparse is None:
        n_sparse = n_sparse if n_layers > n_sparse else 0
        sparse = [0.95] * n_sparse + [0.0] * (n_layers - n_sparse)
    values["activation_sparsity_pattern"] = _for_each(n_layers, sparse)


def _for_each(n_layers: int, listed: list[Any]) -> list[Any]:
    if len(listed) != n_layers:
        raise ValueError(listed)
    return listed


POST_INIT: Final[Mapping[str, Callable[[Values, Values], None]]] = {
    "apertus": _of_apertus,
    "arcee": _fill_head_dim,
    "bloom": _of_bloom,
    "cohere": _fill_kv_heads,
    "cohere2": _of_cohere2,
    "deepseek_v2": _of_deepseek_v3,
    "deepseek_v3": _of_deepseek_v3,
    "ernie4_5": _fill_head_dim,
    "ernie4_5_moe": _of_ernie4_5_moe,
    "exaone4": _of_exaone4,
    "falcon": _of_falcon,
    "gemma": _of_gemma,
    "gemma2": _of_gemma2,
    "gemma3_text": _of_gemma3_text,
    "gemma3n_text": _of_gemma3n_text,
    "glm4": _of_glm4,
    "glm4_moe": _with_rotary_part(0.5),
    "glm4_moe_lite": _of_glm4_moe_lite,
    "gpt_bigcode": _of_gpt_bigcode,
    "gpt_oss": _of_gpt_oss,
    "granite": _fill_kv_heads,
    "granitemoe": _fill_kv_heads,
    "granitemoeshared": _fill_kv_heads,
    "hunyuan_v1_dense": _fill_kv_heads,
    "lfm2": _of_lfm2,
    "lfm2_moe": _of_lfm2_moe,
    "llama": _fill_head_dim,
    "llama4_text": _of_llama4,
    "ministral3": _of_ministral3,
    "ministral": _of_ministral,
    "mistral": _fill_head_dim,
    "nemotron": _of_nemotron,
    "olmo": _fill_kv_heads,
    "olmo2": _fill_kv_heads,
    "olmo3": _of_olmo3,
    "olmoe": _fill_kv_heads,
    "phi": _of_phi,
    "phi3": _fill_kv_heads,
    "phimoe": _fill_kv_heads,
    "qwen2": _of_qwen,
    "qwen2_moe": _of_qwen2_moe,
    "qwen3": _of_qwen,
    "qwen3_5_moe_text": _of_qwen3_5,
    "qwen3_5_text": _of_qwen3_5,
    "qwen3_moe": _of_qwen3_moe,
    "qwen3_next": _of_qwen3_next,
    "seed_oss": _fill_head_dim,
    "smollm3": _of_smollm3,
    "stablelm": _with_rotary_part(0.25),
}
