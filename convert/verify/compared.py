"""How far every tensor of a file is from what it was made of, without judging it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convert.verify.against import Comparison
from convert.verify.reading import open_file

if TYPE_CHECKING:
    from pathlib import Path

    from convert.gguf_file import GGUFFile
    from convert.model import GGUFModel
    from convert.verify.data import TensorError


def compared(path: Path, header: GGUFFile, wanted: GGUFModel) -> tuple[TensorError, ...]:
    """Decode every tensor that both have, in the file's order, beside the wanted values."""
    with open_file(path) as file:
        comparison = Comparison(header, file, wanted)
        comparison.compare()
    return tuple(comparison.errors)
