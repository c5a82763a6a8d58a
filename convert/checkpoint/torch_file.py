"""Where the tensors of a torch file lie: `torch.load` builds them on the meta device, so that no weight is read.

torch says at which byte each storage begins (`_checkpoint_offset`); that must be what the zip's own directory says,
and every tensor a contiguous window of its storage, or the transpose of one.
"""

from __future__ import annotations

import pickle
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Final

from convert.checkpoint.regular_file import open_regular
from convert.checkpoint.source import StoredType, TensorSource
from convert.checkpoint.torch_archive import TorchArchive, read_torch_archive
from convert.errors import CheckpointError, UnsupportedError
from convert.shown import shown, shown_list

if TYPE_CHECKING:
    from pathlib import Path

    import torch

# Where trainers put the model inside a larger dict; looked for one level deep.
WRAPPERS: Final = ("state_dict", "model", "module", "model_state_dict")
_SAVE_PLAIN: Final = "save it again: `torch.save({name: t.contiguous() for name, t in state_dict.items()}, PATH)`"
# torch's unpickler is plain Python over a hostile file: a malformed pickle reaches it as any of these.
_LOAD_ERRORS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.PickleError,
    struct.error,
)
# A path is text; what torch would import by these names is not what is made of them.
_PATHS: Final[list[Callable[..., object] | tuple[Callable[..., object], str]]] = [
    (PurePosixPath, "pathlib.PosixPath"),
    (PurePosixPath, "pathlib._local.PosixPath"),
]
STORED_TYPES: Final = {
    "torch.float64": StoredType.F64,
    "torch.float32": StoredType.F32,
    "torch.float16": StoredType.F16,
    "torch.bfloat16": StoredType.BF16,
    "torch.float8_e4m3fn": StoredType.F8_E4M3,
    "torch.float8_e5m2": StoredType.F8_E5M2,
    "torch.float8_e4m3fnuz": StoredType.F8_E4M3FNUZ,
    "torch.float8_e5m2fnuz": StoredType.F8_E5M2FNUZ,
    "torch.float8_e8m0fnu": StoredType.F8_E8M0,
    "torch.int64": StoredType.I64,
    "torch.int32": StoredType.I32,
    "torch.int16": StoredType.I16,
    "torch.int8": StoredType.I8,
    "torch.uint64": StoredType.U64,
    "torch.uint32": StoredType.U32,
    "torch.uint16": StoredType.U16,
    "torch.uint8": StoredType.U8,
    "torch.bool": StoredType.BOOL,
}


@dataclass(frozen=True, slots=True)
class TorchFile:
    """A torch file's tensors in the order they were saved, and what was passed over to find them."""

    sources: tuple[TensorSource, ...]
    notes: tuple[str, ...]


def read_torch_file(path: Path) -> TorchFile:
    """Read where the tensors of a state dict lie; the dict may be the whole file, or under one of WRAPPERS in it.

    Loads with `weights_only=True` and the meta device: no code of the file runs, no weight is read.
    Raises CheckpointError for a file that is broken or would run code, a dict without tensors, and a tensor that is
    neither a contiguous window of its storage nor the transpose of one; UnsupportedError for tensors that are not
    plain numbers.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a damaged file makes torch and pickletools warn of all kinds of things
        archive = read_torch_archive(path)
        with open_regular(path) as file:
            loaded = _load(file, path)
    state, notes = _state_dict(loaded, path)
    tensors, more_notes = _tensors(state, path)
    sources = tuple(_source(name, tensor, path, archive.storages) for name, tensor in tensors.items())
    return TorchFile(sources=sources, notes=(*notes, *more_notes))


def read_torch_tensor(file: BinaryIO, archive: TorchArchive, name: str, path: Path) -> TensorSource:
    """Read where the bytes of the one tensor lie that `torch.save` wrote, counted from the start of `file`.

    file: open, or a part of `path` that is seen as a file. Errors as for `read_torch_file`.
    """
    import torch  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = _load(file, path)
    if not isinstance(loaded, torch.Tensor):
        raise CheckpointError(f"{shown(path)} holds a `{type(loaded).__name__}` for {shown(name)}, wanted a tensor")
    return _source(name, loaded, path, archive.storages)


def _load(file: BinaryIO, path: Path) -> object:
    import torch  # noqa: PLC0415 - heavy, and needed for torch files only

    try:
        with torch.serialization.safe_globals(_PATHS):
            return torch.load(file, map_location="meta", weights_only=True)
    except _LOAD_ERRORS as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{shown(path)} is refused by `torch.load`: {reason}") from error


def _state_dict(loaded: object, path: Path) -> tuple[Mapping[object, object], tuple[str, ...]]:
    """Find the state dict in what was loaded: a trainer's checkpoint has it under a name, beside its own tensors."""
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{shown(path)} holds a `{type(loaded).__name__}`, wanted a dict of tensors")
    wrappers = [name for name in WRAPPERS if _has_tensors(loaded.get(name))]
    if len(wrappers) > 1:
        raise CheckpointError(f"{shown(path)} holds several state dicts: {shown_list(wrappers)}, wanted one")
    if wrappers:
        note = f"{shown(path.name)}: took the tensors under {shown(wrappers[0])}"
        return loaded[wrappers[0]], (note + _ignored_entries([key for key in loaded if key != wrappers[0]]),)
    if not _has_tensors(loaded):
        hint = f"a state dict is looked for at the top and under {shown_list(list(WRAPPERS))}"
        raise CheckpointError(f"{shown(path)} holds no tensors; its keys are {_keys(list(loaded))}", hint=hint)
    return loaded, ()


