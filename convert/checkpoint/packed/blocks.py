"""Packed weights as blocks of GGUF that stand for the same numbers: their own integers and scales, not new ones.

    type     a scale for    integers          scale, minimum
    Q4_0     32             -8 … 7            float16
    Q4_1     32             0 … 15            float16, float16: scale * code + minimum
    Q5_0     32             -16 … 15          float16
    Q5_1     32             0 … 31            float16, float16
    Q8_0     32             -128 … 127        float16
    MXFP4    32             e2m1              2 ** (byte - 127)
    NVFP4    16             e2m1              e4m3 without a sign; and one factor for the tensor

Whether all scales and minimums can be held exactly is known from reading them, when the work is planned. While it is
carried out every block is decoded again, and every number compared: one that differs is an error.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Final

import numpy as np
from gguf import GGMLQuantizationType

from convert.checkpoint.packed.integers import E2M1_SPAN, Apart, Integers, OfIntegers, Span
from convert.checkpoint.packed.stored_blocks import integers_of_blocks
from convert.checkpoint.packed.values import pieces, rounded
from convert.checkpoint.source import StoredType, matrix_shape
from convert.checkpoint.source_files import SourceFiles
from convert.codec import decode_rows, row_nbytes
from convert.codec.arithmetic import fifth_bits, nibbles
from convert.codec.contract import sizes_of
from convert.errors import WeightsError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from convert.checkpoint.packed.integers import F64Array
    from convert.checkpoint.source import Shape, Tensor
    from convert.codec.contract import F32Array, U8Array

    BoolArray = NDArray[np.bool_]

_Type = GGMLQuantizationType


def _is_half(values: F64Array) -> BoolArray:
    held: BoolArray = np.isfinite(values) & (values.astype(np.float16) == values)
    return held


@dataclass(frozen=True, slots=True)
class _Kind:
    """A type whose blocks may hold what others have packed.

    group: weights that share a scale. span: what its integers may be. has_minimum: they count from a minimum.
    pack: (n_groups, group) integers counted from the lowest, scales and minimums (n_groups, 1), to bytes.
    holds: which scales it holds exactly; a minimum is a float16.
    """

    group: int
    span: Span
    pack: Callable[[U8Array, F32Array, F32Array], tuple[U8Array, ...]]
    has_minimum: bool = False
    holds: Callable[[F64Array], BoolArray] = _is_half


def _halves(values: F32Array) -> U8Array:
    return values.astype("<f2").view(np.uint8)


_UE4M3: Final = np.concatenate(
    [np.arange(8) / 512, *((1 + np.arange(8) / 8) * 2.0 ** (exponent - 7) for exponent in range(1, 16))]
)[:0x7F]  # the last would be NaN
_E2M1_CODE: Final = np.zeros(25, np.uint8)  # of twice the number, plus 12; zero has no sign
for _code, _doubled in enumerate((0, 1, 2, 3, 4, 6, 8, 12)):
    _E2M1_CODE[12 - _doubled], _E2M1_CODE[12 + _doubled] = _code | 8, _code
_E2M1_CODE[12] = 0


def _e2m1(q: U8Array) -> U8Array:
    codes: U8Array = _E2M1_CODE[q]
    return codes


def _exponents(halved: F32Array | F64Array) -> NDArray[np.int64]:
    """Give the byte of each scale 2 ** (byte - 127), of half of it."""
    return np.frexp(halved)[1].astype(np.int64) + 127


def _is_power(halved: F64Array) -> BoolArray:
    is_power: BoolArray = np.frexp(halved)[0] == 0.5  # noqa: PLR2004
    return is_power & (_exponents(halved) >= 0) & (_exponents(halved) < 255)  # noqa: PLR2004


def _nvfp4(q: U8Array, halved: F32Array, _minimums: F32Array) -> tuple[U8Array, ...]:
    codes = _e2m1(q).reshape(-1, 4, 2, 8)
    scales = np.searchsorted(_UE4M3, halved * 2).astype(np.uint8)
    packed: U8Array = codes[:, :, 0] | codes[:, :, 1] << np.uint8(4)
    return scales.reshape(-1, 4), packed.reshape(-1, 32)


_KINDS: Final[Mapping[GGMLQuantizationType, _Kind]] = {
    _Type.Q4_0: _Kind(32, Span(-8, 7), lambda q, d, _: (_halves(d), nibbles(q))),
    _Type.Q4_1: _Kind(32, Span(0, 15), lambda q, d, m: (_halves(d), _halves(m), nibbles(q)), has_minimum=True),
    _Type.Q5_0: _Kind(32, Span(-16, 15), lambda q, d, _: (_halves(d), fifth_bits(q), nibbles(q))),
    _Type.Q5_1: _Kind(
        32, Span(0, 31), lambda q, d, m: (_halves(d), _halves(m), fifth_bits(q), nibbles(q)), has_minimum=True
    ),
    _Type.Q8_0: _Kind(32, Span(-128, 127), lambda q, d, _: (_halves(d), q ^ np.uint8(128))),
    _Type.MXFP4: _Kind(
        32, E2M1_SPAN, lambda q, d, _: (_exponents(d).astype(np.uint8), nibbles(_e2m1(q))), holds=_is_power
    ),
    _Type.NVFP4: _Kind(16, E2M1_SPAN, _nvfp4, holds=lambda halved: np.isin(halved * 2, _UE4M3)),
}


EXACT_TYPES: Final = tuple(_KINDS)


@dataclass(frozen=True, slots=True)
class PackedBlocks:
    """Rows of blocks, as rows of bytes, so that views may move them; made by `packed_blocks`.

    base: the decoder, or the blocks of a file, that `parts` are of. common: what all numbers are to be multiplied with
    besides; it stands beside the blocks, in a tensor of its own.
    """

    base: Tensor
    kind: GGMLQuantizationType
    parts: Integers
    common: float = 1.0

    @property
    def name(self) -> str:
        """As the base's."""
        return self.base.name

    @property
    def nbytes(self) -> int:
        """As the base's."""
        return self.base.nbytes

    @property
    def dtype(self) -> StoredType:
        """Bytes."""
        return StoredType.U8

    @property
    def shape(self) -> Shape:
        """The base's, a row as long as its blocks."""
        return (*self.base.shape[:-1], row_nbytes(self.kind, self.base.shape[-1]))

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        """Give rows of blocks. Raises WeightsError if one does not decode to the numbers that it should stand for."""
        found = _factors(self.parts, _KINDS[self.kind], files, range(first, first + len(out)))
        scales, minimums, zeros = (self._spread(each) for each in found)
        codes = self.parts.read_codes(files, first, len(out))
        for rows in pieces(len(out), self.base.shape[-1]):
            part = slice(rows.start, rows.stop)
            wanted = self._make(codes[part], scales[part], minimums[part], zeros[part], out[part])
            same = (decode_rows(out[part], self.kind) == wanted).all(axis=1)
            if not same.all():
                row = first + rows.start + int(np.argmin(same))
                raise WeightsError(
                    f"tensor {shown(self.name)}: row {row} as {self.kind.name} is not what is packed, though its "
                    "scales fitted when the work was planned",
                    hint="were the files changed meanwhile?",
                )

    def _make(self, codes: F32Array, scales: F32Array, minimums: F32Array, zeros: F32Array, out: U8Array) -> F32Array:
        """Fill rows of blocks; return the numbers that they should stand for, worked out apart from them.

        Scales fit into a float16 or less, so that products are exact in float32, and sums are rounded once, as ggml's.
        """
        kind = _KINDS[self.kind]
        grouped = codes.reshape(len(out), -1, kind.group)
        grouped = grouped - (np.float32(self.parts.span.lowest) if kind.has_minimum else zeros[:, :, None])
        q = (grouped - np.float32(kind.span.lowest)).astype(np.uint8).reshape(-1, kind.group)
        blocks = kind.pack(q, scales.reshape(-1, 1), minimums.reshape(-1, 1))
        out[...] = np.concatenate(blocks, axis=1).reshape(out.shape)
        grouped *= scales[:, :, None]
        if kind.has_minimum:
            grouped += minimums[:, :, None]
        return grouped.reshape(codes.shape)

    def _spread(self, values: F64Array) -> F32Array:
        """Give each group of the type what the group that it lies in has: (n_rows, n_cols / group)."""
        group, n_cols = _KINDS[self.kind].group, self.base.shape[-1]
        return values[:, np.arange(n_cols // group) * group // self.parts.group_cols].astype(np.float32)


def _factors(parts: Integers, kind: _Kind, files: SourceFiles, rows: range) -> tuple[F64Array, F64Array, F64Array]:
    """Read scales, minimums (what the lowest code stands for) and zero points of some rows: (n_rows, n_groups) each."""
    scales = parts.read_scales(files, rows.start, len(rows))
    zeros = np.broadcast_to(parts.read_zeros(files, rows.start, len(rows)), scales.shape)
    minimums = np.zeros_like(scales)
    if kind.has_minimum:
        minimums = scales * (parts.span.lowest - zeros) + parts.read_biases(files, rows.start, len(rows))
    return scales, minimums, zeros


def packed_blocks(tensor: Tensor, kind: GGMLQuantizationType) -> PackedBlocks | str:
    """Give a packed weight's rows as blocks of a type, or say why they cannot be; reads all scales, and no codes."""
    if kind not in _KINDS:
        return f"{kind.name} takes no integers and scales as they are"
    if tensor.shape[-1] % sizes_of(kind)[0]:
        return f"rows of {tensor.shape[-1]} are not whole blocks of {kind.name}"
    if isinstance(tensor.dtype, GGMLQuantizationType):
        parts = integers_of_blocks(tensor, tensor.dtype)
    else:
        parts = tensor.integers() if isinstance(tensor, OfIntegers) else "it is not packed in integers"
    if isinstance(parts, str):
        return parts
    reason = _misfit(parts, kind, tensor.shape[-1]) or _lost(tensor, parts, kind)
    if reason is None and kind is _Type.NVFP4 and parts.apart is not None:
        return PackedBlocks(tensor, kind, replace(parts, scales=parts.apart.scales), parts.apart.common)
    return reason or PackedBlocks(tensor, kind, parts)


def _misfit(parts: Integers, tensor_type: GGMLQuantizationType, n_cols: int) -> str | None:
    kind, name, span = _KINDS[tensor_type], tensor_type.name, parts.span
    if parts.group_cols < n_cols and parts.group_cols % kind.group:
        return f"its groups of {parts.group_cols} are not whole ones of {kind.group}, as {name} has"
    if kind.span.is_float and not span.is_float:
        return f"its codes are integers, {name} holds floats of four bits"
    if kind.has_minimum and span.highest - span.lowest > kind.span.highest:
        return f"its codes go from {span.lowest} to {span.highest}, {name} has {kind.span.highest + 1} of them"
    if not kind.has_minimum and parts.biases is not None:
        return f"its groups have a bias, for which {name} has no room"
    return None


def _rounds_alike(halved: F64Array, whole: F32Array, apart: Apart) -> BoolArray:
    """Tell of which scales all products are the same whether the common factor comes first, as there, or last."""
    alike: BoolArray = np.ones(whole.shape, np.bool_)
    for magnitude in map(np.float32, (0.5, 1, 1.5, 2, 3, 4, 6)):
        last = (halved * 2).astype(np.float32) * magnitude * np.float32(apart.common)
        alike &= rounded(last, apart.dtype) == rounded(magnitude * whole, apart.dtype)
    return alike


def _lost(tensor: Tensor, parts: Integers, tensor_type: GGMLQuantizationType) -> str | None:
    """Look at all scales, minimums and zero points; say what cannot be held exactly."""
    kind, name, whole = _KINDS[tensor_type], tensor_type.name, parts.scales
    if tensor_type is _Type.NVFP4 and parts.apart is not None:
        parts = replace(parts, scales=parts.apart.scales)
    n_lost = n_groups = 0
    least, most = inf, -inf
    with closing(SourceFiles()) as files, np.errstate(all="ignore"):
        for rows in pieces(matrix_shape(tensor.shape)[0], -(-tensor.shape[-1] // parts.group_cols)):
            scales, minimums, zeros = _factors(parts, kind, files, rows)
            held = kind.holds(scales) & _is_half(minimums)
            if tensor_type is _Type.NVFP4 and parts.apart is not None:
                held &= _rounds_alike(scales, whole.read(files, rows.start, len(rows)), parts.apart)
            n_lost += int(np.count_nonzero(~held))
            n_groups += scales.size
            least, most = min(least, float(zeros.min())), max(most, float(zeros.max()))
    lowest, highest = parts.span.lowest - most, parts.span.highest - least
    if not kind.has_minimum and not kind.span.lowest <= lowest <= highest <= kind.span.highest:
        room = f"{name} holds {kind.span.lowest} to {kind.span.highest}"
        return f"its codes less zero points go from {lowest:.0f} to {highest:.0f}, {room}"
    what = "scales and minimums" if kind.has_minimum else "scales"
    return f"{n_lost} of its {n_groups} {what} are not exact in {name}" if n_lost else None
