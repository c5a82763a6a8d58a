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


def is_mxfp4_blocks(source: TensorSource) -> bool:
    """Tell whether a tensor can only be gpt-oss' packed blocks."""
    return source.name.endswith(_BLOCKS) and source.dtype is StoredType.U8 and source.shape[-1:] == (_BLOCK_NBYTES,)


def unpack_mxfp4(quantization: Quantization, tensors: Mapping[str, TensorSource]) -> Mapping[str, Tensor]:
    """Give blocks and scales as the tensors they are; see PackedFormat.unpack. The dtype is the config's, else BF16.

    Raises CheckpointError for blocks or scales that are alone, of another type, or of shapes that do not agree.
    """
    dtype = quantization.dtype or StoredType.BF16
    left_out = read_names(quantization.options, "modules_to_not_convert", where=quantization.where)
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
