"""GPTQ, as AutoGPTQ, GPTQModel, optimum and auto-round store it: 2, 3, 4 or 8 bits, groups along the input dimension.

    X.qweight  int32 (in * bits / 32, out)      codes, a bit stream down each column, the lowest bits first
    X.qzeros   int32 (groups, out * bits / 32)  zero points, a bit stream along each row
    X.scales   float (groups, out)
    X.g_idx    int32 (in,)                      the group of each input column; not there: in order

The model's weight is the transpose, (out, in); it has the scales' type: scales[g] * (code - zero[g]), as
GPTQModel 7.7.0 (nn_modules/qlinear/__init__.py, PackableQuantLinear._dequantize_from_codes) computes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from convert.checkpoint.packed.grouped import (
    Grouping,
    checked,
    contradiction,
    dequantize_into,
    integers_of,
    read_bit_stream,
)
from convert.checkpoint.packed.packed_module import FLOAT_TYPES, WORD_TYPES, PackedModule, unpack_modules
from convert.checkpoint.packed.values import as_float32, as_integers, read_small, read_window
from convert.checkpoint.source import StoredType
from convert.errors import CheckpointError, ConfigError, UnsupportedError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.checkpoint.packed.grouped import GroupsArray
    from convert.checkpoint.packed.integers import Integers
    from convert.checkpoint.packed.quantization_config import Quantization
    from convert.checkpoint.source import Shape, Tensor, TensorSource
    from convert.checkpoint.source_files import SourceFiles
    from convert.codec.contract import F32Array, U8Array
    from convert.fields import Fields

SUFFIXES: Final = ("qweight", "qzeros", "scales", "g_idx")
BITS: Final = (2, 3, 4, 8)
_WORD_BITS: Final = 32
_MAX_COLS: Final = 1 << 20
_EMBEDDINGS: Final = ("embed_tokens", "wte", "word_embeddings")


class ZeroPoints(Enum):
    """How `qzeros` holds the zero points.

    PLAIN: as they are (`gptq_v2`). LESS_ONE: each less one, in its own bits; AutoGPTQ adds one and masks (0.7.1,
    nn_modules/qlinear/qlinear_cuda_old.py). WORDS_LESS_ONE: GPTQModel takes one from each field of a word in one
    subtraction, so that a zero point 0 borrows from its neighbour, and adds them in one addition (7.7.0,
    utils/model.py, convert_gptq_v1_to_v2_format_module); with 3 bits it does as LESS_ONE. The two differ only where
    a zero point is 0.
    """

    PLAIN = "plain"
    LESS_ONE = "less one"
    WORDS_LESS_ONE = "words less one"


@dataclass(frozen=True, slots=True)
class GptqScheme:
    """What a config says of all modules: the groupings they may have, the model's own first."""

    groupings: tuple[Grouping, ...]
    zero_points: ZeroPoints
    where: str


