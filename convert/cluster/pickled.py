"""Plans as bytes, and back: what is unpickled can be nothing but values of this package, of NumPy, and paths.

Unpickling calls what the bytes name. Here that is data classes and enums of the rooms that a plan is made of, GGUF's
enums, and NumPy's arrays; everything else is refused, llama.cpp's front end too, which starts programs. What a plan
does remain: it says which files are read and written. Paths become absolute on the way, whoever reads them where;
those of stand-ins, for files that are on the Hub or in a store, are found again in everyone's own cache.
"""

from __future__ import annotations

import io
import os
import pickle
from dataclasses import dataclass, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from convert.errors import PlanError, UnsupportedError
from convert.remote.stand_in import root

_ROOMS: Final = frozenset(
    {"adapter", "checkpoint", "cluster", "dequantization", "gguf_file", "importance", "model", "plan", "quant_mix"}
)
_OTHERS: Final = frozenset(
    {
        ("builtins", "frozenset"),
        ("convert.remote.stand_in", "StandIn"),
        ("builtins", "range"),
        ("gguf.constants", "GGMLQuantizationType"),
        ("gguf.constants", "GGUFValueType"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"),
    }
)
_ELSEWHERE: Final = "elsewhere:"  # then a path among the stand-ins, which each user has in a cache of their own
# What bytes that are no pickle, or not one of ours, make the unpickler say.
_BROKEN: Final = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Pickled:
    """A value as bytes, and all paths in it."""

    data: bytes
    paths: frozenset[Path]


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.names: dict[Path, str] = {}

    def persistent_id(self, value: Any) -> str | None:  # noqa: ANN401 - whatever there is in a plan
        if type(value).__module__.startswith("convert.llama_cpp."):
            raise UnsupportedError(
                f"`{value.name}` is computed by llama.cpp's own definition, in a process of this machine",
                hint="such a model is converted by one machine",
            )
        if not isinstance(value, Path):
            return None
        if value not in self.names:
            self.names[value] = _name(value)
        return self.names[value]


def _name(path: Path) -> str:
    if path.is_relative_to(root()):
        return _ELSEWHERE + os.fspath(path.relative_to(root()))
    return os.fspath(path.absolute())


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, name: Any) -> Path:  # noqa: ANN401 - whatever stands in the file
        place = root() if name.startswith(_ELSEWHERE) else Path()
        found: Path = place / name.removeprefix(_ELSEWHERE)
        return found

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - a class
        package, _, rest = module.partition(".")
        if (module.replace("numpy.core.", "numpy._core."), name) in _OTHERS:
            return super().find_class(module, name)
        if package == "convert" and rest.partition(".")[0] in _ROOMS:
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module and _is_plain(found):
                return found
        raise pickle.UnpicklingError(f"`{module}.{name}` has no place in a plan")


def _is_plain(kind: type) -> bool:
    return is_dataclass(kind) or issubclass(kind, Enum)


def dumps(value: object) -> Pickled:
    """Pickle a plan, or what belongs to one.

    Raises UnsupportedError for what only this machine can give: values that another process computes.
    """
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(value)
    return Pickled(file.getvalue(), frozenset(path.absolute() for path in pickler.names))


def loads(data: bytes) -> Any:  # noqa: ANN401 - what was pickled
    """Unpickle what `dumps` has made. Raises PlanError for bytes that hold anything else, which is never called."""
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except _BROKEN as error:
        raise PlanError(f"this is no plan: {error}") from error
