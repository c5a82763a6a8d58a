"""Small checkpoints of each architecture that LitGPT knows, made by LitGPT itself of transformers' own."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from family_checkpoints import FAMILY_CHECKPOINTS
from family_configs import LLAMA3, small
from family_making import FamilyRow, save_family_checkpoint
from judges import judge

if TYPE_CHECKING:
    from pathlib import Path

_MIXTURE: Final = {"num_local_experts": 4, "num_experts_per_tok": 2}
_OWN: Final = {
    row.name: row
    for row in (
        FamilyRow("Llama-3.2-1B", "scaled rope, tied", "LlamaForCausalLM",
                  small(rope_parameters=LLAMA3, tie_word_embeddings=True)),
        FamilyRow("Mistral-7B-v0.3", "GQA", "MistralForCausalLM", small(sliding_window=None), dtype="float16"),
        FamilyRow("Mixtral-8x7B-v0.1", "experts", "MixtralForCausalLM", small(**_MIXTURE, sliding_window=None)),
    )
}  # fmt: skip


@dataclass(frozen=True)
class LitRow:
    """A checkpoint: of a row of the families', under a name that LitGPT knows. more: of its config."""

    name: str
    family: str
    more: dict[str, Any] = field(default_factory=dict)


LIT_ROWS: Final = (
    LitRow("Llama-3.2-1B", "Llama-3.2-1B", {"rope_adjustments": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_seq_len": 64}}),
    LitRow("Mistral-7B-v0.3", "Mistral-7B-v0.3"),
    LitRow("Mixtral-8x7B-v0.1", "Mixtral-8x7B-v0.1", {"n_expert": 4}),
    LitRow("Qwen2.5-0.5B", "Qwen2.5-0.5B"),
    LitRow("Qwen3-0.6B", "Qwen3-0.6B"),
    LitRow("Qwen3-30B-A3B", "Qwen3-8x1M", {"n_expert": 8, "n_expert_per_token": 2}),
    LitRow("Gemma-2b-it", "gemma-2b-it"),
    LitRow("Gemma-2-2b-it", "gemma-2-2b-it"),
    LitRow("Gemma-3-1b-it", "gemma-3-1b-it"),
    LitRow("phi-2", "phi-2"),
    LitRow("Phi-3-mini-4k-instruct", "Phi-3-mini-4k-instruct"),
    LitRow("OLMo-1B-hf", "OLMo-narrow"),
    LitRow("OLMo-2-1124-7B", "OLMo-2-1124-7B"),
    LitRow("stablelm-3b-4e1t", "stablelm-3b-4e1t"),
    LitRow("pythia-70m", "pythia-70m", {"n_query_groups": 4}),
    LitRow("falcon-7b", "falcon-7b"),
    LitRow("falcon-40b", "falcon-40b"),
)  # fmt: skip
_CONVERT: Final = """
import json, sys, pathlib
from litgpt.config import name_to_config
from litgpt.scripts.convert_hf_checkpoint import convert_hf_checkpoint
for directory, name, sizes in json.load(sys.stdin)["jobs"]:
    name_to_config[name] = {**name_to_config[name], **sizes}
    convert_hf_checkpoint(pathlib.Path(directory), model_name=name)
print("{}")
"""


def write_lit(rows: tuple[LitRow, ...], root: Path) -> None:
    """Write root / "twin" / NAME, as transformers saves it, and root / "lit" / NAME, which LitGPT made of it."""
    jobs = []
    for row in rows:
        twin, lit = root / "twin" / row.name, root / "lit" / row.name
        save_family_checkpoint(_OWN.get(row.family) or FAMILY_CHECKPOINTS[row.family], twin)
        (twin / "generation_config.json").unlink(missing_ok=True)
        shutil.copytree(twin, lit)
        jobs.append([str(lit), row.name, sizes_of(json.loads((twin / "config.json").read_text())) | row.more])
    judge(_CONVERT, {"jobs": jobs})
    for row in rows:
        (root / "lit" / row.name / "model.safetensors").unlink()


_SIZES: Final = {
    "n_embd": ("hidden_size",),
    "n_layer": ("num_hidden_layers",),
    "n_head": ("num_attention_heads",),
    "head_size": ("head_dim",),
    "intermediate_size": ("intermediate_size", "ffn_hidden_size"),
    "moe_intermediate_size": ("moe_intermediate_size",),
    "padded_vocab_size": ("vocab_size",),
    "block_size": ("max_position_embeddings",),
    "norm_eps": ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"),
    "n_expert_per_token": ("num_experts_per_tok",),
    "attention_scores_scalar": ("query_pre_attn_scalar",),
    "attention_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "sliding_window_size": ("sliding_window",),
}


def sizes_of(config: dict[str, Any]) -> dict[str, Any]:
    """Say in LitGPT's words what a small model's config says."""
    found = {key: next((config[name] for name in names if config.get(name)), None) for key, names in _SIZES.items()}
    sizes = {key: value for key, value in found.items() if value is not None}
    heads = config["num_attention_heads"]
    groups = config.get("num_kv_heads") or config.get("num_key_value_heads") or heads
    ropes = config.get("rope_parameters") or {}
    rope = ropes.get("full_attention", ropes)
    sizes |= {
        "n_query_groups": 1 if config.get("multi_query") and not config.get("new_decoder_architecture") else groups
    }
    sizes |= {"head_size": config.get("head_dim") or config["hidden_size"] // heads, "vocab_size": config["vocab_size"]}
    sizes |= {"rope_base": int(rope.get("rope_theta", 10000))}
    if "partial_rotary_factor" in rope:
        sizes |= {"rotary_percentage": rope["partial_rotary_factor"]}
    if "sliding_attention" in ropes:
        sizes |= {"rope_local_base_freq": ropes["sliding_attention"]["rope_theta"]}
    if kinds := config.get("layer_types") if "sliding_window_size" in sizes else None:
        sizes |= {"sliding_window_indices": [int(kind == "sliding_attention") for kind in kinds]}
        sizes |= {"rope_indices": sizes["sliding_window_indices"]} if "sliding_attention" in ropes else {}
    return sizes
