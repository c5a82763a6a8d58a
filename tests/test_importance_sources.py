"""Importance for packed and merged checkpoints: what llama-quantize --imatrix makes of the decoded or merged one."""

from __future__ import annotations

import subprocess
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import reference as llama_cpp
from bitsandbytes_checkpoints import KINDS, dequantize_with_transformers, save_with_transformers
from gguf import GGUFReader
from gguf_models import write_imatrix
from group_packing import Tensors, gptq_config, gptq_module, make_codes, packed_and_plain
from packed_checkpoints import tiny_config, write_safetensors_checkpoint
from peft_adapters import copy_tokenizer, write_adapter, write_base

import convert
from convert import OutputRequest, dequantize, model_request
from convert.dequantization import DequantizeRequest
from convert.quant_mix import quantize_options

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch
    from reference import Reference

    from convert import ModelRequest

pytestmark = pytest.mark.llama_cpp

TYPES: Final = ("q4_0", "q4_k_m", "iq4_xs", "q2_k_s")
WIDE: Final[dict[str, Any]] = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "head_dim": 64,
}  # whole super-blocks


def gptq(tmp_path: Path) -> tuple[ModelRequest, Path]:
    def pack(name: str, shape: tuple[int, int]) -> tuple[Tensors, torch.Tensor]:
        packed = make_codes(shape, act_order=True)
        return gptq_module(name, packed), packed.dequantized()

    packed, plain = packed_and_plain(tmp_path, gptq_config(desc_act=True), pack, **WIDE)
    return model_request(packed), plain


def nf4(tmp_path: Path) -> tuple[ModelRequest, Path]:
    packed = save_with_transformers(KINDS["nf4"], tmp_path / "packed" / "model", **WIDE)
    copy_tokenizer(packed)
    dtype = KINDS["nf4"].dtype
    plain = tmp_path / "plain" / "model"
    write_safetensors_checkpoint(plain, tiny_config(dtype=dtype, **WIDE), dequantize_with_transformers(packed))
    return model_request(packed), plain


def merged(tmp_path: Path) -> tuple[ModelRequest, Path]:
    base = write_base(tmp_path / "packed" / "model", **WIDE)
    adapter = write_adapter(base, tmp_path / "adapter", r=4, target_modules=["q_proj", "down_proj"])
    request = model_request(base, merge=f"{adapter}:0.7")
    dequantize(request, DequantizeRequest(tmp_path / "plain" / "model", dtype="f32"))
    return request, tmp_path / "plain" / "model"


@pytest.mark.parametrize("source", [gptq, nf4, merged])
def test_live_importance_counts_alike_for_what_is_decoded_or_merged_on_the_way(
    source: Callable[[Path], tuple[ModelRequest, Path]], tmp_path: Path, reference: Reference
) -> None:
    request, plain = source(tmp_path)
    f16 = tmp_path / "F16.gguf"
    (converted,) = llama_cpp.convert(reference.source, [(plain, f16)])
    assert converted.error is None
    imatrix = _random_imatrix(f16, tmp_path / "imatrix.gguf")
    wanted = OutputRequest(
        tmp_path / "ours", types=",".join(TYPES), name="model", options=quantize_options(imatrix=imatrix)
    )
    ours = {output.path.stem: _hash(output.path) for output in convert.convert_all(request, wanted).outputs}
    theirs = {f"model-{kind.upper()}": _hash(_quantized(reference, f16, imatrix, kind)) for kind in TYPES}
    assert ours == theirs


def _random_imatrix(model: Path, path: Path) -> Path:
    random = np.random.default_rng(3)
    entries = {
        tensor.name: (random.random(tensor.shape[0]) * 50, np.array([100.0]))
        for tensor in GGUFReader(model).tensors
        if tensor.name.startswith("blk.") and len(tensor.shape) > 1
    }
    return write_imatrix(path, entries)


def _quantized(reference: Reference, source: Path, imatrix: Path, kind: str) -> Path:
    out = source.with_name(f"theirs-{kind}.gguf")
    command = [str(reference.quantize), "--imatrix", str(imatrix), str(source), str(out), kind, "1"]
    subprocess.run(command, capture_output=True, check=True)
    return out


def _hash(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
