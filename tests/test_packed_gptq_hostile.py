"""GPTQ checkpoints that are wrong: an error that names the module and what does not fit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pytest
import torch
from group_packing import NAME, Tensors, gptq_config, gptq_module, make_codes, write_packed
from packed_checkpoints import read_tensor, unpacked

from convert.errors import CheckpointError, ConvertError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _without(suffix: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        del tensors[f"{NAME}.{suffix}"]

    return change


def _with(suffix: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[f"{NAME}.{suffix}"] = make(tensors.get(f"{NAME}.{suffix}", torch.zeros(64, 64).half()))

    return change


def _same(_: Tensors) -> None:
    pass


def _embedding(tensors: Tensors) -> None:
    for name in list(tensors):
        tensors[name.replace(NAME, "model.embed_tokens")] = tensors.pop(name)


HOSTILE: Final = {
    "no-qweight": (_without("qweight"), gptq_config(), "`model.layers.0.self_attn.q_proj.qweight` that it belongs to"),
    "no-qzeros": (_without("qzeros"), gptq_config(), "has no `qzeros`, only"),
    "no-scales": (_without("scales"), gptq_config(), "has no `scales`, only"),
    "a-plain-weight-too": (_with("weight", lambda t: t), gptq_config(), "has both `weight` and `"),
    "qweight-cut": (_with("qweight", lambda t: t[:-1]), gptq_config(), "4 bits and groups of 32, its tensors are"),
    "qweight-empty": (_with("qweight", lambda t: t[:0]), gptq_config(), "not empty"),
    "qweight-flat": (_with("qweight", lambda t: t.flatten()), gptq_config(), "wanted 2 dimensions"),
    "qweight-floats": (_with("qweight", lambda t: t.float()), gptq_config(), "type F32, wanted I32"),
    "qzeros-cut": (_with("qzeros", lambda t: t[:, :-1]), gptq_config(), "`qzeros` (2, 7)"),
    "qzeros-int64": (_with("qzeros", lambda t: t.long()), gptq_config(), "type I64, wanted I32"),
    "scales-cut": (_with("scales", lambda t: t[:-1]), gptq_config(), "`scales` (1, 64)"),
    "scales-int": (_with("scales", lambda t: t.to(torch.int16)), gptq_config(), "type I16, wanted F16 or BF16 or F32"),
    "g_idx-long": (_with("g_idx", lambda t: torch.cat([t, t])), gptq_config(), "`g_idx` (128,)"),
    "g_idx-beyond": (_with("g_idx", lambda t: t + 1), gptq_config(), "has groups 1 to 2, "),
    "g_idx-negative": (_with("g_idx", lambda t: t - 1), gptq_config(), "has groups -1 to 0, "),
    "g_idx-floats": (_with("g_idx", lambda t: t.half()), gptq_config(), "type F16, wanted I32 or I64"),
    "g_idx-huge": (_with("g_idx", lambda t: t.repeat(1 << 13)), gptq_config(), "`g_idx` (524288,)"),
    "another-group-size": (_same, gptq_config(4, 16), "groups of 16, its tensors are"),
    "other-bits": (_same, gptq_config(8), "8 bits and groups of 32, its tensors are"),
    "one-group-said": (_same, gptq_config(4, -1), "one group a row, its tensors are"),
    "an-embedding": (_embedding, gptq_config(), "is an embedding"),
    "no-bits": (_same, {"quant_method": "gptq"}, "has no `bits`"),
    "bits-5": (_same, gptq_config(5), "`bits` in"),
    "bits-huge": (_same, gptq_config(10**30), "wanted one of 2, 3, 4, 8"),
    "bits-text": (_same, {**gptq_config(), "bits": "4"}, "is '4', wanted an integer"),
    "bits-true": (_same, {**gptq_config(), "bits": True}, "is True, wanted an integer"),
    "group-size-0": (_same, gptq_config(4, 0), "`group_size` in"),
    "group-size-minus-2": (_same, gptq_config(4, -2), "wanted -1 or a positive number"),
    "group-size-huge": (_same, gptq_config(4, 10**30), "its tensors are"),
    "group-size-text": (_same, {**gptq_config(), "group_size": "128"}, "wanted an integer"),
    "desc-act-text": (_same, {**gptq_config(), "desc_act": "no"}, "wanted true or false"),
    "format-number": (_same, gptq_config(checkpoint_format=2), "wanted a name"),
    "format-unknown": (_same, gptq_config(checkpoint_format="marlin"), "says layout `marlin`"),
    "marlin-flag": (_same, gptq_config(is_marlin_format=True), "says layout `marlin`"),
    "pack-dtype": (_same, gptq_config(pack_dtype="int16"), "of `int16`"),
    "dynamic-list": (_same, gptq_config(dynamic=["a"]), "wanted an object"),
    "dynamic-value": (_same, gptq_config(dynamic={"a": 8}), "wanted an object"),
    "dynamic-bits": (_same, gptq_config(dynamic={"a": {"bits": 0}}), "wanted one of"),
    "meta-text": (_same, gptq_config(meta="gptqmodel"), "wanted an object"),
}


@pytest.mark.parametrize("row", HOSTILE)
def test_what_is_wrong_is_an_error_that_names_it(tmp_path: Path, row: str) -> None:
    change, quantization, message = HOSTILE[row]
    tensors = gptq_module(NAME, make_codes((64, 64)))
    change(tensors)
    wanted: type[ConvertError] = UnsupportedError if "layout" in message or "embedding" in message else CheckpointError
    wanted = UnsupportedError if row == "pack-dtype" else wanted
    with pytest.raises(wanted, match=re.escape(message)):
        unpacked(write_packed(tmp_path, tensors, quantization))


def test_a_config_that_says_nothing_beside_packed_tensors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"declares no quantization, but .* is GPTQ's") as caught:
        unpacked(write_packed(tmp_path, gptq_module(NAME, make_codes((64, 64))), None))
    assert '"quant_method": "gptq", "bits": 4, "group_size": 128' in (caught.value.hint or "")


def test_a_config_that_says_another_method(tmp_path: Path) -> None:
    quantization = {**gptq_config(), "quant_method": "awq"}
    with pytest.raises(CheckpointError, match=r"declares `awq`, but .*g_idx` is GPTQ's or auto-round's"):
        unpacked(write_packed(tmp_path, gptq_module(NAME, make_codes((64, 64))), quantization))


def test_several_groupings_that_fit_a_module_without_a_list(tmp_path: Path) -> None:
    """96 columns in two groups: of 48, or of 64 and a short one; only g_idx could say."""
    packed = make_codes((32, 96), group_size=48)
    quantization = gptq_config(4, 48, dynamic={".*q_proj": {"group_size": 64}})
    with pytest.raises(CheckpointError, match=r"groups of 48 or 4 bits and groups of 64, its tensors are"):
        unpacked(write_packed(tmp_path, gptq_module(NAME, packed, with_g_idx=False), quantization))


def test_a_file_that_becomes_shorter_is_an_error(tmp_path: Path) -> None:
    directory = write_packed(tmp_path, gptq_module(NAME, make_codes((64, 64))), gptq_config())
    tensor = unpacked(directory)[f"{NAME}.weight"]
    with (directory / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(CheckpointError, match="ended while"):
        read_tensor(tensor)
