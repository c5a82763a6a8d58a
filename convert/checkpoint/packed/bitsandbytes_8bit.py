"""bitsandbytes' 8-bit weights, LLM.int8: signed bytes, and the largest magnitude of each row.

    M.weight            I8 (n_rows, n_cols)
    M.SCB               F32 (n_rows,): the row's largest magnitude
    M.weight_format     U8, one number: 0, rows one after the other; older files may lack it, or hold the layout of a
                        GPU's tensor cores, which is not read

        value = (weight * SCB) * 0.007874015718698502      float32, rounded twice; 1 / 127, but not a division

Sources: bitsandbytes 0.50.2, _ops.py, int8_vectorwise_dequant; nn/modules.py, Linear8bitLt; transformers 5.23,
HfQuantizer.dequantize, which rounds that to the config's dtype.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from convert.checkpoint.packed.values import as_float32, as_integers, pieces, read_elements, read_small, to_bytes
from convert.checkpoint.source import StoredType
from convert.errors import CheckpointError, UnsupportedError
from convert.shown import shown, shown_list

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.checkpoint.source import Shape, TensorSource
    from convert.checkpoint.source_files import SourceFiles
    from convert.codec.contract import U8Array

# bitsandbytes 0.50.2, utils.py, LINEAR_8BIT_WEIGHTS_FORMAT_MAPPING
LAYOUTS: Final = ("row", "col32", "col_turing", "col_ampere")

_COMPANION: Final = re.compile(r"(.*)\.(SCB|weight_format)", re.DOTALL)
_ONE_OF_127: Final = np.float32(7.874015718698502e-3)
_SAVE_AGAIN: Final = "load it with bitsandbytes 0.44 and save it again, or get the 16-bit checkpoint"


@dataclass(frozen=True, slots=True)
class Packed8bit:
    """A weight of the model, decoded from signed bytes row by row; `dtype` is what they are rounded to."""

    weight: TensorSource
    row_absmax: TensorSource
    dtype: StoredType

    @property
    def name(self) -> str:
        """The weight's own."""
        return self.weight.name

    @property
    def shape(self) -> Shape:
        """The weight's own."""
        return self.weight.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the weight and its statistics."""
        return self.weight.nbytes + self.row_absmax.nbytes

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        absmax = as_float32(read_elements(self.row_absmax, files, first, len(out)), StoredType.F32)
        for rows in pieces(len(out), self.shape[1]):
            part = slice(rows.start, rows.stop)
            raw = np.empty((len(rows), self.shape[1]), np.uint8)
            self.weight.read_rows(files, first + rows.start, raw)
            with np.errstate(all="ignore"):  # an SCB of infinity is found where weights are checked
                values = raw.view(np.int8).astype(np.float32) * absmax[part, None] * _ONE_OF_127
            out[part] = to_bytes(values, self.dtype)


def is_companion_8bit(name: str) -> bool:
    """Say whether a name can be that of an 8-bit weight's companion."""
    return _COMPANION.fullmatch(name) is not None


def open_8bit(tensors: Mapping[str, TensorSource], dtype: StoredType | None) -> dict[str, Packed8bit]:
    """Give the weight of every set of companions, by its name, rounded to `dtype`, float32 if that is None.

    Raises CheckpointError for a set that is incomplete or does not fit together, UnsupportedError for a layout other
    than rows.
    """
    sets: dict[str, dict[str, TensorSource]] = {}
    for name, source in tensors.items():
        if match := _COMPANION.fullmatch(name):
            sets.setdefault(f"{match[1]}.weight", {})[match[2]] = source
    return {name: _open(name, companions, tensors, dtype or StoredType.F32) for name, companions in sets.items()}


def _open(
    name: str, companions: Mapping[str, TensorSource], tensors: Mapping[str, TensorSource], dtype: StoredType
) -> Packed8bit:
    listed = shown_list([source.name for source in companions.values()])
    if name not in tensors:
        raise CheckpointError(f"the checkpoint lacks tensor {shown(name)}, but has {listed}")
    if "SCB" not in companions:
        lacking = shown(name.removesuffix("weight") + "SCB")
        raise CheckpointError(f"the checkpoint lacks tensor {lacking}, but has {listed}")
    weight, row_absmax = tensors[name], companions["SCB"]
    if weight.dtype is not StoredType.I8 or len(weight.shape) != 2:  # noqa: PLR2004 - a matrix
        raise CheckpointError(
            f"tensor {shown(name)} is {weight.dtype.value} of shape {weight.shape}, {listed} belongs to an I8 matrix"
        )
    _check_row_absmax(row_absmax, weight)
    if "weight_format" in companions:
        _check_layout(companions["weight_format"])
    return Packed8bit(weight, row_absmax, dtype)


def _check_row_absmax(source: TensorSource, weight: TensorSource) -> None:
    what = f"tensor {shown(source.name)}"
    if source.dtype is not StoredType.F32:
        raise CheckpointError(f"{what} is {source.dtype.value}, wanted F32")
    if source.shape != weight.shape[:1]:
        rows = f"the {weight.shape[0]} rows of {shown(weight.name)}"
        raise CheckpointError(f"{what} has shape {source.shape}, {rows} ask for {weight.shape[:1]}")


def _check_layout(source: TensorSource) -> None:
    what = f"tensor {shown(source.name)}"
    if source.n_elements != 1 or source.dtype not in {StoredType.U8, StoredType.I64}:
        raise CheckpointError(f"{what} is {source.dtype.value} of shape {source.shape}, wanted one U8")
    layout = int(as_integers(read_small(source), source.dtype)[0])
    if layout not in range(len(LAYOUTS)):
        raise CheckpointError(f"{what} is {layout}, wanted 0 (row) to {len(LAYOUTS) - 1} ({LAYOUTS[-1]})")
    if layout:
        raise UnsupportedError(
            f"{what} says that the weight is laid out as `{LAYOUTS[layout]}`, only `row` is read", hint=_SAVE_AGAIN
        )
