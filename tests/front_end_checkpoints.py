"""Small checkpoints of architectures that go through llama.cpp's definitions, as transformers' own classes save them.

python tests/front_end_checkpoints.py ROOT [NAME ...]          writes all, or these
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from front_end_making import FrontEndRow, save_checkpoint, write_pieces, write_unigram, write_wordpiece

if TYPE_CHECKING:
    from collections.abc import Mapping

_PIECES: Final[Mapping[str, Any]] = {"vocab_size": 1024, "bos_token_id": 1, "eos_token_id": 2}
_WORDS: Final[Mapping[str, Any]] = {"vocab_size": 193}
_UNIGRAM: Final[Mapping[str, Any]] = {"vocab_size": 98, "eos_token_id": 1}
_IMAGES: Final = {
    "preprocessor_config.json": {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 32, "width": 32}}
}
_MROPE: Final = {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [2, 3, 3]}}
_POOLING: Final = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ],
    "1_Pooling/config.json": {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True},
}

_TOWER: Final = {
    "hidden_size": 64,
    "image_size": 32,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "patch_size": 8,
}
_GEMMA_3: Final = {
    "text_config": {"vocab_size": 1024},
    "vision_config": {"model_type": "siglip_vision_model", "vision_use_head": False, **_TOWER},
    "mm_tokens_per_image": 4,
}
_LLAVA: Final = {
    "text_config": {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "vocab_size": 608,
    },
    "vision_config": {"model_type": "pixtral", **_TOWER},
}
_PIXTRAL: Final = _IMAGES | {
    "tokenizer_config.json": {
        "added_tokens_decoder": {"600": {"content": "[IMG_BREAK]", "special": True}},
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
}

ROWS: Final = (
    FrontEndRow("AfmoeForCausalLM", "stacked experts, gates"),
    FrontEndRow("ApertusForCausalLM", "scalars in the metadata, rope factors", dtype="float32"),
    FrontEndRow("ArceeForCausalLM", "float16", dtype="float16"),
    FrontEndRow("BertForSequenceClassification", "a classifier's head", config=_WORDS, tokenizer=write_wordpiece),
    FrontEndRow("BertModel", "WordPiece, pooling", config=_WORDS, tokenizer=write_wordpiece, files=_POOLING),
    FrontEndRow("BloomForCausalLM", "fused QKV", config={"hidden_size": 64}),
    FrontEndRow("CohereForCausalLM", "a logit scale"),
    FrontEndRow("DistilBertModel", "names of its own", config=_WORDS, tokenizer=write_wordpiece),
    FrontEndRow("Exaone4ForCausalLM", "hybrid attention"),
    FrontEndRow("GPTBigCodeForCausalLM", "multi-query"),
    FrontEndRow("Gemma2ForCausalLM", "norms + 1, sentencepiece", config=_PIECES, tokenizer=write_pieces),
    FrontEndRow(
        "Gemma3ForConditionalGeneration", "a vision tower",  config=_GEMMA_3,
        tokenizer=write_pieces, files=_IMAGES, has_mmproj=True, renamed=("vision_tower.", "vision_tower.vision_model."),
    ),
    FrontEndRow("GptOssForCausalLM", "fused experts, every second row a gate"),
    FrontEndRow("GraniteForCausalLM", "multipliers", dtype="float32"),
    FrontEndRow("GraniteMoeForCausalLM", "experts' gate and up in one tensor"),
    FrontEndRow("GraniteMoeHybridForCausalLM", "Mamba 2 beside attention", max_shard_size="50KB"),
    FrontEndRow("HunYuanDenseV1ForCausalLM", "rope by alpha"),
    FrontEndRow(
        "JambaForCausalLM", "Mamba beside attention and experts", config=_PIECES, tokenizer=write_pieces,
        only_float="key jamba.attention.head_count_kv has wrong array length",
    ),
    FrontEndRow("Lfm2ForCausalLM", "short convolutions"),
    FrontEndRow("Llama4ForCausalLM", "fused experts, transposed"),
    FrontEndRow("LlavaForConditionalGeneration", "Pixtral's tower", config=_LLAVA, files=_PIXTRAL, has_mmproj=True),
    FrontEndRow("MambaForCausalLM", "a state space", config={"intermediate_size": 128}),
    FrontEndRow("Ministral3ForCausalLM", "an inner class writes"),
    FrontEndRow(
        "ModernBertModel", "embeddings, layers of two kinds",
        only_float="key not found in model: modern-bert.attention.layer_norm_epsilon",
    ),
    FrontEndRow("NemotronHForCausalLM", "Mamba 2, attention and feed-forward in turn"),
    FrontEndRow("Olmo2ForCausalLM", "norms behind", dtype="float16"),
    FrontEndRow("OlmoeForCausalLM", "stacked experts"),
    FrontEndRow("Phi3ForCausalLM", "fused QKV", config=_PIECES, tokenizer=write_pieces),
    FrontEndRow("PhiForCausalLM", "partial rotary"),
    FrontEndRow("Qwen2MoeForCausalLM", "shared experts"),
    FrontEndRow(
        "Qwen2VLForConditionalGeneration", "a vision tower with its own rope", files=_IMAGES, has_mmproj=True,
        config={"text_config": _MROPE},
    ),
    FrontEndRow(
        "Qwen3VLMoeForConditionalGeneration", "fused experts, deep stacks of vision", files=_IMAGES, has_mmproj=True,
        config={"text_config": _MROPE, "vision_config": {"deepstack_visual_indexes": [1]}},
    ),
    FrontEndRow("RobertaModel", "positions that begin at 2"),
    FrontEndRow("SeedOssForCausalLM", "biases"),
    FrontEndRow("SmolLM3ForCausalLM", "layers without rope"),
    FrontEndRow("StableLmForCausalLM", "norms with biases"),
    FrontEndRow("Starcoder2ForCausalLM", "sliding windows"),
    FrontEndRow("T5EncoderModel", "an encoder alone", config=_UNIGRAM, tokenizer=write_unigram("spiece.model")),
    FrontEndRow(
        "T5ForConditionalGeneration", "encoder and decoder", config={**_UNIGRAM, "decoder_start_token_id": 0},
        tokenizer=write_unigram("spiece.model"),
    ),
    FrontEndRow(
        "XLMRobertaModel", "unigram pieces", config={"vocab_size": 98},
        tokenizer=write_unigram("sentencepiece.bpe.model"),
    ),
)  # fmt: skip

FRONT_END_CHECKPOINTS: Final[Mapping[str, FrontEndRow]] = {row.name: row for row in ROWS}
assert len(FRONT_END_CHECKPOINTS) == len(ROWS), "two rows have one name"


def write_front_end_checkpoint(name: str, root: Path) -> Path:
    """Write the row called `name` as the directory root / name, anew, and return that."""
    return save_checkpoint(FRONT_END_CHECKPOINTS[name], root / name)


if __name__ == "__main__":
    for name_ in sys.argv[2:] or FRONT_END_CHECKPOINTS:
        sys.stdout.write(f"{write_front_end_checkpoint(name_, Path(sys.argv[1]))}\n")
