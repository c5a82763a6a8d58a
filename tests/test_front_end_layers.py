"""What a checkpoint may have, or lack: layers that predict further tokens; blocks that are kept as they are."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import pytest
from family_making import change_weights
from front_end_making import FrontEndRow, save_checkpoint
from front_end_reference import Job, convert_apart

from convert.errors import UnsupportedError
from convert.llama_cpp.front_end import Part, open_gguf_model, open_other_model
from convert.model import DefinitionRequest, FrontEnd, GGUFModel, model_request
from convert.plan import plan
from convert.quant_mix import FILE_TYPES
from convert.stream import carry_out

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    Weights = dict[str, torch.Tensor]

LLAMA_CPP: Final = DefinitionRequest(FrontEnd.LLAMA_CPP)
QWEN: Final = FrontEndRow(
    "Qwen3NextForCausalLM",
    "linear attention, then a full one",
    {"layer_types": ["linear_attention", "full_attention"], "full_attention_interval": 2},
)
GPT_OSS: Final = FrontEndRow("GptOssForCausalLM", "experts in mxfp4")


def with_further_layer(weights: Weights) -> Weights:
    """Add a layer that predicts a further token, as Qwen3-Next publishes it."""
    import torch

    layer, norm = "model.layers.1.", weights["model.norm.weight"]
    added = {
        f"mtp.layers.0.{name.removeprefix(layer)}": t.clone() for name, t in weights.items() if name.startswith(layer)
    }
    added |= {f"mtp.{part}.weight": norm.clone() for part in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden")}
    embedding = weights["model.embed_tokens.weight"]
    return weights | added | {"mtp.fc.weight": torch.cat([embedding[:64], embedding[64:128]], dim=1)}


def in_mxfp4(weights: Weights) -> Weights:
    """Have the experts in blocks of 32, as gpt-oss publishes them."""
    import torch

    made: Weights = {}
    generator = torch.Generator().manual_seed(3)
    for name, tensor in weights.items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            made[name] = tensor
            continue
        experts, n_in, n_out = tensor.shape
        shape = (experts, n_out, n_in // 32)
        made[f"{name}_blocks"] = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8, generator=generator)
        made[f"{name}_scales"] = torch.randint(110, 130, shape, dtype=torch.uint8, generator=generator)
    return made


def ours(model: GGUFModel, path: Path) -> str:
    carry_out(plan(model, {FILE_TYPES["F16"]: path}))
    return sha256(path.read_bytes()).hexdigest()


def theirs(source: Path, model: Path, path: Path, *flags: str) -> str:
    assert convert_apart(source, [Job(str(model), str(path), flags=flags)]) == [None]
    return sha256(path.read_bytes()).hexdigest()


def test_layers_that_were_not_saved_are_not_missed(reference_source: Path, tmp_path: Path) -> None:
    """Upstream fails in an assertion, and is right when told that there are none."""
    directory = save_checkpoint(QWEN, tmp_path / "qwen")
    model = open_gguf_model(model_request(directory, definition=LLAMA_CPP))
    assert "the layers that predict further tokens are not in the checkpoint" in model.notes
    assert ours(model, tmp_path / "ours.gguf") == theirs(reference_source, directory, tmp_path / "t.gguf", "--no-mtp")


def test_layers_that_predict_further_tokens_are_a_file_of_their_own(reference_source: Path, tmp_path: Path) -> None:
    directory = save_checkpoint(QWEN, tmp_path / "qwen")
    change_weights(directory, with_further_layer)
    request = model_request(directory, definition=LLAMA_CPP)
    text, further = open_gguf_model(request), open_other_model(request, Part.MTP)
    assert ours(text, tmp_path / "text.gguf") == theirs(reference_source, directory, tmp_path / "a.gguf")
    assert ours(further, tmp_path / "mtp.gguf") == theirs(reference_source, directory, tmp_path / "b.gguf", "--mtp")


def test_blocks_that_gguf_has_a_type_for_are_kept(reference_source: Path, tmp_path: Path) -> None:
    directory = save_checkpoint(GPT_OSS, tmp_path / "gpt-oss")
    change_weights(directory, in_mxfp4)
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (directory / "config.json").write_text(json.dumps(config))
    model = open_gguf_model(model_request(directory, definition=LLAMA_CPP))
    assert ours(model, tmp_path / "ours.gguf") == theirs(reference_source, directory, tmp_path / "theirs.gguf")
    with pytest.raises(UnsupportedError, match="is MXFP4 already"):
        plan(model, {FILE_TYPES["Q4_0"]: tmp_path / "q4_0.gguf"})
