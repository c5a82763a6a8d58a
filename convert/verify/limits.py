"""How far a file may be from its model before it is no longer good enough: a limit for each type."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING

from gguf import Keys

from convert.errors import UsageError
from convert.gguf_file import read_gguf
from convert.quant_mix import FileType, find_file_types
from convert.verify.data import Verification, VerifiedFile, problem

if TYPE_CHECKING:
    from collections.abc import Sequence

_CHECK = "limit"


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that files of a type may diverge: mean Kullback-Leibler divergence of the base model, in nats."""

    type: FileType
    nats: float


def parse_limit(text: str) -> Limit:
    """Read `TYPE=NATS`, such as `q4_k_m=0.05`. Raises UsageError."""
    name, _, number = text.partition("=")
    types = find_file_types(name)
    try:
        nats = float(number)
    except ValueError:
        nats = -1.0
    if len(types) != 1 or not isfinite(nats) or nats < 0:
        raise UsageError(f"`{text}` is not TYPE=NATS, such as q4_k_m=0.05")
    return Limit(types[0], nats)


def held_to(verification: Verification, limits: Sequence[Limit]) -> Verification:
    """Add a problem to each file that is beyond its type's limit, or that has one and was not measured.

    Files that are not sound anyway are left as they are. Raises UsageError for a limit of a type that no file has.
    """
    if not limits:
        return verification
    types = [None if file.problems else _declared(file) for file in verification.files]
    for limit in limits:
        if limit.type.declared not in types and verification.is_sound:
            raise UsageError(f"no file is {limit.type.name}, for which there is a limit")
    return Verification(
        tuple(
            _held(file, [limit for limit in limits if limit.type.declared == declared])
            for file, declared in zip(verification.files, types, strict=True)
        )
    )


def _declared(file: VerifiedFile) -> object:
    return read_gguf(file.path).metadata.get(Keys.General.FILE_TYPE)


def _held(file: VerifiedFile, limits: Sequence[Limit]) -> VerifiedFile:
    found = None if file.measured is None else file.measured.kl_divergence
    for limit in limits:
        if found is None:
            message = f"its divergence was not measured, at most {limit.nats:g} nats are wanted"
        elif found > limit.nats:
            message = f"it diverges by {found:.6f} nats, at most {limit.nats:g} are wanted"
        else:
            continue
        file = replace(file, findings=(*file.findings, problem(_CHECK, message)))
    return file
