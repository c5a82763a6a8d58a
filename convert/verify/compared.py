"""How far every tensor of a file is from what it was made of, without judging it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convert.gguf_file import as_one
from convert.verify.against import Comparison
from convert.verify.reading import open_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convert.gguf_file import GGUFFile
    from convert.model import GGUFModel
    from convert.verify.data import TensorError


def compared(parts: Sequence[GGUFFile], wanted: GGUFModel) -> tuple[TensorError, ...]:
    """Decode every tensor that both have, in the order of a file or its parts, beside the wanted values."""
    with open_file(*parts) as file:
        comparison = Comparison(as_one(parts), file, wanted)
        comparison.compare()
    return tuple(comparison.errors)