def _has_tensors(value: object) -> bool:
    import torch  # noqa: PLC0415

    return isinstance(value, Mapping) and any(isinstance(item, torch.Tensor) for item in value.values())


def _tensors(state: Mapping[object, object], path: Path) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    import torch  # noqa: PLC0415

    tensors: dict[str, torch.Tensor] = {}
    others: list[object] = []
    for key, value in state.items():
        if isinstance(key, str) and isinstance(value, torch.Tensor):
            tensors[key] = value
        elif isinstance(value, torch.Tensor):
            raise CheckpointError(f"{shown(path)} has a tensor under the key {shown(key)}, wanted a string")
        else:
            _refuse_layout(key, value, path)
            others.append(key)
    return tensors, (f"{shown(path.name)}: " + _ignored_entries(others).lstrip(", "),) if others else ()


def _refuse_layout(key: object, value: object, path: Path) -> None:
    """Refuse an 8-bit weight in the order of a GPU's tensor cores: bitsandbytes before 0.42 says so in text.

    Source: bitsandbytes 0.41.1, nn/modules.py, Linear8bitLt._save_to_state_dict; later it is a tensor.
    """
    if isinstance(key, str) and key.endswith(".weight_format") and isinstance(value, str) and value != "row":
        raise UnsupportedError(
            f"{shown(key)} in {shown(path)} says that the weight is laid out as {shown(value)}, only `row` is read",
            hint="load it with bitsandbytes 0.44 and save it again, or get the 16-bit checkpoint",
        )


def _ignored_entries(keys: list[object]) -> str:
    return f", ignored {_keys(keys)}" if keys else ""


def _keys(keys: list[object]) -> str:
    return shown_list([str(key) for key in keys]) if keys else "none"


def _source(name: str, tensor: torch.Tensor, path: Path, storages: Mapping[int, int]) -> TensorSource:
    where = f"tensor {shown(name)} in {shown(path)}"
    dtype = _dtype(tensor, where)
    storage = tensor.untyped_storage()
    begin = getattr(storage, "_checkpoint_offset", None)
    if not isinstance(begin, int):
        raise _no_offset(tensor, where)
    if storages.get(begin) != storage.nbytes():
        directory = f"its directory has {storages[begin]}" if begin in storages else "where its directory has none"
        raise CheckpointError(f"{where} is stored in {storage.nbytes()} bytes at byte {begin}, {directory}")
    is_transposed = tensor.ndim == 2 and not tensor.is_contiguous() and tensor.T.is_contiguous()  # noqa: PLR2004
    if not (tensor.is_contiguous() or is_transposed):
        shape, stride = tuple(tensor.shape), tensor.stride()
        raise CheckpointError(f"{where}, shape {shape}, is not contiguous: its strides are {stride}", hint=_SAVE_PLAIN)
    first, shape = int(tensor.storage_offset()) * dtype.itemsize, tuple(int(n) for n in tensor.shape)
    source = TensorSource(name, path, begin + first, dtype, shape, is_transposed)
    if first + source.nbytes > storage.nbytes():
        raise CheckpointError(f"{where} reaches to byte {first + source.nbytes} of {storage.nbytes()} stored")
    return source


def _dtype(tensor: torch.Tensor, where: str) -> StoredType:
    import torch  # noqa: PLC0415

    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
        raise UnsupportedError(
            f"{where} is sparse, quantized or lazily negated, wanted a plain tensor", hint=_SAVE_PLAIN
        )
    if (dtype := STORED_TYPES.get(str(tensor.dtype))) is None:
        raise UnsupportedError(f"{where} has the dtype `{tensor.dtype}`, which this version does not read")
    return dtype


def _no_offset(tensor: torch.Tensor, where: str) -> CheckpointError | UnsupportedError:
    import torch  # noqa: PLC0415

    if tensor.device.type != "meta":
        return CheckpointError(f"{where} does not lie in the file's storages", hint=_SAVE_PLAIN)
    return UnsupportedError(
        f"PyTorch {torch.__version__} does not say where {where} lies", hint="`pip install -U torch`: 2.13 is tested"
    )
