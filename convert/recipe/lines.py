"""On which line of a TOML file a value stands; `tomllib` does not say.

A file cut off between two statements is a file. So the lines are given to the parser one more at a time, and what is
new in the result stands where the lines begin that brought it.

    1  types = "q8_0"            ("types",): 1
    2  [[job]]                   ("job",): 2, ("job", 0): 2
    3  outdir = "q"              ("job", 0, "outdir"): 3
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Where = tuple[str | int, ...]  # the keys, and places in lists, that lead to a value


def read_toml(text: str) -> dict[str, Any]:
    """Parse a file. Raises ValueError, which says the line."""
    document: dict[str, Any] = tomllib.loads(text)
    return document


def line_numbers(text: str) -> dict[Where, int]:
    """Say for each value of a TOML file, by the keys and places that lead to it, on which line it stands, from 1."""
    found: dict[Where, int] = {}
    lines = text.splitlines()
    first, is_list = 0, False  # where the statement begins that is being read; whether its elements have been seen
    for end in range(1, len(lines) + 1):
        head, line = "\n".join(lines[:end]), end - 1
        document = _parsed(head)
        if document is None:
            document = _parsed(f"{head}\n]") or {}
            is_list = is_list or bool(document)
        else:
            said = [number for number in range(first, end) if _says_something(lines[number])]
            line = line if is_list or not said else said[0]
            first, is_list = end, False
        for where in _paths(document):
            found.setdefault(where, line + 1)
    return found


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return read_toml(text)
    except ValueError:
        return None


def _says_something(line: str) -> bool:
    return not line.strip().startswith("#") and bool(line.strip())


def _paths(value: object, above: Where = ()) -> Iterator[Where]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        yield (*above, key)
        yield from _paths(each, (*above, key))
