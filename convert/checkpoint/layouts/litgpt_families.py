"""LitGPT's architectures: which of transformers' each is, its tensors' names there, and its config in their words.

LitGPT chooses by the model's name and its kind of feed-forward block; the first row that fits counts.
Source: litgpt 0.5.13, scripts/convert_lit_checkpoint.py (convert_lit_checkpoint), scripts/convert_hf_checkpoint.py and
config.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from convert.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from convert.checkpoint.layouts.layout import Renames
    from convert.fields import Fields

Words = dict[str, Any]


class Fused(Enum):
    """How transformers' checkpoint has query, key and value."""

    APART = "three tensors"
    WHOLE = "one after the other, in one tensor"
    GROUPED = "in one tensor, those of each group of queries together"


@dataclass(frozen=True, slots=True)
class LitFamily:
    """A row.

    fits: by model_config.yaml. words: what a config says beyond what all say. qkv: how the tensors of query, key and
    value begin, with `{}` for which it is, where they are apart. gate_up: the one tensor of both, where they are fused.
    """

    fits: Callable[[Fields], bool]
    architecture: str
    model_type: str
    renames: Renames
    words: Callable[[Fields], Words]
    fused: Fused = Fused.APART
    qkv: str = r"model.layers.\1.self_attn.{}_proj."
    gate_up: str | None = None


