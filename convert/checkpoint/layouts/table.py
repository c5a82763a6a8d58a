"""The table of layouts: the first row whose files are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convert.checkpoint.layouts.layout import Found, Layout, Stated
from convert.checkpoint.parts import snapshot_of

if TYPE_CHECKING:
    from pathlib import Path


def _layouts() -> tuple[Layout, ...]:
    from convert.checkpoint.layouts.distributed import DISTRIBUTED  # noqa: PLC0415 - views need NumPy, others do not
    from convert.checkpoint.layouts.litgpt import LITGPT  # noqa: PLC0415
    from convert.checkpoint.layouts.meta import META  # noqa: PLC0415
    from convert.checkpoint.layouts.mistral import MISTRAL  # noqa: PLC0415

    return META, MISTRAL, LITGPT, DISTRIBUTED


def find_layout(path: Path, stated: Stated) -> tuple[Layout, Found] | None:
    """Recognise another program's checkpoint by the names of its files: a directory, or the file of weights in one.

    None where no row fits, or where weights in transformers' own form are there too: these are then the model.
    """
    try:
        path = (snapshot_of(path) or path) if path.is_dir() else path
        directory = path if path.is_dir() else path.parent
        names = _names(directory) if path.exists() else []
    except OSError:  # is told by whoever looks for transformers' files next
        return None
    if any(map(_is_transformers, names if path.is_dir() else (path.name,))):
        return None
    for layout in _layouts():
        folders = [name for name in names if layout.inside and layout.inside.fullmatch(name) and path.is_dir()]
        for place in (directory, *(directory / name for name in folders)):
            listed = names if place == directory else _names(place)
            weights = [name for name in listed if layout.weights.fullmatch(name)]
            if weights and (path.is_dir() or path.name in weights) and layout.beside in listed:
                return layout, Found(directory, tuple(place / name for name in weights), place / layout.beside, stated)
    return None


def _names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []


def _is_transformers(name: str) -> bool:
    return (name.startswith("model") and name.endswith((".safetensors", ".safetensors.index.json"))) or (
        name.startswith("pytorch_model") and name.endswith((".bin", ".bin.index.json"))
    )
