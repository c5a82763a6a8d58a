"""What becomes of each key of a `config.json`: used, known to be harmless, or an error that names it.

A GGUF architecture computes in one way. A key by which transformers would compute otherwise, and that has no place in
the file, makes a file that talks nonsense. So every key that no table of the family has asked for is looked up here,
those included that transformers fills in:

    arithmetic    changes the result unless it has one of a few values: an error
    a window      the same up to its length: a note
    harmless      training, generation, what the tensors themselves show, names
    unknown       an error where its name speaks of arithmetic and its value does something; a note otherwise

Source: the architectures' graphs, src/models/*.cpp @ 0c1e570; transformers 5.23, the classes' modeling files.
"""

from __future__ import annotations

import re
from math import isclose
from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH, MODEL_ARCH_NAMES

from convert.architecture.family import n_layers
from convert.architecture.gemma import LAYERS_OF_27B
from convert.architecture.metadata import ACTIVATION, GELU, SILU, Row, head_dim, only
from convert.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from convert.architecture.given import Given
    from convert.architecture.hyperparameters import Hyperparameters

_HINT: Final = "if the model was trained without it, take the key out of config.json"

# What a graph computes where no row of the family says it (`SILU`, `GELU`): this, or else SiLU.
_ACTIVATIONS: Final[Mapping[MODEL_ARCH, Row]] = {
    **dict.fromkeys(
        (
            MODEL_ARCH.BLOOM, MODEL_ARCH.CODESHELL, MODEL_ARCH.FALCON, MODEL_ARCH.GEMMA, MODEL_ARCH.GEMMA2,
            MODEL_ARCH.GEMMA3, MODEL_ARCH.GEMMA3N, MODEL_ARCH.GPT2, MODEL_ARCH.GPTNEOX, MODEL_ARCH.MPT, MODEL_ARCH.PHI2,
            MODEL_ARCH.STARCODER, MODEL_ARCH.STARCODER2,
        ),
        GELU,
    ),
    **dict.fromkeys((MODEL_ARCH.ARCEE, MODEL_ARCH.NEMOTRON, MODEL_ARCH.PLM), only(ACTIVATION, ("relu2",))),
    MODEL_ARCH.APERTUS: only(ACTIVATION, ("xielu",)),
}  # fmt: skip

# --- Keys that change the result, and the values at which they do not

_ONE: Final = (None, 1)
_OFF: Final = (None, False, 0)
_NEUTRAL: Final[Mapping[str, tuple[object, ...]]] = {
    **dict.fromkeys(("partial_rotary_factor", "rotary_pct", "rope_pct", "rope_percent", "rotary_percentage"), _ONE),
    **dict.fromkeys(("embedding_multiplier", "residual_multiplier", "logits_scaling", "logit_scale"), _ONE),
    **dict.fromkeys(("scale_emb", "scale_depth", "routed_scaling_factor", "lm_head_multiplier"), _ONE),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping", "attn_logit_softcap", "clip_qkv"), _OFF),
    **dict.fromkeys(("alibi", "use_alibi", "use_parallel_residual", "use_bidirectional_attention"), _OFF),
    **dict.fromkeys(("rope_interleaved", "rope_interleave", "scale_attn_by_inverse_layer_idx"), _OFF),
    "apply_residual_connection_post_layernorm": _OFF,
}
_OF_ARCH: Final[Mapping[MODEL_ARCH, Mapping[str, tuple[object, ...]]]] = {
    MODEL_ARCH.DEEPSEEK2: {"rope_interleave": (None, True)},
    MODEL_ARCH.LLAMA: {"norm_topk_prob": (None, True)},
    MODEL_ARCH.QWEN3MOE: {"norm_topk_prob": (True,)},
    MODEL_ARCH.QWEN3NEXT: {"norm_topk_prob": (True,)},
    MODEL_ARCH.QWEN35MOE: {"norm_topk_prob": (None, True)},
    MODEL_ARCH.QWEN2MOE: {"norm_topk_prob": _OFF},
    MODEL_ARCH.OLMOE: {"norm_topk_prob": _OFF},
    MODEL_ARCH.SMOLLM3: {"no_rope_layer_interval": (None, 4)},
}

# --- Keys that change nothing that a GGUF could tell