_ENDS: Final[Renames] = (
    (r"transformer\.wte\.weight", "model.embed_tokens.weight"),
    (r"transformer\.ln_f\.(weight|bias)", r"model.norm.\1"),
)
_LAYER: Final = r"transformer\.h\.(\d+)\."
_BLOCK: Final[Renames] = (
    *_ENDS,
    (_LAYER + r"norm_1\.(weight|bias)", r"model.layers.\1.input_layernorm.\2"),
    (_LAYER + r"norm_2\.(weight|bias)", r"model.layers.\1.post_attention_layernorm.\2"),
    (_LAYER + r"attn\.proj\.(weight|bias)", r"model.layers.\1.self_attn.o_proj.\2"),
    (_LAYER + r"attn\.norm_([qk])\.weight", r"model.layers.\1.self_attn.\2_norm.weight"),
    (_LAYER + r"mlp\.fc_1\.(weight|bias)", r"model.layers.\1.mlp.gate_proj.\2"),
    (_LAYER + r"mlp\.fc_2\.(weight|bias)", r"model.layers.\1.mlp.up_proj.\2"),
    (_LAYER + r"mlp\.proj\.(weight|bias)", r"model.layers.\1.mlp.down_proj.\2"),
)
_MIXTRAL: Final[Renames] = (
    *_BLOCK,
    (_LAYER + r"mlp\.gate\.weight", r"model.layers.\1.block_sparse_moe.gate.weight"),
    (_LAYER + r"mlp\.experts\.(\d+)\.fc_1\.weight", r"model.layers.\1.block_sparse_moe.experts.\2.w1.weight"),
    (_LAYER + r"mlp\.experts\.(\d+)\.fc_2\.weight", r"model.layers.\1.block_sparse_moe.experts.\2.w3.weight"),
    (_LAYER + r"mlp\.experts\.(\d+)\.proj\.weight", r"model.layers.\1.block_sparse_moe.experts.\2.w2.weight"),
)
_QWEN_MOE: Final[Renames] = (
    *_BLOCK,
    (_LAYER + r"mlp\.gate\.weight", r"model.layers.\1.mlp.gate.weight"),
    (_LAYER + r"mlp\.experts\.(\d+)\.fc_1\.weight", r"model.layers.\1.mlp.experts.\2.gate_proj.weight"),
    (_LAYER + r"mlp\.experts\.(\d+)\.fc_2\.weight", r"model.layers.\1.mlp.experts.\2.up_proj.weight"),
    (_LAYER + r"mlp\.experts\.(\d+)\.proj\.weight", r"model.layers.\1.mlp.experts.\2.down_proj.weight"),
)
_SANDWICH: Final[Renames] = (
    (_LAYER + r"norm_2\.weight", r"model.layers.\1.pre_feedforward_layernorm.weight"),
    (_LAYER + r"post_attention_norm\.weight", r"model.layers.\1.post_attention_layernorm.weight"),
    (_LAYER + r"post_mlp_norm\.weight", r"model.layers.\1.post_feedforward_layernorm.weight"),
    *_BLOCK,
)
# LitGPT takes `Gemma-2b` for a Gemma 2 when it reads it.
_GEMMA: Final[Renames] = (
    (_LAYER + r"post_attention_norm\.weight", r"model.layers.\1.post_attention_layernorm.weight"),
    *_BLOCK,
)
_PHI: Final[Renames] = (
    (r"transformer\.ln_f\.(weight|bias)", r"model.final_layernorm.\1"),
    (_LAYER + r"attn\.proj\.(weight|bias)", r"model.layers.\1.self_attn.dense.\2"),
    (_LAYER + r"mlp\.fc\.(weight|bias)", r"model.layers.\1.mlp.fc1.\2"),
    (_LAYER + r"mlp\.proj\.(weight|bias)", r"model.layers.\1.mlp.fc2.\2"),
    *_BLOCK,
)
_FALCON: Final[Renames] = (
    (r"transformer\.wte\.weight", "transformer.word_embeddings.weight"),
    (_LAYER + r"attn\.proj\.(weight|bias)", r"transformer.h.\1.self_attention.dense.\2"),
    (_LAYER + r"mlp\.fc\.(weight|bias)", r"transformer.h.\1.mlp.dense_h_to_4h.\2"),
    (_LAYER + r"mlp\.proj\.(weight|bias)", r"transformer.h.\1.mlp.dense_4h_to_h.\2"),
)
_FALCON_7B: Final[Renames] = (*_FALCON, (_LAYER + r"norm_1\.(weight|bias)", r"transformer.h.\1.input_layernorm.\2"))
_FALCON_40B: Final[Renames] = (
    *_FALCON,
    (_LAYER + r"norm_1\.(weight|bias)", r"transformer.h.\1.ln_attn.\2"),
    (_LAYER + r"norm_2\.(weight|bias)", r"transformer.h.\1.ln_mlp.\2"),
)
_NEOX: Final[Renames] = (
    (r"transformer\.wte\.weight", "gpt_neox.embed_in.weight"),
    (r"transformer\.ln_f\.(weight|bias)", r"gpt_neox.final_layer_norm.\1"),
    (r"lm_head\.weight", "embed_out.weight"),
    (_LAYER + r"norm_1\.(weight|bias)", r"gpt_neox.layers.\1.input_layernorm.\2"),
    (_LAYER + r"norm_2\.(weight|bias)", r"gpt_neox.layers.\1.post_attention_layernorm.\2"),
    (_LAYER + r"attn\.proj\.(weight|bias)", r"gpt_neox.layers.\1.attention.dense.\2"),
    (_LAYER + r"mlp\.fc\.(weight|bias)", r"gpt_neox.layers.\1.mlp.dense_h_to_4h.\2"),
    (_LAYER + r"mlp\.proj\.(weight|bias)", r"gpt_neox.layers.\1.mlp.dense_4h_to_h.\2"),
)


def _rms(c: Fields) -> Words:
    return {"rms_norm_eps": c.number("norm_eps"), "hidden_act": "silu"}


def _llama(c: Fields) -> Words:
    return _rms(c) | {"attention_bias": c.flag("bias"), "mlp_bias": c.flag("bias")}


def _mixtral(c: Fields) -> Words:
    return _rms(c) | {"num_local_experts": c.size("n_expert"), "num_experts_per_tok": c.size("n_expert_per_token")}


def _qwen3_moe(c: Fields) -> Words:
    experts: Words = {"num_experts": c.size("n_expert"), "num_experts_per_tok": c.size("n_expert_per_token")}
    experts |= {"norm_topk_prob": True}  # LLaMAMoE's softmax is over the chosen
    return _rms(c) | experts | {"moe_intermediate_size": c.size("moe_intermediate_size"), "mlp_only_layers": []}


