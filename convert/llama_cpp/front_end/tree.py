"""Which source tree of llama.cpp: the pinned one, or another that has been fetched; nothing is fetched here."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Final

from convert.errors import NoSourceError
from convert.llama_cpp import where
from convert.llama_cpp.pin import COMMIT
from convert.llama_cpp.source import Tree, fetched_as

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MAPS: Final = {"TEXT_MODEL_MAP": "text", "MMPROJ_MODEL_MAP": "mmproj"}


def find_tree(ref: str | None, directory: Path | None) -> Tree | None:
    """Find a tree: the pinned commit's, or the one that was fetched as `ref`, or whose commit begins so."""
    for home in where.homes(directory):
        wanted = COMMIT if ref is None else fetched_as(home).get(ref, ref)
        found = (described.parent for described in sorted(home.sources.glob("*/source.json")))
        if (folder := next((folder for folder in found if folder.name.startswith(wanted)), None)) is not None:
            return Tree(folder / "tree", folder.name, str(folder))
    return None


def require_tree(ref: str | None, directory: Path | None, *, why: str) -> Tree:
    """Find a tree, or raise NoSourceError. why: what needs it, the beginning of a sentence."""
    tree = find_tree(ref, directory)
    if tree is None:
        commit = f"`{ref}`" if ref else f"the pinned commit {COMMIT[:10]}"
        raise NoSourceError(f"{why}: the source of llama.cpp at {commit} is not on this machine", ref=ref)
    return tree


def class_names(tree: Path) -> Mapping[str, tuple[str, ...]]:
    """Read which classes of transformers a tree has definitions for: `text` and `mmproj`. Nothing of it is run."""
    parsed = ast.parse((tree / "conversion" / "__init__.py").read_text(encoding="utf-8"))
    found = {}
    for node in parsed.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id in _MAPS:
            found[_MAPS[node.target.id]] = tuple(ast.literal_eval(node.value)) if node.value else ()
    return found
