"""Every tensor of a file, decoded, beside the checkpoint's values after the same transform, a slice at a time."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

import numpy as np
from gguf import GGML_QUANT_SIZES, quants

from convert.checkpoint import SourceFiles, matrix_shape
from convert.checkpoint.statistics import measured
from convert.codec import CODECS, FLOAT_TYPES, decode_rows
from convert.errors import UnsupportedError, UsageError
from convert.gguf_file import scale_name
from convert.model import GGUFModel, ModelRequest, float_values, gguf_model, read_gguf_model, tensor_type
from convert.quant_mix import ggml_n_dims
from convert.stream.slices import row_ranges
from convert.verify.bounds import explained_error, has_bound, judged_by_rmse, relative_rmse_limit
from convert.verify.data import Finding, TensorError, note, problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gguf import GGMLQuantizationType
    from numpy.typing import NDArray

    from convert.checkpoint import Tensor
    from convert.codec.contract import F32Array, U8Array
    from convert.gguf_file import GGUFFile, TensorInfo
    from convert.verify.reading import OpenFile

CHECK = "against"


def wanted_model(request: ModelRequest) -> GGUFModel:
    """Read what a file of this model must hold: a checkpoint, or a float GGUF file as it is.

    Raises CheckpointError, UnsupportedError or PlanError; UsageError for adapters of a GGUF file.
    """
    if request.path.suffix != ".gguf":
        return gguf_model(request)
    if request.adapters:
        raise UsageError(f"`{request.path}` is a GGUF file: adapters are merged into checkpoints only")
    model = read_gguf_model(request.path)
    for name, tensor in model.tensors:
        stored = tensor_type(tensor)
        if stored not in FLOAT_TYPES:
            raise UnsupportedError(
                f"tensor `{name}` of `{model.source}` is {stored.name}: only a float file can be the measure",
                hint="give the checkpoint's directory, or an F32, F16 or BF16 GGUF file",
            )
    return model


class Comparison:
    """One file beside the checkpoint; errors and findings gather as `compare` goes."""

    def __init__(self, header: GGUFFile, file: OpenFile, wanted: GGUFModel) -> None:
        self._stored: Final[Mapping[str, TensorInfo]] = {tensor.name: tensor for tensor in header.tensors}
        self._wanted: Final[Mapping[str, Tensor]] = dict(wanted.tensors)
        self._with_importance: Final = "quantize.imatrix.file" in header.metadata
        self._file = file
        self.errors: list[TensorError] = []
        self.findings: list[Finding] = []

    def compare(self) -> None:
        """Compare names, then every tensor that both have, in the file's order."""
        for name in self._wanted.keys() - self._stored.keys():
            self.findings.append(problem(CHECK, f"tensor `{name}` of the checkpoint is not in the file"))
        for name in self._stored.keys() - self._wanted.keys() - {scale_name(name) for name in self._wanted}:
            self.findings.append(problem(CHECK, f"tensor `{name}` of the file is not in the checkpoint"))
        self.findings.sort(key=lambda finding: finding.message)
        with closing(SourceFiles()) as sources:
            sources.expect(self._wanted.get(name) for name in self._stored)
            for stored in self._stored.values():
                if stored.name in self._wanted:
                    self._compare_one(stored, self._wanted[stored.name], sources)

    def _compare_one(self, stored: TensorInfo, wanted: Tensor, sources: SourceFiles) -> None:
        if _own_shape(stored.shape) != _own_shape(wanted.shape):
            message = f"tensor `{stored.name}` has shape {stored.shape}, the checkpoint's makes {wanted.shape}"
            self.findings.append(problem(CHECK, message))
            return
        if stored.type not in CODECS and stored.type not in quants._type_traits:  # noqa: SLF001 - it has no other list
            message = f"tensor `{stored.name}` is {stored.type.name}, which nothing here can decode"
            self.findings.append(note(CHECK, message))
            return
        gathered = _Gathered(stored, with_importance=self._with_importance)
        wanted = measured(wanted, sources)
        for rows in row_ranges(wanted):
            values = self._unscaled(stored, rows, float_values(wanted, sources, rows))
            gathered.add(values, self._read_blocks(stored, rows.start * values.shape[1], values.size))
        error = gathered.result()
        self.errors.append(error)
        self.findings += _judged(error, stored.type, with_importance=self._with_importance)

    def _unscaled(self, stored: TensorInfo, rows: range, values: F32Array) -> F32Array:
        """Divide by what llama.cpp multiplies the tensor with besides, a factor for each matrix of a stack."""
        beside = self._stored.get(scale_name(stored.name))
        if beside is None or beside.name in self._wanted:
            return values
        scale = self._file.read(beside.offset, beside.nbytes).view("<f4")
        each = np.arange(rows.start, rows.stop) * len(scale) // matrix_shape(stored.shape)[0]
        unscaled: F32Array = values / scale[each, None]
        return unscaled

    def _read_blocks(self, stored: TensorInfo, first: int, n_values: int) -> U8Array:
        block_size, type_size = GGML_QUANT_SIZES[stored.type]
        start, nbytes = first // block_size * type_size, n_values // block_size * type_size
        return self._file.read(stored.offset + start, nbytes).reshape(-1, type_size)