_HARMLESS: Final = frozenset(
    (  # noqa: SIM905 - a list would take a line for each
        # every config of transformers
        "architectures auto_map attn_implementation chunk_size_feed_forward custom_pipelines dtype "
        "experts_implementation id2label is_decoder is_encoder_decoder label2id model_type name_or_path "
        "output_attentions output_hidden_states aux_loss_alpha offset_alibi attention_softmax_in_fp32 "
        "problem_type pruned_heads return_dict task_specific_params tf_legacy_loss tie_encoder_decoder "
        "tie_word_embeddings tokenizer_class torch_dtype torchscript transformers_version use_bfloat16 use_cache "
        "finetuning_task num_labels prefix add_cross_attention cross_attention_hidden_size quantization_config "
        "compression_config text_config vision_config audio_config is_llama_config "
        # generation
        "bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping length_penalty max_length "
        "max_new_tokens min_length num_beam_groups num_beams num_return_sequences output_scores remove_invalid_values "
        "repetition_penalty return_dict_in_generate suppress_tokens temperature top_k top_p typical_p "
        "exponential_decay_length_penalty encoder_no_repeat_ngram_size no_repeat_ngram_size use_return_dict "
        # training, and where it ran
        "initializer_range initializer_std initializer_scale init_method init_std embd_init_std mlp_init_std "
        "pretraining_tp slow_but_exact output_router_logits ep_size seq_aux gradient_checkpointing is_moe_trained "
        "use_flash_attn flash_attn use_fused_rms_norm use_fused_cross_entropy use_fused_swiglu fused_bias_fc attn_impl "
        "max_window_layers keys_to_ignore_at_inference cache_implementation model_max_length seq_length skip_bias_add "
        "scale_attn_weights scale_fc1 ffn_dim_multiplier multiple_of norm_type masked_softmax_fusion "
        # what the tensors show themselves: biases, norms of heads, which layers have experts, the length of things
        "attention_bias mlp_bias qkv_bias use_qkv_bias use_bias bias lm_head_bias attention_out_bias "
        "use_attention_bias qk_layernorm use_qk_norm qk_norm decoder_sparse_step mlp_only_layers moe_layer_freq "
        "num_nextn_predict_layers bias_dropout_fusion skip_bias_add_qkv no_bias multi_query num_kv_heads "
        "num_ln_in_parallel_attn learned_pos_emb "
        "num_mtp_layers qk_head_dim ffn_hidden_size mlp_layer_types topk_method original_max_position_embeddings "
        "max_position_embeddings vocab_size_per_layer_input padded_vocab_size intermediate_size hidden_size vocab_size "
        "num_attention_heads num_key_value_heads num_hidden_layers head_dim rope_theta rope_scaling rope_parameters "
        "rms_norm_eps layer_norm_eps layer_norm_epsilon unk_token_id is_causal moe_intermediate_size "
        "num_kv_heads num_ln_in_parallel_attn multi_query learned_pos_emb no_bias full_attn_idxs block_multiple_of "
        # what other keys are derived from, heads of other tasks, precision and placing of what is computed
        "summary_activation summary_proj_to_labels summary_type summary_use_proj moe_norm_min "
        "reorder_and_upcast_attn scale_attention_softmax_in_fp32 embedding_fraction init_device "
        "mamba_ssm_dtype mtp_num_hidden_layers mtp_use_dedicated_embeddings "
        # of what is beside a text model
        "multimodal_projector_bias spatial_merge_size vision_feature_layer "
        "altup_coef_clip layers_with_keys "
        # decided by the window, below
        "layer_types sliding_window use_sliding_window sliding_window_pattern"
    ).split()
)
_HARMLESS_NAMES: Final = re.compile(
    r"_.*|unsloth.*|transformers\..*|.*(_token_ids?|_token_index|_tokens_per_image|_dropout|_pdrop|_dropout_\w+|_coef|"
    r"_version|_path|_noise|_loss|_implementation)|dropout|n_?embd?|n_head|n_layers?|n_inner|.*_hidden_act"
)
# What a name that speaks of arithmetic has in it.
_SPEAKING: Final = re.compile(
    r"multiplier|soft_?cap|logits?_cap|(^|_)scal(e|ar|ing|es)(_|$)|alibi|clip_qkv|parallel_residual|"
    r"rotary_(pct|percent\w*|dim|ndims|emb_fraction)|query_pre_attn_scalar|temperature_tuning|no_?rope|nope_"
)
_DOES_NOTHING: Final[tuple[object, ...]] = (None, False, 0, 1, "", [], {})


def check_keys(arch: MODEL_ARCH, h: Hyperparameters) -> tuple[str, ...]:
    """Look up every key that was not asked for while the family's tables were read.

    Returns notes. Raises UnsupportedError for a key by which transformers computes what this architecture does not.
    """
    if not h.asked.intersection(ACTIVATION):
        list(_ACTIVATIONS.get(arch, SILU).values(h))
    neutral = {**_NEUTRAL, **_OF_ARCH.get(arch, {})}
    asked = frozenset(h.asked | h.rope.asked)
    unknown = []
    for key in neutral.keys() | h.values.keys():
        value = h.values.get(key)
        if key in asked or key in ACTIVATION:
            continue
        if key in neutral:
            if value not in neutral[key]:
                raise _no_place(arch, h, key)
        elif _is_as_heads_have_it(h, key):
            continue
        elif key not in _HARMLESS and not _HARMLESS_NAMES.fullmatch(key):
            if _SPEAKING.search(key) and value not in _DOES_NOTHING:
                raise _no_place(arch, h, key)
            unknown.append(key)
    listed = ", ".join(f"`{key}`" for key in sorted(unknown)[:5]) + (" …" if len(unknown) > 5 else "")  # noqa: PLR2004
    notes = (f"config.json has keys that are not known, and taken to be harmless: {listed}",) if unknown else ()
    return (*notes, *_window(arch, h, asked), *_rope(arch, h, asked))


