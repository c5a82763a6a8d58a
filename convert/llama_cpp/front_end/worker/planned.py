"""A conversion as its definition plans it: what is sent back, and the values of the tensors when they are asked for."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from convert.llama_cpp.front_end.worker.evaluate import nbytes_kept, nbytes_to_compute, values_of
from convert.llama_cpp.front_end.worker.graph import recognise, stored_names
from convert.llama_cpp.front_end.worker.source_tensor import Loaded
from convert.llama_cpp.front_end.worker.staged import stage
from convert.llama_cpp.front_end.worker.upstream import capture

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from convert.llama_cpp.front_end.request import Conversion

Types = dict[str, str]


class Planned:
    """The definition's own plan of one model: lazy tensors by their place in the file."""

    def __init__(self, conversion: Conversion, root: Path) -> None:
        torch = _torch()
        self._mode = torch.inference_mode()
        self._mode.__enter__()  # as upstream's main; this process ends with it
        staged = stage(conversion, root)
        first, *others = conversion.float_types
        self._apart = {kind: _types_apart(conversion, staged, kind) for kind in others}
        self._loaded = Loaded(conversion.definition.max_nbytes)
        self._captured = capture(conversion, staged, first, self._loaded, only_tensors=False)
        self._loaded.is_planning = False
        self._first = first
        self._writer = self._captured.writers[0]
        self._infos = list(self._writer.tensors[0].items())
        self._current: tuple[int, memoryview] | None = None

    def answer(self) -> tuple[dict[str, Any], bytes]:
        """Give the plan: a header, and all metadata entries as they stand in a file."""
        entries = [self._entry(key, value) for key, value in self._writer.kv_data[0].items()]
        types = {self._first: {name: info.dtype.name for name, info in self._infos}}
        header = {
            "tensors": [self._described(name, info) for name, info in self._infos],
            "n_entries": len(entries),
            "architecture": self._captured.architecture,
            "other_models": self._captured.other_models,
            "types": types | {kind: types[self._first] | own for kind, own in self._apart.items()},
            "file_type": self._captured.file_type,
            "alignment": self._writer.data_alignment,
            "kept": sorted(self._captured.kept),
            "loaded": sorted(self._loaded.names),
            "notes": self._captured.notes,
            "kept_nbytes": sum(nbytes_kept(_base(info.tensor)) for _, info in self._infos),
            "other_files": [sorted(writer.tensors[0]) for writer in self._captured.writers[1:]],
        }
        return header, b"".join(entries)

    def _entry(self, key: str, value: Any) -> bytes:  # noqa: ANN401
        from gguf import GGUFValueType  # noqa: PLC0415 - upstream's own

        pack = self._writer._pack_val  # noqa: SLF001 - the bytes of the file are wanted
        packed = pack(key, GGUFValueType.STRING, add_vtype=False)
        return bytes(packed + pack(value.value, value.type, add_vtype=True, sub_type=value.sub_type))

    def _described(self, name: str, info: Any) -> dict[str, Any]:  # noqa: ANN401
        base = _base(info.tensor)
        is_float = base is not info.tensor
        return {
            "name": name,
            "shape": [int(size) for size in info.shape],
            "dtype": _float_name(base.dtype) if is_float else info.dtype.name,
            "made_of": recognise(base) if is_float else None,
            "stored": stored_names(base),
            "nbytes_to_compute": nbytes_to_compute(base),
        }

    def nbytes_of(self, index: int, start: int, stop: int) -> memoryview:
        """Give bytes of a tensor's values; the whole of one tensor is kept until another is asked for."""
        if self._current is None or self._current[0] != index:
            self._current = None
            values: NDArray[np.generic] = values_of(_base(self._infos[index][1].tensor))
            self._current = index, values.reshape(-1).view("u1").data
        return self._current[1][start:stop]


def _types_apart(conversion: Conversion, staged: Path, kind: str) -> Types:
    """Ask, in a process of its own, which types the tensors have in a file of another type."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = 1
        try:
            captured = capture(conversion, staged, kind, Loaded(conversion.definition.max_nbytes), only_tensors=True)
            types = {name: info.dtype.name for name, info in captured.writers[0].tensors[0].items()}
            with os.fdopen(writing, "w") as pipe:
                json.dump(types, pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    types_: Types = json.loads(text) if text else {}
    return types_


def _base(tensor: Any) -> Any:  # noqa: ANN401
    """Return what was quantized, or rounded, into a writer's tensor; itself where it was given as it is."""
    if hasattr(tensor, "_chunks"):
        return tensor if tensor._qtype is None else type(tensor)(tensor._chunks, tensor.shape, "float32")  # noqa: SLF001
    return getattr(tensor, "made_from", tensor)


def _float_name(dtype: Any) -> str:  # noqa: ANN401
    return {"float32": "F32", "float16": "F16"}[str(dtype)]


def failure(error: BaseException, conversion: Conversion, root: Path) -> dict[str, str]:
    """Describe an error by the first of those that it followed from: the last is often a fallback's."""
    first = error
    while (before := first.__cause__ or (None if first.__suppress_context__ else first.__context__)) is not None:
        first = before
    staged, shown = str(root / conversion.directory.name), str(conversion.directory)
    said, began = (_one_line(each).replace(staged, shown) for each in (error, first))
    return {"kind": type(error).__name__, "said": said, "first_kind": type(first).__name__, "first": began}


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:1000]


def _torch() -> Any:  # noqa: ANN401
    import torch  # noqa: PLC0415 - heavy

    return torch
