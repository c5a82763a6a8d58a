"""What no family can carry into GGUF is an error that names it: rotary scaling, activations, tensors, modules."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest
from family_checkpoints import write_family_checkpoint
from family_making import change_weights

import convert
from convert.errors import ConvertError, PlanError, UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

LLAMA3: Final = {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "rope_type": "llama3"}
CONFIGS: Final[list[tuple[str, dict[str, Any], str]]] = [
    ("Qwen2.5-0.5B", {"rope_parameters": LLAMA3 | {"rope_theta": 1e6}}, "rope scaling `llama3`"),
    ("Qwen2.5-0.5B", {"hidden_act": "gelu"}, "`hidden_act`"),
    ("gemma-2-2b-it", {"query_pre_attn_scalar": 64}, "`query_pre_attn_scalar`"),
    ("gemma-2-2b-it", {"layer_types": ["full_attention"] + ["sliding_attention"] * 3}, "`layer_types`"),
]
TENSORS: Final = [("Qwen3-0.6B", "model.layers.1.self_attn.o_proj.bias", "o_proj.bias")]


@pytest.mark.parametrize(("name", "change", "named"), CONFIGS)
def test_what_a_family_does_not_know_of_a_config_is_named(
    name: str, change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    model = write_family_checkpoint(name, tmp_path)
    config = json.loads((model / "config.json").read_text()) | change
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match=named):
        convert.plan_all(model, tmp_path / "out")


@pytest.mark.parametrize(("name", "tensor", "named"), TENSORS)
def test_a_tensor_that_llama_cpp_has_no_place_for_is_named(name: str, tensor: str, named: str, tmp_path: Path) -> None:
    model = write_family_checkpoint(name, tmp_path)
    change_weights(model, lambda weights: weights | {tensor: weights["model.norm.weight"].clone()})
    with pytest.raises(PlanError, match=named):
        convert.plan_all(model, tmp_path / "out")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("1_Pooling/config.json", {"pooling_mode_weightedmean_tokens": True}),
        ("modules.json", [{"path": "../elsewhere", "type": "sentence_transformers.models.Pooling"}]),
        ("modules.json", [{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]),
    ],
)
def test_modules_behind_the_model_that_are_not_written_are_an_error(file: str, content: object, tmp_path: Path) -> None:
    model = write_family_checkpoint("Qwen3-Embedding-0.6B", tmp_path)
    (model / file).write_text(json.dumps(content))
    with pytest.raises(ConvertError, match=r"pooling|Dense"):
        convert.plan_all(model, tmp_path / "out")


def test_a_reranker_is_an_error(tmp_path: Path) -> None:
    model = write_family_checkpoint("Qwen3-0.6B", tmp_path).rename(tmp_path / "Qwen3-Reranker-0.6B")
    with pytest.raises(UnsupportedError, match="reranker"):
        convert.plan_all(model, tmp_path / "out")
