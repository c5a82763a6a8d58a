"""What a command was asked for, as words: the one form that a command line, a recipe and a lock have in common.

Options are called as on the command line, without the dashes before them, and the arguments are among them: `{"model":
"llama", "outdir": "q", "types": "f16,q8_0", "merge": ["adapter:0.7"]}`. Values are what JSON and TOML can say.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from convert.adapter import parse_merge
from convert.remote import located, said

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Options whose values are places. A word of them that is none (`auto`), or an address (`hf://…`), stays as it is.
INPUT_PLACES: Final = ("model", "source", "merge", "imatrix", "tensor-type-file", "config", "tokenizer", "text")
OUTPUT_PLACES: Final = ("outdir", "out")
_NO_PLACES: Final = frozenset({"auto"})
_ADDRESS: Final = re.compile(r"\w+:/")  # a path has made one slash of two
# How the work is done, and what follows it: the same bytes come out without.
_CARRYING: Final = frozenset({
    "dry-run", "json", "force", "jobs", "lock", "verify", "text", "chunks", "dir", "with", "push-to-hub", "private",
    "discard-uploaded", "base-model",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """A command's name, and its options; those at rest (None, False, empty) may be left out."""

    command: str
    options: Mapping[str, Any]

    def relocated(self, moved: Callable[[str], str], places: tuple[str, ...] = INPUT_PLACES + OUTPUT_PLACES) -> Asked:
        """Give the same with every path moved."""
        options = {
            name: _relocated(name, value, moved) if name in places else value for name, value in self.options.items()
        }
        return replace(self, options=options)

    @property
    def input_paths(self) -> tuple[Path, ...]:
        """Every path that something is read from."""
        words = ((name, word) for name in INPUT_PLACES for word in _listed(self.options.get(name)))
        paths = (parse_merge(str(word)).path if name == "merge" else word for name, word in words if is_place(word))
        return tuple(map(Path, paths))

    @property
    def pinned(self) -> Asked:
        """Give the same with addresses of what is elsewhere as they are at this moment: with their commits.

        Raises CheckpointError for what is not reached.
        """
        options = {name: _pinned(name, word) if name in INPUT_PLACES else word for name, word in self.options.items()}
        return replace(self, options=options)

    @property
    def settled(self) -> Asked:
        """What of it decides the bytes, as JSON has it: lists for tuples, text for paths.

        An importance matrix is called in the files as it was given, wherever it lies the next time.
        """
        given = {"imatrix-name": self.options.get("imatrix"), **{k: v for k, v in self.options.items() if v}}
        options = {name: _plain(value) for name, value in sorted(given.items()) if name not in _CARRYING}
        return replace(self, options={name: value for name, value in options.items() if value})


def is_place(word: object) -> bool:
    """Whether a value of an option for paths is a path on this machine."""
    return word is not None and str(word) not in _NO_PLACES and not _ADDRESS.match(str(word))


def relative_to(directory: Path) -> Callable[[str], str]:
    """Give what tells paths as seen from a directory: what lies beside it moves along with it."""
    return lambda path: Path(os.path.relpath(path, directory)).as_posix()


def seen_from(directory: Path) -> Callable[[str], str]:
    """Give what makes such a path whole again."""
    return lambda path: os.path.normpath(directory / path)


def _listed(value: Any) -> list[Any]:  # noqa: ANN401 - whatever an option holds
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _pinned(name: str, word: Any) -> Any:  # noqa: ANN401
    if isinstance(word, (list, tuple)):
        return [_pinned(name, each) for each in word]
    if word is None or str(word) in _NO_PLACES:
        return word
    if name == "merge":
        request = parse_merge(str(word))
        return merge_word(str(_pinned("", request.path)), request.weight)
    found = located(str(word))
    return word if found == str(word) else said(str(found))


def _relocated(name: str, value: Any, moved: Callable[[str], str]) -> Any:  # noqa: ANN401 - whatever an option holds
    if isinstance(value, (list, tuple)):
        return [_relocated(name, each, moved) for each in value]
    if not is_place(value):
        return value
    if name != "merge":
        return moved(str(value))
    request = parse_merge(str(value))
    return merge_word(moved(str(request.path)), request.weight)


def merge_word(adapter: str, weight: float) -> str:
    """Write an adapter and its weight as `--merge` takes them."""
    is_plain = weight == 1 and (":" not in adapter or not is_place(adapter))
    return adapter if is_plain else f"{adapter}:{weight!r}"


def _plain(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value
