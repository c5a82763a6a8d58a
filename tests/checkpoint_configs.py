"""The configs of the test checkpoints, as Llama, Mistral and Mixtral were published, made small."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

VOCABULARY: Final = 1024  # tiny-llama's
ABSENT: Final = object()  # as a config's value: the key is not there

LLAMA_3_SCALING: Final = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}


def llama(**changes: object) -> dict[str, Any]:
    """Give a Llama 2 config as transformers 4 saved it, 64 wide, 2 layers, with changes."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": 192,
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 4,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.44.2",
        "use_cache": True,
        "vocab_size": VOCABULARY,
    } | changes


def mistral(**changes: object) -> dict[str, Any]:
    """Give a Mistral 7B v0.1 config as transformers 4 saved it, made small, with changes."""
    kinds = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 4096}
    removed = dict.fromkeys(("attention_bias", "pretraining_tp", "rope_scaling"), ABSENT)
    sizes = {"num_key_value_heads": 2, "max_position_embeddings": 32768, "torch_dtype": "bfloat16"}
    return llama(**(kinds | removed | sizes | changes))


def mixtral(**changes: object) -> dict[str, Any]:
    """Give a Mixtral 8x7B config as transformers 4 saved it, made small, with changes."""
    kinds = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "sliding_window": None}
    experts = {"num_experts_per_tok": 2, "num_local_experts": 8, "output_router_logits": False}
    router = {"router_aux_loss_coef": 0.02, "rope_theta": 1000000.0, "intermediate_size": 96}
    return mistral(**(kinds | experts | router | changes))


def newly_spelled(config: Mapping[str, Any], **rope: object) -> dict[str, Any]:
    """Respell a config as transformers 5 saves it: `dtype`, and all of RoPE in `rope_parameters`."""
    theta = {"rope_theta": config["rope_theta"], "rope_type": "default"}
    renamed = {"dtype": config["torch_dtype"], "rope_parameters": theta | rope, "transformers_version": "5.23.0"}
    removed = ("torch_dtype", "rope_theta", "rope_scaling")
    return {key: value for key, value in config.items() if key not in removed} | renamed


LLAMA_1: Final = llama(
    max_position_embeddings=2048,
    rms_norm_eps=1e-06,
    transformers_version="4.28.0.dev0",
    **dict.fromkeys(("attention_bias", "num_key_value_heads", "pretraining_tp", "rope_scaling", "rope_theta"), ABSENT),
)
