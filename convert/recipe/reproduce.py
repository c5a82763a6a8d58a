"""Make again what a lock speaks of, and compare."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from convert.errors import CheckpointError, RecipeError, Remedy, VerificationError
from convert.recipe.asked import INPUT_PLACES, OUTPUT_PLACES, seen_from
from convert.recipe.digests import Reading, file_digests, unseen
from convert.recipe.inputs import inputs_of
from convert.recipe.lock import LOCK_FILE, LockedFile, LockedInput, Work, locked_input, read_lock
from convert.recipe.made_with import made_with
from convert.shown import shown, shown_list

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from convert.recipe.asked import Asked
    from convert.recipe.inputs import Input


@dataclass(frozen=True, slots=True)
class MadeAgain:
    """An output of a lock. now: what was made of it this time; None where nothing was, under that name."""

    locked: LockedFile
    now: LockedFile | None

    @property
    def is_equal(self) -> bool:
        """Whether it is the same, byte for byte."""
        return self.locked == self.now


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What came of making it again. changes: inputs and programs that are not what they were, a line each."""

    changes: tuple[str, ...]
    outputs: tuple[MadeAgain, ...]

    def check(self) -> None:
        """Raise VerificationError if an output is not equal."""
        if different := [output.locked.name for output in self.outputs if not output.is_equal]:
            hint = "; ".join(self.changes) or "all inputs and versions are what they were: please report this"
            raise VerificationError(f"not equal to the lock: {shown_list(different)}", hint=hint)


def reproduce(
    path: Path,
    out: Path,
    make: Callable[[Asked], None],
    *,
    model: Path | None = None,
    trusts_code: bool = False,
    reading: Reading = unseen,
) -> Reproduction:
    """Make again, in the directory `out`, what the lock at `path` says was made.

    Several works go to `out/1`, `out/2` and so on. make: does what was asked. model: where the model lies now.
    trusts_code: Python files that come with a checkpoint may run, if they did then. reading: shows how far it is.
    Raises RecipeError for a lock that is none, CheckpointError for an input that is missing, and what `make` raises.
    """
    directory = path.parent if path.is_file() else path
    works = read_lock(directory / LOCK_FILE if path.is_dir() else path).works
    changes: list[str] = []
    outputs: list[MadeAgain] = []
    for number, work in enumerate(works, 1):
        place = out / str(number) if len(works) > 1 else out  # what a later work replaced is made again as well
        asked = _placed(work.asked, directory, place, model)
        if asked.options.get("trust-remote-code") and not trusts_code:
            raise RecipeError("the lock lets code of the checkpoint run", remedies=(Remedy.TRUST_CODE,))
        changes += changed_inputs(work, asked, reading=reading)
        make(asked)
        compared = [*_compared(work, place, reading)]
        outputs += compared
        changes += [] if all(output.is_equal for output in compared) else _renamed(work, model)
    changes += [line for work in works for line in work.made_with.differences(made_with())]
    return Reproduction(tuple(dict.fromkeys(changes)), tuple(outputs))


def _placed(asked: Asked, directory: Path, out: Path, model: Path | None) -> Asked:
    """Say where inputs lie as seen from the lock, and where outputs are to go."""
    placed = asked.relocated(seen_from(directory.absolute()), INPUT_PLACES)
    placed = placed.relocated(seen_from(out.absolute()), OUTPUT_PLACES)
    moved = {name: str(model) for name in ("model", "source") if name in placed.options and model is not None}
    return replace(placed, options={**placed.options, **moved})


def _renamed(work: Work, model: Path | None) -> Iterator[str]:
    """Say that a model that lies elsewhere now has another directory's name, which most files have in them."""
    before = Path(str(work.asked.options.get("model", "")))
    now = None if model is None else Path(os.path.abspath(model))
    if now is not None and before.name not in ("", "..", now.name) and now.is_dir():
        moved = f"the model was in {shown(before.name)}, and is in {shown(now.name)}"
        yield f"{moved}: a link of the old name to it keeps it"


def changed_inputs(work: Work, asked: Asked, *, reading: Reading = unseen) -> Iterator[str]:
    """Hold every input against what it was; a line for each file that is another, missing or new."""
    if missing := [str(path) for path in asked.input_paths if not path.exists()]:
        gone = [f"`hf download {each.repository} --revision {each.commit}`" for each in work.inputs if each.commit]
        hint = f"{' and '.join(gone)} brings back what was in the Hub's cache" if gone else None
        raise CheckpointError(f"inputs of the lock are missing: {shown_list(missing)}", hint=hint)
    found = inputs_of(asked)
    digests = file_digests((path for each in found for path in each.paths), reading=reading)
    now = {(each.role, place): locked_input(each, place, digests) for each, place in _named_as(work.inputs, found)}
    for before in work.inputs:
        after = now.get((before.role, before.place))
        if after is None:
            yield f"the {before.role} `{before.place}` is not read any more"
        else:
            yield from _changed_files(before, after)


def _named_as(before: Sequence[LockedInput], found: Sequence[Input]) -> Iterator[tuple[Input, str]]:
    """Give each input the place that it had: the same role's, in order."""
    for role in dict.fromkeys(each.role for each in found):
        places = [each.place for each in before if each.role == role]
        yield from zip((each for each in found if each.role == role), places, strict=False)


def _changed_files(before: LockedInput, after: LockedInput) -> Iterator[str]:
    was, now = ({file.name: file for file in each.files} for each in (before, after))
    for name in sorted({*was, *now}):
        if was.get(name) != now.get(name):
            how = "is missing" if name not in now else "is new" if name not in was else "has changed"
            yield f"the {before.role}'s `{name}` {how}"


def _compared(work: Work, out: Path, reading: Reading) -> Iterator[MadeAgain]:
    paths = {out / locked.name: locked for locked in work.outputs}
    digests = file_digests((path for path in paths if path.is_file()), reading=reading)
    for path, locked in paths.items():
        digest = digests.get(path)
        now = None if digest is None else LockedFile(locked.name, digest.nbytes, digest.sha256)
        yield MadeAgain(locked, now)
