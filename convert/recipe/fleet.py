"""Many models, one after the other: what is there already is passed over, what fails keeps no other from being made."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from convert.errors import (
    ConfigError,
    ConvertError,
    PlanError,
    RecipeError,
    TokenizerError,
    UnsupportedError,
    UsageError,
    VerificationError,
    WeightsError,
)
from convert.hub import owned_name
from convert.recipe.asked import relative_to
from convert.recipe.digests import Reading, unseen
from convert.recipe.lock import LOCK_FILE, read_lock
from convert.recipe.made_with import made_with
from convert.recipe.reproduce import changed_inputs
from convert.remote import located
from convert.remote.stand_in import read_stand_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from convert.recipe.asked import Asked
    from convert.recipe.lock import LockedFile, Work
    from convert.recipe.read import Batch


# These come again, however often it is tried; others are the network's, a disk's or another program's.
_LASTING: Final = (
    ConfigError, PlanError, RecipeError, TokenizerError, UnsupportedError, UsageError, VerificationError, WeightsError,
)  # fmt: skip
_FIRST_WAIT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A model that failed: its name, and why."""

    name: str
    error: ConvertError


def carry_out_batches(
    batches: Sequence[Batch],
    make: Callable[[Asked], None],
    *,
    tell: Callable[[str], None],
    retries: int = 0,
    reading: Reading = unseen,
) -> tuple[Failure, ...]:
    """Do every step of every model; returns the models that failed, whose further steps are left out.

    make: does what was asked. tell: hears what is done. reading: shows how far inputs are read. retries: how often a
    step is tried again that the network, a disk or another program made fail, each time after twice as long a wait.
    """
    failures: list[Failure] = []
    for number, batch in enumerate(batches, 1):
        tell(f"{number} of {len(batches)}: {batch.name}".removesuffix(": "))

        def make_missing(asked: Asked) -> None:
            if is_made(asked, reading=reading):
                tell(f"{asked.command}: made already, as {LOCK_FILE} says")
            else:
                make(asked)

        try:
            for asked in batch.steps:
                _try(asked, make_missing, tell, [_FIRST_WAIT_S * 2**n for n in range(retries)])
        except ConvertError as error:
            tell(f"failed: {error.message}")
            failures.append(Failure(batch.name, error))
    return tuple(failures)


def _try(asked: Asked, make: Callable[[Asked], None], tell: Callable[[str], None], waits: Sequence[float]) -> None:
    """Do a step; after a failure that may pass, again, as often as there are waits, in seconds."""
    try:
        make(asked)
    except ConvertError as error:
        if not waits or isinstance(error, _LASTING):
            raise
        tell(f"{error.message}; again in {waits[0]:.0f} s")
        time.sleep(waits[0])
    else:
        return
    _try(asked, make, tell, waits[1:])


def is_made(asked: Asked, *, reading: Reading = unseen) -> bool:
    """Whether the lock where the outputs go says that the same was made of the same, with the same; and it is there.

    Where they are pushed to the Hub, its lock must say so, and it must have them; where they are deleted here then, it
    alone is asked. An importance matrix that is to be made of a text is no such thing: what it was made of, a lock does
    not say.
    """
    directory = _destination(asked)
    if directory is None or asked.options.get("imatrix") == "auto":
        return False
    places = _places(asked, directory)
    if not all(place and (place / LOCK_FILE).is_file() for place in places):
        return False
    locked = [read_lock(place / LOCK_FILE).works for place in places if place]
    wanted = _compared(asked.pinned.settled.relocated(relative_to(directory)), asked)
    return any(
        _compared(work.asked, asked) == wanted
        and work.made_with == made_with()
        and all(_is_there(work, place) for place in places if place)
        and not any(changed_inputs(work, asked, reading=reading))
        for work in locked[0]
        if all(work in others for others in locked)
    )


def _places(asked: Asked, directory: Path) -> list[Path | None]:
    """Say where outputs and their lock are to be; None for a repository that is not reached, or is not there yet."""
    repository = asked.options.get("push-to-hub")
    if not repository:
        return [directory]
    here = [] if asked.options.get("discard-uploaded") else [directory]
    try:
        return [Path(located(f"hf://{owned_name(str(repository))}")), *here]
    except ConvertError:  # the push tells what is wrong, if anything is
        return [None]


def _destination(asked: Asked) -> Path | None:
    """Say where a step's lock is; None for a step that writes none."""
    if not asked.options.get("lock"):
        return None
    out = asked.options.get("out")
    return Path(str(out)).parent if out else Path(str(asked.options["outdir"]))


def _compared(settled: Asked, asked: Asked) -> Asked:
    """Leave the files' name out, where it was the model's own."""
    names = settled.options if asked.options.get("name") else {**settled.options, "name": None}
    return replace(settled, options=names)


def _is_there(work: Work, directory: Path) -> bool:
    return all(_is_output(directory / output.name, output) for output in work.outputs)


def _is_output(path: Path, output: LockedFile) -> bool:
    """Whether an output is there: by its length, on the Hub by what that calls its content."""
    if (elsewhere := read_stand_in(path)) is not None:
        return elsewhere.content == output.sha256
    return path.is_file() and path.stat().st_size == output.nbytes
