"""The lock: what files were made from, with what, and what they are; enough to make the same bytes again.

    options, as words ── inputs ──▶ every file read      ┐
    versions, pin, kernels                               ├──▶ Work ──▶ Lock, `convert.lock.json` beside the outputs
    outputs ── digests ──▶ their SHA-256                 ┘

A lock is about a directory: each run that writes there is a work of it, and a file that is made anew leaves the work
that made it before. Paths in it are as seen from that directory.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from convert.errors import RecipeError
from convert.plan import FileKind, Output, Plan
from convert.recipe.asked import OUTPUT_PLACES, Asked, is_place, relative_to
from convert.recipe.digests import FileDigest, Reading, file_digests, unseen
from convert.recipe.inputs import inputs_of
from convert.recipe.made_with import MadeWith, made_with
from convert.remote import said
from convert.shown import shown
from convert.stream import Writing, carry_out

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from convert.recipe.inputs import Input

LOCK_FILE: Final = "convert.lock.json"
LOCKED_COMMANDS: Final = ("all", "gguf", "quantize")  # a lock from elsewhere asks for nothing else
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class LockedFile:
    """A file, by its name in the place that holds it; its length in bytes and its SHA-256."""

    name: str
    nbytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class LockedInput:
    """Where something was read. role: the option that named it. repository, commit: on the Hub, where it is known."""

    role: str
    place: str
    repository: str | None
    commit: str | None
    files: tuple[LockedFile, ...]


@dataclass(frozen=True, slots=True)
class Work:
    """One run: what was asked, what was read, with what it was made, and what came out."""

    asked: Asked
    inputs: tuple[LockedInput, ...]
    made_with: MadeWith
    outputs: tuple[LockedFile, ...]


@dataclass(frozen=True, slots=True)
class Lock:
    """How the files of a directory were made; each is in one work at most."""

    works: tuple[Work, ...]

    def with_work(self, work: Work) -> Lock:
        """Add a work; what it made anew leaves the others."""
        made = {output.name for output in work.outputs}
        others = (
            replace(other, outputs=tuple(output for output in other.outputs if output.name not in made))
            for other in self.works
        )
        return Lock((*(other for other in others if other.outputs), work))

    def as_json(self) -> str:
        """Write it for a file."""
        return json.dumps({"lock": _VERSION, **asdict(self)}, indent=2, ensure_ascii=False) + "\n"


def lock_outputs(
    directory: Path,
    asked: Asked,
    outputs: Sequence[Path],
    *,
    jobs: int | None = None,
    known: Mapping[Path, FileDigest] | None = None,
    reading: Reading = unseen,
) -> Lock:
    """Write how outputs were made to `convert.lock.json` in their directory; returns the whole lock.

    Inputs and outputs are read once, from end to end. jobs: threads. known: digests of outputs that need no reading.
    reading: shows how far it is.
    Raises RecipeError for a lock that is there and is none, CheckpointError or OutputError for what cannot be read or
    written.
    """
    path = directory / LOCK_FILE
    before = read_lock(path) if path.exists() else Lock(())
    lock = before.with_work(work_of(directory, asked, outputs, jobs=jobs, known=known, reading=reading))
    _write(path, lock.as_json().encode())
    return lock


def work_of(
    directory: Path,
    asked: Asked,
    outputs: Sequence[Path],
    *,
    jobs: int | None = None,
    known: Mapping[Path, FileDigest] | None = None,
    reading: Reading = unseen,
) -> Work:
    """Say how outputs were made; see `lock_outputs`."""
    asked, told = asked.pinned, relative_to(directory)
    inputs = inputs_of(asked)
    to_read = _to_read(inputs, outputs, known or {})
    digests = {**file_digests(to_read, jobs=jobs, reading=reading), **(known or {})}
    return Work(
        asked.settled.relocated(told),
        tuple(locked_input(each, _told(each, told), digests) for each in inputs),
        made_with(),
        tuple(_file(told(str(path)), digests[path]) for path in outputs),
    )


def _told(found: Input, told: Callable[[str], str]) -> str:
    address = said(str(found.place))
    return told(address) if is_place(address) else address


def _to_read(inputs: Sequence[Input], outputs: Sequence[Path], known: Mapping[Path, FileDigest]) -> list[Path]:
    paths = [path for each in inputs for path in each.paths] + list(outputs)
    return [path for path in paths if path not in known]


def locked_input(found: Input, place: str, digests: Mapping[Path, FileDigest]) -> LockedInput:
    """Say what an input is now. place: what it is to be called."""
    files = tuple(_file(path.relative_to(found.directory).as_posix(), digests[path]) for path in found.paths)
    return LockedInput(found.role, place, found.repository, found.commit, files)


def _file(name: str, digest: FileDigest) -> LockedFile:
    return LockedFile(name, digest.nbytes, digest.sha256)


def _write(path: Path, data: bytes) -> None:
    output = Output(path, data, (), len(data), FileKind.PLAIN)
    carry_out(Plan(path.parent, "", 0, 0, (output,), ()), Writing(force=True))


def read_lock(path: Path) -> Lock:
    """Read a lock, which may come from anywhere: what it asks for stays within the directory that it is made in.

    Raises RecipeError for what is no lock, of another version, or asks for more.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{shown(path)} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RecipeError(f"{shown(path)} is no lock: {error}") from error
    if not isinstance(document, dict) or document.get("lock") != _VERSION:
        version = document.get("lock") if isinstance(document, dict) else None
        raise RecipeError(f"{shown(path)} is no lock of version {_VERSION}: `lock` is {shown(version)}")
    try:
        return Lock(tuple(map(_work, document["works"])))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RecipeError(f"{shown(path)} is no whole lock: {type(error).__name__}, {error}") from error


def _work(found: Mapping[str, Any]) -> Work:
    asked = Asked(**found["asked"])
    if asked.command not in LOCKED_COMMANDS or not isinstance(asked.options, dict):
        raise ValueError(f"its command is {shown(asked.command)}, with options {shown(asked.options)}")
    outputs = _files(found["outputs"])
    written = [asked.options[name] for name in OUTPUT_PLACES if name in asked.options]
    for name in (*(output.name for output in outputs), *written):
        if not is_inside(name):
            raise ValueError(f"an output would lie outside of its directory: {shown(name)}")
    return Work(
        asked.settled,
        tuple(LockedInput(**{**each, "files": _files(each["files"])}) for each in found["inputs"]),
        MadeWith(**found["made_with"]),
        outputs,
    )


def is_inside(name: str) -> bool:
    """Whether a path leads to a place in the directory that it is seen from."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _files(found: Sequence[Mapping[str, Any]]) -> tuple[LockedFile, ...]:
    return tuple(LockedFile(**each) for each in found)
