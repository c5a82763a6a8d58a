"""Small seeded checkpoints of the families beside Llama, as transformers' own classes save them.

    from family_checkpoints import FAMILY_CHECKPOINTS, write_family_checkpoint
    directory = write_family_checkpoint("bloom-560m", tmp_path)        # writes tmp_path / "bloom-560m"

Config and weight files are what `save_pretrained` writes, changed only where a row says so; the names of directories
feed the metadata. Weights depend on nothing but the row's and the tensor's name. Rows marked `shared` use published
byte-level vocabularies: the reference knows these by a hash, and takes no other tokenizer for three of the families.

    python tests/family_checkpoints.py ROOT [NAME ...]                 writes all, or these
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import family_checkpoints_gated
import family_checkpoints_gemma
import family_checkpoints_gemma3n
import family_checkpoints_newer
import family_checkpoints_phi
import family_checkpoints_qwen
import family_checkpoints_whole
from checkpoint_configs import ABSENT
from family_checkpoints_more import MORE_ROWS
from family_making import (
    SCORING,
    YARN,
    FamilyRow,
    bloom,
    deepseek_v3,
    gemma3,
    qwen3_moe,
    save_family_checkpoint,
    with_next_token_layer,
    with_rows_beyond_the_vocabulary,
    without_prefix,
    write_gemma_sentencepiece,
    write_gpt2,
    write_gpt_neox,
    write_qwen,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


def write_family_checkpoint(name: str, root: Path) -> Path:
    """Write the row called `name` as the directory root / name, anew, and return that."""
    folder = root / name
    save_family_checkpoint(FAMILY_CHECKPOINTS[name], folder)
    return folder


QWEN3_MOE: Final = "Qwen3MoeForCausalLM"
GEMMA3: Final = "Gemma3ForCausalLM"
BLOOM: Final = "BloomForCausalLM"
DEEPSEEK_V3: Final = "DeepseekV3ForCausalLM"

ROWS: Final[tuple[FamilyRow, ...]] = (
    FamilyRow(
        "Qwen3-8x1M",
        "8 experts of rows of 96, GQA, untied, bfloat16",
        QWEN3_MOE,
        qwen3_moe(),
        tokenizer=write_gpt2,
        shared=True,
    ),
    FamilyRow(
        "Qwen3-4x1M-tied",
        "4 experts, MHA, tied, float16, rows of 48 in the experts and in the residual stream, heads of 16",
        QWEN3_MOE,
        qwen3_moe(
            head_dim=16,
            hidden_size=48,
            moe_intermediate_size=48,
            num_attention_heads=3,
            num_experts=4,
            num_key_value_heads=3,
            tie_word_embeddings=True,
        ),
        dtype="float16",
        tokenizer=write_gpt2,
        shared=True,
    ),
    FamilyRow(
        "Qwen3-rows-of-256",
        "no fallback: all rows multiples of 256, tied; no head_dim in config.json, a vocabulary padded to 50304",
        QWEN3_MOE,
        {
            key: value
            for key, value in qwen3_moe(
                bos_token_id=0,
                eos_token_id=0,
                hidden_size=256,
                moe_intermediate_size=256,
                num_experts=4,
                tie_word_embeddings=True,
                vocab_size=50304,
            ).items()
            if key != "head_dim"
        },
        tokenizer=write_gpt_neox,
        shared=True,
    ),
    FamilyRow(
        "Qwen3-fused-experts",
        "pytorch_model.bin with the experts fused in two 3-D tensors, as transformers 5 holds them in memory; float32",
        QWEN3_MOE,
        qwen3_moe(hidden_size=32, num_experts=4),
        dtype="float32",
        tokenizer=write_gpt2,
        state_dict=True,
        shared=True,
    ),
    FamilyRow(
        "Qwen3-dense-layers",
        "decoder_sparse_step 2 and mlp_only_layers: layers 0, 2 and 3 are dense",
        QWEN3_MOE,
        qwen3_moe(decoder_sparse_step=2, hidden_size=32, mlp_only_layers=[3], num_hidden_layers=4),
        tokenizer=write_gpt2,
        shared=True,
        refused_by_reference="ValueError: Can not map tensor 'model.layers.0.mlp.down_proj.weight'",
    ),
    FamilyRow(
        "Qwen3-30B-A3B-Instruct",
        "the published tokenizer, vocabulary of 151936",
        QWEN3_MOE,
        qwen3_moe(
            bos_token_id=151643,
            eos_token_id=151645,
            hidden_size=32,
            moe_intermediate_size=64,
            tie_word_embeddings=True,
            vocab_size=151936,
        ),
        tokenizer=write_qwen,
        shared=True,
    ),
    FamilyRow(
        "gemma-3-1b-it",
        "GQA 4 : 1, tied, a window of 24 tokens in six layers of seven, bfloat16",
        GEMMA3,
        gemma3(),
        tokenizer=write_gemma_sentencepiece,
    ),
    FamilyRow(
        "gemma-3-4b-linear-rope",
        "linear RoPE scaling in the layers that see all, rows of 256, MHA, float32",
        GEMMA3,
        gemma3(
            head_dim=64,
            hidden_size=256,
            intermediate_size=512,
            num_key_value_heads=4,
            query_pre_attn_scalar=64,
            rope_parameters={
                "full_attention": {"factor": 8.0, "rope_theta": 1000000.0, "rope_type": "linear"},
                "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
            },
        ),
        dtype="float32",
    ),
    FamilyRow(
        "gemma-3-270m-float16",
        "float16, in which 1 is then added to the norms; rows of 48 and 96; head_dim not hidden_size / heads",
        GEMMA3,
        gemma3(hidden_size=48, intermediate_size=96, num_attention_heads=2, num_hidden_layers=6),
        dtype="float16",
    ),
    FamilyRow(
        "gemma-3-padded-vocabulary",
        "no tokenizer.model; config's vocab_size beyond the tokens: as many embedding rows as tokens, pads among them",
        GEMMA3,
        gemma3(bos_token_id=0, eos_token_id=0, hidden_size=32, num_hidden_layers=2, vocab_size=50304),
        tokenizer=write_gpt_neox,
        shared=True,
        differs="it cuts the embedding below its own tokens, and llama.cpp does not load that",
    ),
    FamilyRow(
        "gemma-3-every-second",
        "a window in every second layer: llama.cpp takes every sixth unless a key says otherwise",
        GEMMA3,
        gemma3(num_hidden_layers=4, layer_types=["sliding_attention", "full_attention"] * 2),
        tokenizer=write_gemma_sentencepiece,
        differs="it does not write the key",
    ),
    FamilyRow(
        "gemma-3-old-config",
        "config.json as published: rope_theta, rope_local_base_freq, rope_scaling, sliding_window_pattern, torch_dtype",
        GEMMA3,
        gemma3(),
        tokenizer=write_gemma_sentencepiece,
        saved_config={
            "_sliding_window_pattern": ABSENT,
            "dtype": ABSENT,
            "layer_types": ABSENT,
            "rope_local_base_freq": 10000,
            "rope_parameters": ABSENT,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "rope_theta": 1000000,
            "sliding_window_pattern": 6,
            "torch_dtype": "bfloat16",
        },
    ),
    FamilyRow(
        "gemma-3-padded-embedding",
        "64 embedding rows beyond the tokenizer's tokens, which the reference cuts",
        GEMMA3,
        gemma3(num_hidden_layers=2),
        change_weights=with_rows_beyond_the_vocabulary,
        judge_unchanged=True,
    ),
    FamilyRow(
        "gemma-3-byte-level",
        "no tokenizer.model; the embedding is cut to the lengths of tokenizer.json's two lists, added up: 50279 rows",
        GEMMA3,
        gemma3(bos_token_id=0, eos_token_id=0, hidden_size=32, num_hidden_layers=2, vocab_size=50279),
        tokenizer=write_gpt_neox,
        change_weights=with_rows_beyond_the_vocabulary,
        judge_unchanged=True,
        shared=True,
    ),
    FamilyRow(
        "bloom-560m",
        "names without `transformer.`, n_embed for hidden_size and seq_length, as published; 8 heads, float16",
        BLOOM,
        bloom(),
        dtype="float16",
        tokenizer=write_gpt2,
        saved_config={"n_embed": 64, "hidden_size": ABSENT, "seq_length": 2048},
        change_weights=without_prefix,
        shared=True,
    ),
    FamilyRow(
        "bloomz-7b1",
        "names with `transformer.`, 6 heads (no power of 2: ALiBi has two series), rows of 96, bfloat16, 3 layers",
        BLOOM,
        bloom(hidden_size=96, n_head=6, n_layer=3),
        tokenizer=write_gpt2,
        saved_config={"seq_length": 2048},
        shared=True,
    ),
    FamilyRow(
        "bloom-padded",
        "a vocabulary padded beyond the tokenizer's, no seq_length, one head, float32, another tokenizer",
        BLOOM,
        bloom(bos_token_id=0, eos_token_id=0, hidden_size=32, n_head=1, vocab_size=50304),
        dtype="float32",
        tokenizer=write_gpt_neox,
        shared=True,
    ),
    FamilyRow(
        "DeepSeek-V3",
        "yarn with mscale_all_dim, q_lora_rank, one dense layer, 2 groups of 4, and a multi-token-prediction layer",
        DEEPSEEK_V3,
        deepseek_v3(rope_parameters=YARN, max_position_embeddings=163840),
        tokenizer=write_gpt2,
        saved_config=SCORING,
        change_weights=with_next_token_layer,
        scales={"q_b_proj": 0.5},  # yarn itself makes attention about twice as sharp
        shared=True,
    ),
    FamilyRow(
        "DeepSeek-V3-all-sparse",
        "no dense layer, 4 experts in one group, two shared ones, rows of 48, key and value sizes that differ, float16",
        DEEPSEEK_V3,
        deepseek_v3(
            bos_token_id=0,
            eos_token_id=0,
            first_k_dense_replace=0,
            hidden_size=48,
            kv_lora_rank=48,
            moe_intermediate_size=48,
            n_group=1,
            n_routed_experts=4,
            n_shared_experts=2,
            num_hidden_layers=2,
            num_nextn_predict_layers=0,
            q_lora_rank=64,
            topk_group=1,
            v_head_dim=16,
            vocab_size=50304,
        ),
        dtype="float16",
        tokenizer=write_gpt_neox,
        saved_config=SCORING,
        shared=True,
    ),
    FamilyRow(
        "GigaChat3-10B-A1.8B",
        "no q_lora_rank, which llama.cpp takes of 26 layers, 24 of them dense; tied, float32",
        DEEPSEEK_V3,
        deepseek_v3(
            first_k_dense_replace=24,
            hidden_size=32,
            num_hidden_layers=26,
            q_lora_rank=None,
            tie_word_embeddings=True,
        ),
        dtype="float32",
        tokenizer=write_gpt2,
        saved_config=SCORING,
        scales={"o_proj": 0.3, "down_proj": 0.2},
        shared=True,
    ),
    FamilyRow(
        "Moonlight-16B-A3B",
        "no q_lora_rank and three layers",
        DEEPSEEK_V3,
        deepseek_v3(hidden_size=32, q_lora_rank=None, tie_word_embeddings=True),
        tokenizer=write_gpt2,
        saved_config=SCORING,
        shared=True,
        only_float="key not found in model: deepseek2.attention.q_lora_rank, asked for unless layers are 26 or 27",
        not_run="the same",
    ),
    FamilyRow(
        "DeepSeek-V3-as-saved",
        "no scoring_func in config.json, as transformers saves it",
        DEEPSEEK_V3,
        deepseek_v3(hidden_size=32, tie_word_embeddings=True),
        tokenizer=write_gpt2,
        shared=True,
        differs="it writes no score function, and llama.cpp then takes a softmax",
    ),
    FamilyRow(
        "DeepSeek-V3-rows-of-256",
        "no fallback: hidden, feed-forward and ranks multiples of 256",
        DEEPSEEK_V3,
        deepseek_v3(
            hidden_size=256,
            intermediate_size=512,
            kv_lora_rank=256,
            moe_intermediate_size=256,
            num_hidden_layers=2,
            q_lora_rank=256,
            tie_word_embeddings=True,
        ),
        tokenizer=write_gpt2,
        saved_config=SCORING,
        shared=True,
    ),
    *family_checkpoints_qwen.ROWS,
    *family_checkpoints_gemma.ROWS,
    *family_checkpoints_phi.ROWS,
    *family_checkpoints_newer.ROWS,
    *family_checkpoints_whole.ROWS,
    *family_checkpoints_gated.ROWS,
    *family_checkpoints_gemma3n.ROWS,
)

ALL_ROWS: Final = (*ROWS, *MORE_ROWS)
FAMILY_CHECKPOINTS: Final[Mapping[str, FamilyRow]] = {row.name: row for row in ALL_ROWS}
assert len(FAMILY_CHECKPOINTS) == len(ALL_ROWS), "two rows have one name"


def main() -> None:
    """Write the rows asked for."""
    parser = argparse.ArgumentParser(description="write the families' test checkpoints")
    parser.add_argument("root", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    for name in arguments.names or FAMILY_CHECKPOINTS:
        sys.stdout.write(f"{write_family_checkpoint(name, arguments.root)}\n")


if __name__ == "__main__":
    main()
