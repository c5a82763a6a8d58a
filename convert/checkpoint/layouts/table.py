"""The table of layouts: the first row whose files are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convert.checkpoint.layouts.layout import Found, Layout, Stated
from convert.checkpoint.parts import snapshot_of

if TYPE_CHECKING:
    from pathlib import Path


def _layouts() -> tuple[Layout, ...]:
    from convert.checkpoint.layouts.litgpt import LITGPT  # noqa: PLC0415 - views need NumPy, transformers' form does not
    from convert.checkpoint.layouts.meta import META  # noqa: PLC0415
    from convert.checkpoint.layouts.mistral import MISTRAL  # noqa: PLC0415

    return META, MISTRAL, LITGPT


def find_layout(path: Path, stated: Stated) -> tuple[Layout, Found] | None:
    """Recognise another program's checkpoint by the names of its files: a directory, or the file of weights in one.

    None where no row fits, or where weights in transformers' own form are there too: these are then the model.
    """
    try:
        path = (snapshot_of(path) or path) if path.is_dir() else path
        directory = path if path.is_dir() else path.parent
        names = sorted(entry.name for entry in directory.iterdir()) if path.exists() else []
    except OSError:  # is told by whoever looks for transformers' files next
        return None
    if any(map(_is_transformers, names if path.is_dir() else (path.name,))):
        return None
    for layout in _layouts():
        weights = [name for name in names if layout.weights.fullmatch(name)]
        if weights and (path.is_dir() or path.name in weights) and layout.beside in names:
            paths = tuple(directory / name for name in weights)
            return layout, Found(directory, paths, directory / layout.beside, stated)
    return None


def _is_transformers(name: str) -> bool:
    return (name.startswith("model") and name.endswith((".safetensors", ".safetensors.index.json"))) or (
        name.startswith("pytorch_model") and name.endswith((".bin", ".bin.index.json"))
    )