@dataclass(frozen=True, slots=True, eq=False)
class GptqTensor:
    """The weight of a module packed by GPTQ; a slice of its rows is a window of columns of what is stored.

    group_of: the group of each column; None where columns fill their groups in order, each as many.
    """

    name: str
    shape: Shape
    nbytes: int
    bits: int
    zero_points: ZeroPoints
    qweight: TensorSource
    qzeros: TensorSource
    scales: TensorSource
    group_of: GroupsArray | None

    @property
    def dtype(self) -> StoredType:
        """The scales' type."""
        return self.scales.dtype

    def read_rows(self, files: SourceFiles, first: int, out: U8Array) -> None:
        rows = range(first, first + len(out))
        dequantize_into(
            out,
            self.read_codes(files, rows),
            zeros=self.read_zeros(files, rows),
            scales=self.read_scales(files, rows),
            group_of=self.group_of,
            dtype=self.dtype,
        )

    def integers(self) -> Integers | str:
        """See OfIntegers."""
        n_cols = self.shape[1]
        columns = np.arange(n_cols) * self.scales.shape[0] // n_cols if self.group_of is None else self.group_of
        group_cols = int(np.count_nonzero(columns == columns[0]))
        if not np.array_equal(columns, np.arange(n_cols) // group_cols):
            return "its columns are not in the order of their groups"
        return integers_of(self, self.bits, group_cols)

    def read_scales(self, files: SourceFiles, rows: range) -> F32Array:
        """Return the scales of some rows of the weight: float32 (n_rows, groups)."""
        scales = read_window(self.scales, files, rows=range(self.scales.shape[0]), cols=rows)
        return np.ascontiguousarray(as_float32(scales, self.dtype).T)

    def read_codes(self, files: SourceFiles, rows: range) -> U8Array:
        """Return the codes of some rows of the weight: uint8 (n_rows, in)."""
        raw = read_window(self.qweight, files, rows=range(self.qweight.shape[0]), cols=rows)
        words = np.ascontiguousarray(as_integers(raw, StoredType.I32).T)
        return read_bit_stream(words.view(np.uint8), self.bits)[:, : self.shape[1]]

    def read_zeros(self, files: SourceFiles, rows: range) -> U8Array:
        """Return the zero points of some rows of the weight: uint8 (n_rows, groups)."""
        n_words = 3 if self.bits == 3 else 1  # noqa: PLR2004 - 32 codes in three words, or a word by itself
        n_codes = n_words * _WORD_BITS // self.bits
        first, last = rows.start // n_codes, -(-rows.stop // n_codes)
        cols = range(first * n_words, last * n_words)
        raw = read_window(self.qzeros, files, rows=range(self.qzeros.shape[0]), cols=cols)
        start = rows.start - first * n_codes
        return np.ascontiguousarray(self._zero_points(raw)[:, start : start + len(rows)].T)

    def _zero_points(self, raw: U8Array) -> U8Array:
        mask = (1 << self.bits) - 1
        if self.zero_points is ZeroPoints.WORDS_LESS_ONE and self.bits != 3:  # noqa: PLR2004
            ones = np.uint32(0xFFFFFFFF // mask)
            return read_bit_stream((as_integers(raw, StoredType.U32) + ones).view(np.uint8), self.bits)
        zeros = read_bit_stream(raw, self.bits)
        return zeros if self.zero_points is ZeroPoints.PLAIN else (zeros + np.uint8(1)) & np.uint8(mask)


def marks_gptq(source: TensorSource) -> bool:
    """Say whether a tensor can only be GPTQ's: the group of each input column, and the words that AWQ has too."""
    return source.name.endswith(".g_idx") or (source.name.endswith(".qweight") and source.dtype in WORD_TYPES)


def unpack_gptq(quantization: Quantization, tensors: Mapping[str, TensorSource]) -> Mapping[str, Tensor]:
    """Give the weights of a GPTQ checkpoint: see PackedFormat."""
    unpacked = unpack_modules(tensors, suffixes=SUFFIXES, decode=partial(decode_gptq, read_scheme(quantization)))
    left_out = _zero_biases(tensors)
    return {name: tensor for name, tensor in unpacked.items() if name not in left_out}


def zero_bias_notes(tensors: Mapping[str, TensorSource]) -> tuple[str, ...]:
    """Return the line that says which biases are left out; nothing where none is."""
    count = len(_zero_biases(tensors))
    return (f"{count} biases of experts, all zero, are left out",) if count else ()


def _zero_biases(tensors: Mapping[str, TensorSource]) -> frozenset[str]:
    """Name the biases of packed experts that are all zero.

    AutoGPTQ packs every module with a bias (0.7.1, modeling/_utils.py, make_quant), and no Mixtral has one.
    """
    biases = (tensors[name] for name in tensors if ".experts." in name and name.endswith(".bias"))
    return frozenset(
        bias.name
        for bias in biases
        if f"{bias.name.removesuffix('bias')}qweight" in tensors
        and bias.dtype in FLOAT_TYPES
        and not read_small(bias).any()
    )


def read_scheme(quantization: Quantization) -> GptqScheme:
    """Read the section as AutoGPTQ and GPTQModel write it.

    Raises ConfigError for values of a wrong type or absurd ones, UnsupportedError for layouts of single kernels.
    """
    fields = quantization.fields
    bits = fields.integer("bits")
    if bits is None:
        raise ConfigError(f"{fields.where} has no `bits`")
    fields.flag("desc_act")
    group_size = fields.integer("group_size")
    own = checked(Grouping(bits, -1 if group_size is None else group_size), bits=BITS, where=fields.where)
    zero_points = _zero_points(fields)
    dynamic = fields.inner("dynamic")
    return GptqScheme((own, *other_groupings(dynamic, own)), zero_points, fields.where)


def other_groupings(modules: Fields, own: Grouping) -> tuple[Grouping, ...]:
    """Read what is said of single modules; which it is said of, their tensors' shapes show.

    The keys are patterns, `-:` before those of modules that are not packed (GPTQModel's `dynamic`): a pattern out of a
    checkpoint is not something to run.
    """
    groupings = []
    for pattern in modules.values:
        if pattern.startswith("-:"):
            continue
        inside = modules.inner(pattern)
        bits, group_size = (inside.integer(key) for key in ("bits", "group_size"))
        if bits is not None and bits >= 16:  # noqa: PLR2004 - auto-round's word for a module that is not packed
            continue
        changed = Grouping(own.bits if bits is None else bits, own.group_size if group_size is None else group_size)
        groupings.append(checked(changed, bits=BITS, where=inside.where))
    return tuple(groupings)


def _zero_points(fields: Fields) -> ZeroPoints:
    layout = fields.name("checkpoint_format") or fields.name("format") or "gptq"
    if fields.flag("is_marlin_format"):
        layout = "marlin"
    pack_dtype = fields.name("pack_dtype") or "int32"
    if layout not in {"gptq", "gptq_v2"} or pack_dtype != "int32":
        says = f"{fields.where} says layout {shown(layout)} of {shown(pack_dtype)}"
        raise UnsupportedError(
            f"{says}; decoded are `gptq` and `gptq_v2` of `int32`",
            hint="save it again with GPTQModel in the `gptq` format, or get the 16-bit checkpoint",
        )
    if layout == "gptq_v2":
        return ZeroPoints.PLAIN
    return ZeroPoints.WORDS_LESS_ONE if _is_from_gptqmodel(fields) else ZeroPoints.LESS_ONE


def _is_from_gptqmodel(fields: Fields) -> bool:
    """Say whether GPTQModel wrote it: `meta.quantizer` is "name:version", or a list of those."""
    quantizers = fields.inner("meta").get("quantizer")
    names = quantizers if isinstance(quantizers, list) else [quantizers]
    return any(isinstance(name, str) and name.lower().startswith("gptqmodel") for name in names)


def decode_gptq(scheme: GptqScheme, module: PackedModule) -> GptqTensor:
    """Make a module's weight; CheckpointError where its tensors contradict the config or one another."""
    if module.name.rpartition(".")[2] in _EMBEDDINGS:
        raise UnsupportedError(
            f"packed module {shown(module.name)} is an embedding, which this version does not decode",
            hint="get the 16-bit checkpoint, or one whose embeddings are not quantized",
        )
    qweight = module.part("qweight", WORD_TYPES, n_dims=2)
    qzeros = module.part("qzeros", WORD_TYPES, n_dims=2)
    scales = module.part("scales", FLOAT_TYPES, n_dims=2)
    g_idx = module.part("g_idx", (StoredType.I32, StoredType.I64), n_dims=1) if "g_idx" in module.parts else None
    grouping = _grouping(scheme, module, n_cols=None if g_idx is None else g_idx.shape[0])
    n_cols = qweight.shape[0] * _WORD_BITS // grouping.bits if g_idx is None else g_idx.shape[0]
    return GptqTensor(
        name=f"{module.name}.weight",
        shape=(qweight.shape[1], n_cols),
        nbytes=module.nbytes,
        bits=grouping.bits,
        zero_points=scheme.zero_points,
        qweight=qweight,
        qzeros=qzeros,
        scales=scales,
        group_of=_group_of(grouping, n_cols, scales, g_idx),
    )


def _grouping(scheme: GptqScheme, module: PackedModule, *, n_cols: int | None) -> Grouping:
    """Return the one grouping of the scheme that the shapes fit."""
    fitting = [grouping for grouping in dict.fromkeys(scheme.groupings) if _fits(grouping, module, n_cols)]
    if not fitting or (len(fitting) > 1 and n_cols is None):
        raise contradiction(module, scheme.groupings, scheme.where)
    return fitting[0]


def _fits(grouping: Grouping, module: PackedModule, n_cols: int | None) -> bool:
    """Say whether the shapes are what GPTQModel 7.7.0 registers (GPTQQuantLinear._register_gptq_buffers)."""
    n_words, n_rows = module.parts["qweight"].shape
    bits = grouping.bits
    cols = n_words * _WORD_BITS // bits if n_cols is None else n_cols
    n_zero_words = -(-n_rows * bits // _WORD_BITS)
    n_groups = grouping.n_groups(cols)
    if bits == 3 and (n_words % 3 or n_zero_words % 3):  # noqa: PLR2004 - whole runs of 32 codes in three words
        return False
    return (
        n_words == -(-cols * bits // _WORD_BITS)
        and module.parts["qzeros"].shape == (n_groups, n_zero_words)
        and module.parts["scales"].shape == (n_groups, n_rows)
    )


def _group_of(grouping: Grouping, n_cols: int, scales: TensorSource, g_idx: TensorSource | None) -> GroupsArray | None:
    """Return the group of each column, checked; None where columns fill their groups in order, each as many."""
    n_groups = scales.shape[0]
    size = n_cols if grouping.group_size == -1 else min(grouping.group_size, n_cols)
    if g_idx is None and n_cols % size == 0:
        return None
    if n_cols > _MAX_COLS:
        raise CheckpointError(f"tensor {shown(scales.name)} scales {n_cols} columns, at most {_MAX_COLS}")
    in_order = np.arange(n_cols) // size
    listed = in_order if g_idx is None else as_integers(read_small(g_idx), g_idx.dtype)
    if g_idx is not None and not 0 <= listed.min() <= listed.max() < n_groups:
        raise CheckpointError(
            f"tensor {shown(g_idx.name)} has groups {listed.min()} to {listed.max()}, "
            f"{shown(scales.name)} has {n_groups}, counted from 0"
        )
    if n_cols % size == 0 and np.array_equal(listed, in_order):
        return None
    return listed.astype(np.uint16 if n_groups <= 1 << 16 else np.uint32)
