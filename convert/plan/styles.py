"""How files are called: a row for each publisher's habit.

    {owner}  `ORG_`, where the model's owner is known       {name}  the model
    {type}   in the habit's case                            {role}  `mmproj-`, `mtp-`, or nothing for the model itself

Every one is found by llama.cpp, Ollama and the Hub: the type stands between `.` or `-`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_FLOATS: Final = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class Style:
    """One habit. important: of files that are made with an importance matrix; floats_lower: `f16` instead of `F16`."""

    file: str
    important: str
    floats_lower: bool = False

    def file_name(self, name: str, kind: str, *, role: str = "", owner: str | None = None, important: bool) -> str:
        """Name a file. kind: its type, in upper case."""
        shape = self.important if important and not role and kind not in _FLOATS else self.file
        shown = kind.lower() if self.floats_lower and kind in _FLOATS else kind
        return shape.format(owner=f"{owner}_" if owner else "", name=name, type=shown, role=role)


STYLES: Final[Mapping[str, Style]] = MappingProxyType(
    {
        "plain": Style("{role}{name}-{type}.gguf", "{name}-{type}.gguf"),
        "bartowski": Style("{role}{owner}{name}-{type}.gguf", "{owner}{name}-{type}.gguf", floats_lower=True),
        "mradermacher": Style("{name}.{role}{type}.gguf", "{name}.i1-{type}.gguf"),
    }
)
