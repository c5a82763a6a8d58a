"""JSON from people we do not know: bounded in size, values and depth, and free of what JSON leaves open.

Duplicate keys, NaN and infinities, numbers too long to be meant, lone surrogates and deep nesting are errors that name
the file. A document that passes is safe to walk recursively and to print.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from convert.checkpoint.regular_file import file_nbytes, open_regular, refuse_lfs_pointer
from convert.errors import CheckpointError
from convert.shown import shown

if TYPE_CHECKING:
    from pathlib import Path

MAX_NBYTES: Final = 64 << 20  # the largest tokenizer.json in use is about 35 MB
MAX_VALUES: Final = 8_000_000  # a parsed value costs about a hundred bytes
MAX_DEPTH: Final = 64  # config.json and tokenizer.json stay below 12
MAX_NUMBER_CHARS: Final = 64
_KINDS: Final[dict[type, str]] = {dict: "an object", list: "a list", str: "a string", object: "a value"}

T = TypeVar("T")


@overload
def read_json(path: Path, *, max_nbytes: int = ...) -> dict[str, Any]: ...
@overload
def read_json(path: Path, *, max_nbytes: int = ..., top: type[T]) -> T: ...
def read_json(path: Path, *, max_nbytes: int = MAX_NBYTES, top: type = dict) -> object:
    """Read a JSON document from a file that may be hostile.

    top: what the document must be: dict (the default), list, str, or object for anything.
    Returns dicts, lists, strings, finite floats, ints of at most 64 digits, booleans and None.
    Raises CheckpointError, naming the file, if it is missing, not a regular file, longer than max_nbytes, not UTF-8,
    not JSON, nested deeper than 64 levels, or holds a duplicate key, NaN, an infinity or a lone surrogate.
    """
    with open_regular(path) as file:
        if (nbytes := file_nbytes(file)) > max_nbytes:
            raise CheckpointError(f"{shown(path)} has {nbytes} bytes, at most {max_nbytes} are read")
        data = file.read(max_nbytes)
    refuse_lfs_pointer(data, path)
    value = parse_json(data, what=shown(path))
    if not isinstance(value, top):
        raise CheckpointError(f"{shown(path)} holds {_kind(value)} at its top, wanted {_KINDS.get(top, top.__name__)}")
    return value


def parse_json(data: bytes, *, what: str, max_values: int = MAX_VALUES) -> object:
    """Parse bytes as `read_json` does; `what` names them in errors. The number of bytes is the caller's to bound."""
    if (n_values := sum(map(data.count, (b",", b"[", b"{")))) > max_values:
        raise CheckpointError(f"{what} holds about {n_values} values, at most {max_values} are read")
    try:
        value = _decode(data)
        _refuse_deep(value)
        _refuse_lone_surrogates(data, value)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{what} is not JSON: {error.msg}, line {error.lineno} column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{what} is not UTF-8: byte {error.start} is {data[error.start]:#04x}") from error
    except RecursionError:
        raise CheckpointError(f"{what} is nested too deep, at most {MAX_DEPTH} levels are read") from None
    except _Refused as refused:
        raise CheckpointError(f"{what} {refused}") from None
    return value


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """What is wrong with the document, to be put after its name."""


def _decode(data: bytes) -> object:
    return json.loads(
        data.decode("utf-8"),
        object_pairs_hook=_unique_keys,
        parse_int=_parse_int,
        parse_float=_parse_float,
        parse_constant=_refuse_constant,
    )


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Refused(f"has the key {shown(twice)} twice")
    return unique


def _parse_int(digits: str) -> int:
    if len(digits) > MAX_NUMBER_CHARS:
        raise _Refused(f"holds a number of {len(digits)} digits, at most {MAX_NUMBER_CHARS} are read")
    return int(digits)


def _parse_float(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise _Refused(f"holds the number {shown(digits)}, wanted finite numbers")
    return number


def _refuse_constant(constant: str) -> object:
    raise _Refused(f"holds the number `{constant}`, wanted finite numbers")


def _refuse_deep(value: object) -> None:
    """Walk level by level, since a recursive check would fall over what it looks for."""
    level: list[object] = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        if not level:
            return
        level = [
            child
            for container in level
            for child in (container.values() if isinstance(container, dict) else container)  # type: ignore[attr-defined]
            if isinstance(child, (dict, list))
        ]
    if level:
        raise RecursionError


def _refuse_lone_surrogates(data: bytes, value: object) -> None:
    r"""Refuse a `\ud800` without its partner: such a str cannot be written or printed. Raw UTF-8 cannot hold one."""
    if b"\\ud" not in data and b"\\uD" not in data:
        return
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise _Refused("holds half of a surrogate pair in a string") from None


def _kind(value: object) -> str:
    return next((kind for type_, kind in _KINDS.items() if isinstance(value, type_)), "a value")
