"""Small seeded checkpoints of every family but Llama's, by transformers' own classes: three shapes and more a family.

    from family_checkpoints import FAMILY_CHECKPOINTS, write_family_checkpoint
    directory = write_family_checkpoint("bloom-8-heads", tmp_path)        # writes tmp_path / "bloom-8-heads"

Weights are normal numbers, the same for a row with every version of torch's CPU generator; the output matrix is scaled
so that the model's distributions are peaked, as a trained model's are.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from transformers import PreTrainedModel

    Weights = dict[str, torch.Tensor]

SHARED_TOKENIZERS: Final = Path(__file__).parents[2] / "shared" / "fixtures" / "tokenizers"
TINY_LLAMA: Final = Path(__file__).parent / "data" / "tiny-llama"
N_LIKELY: Final = 16  # rows of the output matrix that stand out
ROUTER_PEAK: Final = 16.0
PIECES: Final = 1024  # of tiny-llama's tokenizer.model
QWEN_VOCABULARY: Final = 151936  # 151665 tokens; embeddings are padded
GPT2_VOCABULARY: Final = 50257
NEOX_VOCABULARY: Final = 50304  # 50277 tokens
TOKENIZER_CLASSES: Final = {"gpt2": "GPT2Tokenizer", "gptneox": "PreTrainedTokenizerFast"}  # of those that say none


@dataclass(frozen=True, slots=True)
class FamilyRow:
    """One checkpoint.

    config: of the class that `model_type` names. tokenizer: a folder of the shared fixtures, None for tiny-llama's
    pieces. change: made to the state dict before it is saved. is_raw: the state dict is saved as transformers holds it,
    not as `save_pretrained` writes it. differs: the reference's file is wrong,
    and ours another. quantizes, loads: llama-quantize and llama.cpp take the reference's F16 file.
    peak: how far likely tokens stand out.
    """

    name: str
    covers: str
    model_type: str
    config: Mapping[str, Any]
    dtype: str = "float16"
    tokenizer: str | None = "qwen2.5"
    change: Callable[[Weights], Weights] = field(default=lambda weights: weights)
    is_raw: bool = False
    differs: bool = False
    quantizes: bool = True
    loads: bool = True
    peak: float = 5.0


def write_family_checkpoint(name: str, root: Path) -> Path:
    """Write the row called `name` as the directory root / name, anew, and return that."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    row, folder = FAMILY_CHECKPOINTS[name], root / name
    shutil.rmtree(folder, ignore_errors=True)
    config = AutoConfig.for_model(row.model_type, **row.config)
    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(crc32(name.encode()))
    with torch.no_grad():
        for key, parameter in model.state_dict().items():
            _fill(key, parameter, generator, row)
    model = model.to(getattr(torch, row.dtype))
    if row.is_raw:
        _save_raw(model, row, folder)
    else:
        model.save_pretrained(folder, state_dict=row.change(dict(model.state_dict())))
    _write_tokenizer(row, folder)
    return folder


def _fill(key: str, parameter: torch.Tensor, generator: torch.Generator, row: FamilyRow) -> None:
    """Give a parameter its values: norms near one (Gemma's near zero), the rest of a size that keeps activations even.

    A few rows of the output matrix are larger than the others, and so are the routers: as in a trained model, the
    likeliest token and the chosen experts then stand clear of the next, and rounding does not change them.
    """
    import torch

    if not parameter.is_floating_point():
        return
    values = torch.randn(parameter.shape, generator=generator)
    if parameter.ndim == 1:
        is_norm = key.endswith("weight")
        parameter.copy_(values * (0.1 if is_norm else 0.02) + float(is_norm and not row.model_type.startswith("gemma")))
        return
    values /= parameter.shape[-1] ** 0.5
    if key == "lm_head.weight" or ("embed" in key and row.config["tie_word_embeddings"]):
        values[:: len(values) // N_LIKELY] *= row.peak
    elif "embed" in key:
        values *= parameter.shape[-1] ** 0.5
    elif key.endswith("mlp.gate.weight") and row.model_type == "qwen3_moe":
        values *= ROUTER_PEAK  # a softmax: what is chosen last then weighs little; DeepSeek's sigmoid would saturate
    parameter.copy_(values)


def _save_raw(model: PreTrainedModel, row: FamilyRow, folder: Path) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    weights = row.change({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
    if row.config.get("tie_word_embeddings"):
        weights.pop("lm_head.weight", None)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)


def _write_tokenizer(row: FamilyRow, folder: Path) -> None:
    if row.tokenizer is None:
        shutil.copy(TINY_LLAMA / "tokenizer.model", folder)
        (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True}))
        return
    for path in (SHARED_TOKENIZERS / row.tokenizer).iterdir():
        shutil.copy(path, folder)
    if row.tokenizer in TOKENIZER_CLASSES:
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": TOKENIZER_CLASSES[row.tokenizer]}))


def with_mtp_layer(weights: Weights) -> Weights:
    """Add the layer behind the last that DeepSeek's checkpoints have for predicting a second token."""
    mtp = {
        name.replace("layers.1.", "layers.2."): tensor.clone()
        for name, tensor in weights.items()
        if ".layers.1." in name
    }
    hidden = weights["model.norm.weight"]
    return (
        weights | mtp | {"model.layers.2.enorm.weight": hidden.clone(), "model.layers.2.hnorm.weight": hidden.clone()}
    )


