"""OpenAI's gpt-oss: experts in blocks of 32 e2m1 numbers that share an exponent, stored transposed.

    X_blocks  U8 (experts, outputs, groups, 16)   two numbers a byte, the low nibble first
    X_scales  U8 (experts, outputs, groups)       2 ** (byte - 127)
    X         (experts, groups * 32, outputs)     what the model multiplies with from the right

The exponent is added as ldexp does: 255 is 2 ** 128, where the OCP format has NaN.
Source: transformers 5.23, integrations/mxfp4.py, convert_moe_packed_tensors, which is given the model's type.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from gguf import GGMLQuantizationType

from convert.checkpoint.packed.float8 import decode_nibbles
from convert.checkpoint.packed.module_names import read_names, refuse_left_out
from convert.checkpoint.packed.packed_format import nothing_packed
from convert.checkpoint.packed.values import read_window, to_bytes
from convert.checkpoint.source import StoredType, TensorSource
from convert.errors import CheckpointError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.checkpoint.packed.quantization_config import Quantization
    from convert.checkpoint.source import Shape, Tensor
    from convert.checkpoint.source_files import SourceFiles
    from convert.codec.contract import U8Array

_BLOCK_NBYTES: Final = 16
_BLOCK_VALUES: Final = 32
_BLOCKS: Final = "_blocks"
_SCALES: Final = "_scales"


@dataclass(frozen=True, slots=True)
class Mxfp4Tensor:
    """A stack of experts, transposed as the model has it. blocks, scales: as stored, a row an expert's output."""

    name: str
    shape: Shape
    dtype: StoredType
    blocks: TensorSource
    scales: TensorSource

    @property
    def nbytes(self) -> int:
        """Bytes of the files that all rows are made from."""
        return self.blocks.nbytes + self.scales.nbytes

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        """See RowSource. A row here is a column of what is stored: of each stored row, its groups are read."""
        n_inputs, n_rows = self.shape[1], len(out)
        done = 0
        while done < n_rows:
            expert, start = divmod(first + done, n_inputs)
            end = min(start + n_rows - done, n_inputs)
            values = self._inputs(files, expert, range(start, end))
            out[done : done + end - start] = values
            done += end - start

    def _inputs(self, files: SourceFiles, expert: int, inputs: range) -> U8Array:
        """Decode some inputs of an expert: uint8 (inputs, outputs * itemsize)."""
        n_outputs = self.shape[2]
        rows = range(expert * n_outputs, (expert + 1) * n_outputs)
        groups = range(inputs.start // _BLOCK_VALUES, -(-inputs.stop // _BLOCK_VALUES))
        nbytes = range(groups.start * _BLOCK_NBYTES, groups.stop * _BLOCK_NBYTES)
        exponents = read_window(self.scales, files, rows=rows, cols=groups).astype(np.int32) - 127
        values = decode_nibbles(read_window(self.blocks, files, rows=rows, cols=nbytes))
        blocks = values.reshape(n_outputs, len(groups), _BLOCK_VALUES)
        with np.errstate(over="ignore"):
            np.ldexp(blocks, exponents[:, :, None], out=blocks)
        skipped = inputs.start - groups.start * _BLOCK_VALUES
        return to_bytes(np.ascontiguousarray(values[:, skipped : skipped + len(inputs)].T), self.dtype)


@dataclass(frozen=True, slots=True)
class Mxfp4Blocks:
    """Outputs of the experts as GGUF has them, in MXFP4: of each `period` the one at `first`, its inputs a row.

    stored   a scale apart, 16 bytes: the numbers 0 and 1, 2 and 3 … of the block, the low nibble first
    GGUF     a scale, 16 bytes: the numbers 0 and 16, 1 and 17 …

    Source: ggml/src/ggml-common.h, block_mxfp4; conversion/gpt_oss.py, GptOssModel.repack_mxfp4 @ 0c1e570.
    """

    base: Mxfp4Tensor
    name: str
    period: int
    first: int

    @property
    def dtype(self) -> GGMLQuantizationType:
        """MXFP4."""
        return GGMLQuantizationType.MXFP4

    @property
    def shape(self) -> Shape:
        """(experts, outputs, inputs), in numbers."""
        n_experts, n_inputs, n_outputs = self.base.shape
        return (n_experts, n_outputs // self.period, n_inputs)

    @property
    def nbytes(self) -> int:
        """The view's share of the base's bytes."""
        return self.base.nbytes // self.period

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        """Give rows of blocks; see RowSource."""
        start = first * self.period + self.first
        rows = range(start, start + (len(out) - 1) * self.period + 1)
        n_groups = self.base.shape[1] // _BLOCK_VALUES
        packed = read_window(self.base.blocks, files, rows=rows, cols=range(n_groups * _BLOCK_NBYTES))[:: self.period]
        pairs = packed.reshape(len(out), n_groups, _BLOCK_NBYTES)
        numbers = np.stack((pairs & 15, pairs >> 4), axis=-1).reshape(len(out), n_groups, _BLOCK_VALUES)
        blocks = out.reshape(len(out), n_groups, 1 + _BLOCK_NBYTES)
        blocks[:, :, 0] = read_window(self.base.scales, files, rows=rows, cols=range(n_groups))[:: self.period]
        blocks[:, :, 1:] = numbers[:, :, :_BLOCK_NBYTES] | numbers[:, :, _BLOCK_NBYTES:] << 4


def is_mxfp4_blocks(source: TensorSource) -> bool:
    """Tell whether a tensor can only be gpt-oss' packed blocks."""
    return source.name.endswith(_BLOCKS) and source.dtype is StoredType.U8 and source.shape[-1:] == (_BLOCK_NBYTES,)


def unpack_mxfp4(quantization: Quantization, tensors: Mapping[str, TensorSource]) -> Mapping[str, Tensor]:
    """Give blocks and scales as the tensors they are; see PackedFormat.unpack. The dtype is the config's, else BF16.

    Raises CheckpointError for blocks or scales that are alone, of another type, or of shapes that do not agree.
    """
    dtype = quantization.dtype or StoredType.BF16
    left_out = read_names(quantization.fields, "modules_to_not_convert")
    out: dict[str, Tensor] = {}
    for name, source in tensors.items():
        base = name.removesuffix(_BLOCKS).removesuffix(_SCALES)
        if name.endswith(_BLOCKS):
            refuse_left_out(left_out, base.rpartition(".")[0], name, quantization.where)
            out[base] = _decoder(base, source, tensors, dtype)
        elif not name.endswith(_SCALES):
            out[name] = source
        elif base + _BLOCKS not in tensors:
            raise CheckpointError(f"tensor {shown(name)} has no {shown(base + _BLOCKS)} that it belongs to")
    if len(out) == len(tensors):
        raise nothing_packed(quantization, "its blocks")
    return out


def _decoder(name: str, blocks: TensorSource, tensors: Mapping[str, TensorSource], dtype: StoredType) -> Mxfp4Tensor:
    if name in tensors:
        raise CheckpointError(f"tensor {shown(name)} is there twice, plain and as {shown(blocks.name)}")
    scales = tensors.get(name + _SCALES)
    if scales is None:
        raise CheckpointError(f"tensor {shown(blocks.name)} has no {shown(name + _SCALES)}")
    for source in (blocks, scales):
        if source.dtype is not StoredType.U8:
            raise CheckpointError(f"tensor {shown(source.name)} is {source.dtype.value}, wanted U8")
    if len(blocks.shape) != 4 or blocks.shape[3] != _BLOCK_NBYTES or 0 in blocks.shape:  # noqa: PLR2004
        raise CheckpointError(
            f"tensor {shown(blocks.name)} has shape {blocks.shape}, wanted (experts, outputs, groups, {_BLOCK_NBYTES})"
        )
    if scales.shape != blocks.shape[:3]:
        raise CheckpointError(
            f"tensor {shown(scales.name)} has shape {scales.shape}, {shown(blocks.name)} {blocks.shape}: "
            f"wanted {blocks.shape[:3]}"
        )
    n_experts, n_outputs, n_groups, _ = blocks.shape
    stored = n_experts * n_outputs
    return Mxfp4Tensor(
        name,
        (n_experts, n_groups * _BLOCK_VALUES, n_outputs),
        dtype,
        replace(blocks, shape=(stored, n_groups * _BLOCK_NBYTES)),
        replace(scales, shape=(stored, n_groups)),
    )
