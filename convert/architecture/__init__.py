"""The table of architectures: what a Hugging Face model becomes in GGUF.

`find_architecture` looks up the row; a row turns a ModelConfig and the checkpoint's tensor names into
metadata and output tensors. A family's own facts stand in its file.
"""

from __future__ import annotations

from typing import Final

from convert.architecture.family import Architecture, Constant, OutputTensor, SourcePart, map_tensors
from convert.architecture.llama import LLAMA
from convert.errors import UnsupportedError

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Constant",
    "OutputTensor",
    "SourcePart",
    "find_architecture",
    "map_tensors",
]

ARCHITECTURES: Final[tuple[Architecture, ...]] = (LLAMA,)


def find_architecture(name: str) -> Architecture:
    """Return the row for a name from `config.json`'s `architectures`.

    Raises UnsupportedError that names what is supported.
    """
    for architecture in ARCHITECTURES:
        if name in architecture.hf_names:
            return architecture
    supported = ", ".join(name for row in ARCHITECTURES for name in row.hf_names)
    raise UnsupportedError(f"unsupported architecture `{name}`", hint=f"supported are {supported}")


_names = [name for row in ARCHITECTURES for name in row.hf_names]
assert len(_names) == len(set(_names)), "an architecture stands twice in the table"  # noqa: S101