def _gemma(c: Fields) -> Words:
    return {"rms_norm_eps": c.number("norm_eps"), "hidden_activation": "gelu_pytorch_tanh", "hidden_act": None}


def _gemma_2(c: Fields) -> Words:
    indices = c.get("sliding_window_indices") or ()
    kinds = ["sliding_attention" if index else "full_attention" for index in indices]
    return _gemma(c) | {
        "query_pre_attn_scalar": c.number("attention_scores_scalar"),
        "attn_logit_softcapping": c.number("attention_logit_softcapping"),
        "final_logit_softcapping": c.number("final_logit_softcapping"),
        "sliding_window": c.optional_size("sliding_window_size"),
        "layer_types": kinds[: c.size("n_layer")],
    }


def _gemma_3(c: Fields) -> Words:
    return _gemma_2(c) | {"rope_local_base_freq": c.number("rope_local_base_freq")}


def _layer_norm(c: Fields) -> Words:
    return {"layer_norm_eps": c.number("norm_eps"), "partial_rotary_factor": c.number("rotary_percentage")}


def _stablelm(c: Fields) -> Words:
    return _layer_norm(c) | {"hidden_act": "silu", "use_qkv_bias": c.flag("attn_bias"), "use_parallel_residual": False}


def _olmo(_c: Fields) -> Words:
    return {"hidden_act": "silu", "clip_qkv": None}


def _phi(c: Fields) -> Words:
    return _layer_norm(c) | {"hidden_act": "gelu_new"}


def _phi_3(c: Fields) -> Words:
    windows = {"sliding_window": c.optional_size("sliding_window_size")}
    return _rms(c) | windows | {"partial_rotary_factor": c.number("rotary_percentage")}


def _falcon(c: Fields) -> Words:
    return {
        "layer_norm_epsilon": c.number("norm_eps"),
        "num_kv_heads": c.size("n_query_groups"),
        "multi_query": c.size("n_query_groups") == 1,
        "new_decoder_architecture": not c.flag("shared_attention_norm"),
        "parallel_attn": True,
        "bias": c.flag("bias"),
        "alibi": False,
    }


def _neox(c: Fields) -> Words:
    return {
        "layer_norm_eps": c.number("norm_eps"),
        "rotary_pct": c.number("rotary_percentage"),
        "rotary_emb_base": c.number("rope_base"),
        "use_parallel_residual": c.flag("parallel_residual"),
        "hidden_act": "gelu",
    }


def _called(*starts: str) -> Callable[[Fields], bool]:
    return lambda c: (c.text("name") or "").lower().startswith(starts)


def _is_falcon(c: Fields) -> bool:
    return "falcon" in (c.text("name") or "")  # Falcon 3, a Llama, has a capital


def _has(**values: str) -> Callable[[Fields], bool]:
    return lambda c: all(c.text(key) == value for key, value in values.items())


