"""Integers in groups that share a scale and a zero point: what GPTQ and AWQ, and all that pack as they do, hold.

    weight[row, col] = scale[row, group] x (code[row, col] - zero[row, group])      group = col // group_size, or listed

The difference of two integers below 256 is exact in float16 and bfloat16, and so is its product with a scale in
float32: one rounding to the scales' type gives what torch gives when it multiplies tensors of that type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from convert.checkpoint.packed.integers import Integers, Span
from convert.checkpoint.packed.values import pieces, to_bytes
from convert.errors import CheckpointError, ConfigError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from convert.checkpoint.packed.packed_module import PackedModule
    from convert.checkpoint.source import StoredType
    from convert.checkpoint.source_files import SourceFiles
    from convert.codec.contract import F32Array, U8Array

    GroupsArray = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, slots=True)
class Grouping:
    """How many bits a code has, and how many neighbours of a row share a scale; group_size -1: the whole row."""

    bits: int
    group_size: int

    def n_groups(self, n_cols: int) -> int:
        """Return the groups of a row; the last may be short."""
        return 1 if self.group_size == -1 else -(-n_cols // self.group_size)

    def __str__(self) -> str:
        groups = "one group a row" if self.group_size == -1 else f"groups of {self.group_size}"
        return f"{self.bits} bits and {groups}"


class GroupedTensor(Protocol):
    """A weight whose codes, zero points and scales are read for some of its rows."""

    @property
    def nbytes(self) -> int:
        """Bytes of the files that all rows are made from."""

    def read_codes(self, files: SourceFiles, rows: range) -> U8Array:
        """Return uint8 (n_rows, n_cols)."""

    def read_zeros(self, files: SourceFiles, rows: range) -> U8Array:
        """Return uint8 (n_rows, n_groups)."""

    def read_scales(self, files: SourceFiles, rows: range) -> F32Array:
        """Return float32 (n_rows, n_groups)."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Codes, zero points or scales of a weight, as `Integers` has them."""

    base: GroupedTensor
    part: str
    bits: int

    @property
    def nbytes(self) -> int:
        return self.base.nbytes

    @property
    def span(self) -> Span:
        return Span(0, (1 << self.bits) - 1)

    def read(self, files: SourceFiles, first: int, n_rows: int) -> F32Array:
        values: F32Array = getattr(self.base, f"read_{self.part}")(files, range(first, first + n_rows))
        return values.astype(np.float32)


def integers_of(base: GroupedTensor, bits: int, group_cols: int) -> Integers:
    """Give the integers of a weight whose columns fill their groups in order."""
    codes, scales, zeros = (_Part(base, part, bits) for part in ("codes", "scales", "zeros"))
    return Integers(codes, codes.span, scales, group_cols, zeros)


def checked(grouping: Grouping, *, bits: tuple[int, ...], where: str) -> Grouping:
    """Return a grouping of one of these numbers of bits; ConfigError for others, and for an absurd group size."""
    if grouping.bits not in bits:
        wanted = ", ".join(map(str, bits))
        raise ConfigError(f"`bits` in {where} is {grouping.bits}, wanted one of {wanted}")
    if grouping.group_size < 1 and grouping.group_size != -1:
        raise ConfigError(f"`group_size` in {where} is {grouping.group_size}, wanted -1 or a positive number")
    return grouping


def contradiction(module: PackedModule, groupings: Iterable[Grouping], where: str) -> CheckpointError:
    """Make the error that shows what the config says, and what the tensors are."""
    said = " or ".join(dict.fromkeys(map(str, groupings)))
    return CheckpointError(
        f"packed module {shown(module.name)}: {where} says {said}, its tensors are {module.shapes()}"
    )


def dequantize(codes: U8Array, *, zeros: U8Array, scales: F32Array, group_of: GroupsArray | None) -> F32Array:
    """Decode codes (n_rows, n_cols) with zeros and scales (n_rows, n_groups) to float32 (n_rows, n_cols), unrounded.

    group_of: the group of each column; None where columns fill their groups in order, each as many.
    """
    values = codes.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # a scale may be infinite; the run says where
        if group_of is None:
            grouped = values.reshape(*scales.shape, -1)
            grouped -= zeros.astype(np.float32)[:, :, None]
            grouped *= scales[:, :, None]
        else:
            values -= np.take(zeros, group_of, axis=1)
            values *= np.take(scales, group_of, axis=1)
    return values


def dequantize_into(
    out: U8Array,
    codes: U8Array,
    *,
    zeros: U8Array,
    scales: F32Array,
    group_of: GroupsArray | None,
    dtype: StoredType,
) -> None:
    """Decode as `dequantize` does, round to `dtype`, and fill `out`, uint8 (n_rows, n_cols * itemsize)."""
    for rows in pieces(*codes.shape):
        part = slice(rows.start, rows.stop)
        values = dequantize(codes[part], zeros=zeros[part], scales=scales[part], group_of=group_of)
        out[part] = to_bytes(values, dtype)


def read_bit_stream(raw: U8Array, bits: int) -> U8Array:
    """Split rows of bytes (n_rows, nbytes) into codes (n_rows, nbytes * 8 / bits), the lowest bits first.

    bits: 2, 3, 4 or 8. With 3, nbytes is a multiple of 3: eight codes in 24 bits, which is also where GPTQ's 32 codes
    in three words lie: | 10 codes, 2 bits | 1 bit, 10 codes, 1 bit | 2 bits, 10 codes |.
    """
    if bits == 8:  # noqa: PLR2004
        return raw
    n_bytes = 3 if bits == 3 else 1  # noqa: PLR2004
    n_codes = n_bytes * 8 // bits
    groups = _joined(raw, n_bytes)
    out = np.empty((len(raw), groups.shape[1], n_codes), np.uint8)
    for index in range(n_codes):
        np.bitwise_and(groups >> (bits * index), (1 << bits) - 1, out=out[:, :, index], casting="unsafe")
    return out.reshape(len(raw), -1)


def _joined(raw: U8Array, n_bytes: int) -> NDArray[Any]:
    """Join each so many neighbouring bytes, little endian, into one number."""
    if n_bytes == 1:
        return raw
    parts = raw.reshape(len(raw), -1, n_bytes)
    joined = parts[:, :, 0].astype(np.uint32)
    for index in range(1, n_bytes):
        joined |= parts[:, :, index].astype(np.uint32) << np.uint32(8 * index)
    return joined