class _Gathered:
    """One tensor's sums, and its worst value so far."""

    def __init__(self, stored: TensorInfo, *, with_importance: bool) -> None:
        self._stored = stored
        self._has_bound = has_bound(stored.type, with_importance=with_importance)
        self._n_values = 0
        self._square_error = self._sum = self._square_sum = 0.0
        self._n_unexplained = 0
        self._worst: tuple[float, int, float, float] = (-1.0, 0, 0.0, 0.0)

    def add(self, wanted: F32Array, blocks: U8Array) -> None:
        """Take the next values. wanted: float32, any shape. blocks: uint8 (n_blocks, type_size), the same values."""
        decoded = _decode(blocks, self._stored.type)
        wanted = wanted.reshape(decoded.shape)
        error = np.abs(decoded.astype(np.float64) - wanted)
        bound = explained_error(self._stored.type, blocks, wanted, decoded) if self._has_bound else None
        ratio = error if bound is None else _ratio(error, bound)
        self._note_worst(ratio, wanted, decoded)
        if bound is not None:
            self._n_unexplained += int((ratio > 1).sum())
        self._square_error += float((error * error).sum())
        self._sum += float(wanted.sum(dtype=np.float64))
        self._square_sum += float(np.square(wanted, dtype=np.float64).sum())
        self._n_values += wanted.size

    def _note_worst(self, ratio: NDArray[np.float64], wanted: F32Array, decoded: F32Array) -> None:
        at = int(ratio.argmax())
        if ratio.flat[at] > self._worst[0]:
            self._worst = float(ratio.flat[at]), self._n_values + at, float(wanted.flat[at]), float(decoded.flat[at])

    def result(self) -> TensorError:
        """Sum up."""
        ratio, at, wanted, decoded = self._worst
        spread = max(self._square_sum - self._sum**2 / self._n_values, 0.0)
        return TensorError(
            name=self._stored.name,
            type=self._stored.type.name,
            n_values=self._n_values,
            square_error=self._square_error,
            square_spread=spread,
            worst_index=tuple(int(i) for i in np.unravel_index(at, self._stored.shape)),
            worst_wanted=wanted,
            worst_decoded=decoded,
            worst_ratio=ratio,
            n_unexplained=self._n_unexplained,
        )


def _ratio(error: NDArray[np.float64], bound: F32Array) -> NDArray[np.float64]:
    """Errors in units of what is explained; what is NaN on either side is explained by nothing."""
    ratio = np.divide(error, bound, out=np.where(error == 0, 0.0, np.inf), where=bound > 0)
    return np.where(np.isnan(ratio), np.inf, ratio)


def _judged(error: TensorError, tensor_type: GGMLQuantizationType, *, with_importance: bool) -> Iterator[Finding]:
    if error.n_unexplained:
        yield problem(
            CHECK,
            f"tensor `{error.name}` ({error.type}): {error.n_unexplained} of {error.n_values} values are further from "
            f"the checkpoint's than the type can explain; the worst at {list(error.worst_index)}, "
            f"{error.worst_decoded:.6g} instead of {error.worst_wanted:.6g}; RMSE {error.relative_rmse:.3g} deviations",
        )
    elif judged_by_rmse(
        tensor_type, with_importance=with_importance
    ) and not error.relative_rmse <= relative_rmse_limit(tensor_type):
        yield problem(
            CHECK,
            f"tensor `{error.name}` ({error.type}): RMSE {error.relative_rmse:.3g} standard deviations, "
            f"{relative_rmse_limit(tensor_type):.3g} is the most that the type can explain",
        )


def _own_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Drop leading dimensions of 1, which ggml does not count."""
    return shape[len(shape) - ggml_n_dims(shape) :]


def _decode(blocks: U8Array, tensor_type: GGMLQuantizationType) -> F32Array:
    if tensor_type in CODECS:
        return decode_rows(blocks, tensor_type)
    decoded: F32Array = quants.dequantize(blocks, tensor_type)
    return decoded
