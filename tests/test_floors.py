"""The house: a module imports only what stands below it, and heavy packages only inside functions; files are short."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE: Final = Path(__file__).parent.parent / "convert"

ARCHITECTURE: Final = PACKAGE.parent / "ARCHITECTURE.md"


def _floors() -> tuple[frozenset[str], ...]:
    """Read the table of floors, from the ground up; a room may import its own floor."""
    table = ARCHITECTURE.read_text(encoding="utf-8").partition("| floor | rooms |")[2].partition("\n\n")[0]
    rows = [frozenset(re.findall(r"`(\w+)`", line)) for line in table.splitlines() if "`" in line]
    return tuple(reversed(rows))


FLOORS: Final = _floors()
HEAVY: Final = {"torch", "transformers", "bitsandbytes"}

MODULES: Final = sorted(PACKAGE.rglob("*.py"))
FILES: Final = [*MODULES, *sorted(Path(__file__).parent.rglob("*.py"))]


def _floor(room: str) -> int:
    return next(index for index, rooms in enumerate(FLOORS) if room in rooms)


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_room_stands_on_one_floor() -> None:
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES} - {"__init__"}
    placed = [room for floor in FLOORS for room in floor]
    assert sorted(placed) == sorted(rooms)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_what_stands_below(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        return  # the front door leads everywhere
    imported = {name.split(".")[1] for name in _imports(ast.parse(path.read_text())) if name.startswith("convert.")}
    rooms = {name for name in imported if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()}
    above = {name for name in rooms if _floor(name) > _floor(room)}
    assert not above


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_packages_are_imported_only_where_used(path: Path) -> None:
    top_level = [node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {name.split(".")[0] for node in top_level for name in _imports(ast.Module([node], []))}
    assert not names & HEAVY


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE.parent)))
def test_a_file_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
