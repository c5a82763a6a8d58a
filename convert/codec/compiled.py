"""Finds, checks and loads the compiled kernels (`_kernels.so`, built from kernels/ by CMakeLists.txt).

The library is looked for beside this module, then in the installed distribution: a checkout's package shadows the
installed one, and has no library of its own. It holds the digest of the sources it was built from; one that differs
from the sources beside this module is stale, and not used.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import threading
import warnings
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from convert.codec.contract import KernelsMissingWarning
from convert.codec.grids import grid_points, has_grid
from convert.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gguf import GGMLQuantizationType

LEVEL_VARIABLE: Final = "CONVERT_KERNELS"
NUMPY_LEVEL: Final = "numpy"
_LEVELS: Final = ("avx512", "avx2", "neon", "baseline", NUMPY_LEVEL)
_DISTRIBUTION: Final = "gguf-convert"
_LIBRARY: Final = "_kernels.so"
_HERE: Final = Path(__file__).parent


class EncodeTarget(ctypes.Structure):
    """kernels.h, encode_target."""

    _fields_ = (("type", ctypes.c_int32), ("out", ctypes.c_void_p))


class EncodeRequest(ctypes.Structure):
    """kernels.h, encode_request."""

    _fields_ = (
        ("source", ctypes.c_void_p),
        ("n_values", ctypes.c_int64),
        ("n_cols", ctypes.c_int64),
        ("source_type", ctypes.c_int32),
        ("through_f16", ctypes.c_int32),
        ("n_targets", ctypes.c_int64),
        ("targets", ctypes.POINTER(EncodeTarget)),
        ("importance", ctypes.c_void_p),
        ("rows_each", ctypes.c_int64),
        ("first_row", ctypes.c_int64),
        ("n_nonfinite", ctypes.c_int64),
        ("n_overflow", ctypes.c_int64),
        ("n_refused", ctypes.c_int64),
    )


class DecodeRequest(ctypes.Structure):
    """kernels.h, decode_request."""

    _fields_ = (
        ("blocks", ctypes.c_void_p),
        ("n_blocks", ctypes.c_int64),
        ("type", ctypes.c_int32),
        ("out", ctypes.c_void_p),
    )


class Decode4BitRequest(ctypes.Structure):
    """kernels.h, decode_4bit_request."""

    _fields_ = (
        ("packed", ctypes.c_void_p),
        ("code", ctypes.c_void_p),
        ("absmax", ctypes.c_void_p),
        ("first_in_packed", ctypes.c_int64),
        ("first_in_block", ctypes.c_int64),
        ("block_size", ctypes.c_int64),
        ("n_values", ctypes.c_int64),
        ("type", ctypes.c_int32),
        ("out", ctypes.c_void_p),
    )


class CodecFacts(ctypes.Structure):
    """kernels.h, codec_facts."""

    _fields_ = tuple(
        (name, ctypes.c_int32) for name in ("type", "block", "nbytes", "takes_importance", "needs_importance")
    )


@dataclass(frozen=True, slots=True)
class Kernels:
    """A loaded library, and the instruction-set levels this machine can run, the best first."""

    library: ctypes.CDLL
    levels: tuple[str, ...]

    def encode(self, level: str, request: EncodeRequest) -> None:
        """Carry out the request, without the interpreter's lock; its results are in its last three fields."""
        _require_level(level, self.library.convert_kernels_encode(level.encode(), ctypes.byref(request)))

    def give_grid(self, level: str, tensor_type: GGMLQuantizationType) -> None:
        """Give a type the grid it needs, if it needs one: once a process, in milliseconds."""
        if has_grid(tensor_type):
            with _GIVING:
                _give_grid_once(self.library, level, tensor_type)

    def codecs(self) -> Iterator[CodecFacts]:
        """Give what the library knows of each type with blocks."""
        for index in count():
            facts = CodecFacts()
            if not self.library.convert_kernels_codec(index, ctypes.byref(facts)):
                return
            yield facts

    def decode(self, level: str, request: DecodeRequest) -> bool:
        """Carry out the request, without the interpreter's lock; False if the library does not decode the type."""
        answer = self.library.convert_kernels_decode(level.encode(), ctypes.byref(request))
        _require_level(level, answer == _UNKNOWN_LEVEL)
        return bool(answer == 0)

    def decode_4bit(self, level: str, request: Decode4BitRequest) -> None:
        """Carry out the request, without the interpreter's lock."""
        _require_level(level, self.library.convert_kernels_decode_4bit(level.encode(), ctypes.byref(request)))


_UNKNOWN_LEVEL: Final = 1
_GIVING: Final = threading.Lock()