def _no_place(arch: MODEL_ARCH, h: Hyperparameters, key: str) -> UnsupportedError:
    value = f"is {h.values[key]!r:.60}" if key in h.values else "is not said"
    said = f"`{key}` in {h.where} {value}, for which GGUF's {MODEL_ARCH_NAMES[arch]} has no place"
    return UnsupportedError(said, hint=_HINT)


def _is_as_heads_have_it(h: Hyperparameters, key: str) -> bool:
    """Whether a key follows from the size of heads, and says what is computed anyway."""
    if key not in ("attention_multiplier", "query_pre_attn_scalar", "rotary_dim", "rotary_ndims"):
        return False
    value, size = h.number(key), head_dim(h)
    if key == "query_pre_attn_scalar" and n_layers(h) in LAYERS_OF_27B:
        size = h.size("hidden_size") // h.size("num_attention_heads")
    return value is None or isclose(value, size**-0.5 if key == "attention_multiplier" else size, rel_tol=1e-3)


def _window(arch: MODEL_ARCH, h: Hyperparameters, asked: frozenset[str]) -> Iterator[str]:
    if asked & {"sliding_window", "layer_types"}:
        return
    kinds = h.texts("layer_types")
    for kind in kinds or ():
        if kind not in ("full_attention", "sliding_attention"):
            raise _no_place(arch, h, "layer_types")
    window, length = h.optional_count("sliding_window"), h.optional_size("max_position_embeddings")
    is_off = h.has("use_sliding_window") and not h.flag("use_sliding_window")
    if is_off or (kinds is not None and "sliding_attention" not in kinds):
        return
    if window and (length is None or window < length):
        yield (
            f"a sliding window of {window} tokens has no place in GGUF's {MODEL_ARCH_NAMES[arch]}: beyond it the model "
            "attends to more than it was trained to"
        )


# --- The rope parameters' own keys

_ROPE_KEYS: Final = frozenset(
    (  # noqa: SIM905 - a list would take a line for each
        "rope_theta rope_type type factor original_max_position_embeddings beta_fast beta_slow attention_factor "
        "attn_factor extrapolation_factor low_freq_factor high_freq_factor finetuned partial_rotary_factor mscale "
        "mscale_all_dim truncate full_attention sliding_attention mrope_section mrope_interleaved"
    ).split()
)


def _rope(arch: MODEL_ARCH, h: Hyperparameters, asked: frozenset[str]) -> Iterator[str]:
    rope = h.rope.full_attention
    if "partial_rotary_factor" not in asked and rope.get("partial_rotary_factor") not in _ONE:
        said = f"`partial_rotary_factor` in {rope.where} is {rope.get('partial_rotary_factor')!r:.60}"
        raise UnsupportedError(f"{said}, for which GGUF's {MODEL_ARCH_NAMES[arch]} has no place", hint=_HINT)
    kind, factor = rope.get("rope_type"), rope.get("factor")
    if kind in (None, "default") and factor not in _ONE:
        yield f"the rope scaling's `factor` {factor!r:.60} is not used without a `rope_type`, by transformers neither"
    scales_by_two = rope.values.get("mscale") and rope.values.get("mscale_all_dim")
    if kind == "yarn" and scales_by_two and "mscale_all_dim" not in asked and rope.get("attention_factor") is None:
        said = f"`mscale` and `mscale_all_dim` in {rope.where}"
        raise UnsupportedError(f"{said} have no place in GGUF's {MODEL_ARCH_NAMES[arch]}", hint=_HINT)
    if kind == "yarn" and rope.get("truncate") is False:
        yield "YaRN's `truncate: false` has no place in GGUF: some frequencies are a little off"
    if unknown := sorted(rope.values.keys() - _ROPE_KEYS - asked):
        yield f"the rope scaling has keys that are not known, and not used: {', '.join(f'`{key}`' for key in unknown)}"


def keys_meant(arch: MODEL_ARCH, given: Given) -> Mapping[str, object]:
    """Give the keys by which a class would compute otherwise than the architecture, with values by which it does not.

    given: a file, and a config as far as it is made of it.
    """
    found: dict[str, object] = {}
    for row in (_ACTIVATIONS.get(arch, SILU),):
        found |= row.back(given) if row.back is not None else {}
    for key, values in {**_NEUTRAL, **_OF_ARCH.get(arch, {})}.items():
        default = given.defaults.get(key)
        if key in given.defaults and key not in given.config and default not in values:
            found[key] = next((value for value in values if value is not None), None)
    return found
