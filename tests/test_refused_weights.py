"""Weights on which llama.cpp's own encoder aborts end a run with an error that names their tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest

import convert
from convert.errors import WeightsError

if TYPE_CHECKING:
    from pathlib import Path


def test_weights_that_no_encoder_takes_are_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "in.gguf", "llama")
    writer.add_block_count(1)
    weights = np.random.default_rng(1).standard_normal((32, 256)).astype(np.float32)
    for name, scale in (("blk.0.ffn_gate.weight", 1.0), ("blk.0.ffn_up.weight", 1e25)):
        writer.add_tensor(name, weights * np.float32(scale))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(WeightsError, match=r"`blk\.0\.ffn_up\.weight` has weights in rows 0 to 31 that IQ3_S cannot"):
        convert.quantize(tmp_path / "in.gguf", convert.OutputRequest(tmp_path / "out", types="iq3_s"))
    assert not (tmp_path / "out").exists()
