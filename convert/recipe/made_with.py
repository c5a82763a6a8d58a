"""What makes the bytes: the versions of all that has a say in them, the pinned llama.cpp, the kernels."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Final

from convert.codec import kernels_digest
from convert.llama_cpp import pin

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_DISTRIBUTIONS: Final = {"convert": "gguf-convert"} | {
    name: name for name in ("gguf", "numpy", "sentencepiece", "tokenizers", "torch", "transformers")
}


@dataclass(frozen=True, slots=True)
class MadeWith:
    """versions: by name. llama_cpp: the commit whose rules are followed. kernels: their sources' digest, or `numpy`."""

    versions: Mapping[str, str]
    llama_cpp: str
    kernels: str

    def differences(self, other: MadeWith) -> Iterator[str]:
        """Say what another has otherwise, a line each: `numpy 2.1.0, now 2.2.0`."""
        mine = {**self.versions, "llama.cpp": self.llama_cpp, "kernels": self.kernels}
        theirs = {**other.versions, "llama.cpp": other.llama_cpp, "kernels": other.kernels}
        for name in sorted({*mine, *theirs}):
            if mine.get(name) != theirs.get(name):
                yield f"{name} {mine.get(name, 'none')}, now {theirs.get(name, 'none')}"


def made_with() -> MadeWith:
    """Say what makes the bytes here and now; a package that is not installed has no say."""
    return MadeWith({"python": platform.python_version(), **dict(_versions())}, pin.COMMIT, kernels_digest())


def _versions() -> Iterator[tuple[str, str]]:
    for name, distribution in _DISTRIBUTIONS.items():
        if found := next(iter(metadata.Distribution.discover(name=distribution)), None):
            yield name, found.version