def without_prefix(weights: Weights) -> Weights:
    """Take `transformer.` off, as BLOOM was published."""
    return {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}


_QWEN: Final = {
    "vocab_size": QWEN_VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "num_experts": 4,
    "num_experts_per_tok": 2, "max_position_embeddings": 512, "norm_topk_prob": True, "tie_word_embeddings": False,
    "bos_token_id": 151643, "eos_token_id": 151645,
}  # fmt: skip
_GEMMA: Final = {
    "vocab_size": PIECES, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 512, "sliding_window": 16,
    "query_pre_attn_scalar": 32, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_BLOOM: Final = {
    "vocab_size": GPT2_VOCABULARY, "hidden_size": 64, "n_layer": 2, "n_head": 4, "tie_word_embeddings": True,
}  # fmt: skip
_DEEPSEEK: Final = {
    "vocab_size": GPT2_VOCABULARY, "hidden_size": 64, "intermediate_size": 160, "moe_intermediate_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "n_shared_experts": 1,
    "n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
    "kv_lora_rank": 32, "q_lora_rank": 48, "qk_rope_head_dim": 16, "qk_nope_head_dim": 32, "v_head_dim": 32,
    "max_position_embeddings": 512, "scoring_func": "sigmoid", "tie_word_embeddings": False,
    "num_nextn_predict_layers": 0, "bos_token_id": 50256, "eos_token_id": 50256,
}  # fmt: skip
_YARN: Final = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 32,
    "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
}  # fmt: skip

_TABLE: Final = (
    FamilyRow("qwen3-moe-4-experts", "GQA, untied", "qwen3_moe", _QWEN),
    FamilyRow(
        "qwen3-moe-8-experts-tied", "eight experts, tied, MHA, bfloat16, rows of 256", "qwen3_moe",
        _QWEN | {"num_experts": 8, "tie_word_embeddings": True, "num_key_value_heads": 4, "hidden_size": 256},
        dtype="bfloat16",
    ),
    FamilyRow("qwen3-moe-fused", "experts as a state dict holds them: fused", "qwen3_moe", _QWEN, is_raw=True),
    FamilyRow("gemma3-tied", "GQA, the pieces of a tokenizer.model", "gemma3_text", _GEMMA, tokenizer=None),
    FamilyRow(
        "gemma3-linear-rope", "linear scaling of the global layers, MHA, bfloat16, rows of 256", "gemma3_text",
        _GEMMA | {
            "num_key_value_heads": 4, "hidden_size": 256, "num_hidden_layers": 7,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
        dtype="bfloat16", tokenizer=None,
    ),
    FamilyRow(
        "gemma3-every-second", "full attention in every second layer, which the reference forgets", "gemma3_text",
        _GEMMA | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
        tokenizer=None, differs=True,
    ),
    FamilyRow("gemma3-float32", "float32 weights, rows of 48", "gemma3_text",
              _GEMMA | {"hidden_size": 48, "intermediate_size": 112}, dtype="float32", tokenizer=None),
    FamilyRow("gemma3-cut-vocabulary", "more embedding rows than tokens, a byte-level tokenizer", "gemma3_text",
              _GEMMA | {"vocab_size": NEOX_VOCABULARY}, tokenizer="gptneox", loads=False),
    FamilyRow("bloom-4-heads", "float16, as transformers saves it", "bloom", _BLOOM, tokenizer="gpt2"),
    FamilyRow("bloom-8-heads", "bfloat16, rows of 256", "bloom",
              _BLOOM | {"n_head": 8, "hidden_size": 256}, dtype="bfloat16", tokenizer="gpt2"),
    FamilyRow("bloom-published", "names without `transformer.`, one head of three rows of 48, float32", "bloom",
              _BLOOM | {"n_head": 3, "hidden_size": 48}, dtype="float32", tokenizer="gpt2", change=without_prefix,
              is_raw=True),
    FamilyRow("deepseek-v3", "q packed too, a dense layer, groups", "deepseek_v3", _DEEPSEEK, tokenizer="gpt2"),
    FamilyRow("deepseek-v3-yarn", "YaRN with mscale, no dense layer, bfloat16", "deepseek_v3",
              _DEEPSEEK | {"first_k_dense_replace": 0, "rope_parameters": _YARN}, dtype="bfloat16", tokenizer="gpt2"),
    FamilyRow("deepseek-v3-plain-q", "no packed q, which llama.cpp does not load: the f16 file alone", "deepseek_v3",
              _DEEPSEEK | {"q_lora_rank": None}, tokenizer="gpt2", quantizes=False, loads=False),
    FamilyRow("deepseek-v3-mtp", "a layer behind the last, rows of 256, four experts", "deepseek_v3",
              _DEEPSEEK | {"n_routed_experts": 4, "hidden_size": 256}, tokenizer="gpt2", change=with_mtp_layer),
)  # fmt: skip

FAMILY_CHECKPOINTS: Final = {row.name: row for row in _TABLE}