@cache
def _give_grid_once(library: ctypes.CDLL, level: str, tensor_type: GGMLQuantizationType) -> None:
    points = grid_points(tensor_type)
    if library.convert_kernels_set_grid(level.encode(), tensor_type, points.ctypes.data, len(points)):
        raise MemoryError(f"no memory for the grid of {tensor_type.name}")


# Name to result and arguments.
_FUNCTIONS: Final[dict[str, tuple[Any, ...]]] = {
    "digest": (ctypes.c_char_p,),
    "level": (ctypes.c_char_p, ctypes.c_int32),
    "codec": (ctypes.c_int32, ctypes.c_int32, ctypes.POINTER(CodecFacts)),
    "encode": (ctypes.c_int32, ctypes.c_char_p, ctypes.POINTER(EncodeRequest)),
    "set_grid": (ctypes.c_int32, ctypes.c_char_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32),
    "decode": (ctypes.c_int32, ctypes.c_char_p, ctypes.POINTER(DecodeRequest)),
    "decode_4bit": (ctypes.c_int32, ctypes.c_char_p, ctypes.POINTER(Decode4BitRequest)),
}


def _require_level(level: str, unknown: int) -> None:
    if unknown:
        raise UsageError(f"the kernels have no level `{level}`")


def sources_digest(directory: Path) -> str:
    """SHA-256 over the sources' own SHA-256s in hexadecimal, sorted by file name, as CMakeLists.txt computes it."""
    sources = sorted(path for path in directory.iterdir() if path.suffix in {".c", ".h"})
    digests = "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in sources)
    return hashlib.sha256(digests.encode()).hexdigest()


def _candidates() -> Iterator[Path]:
    yield _HERE / _LIBRARY
    try:
        installed = metadata.distribution(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return
    yield Path(str(installed.locate_file(f"convert/codec/{_LIBRARY}")))


def _open(path: Path) -> ctypes.CDLL | None:
    """Load the library at `path`; None if there is none, if it cannot be loaded here, or if it is stale."""
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, *arguments) in _FUNCTIONS.items():
            function = getattr(library, f"convert_kernels_{name}")
            function.argtypes, function.restype = arguments, result
    except (OSError, AttributeError):
        return None
    sources = _HERE / "kernels"
    if sources.is_dir() and library.convert_kernels_digest().decode() != sources_digest(sources):
        return None
    return library


def _levels_of(library: ctypes.CDLL) -> Iterator[str]:
    index = 0
    while name := library.convert_kernels_level(index):
        yield name.decode()
        index += 1


@cache
def load_kernels() -> Kernels | None:
    """Load the compiled kernels; None if there are none for this machine and these sources."""
    for path in _candidates():
        library = _open(path)
        if library is not None:
            return Kernels(library, tuple(_levels_of(library)))
    return None


def kernels_digest() -> str:
    """Say which kernels encode here: the SHA-256 of the sources they were built from, or "numpy"."""
    kernels = load_kernels()
    is_used = kernels is not None and os.environ.get(LEVEL_VARIABLE) != NUMPY_LEVEL
    return str(kernels.library.convert_kernels_digest().decode()) if kernels and is_used else NUMPY_LEVEL


def available_levels() -> tuple[str, ...]:
    """List what `CONVERT_KERNELS` may ask for on this machine, the best first; "numpy" is always there, and last."""
    kernels = load_kernels()
    return (*(kernels.levels if kernels else ()), NUMPY_LEVEL)


@cache
def _warn_of_missing_kernels() -> None:
    warnings.warn(
        f"the compiled kernels are missing or older than their sources, so NumPy quantizes, many times slower; "
        f"to build them, install a C compiler and run `pip install .` again ({LEVEL_VARIABLE}=numpy silences this)",
        KernelsMissingWarning,
        stacklevel=3,
    )


def kernel_level() -> str:
    """Name the instruction-set level that encodes: "avx512", "avx2", "neon", "baseline" or "numpy".

    It is the machine's best, or what the environment variable CONVERT_KERNELS names.
    Warns once (KernelsMissingWarning) if there is no compiled library and NumPy was not asked for.
    Raises UsageError if the variable names a level that is unknown, or that this machine does not have.
    """
    asked = os.environ.get(LEVEL_VARIABLE, "")
    levels = available_levels()
    if not asked:
        if levels[0] == NUMPY_LEVEL:
            _warn_of_missing_kernels()
        return levels[0]
    if asked not in levels:
        problem = "is not available here" if asked in _LEVELS else "is not known"
        raise UsageError(f"{LEVEL_VARIABLE} is `{asked}`, which {problem}", hint=f"available: {', '.join(levels)}")
    return asked