_NEOX_QKV: Final = r"gpt_neox.layers.\1.attention.query_key_value."
_FALCON_QKV: Final = r"transformer.h.\1.self_attention.query_key_value."
_PHI_3: Final = (r"model.layers.\1.self_attn.qkv_proj.", r"model.layers.\1.mlp.gate_up_proj.weight")
_LLAMA_MLP: Final = {"mlp_class_name": "LLaMAMLP"}
_FAMILIES: Final[tuple[LitFamily, ...]] = (
    LitFamily(lambda c: _is_falcon(c) and c.flag("shared_attention_norm"), "FalconForCausalLM", "falcon", _FALCON_7B,
              _falcon, Fused.GROUPED, _FALCON_QKV),
    LitFamily(_is_falcon, "FalconForCausalLM", "falcon", _FALCON_40B, _falcon, Fused.GROUPED, _FALCON_QKV),
    LitFamily(_called("gemma-2-"), "Gemma2ForCausalLM", "gemma2", _SANDWICH, _gemma_2),
    LitFamily(_called("gemma-3-"), "Gemma3ForCausalLM", "gemma3_text", _SANDWICH, _gemma_3),
    LitFamily(_called("phi-3", "phi-4"), "Phi3ForCausalLM", "phi3", _BLOCK, _phi_3, Fused.WHOLE, *_PHI_3),
    LitFamily(_called("phi"), "PhiForCausalLM", "phi", _PHI, _phi),
    LitFamily(_called("qwen2.5", "qwq"), "Qwen2ForCausalLM", "qwen2", _BLOCK, _rms),
    LitFamily(_called("olmo-2-"), "Olmo2ForCausalLM", "olmo2", _SANDWICH, _rms),
    LitFamily(lambda c: _called("qwen3")(c) and _has(mlp_class_name="LLaMAMoE")(c), "Qwen3MoeForCausalLM", "qwen3_moe",
              _QWEN_MOE, _qwen3_moe),
    LitFamily(_called("qwen3"), "Qwen3ForCausalLM", "qwen3", _BLOCK, _rms),
    LitFamily(_called("olmo-"), "OlmoForCausalLM", "olmo", _BLOCK, _olmo),
    LitFamily(_has(mlp_class_name="GemmaMLP"), "GemmaForCausalLM", "gemma", _GEMMA, _gemma),
    LitFamily(_has(mlp_class_name="LLaMAMoE"), "MixtralForCausalLM", "mixtral", _MIXTRAL, _mixtral),
    LitFamily(_has(norm_class_name="LayerNorm", **_LLAMA_MLP), "StableLmForCausalLM", "stablelm", _BLOCK, _stablelm),
    LitFamily(_has(norm_class_name="RMSNorm", **_LLAMA_MLP), "LlamaForCausalLM", "llama", _BLOCK, _llama),
    LitFamily(_has(mlp_class_name="GptNeoxMLP"), "GPTNeoXForCausalLM", "gpt_neox", _NEOX, _neox, Fused.GROUPED,
              _NEOX_QKV),
)  # fmt: skip


def lit_family(c: Fields) -> LitFamily:
    """Return the row of a model_config.yaml; ConfigError where none fits."""
    if c.get("latent_attention") is not None:
        raise ConfigError(f"{c.where} says latent attention, which LitGPT itself does not convert")
    for family in _FAMILIES:
        if family.fits(c):
            return family
    raise ConfigError(f"`mlp_class_name` in {c.where} is {c.get('mlp_class_name')!r:.60}, which is not known")


def config_words(c: Fields, family: LitFamily, *, is_tied: bool) -> Words:
    """Say in transformers' words what model_config.yaml says of a model."""
    head_dim, width, n_heads = c.optional_size("head_size"), c.size("n_embd"), c.size("n_head")
    common: Words = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "hidden_size": width,
        "intermediate_size": c.optional_size("intermediate_size") or 4 * width,
        "max_position_embeddings": c.size("block_size"),
        "num_attention_heads": n_heads,
        "num_hidden_layers": c.size("n_layer"),
        "num_key_value_heads": c.optional_size("n_query_groups") or n_heads,
        "rope_theta": float(c.number("rope_base") or 10000),
        "tie_word_embeddings": is_tied,
        "vocab_size": c.size("padded_vocab_size"),
    }
    if head_dim is not None and head_dim * n_heads != width or family.model_type in _STATES_HEADS:  # noqa: RUF021
        common["head_dim"] = head_dim
    return common | _rope(c) | family.words(c)


_STATES_HEADS: Final = ("gemma", "gemma2", "gemma3_text", "qwen3", "qwen3_moe")


def _rope(c: Fields) -> Words:
    adjustments: Mapping[str, Any] = c.mapping("rope_adjustments")
    if "low_freq_factor" in adjustments:
        kept = {key: value for key, value in adjustments.items() if key != "original_max_seq_len"}
        length = {"original_max_position_embeddings": adjustments.get("original_max_seq_len")}
        return {"rope_scaling": {"rope_type": "llama3", **kept, **length}}
    factor = adjustments.get("factor", c.number("rope_condense_ratio"))
    return {} if factor in (None, 1) else {"rope_scaling": {"rope_type": "linear", "factor": float(factor)}}
