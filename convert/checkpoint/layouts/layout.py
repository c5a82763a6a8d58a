"""What a row of the table is, and the words that rows share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from convert.errors import CheckpointError, ConfigError, Remedy
from convert.shown import shown, shown_list

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from convert.checkpoint.source import Arrange, Tensor, TensorSource


@dataclass(frozen=True, slots=True)
class Stated:
    """What a checkpoint's own files do not say, said by name.

    config: a config.json that counts instead of what the directory has. tokenizer: the directory of the tokenizer's
    files. context: the longest text in tokens. gqa, eps: of a file before GGUF, how many heads share one of keys, and
    the norms' epsilon.
    """

    config: Path | None = None
    tokenizer: Path | None = None
    context: int | None = None
    gqa: int | None = None
    eps: float | None = None


NOTHING_STATED: Final = Stated()


@dataclass(frozen=True, slots=True)
class Found:
    """A directory that a row has recognised. paths: its weights, in order. beside: the file that tells of them."""

    directory: Path
    paths: tuple[Path, ...]
    beside: Path
    stated: Stated


@dataclass(frozen=True, slots=True)
class Laid:
    """What a row makes of a directory.

    config: in Hugging Face's words, or what is wrong with it. sources: stored tensors; names are unique, and those that
    packed formats know. arrange: gives the model's tensors, of these decoded. notes: a line each.
    """

    config: Mapping[str, Any] | ConfigError
    sources: Mapping[str, TensorSource]
    arrange: Arrange
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """A row: whose format, what its files are called, and how it is opened.

    weights: matched with whole file names. beside: the file that must lie beside them. inside: what a folder of the
    directory is called that may have both.
    """

    label: str
    weights: re.Pattern[str]
    beside: str
    open: Callable[[Found], Laid]
    inside: re.Pattern[str] | None = None


Renames = tuple[tuple[str, str], ...]


def renamed(name: str, renames: Renames) -> str:
    """Give a name in Hugging Face's words, by the first pattern that fits it whole; as it is where none does."""
    for pattern, replacement in renames:
        if (match := re.fullmatch(pattern, name)) is not None:
            return match.expand(replacement)
    return name


def in_order(tensors: Iterable[Tensor]) -> dict[str, Tensor]:
    """Put tensors into the order of a checkpoint that transformers saves; CheckpointError if two have one name."""
    ordered: dict[str, Tensor] = {}
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        if tensor.name in ordered:
            raise CheckpointError(f"two tensors are the model's {shown(tensor.name)}, wanted one")
        ordered[tensor.name] = tensor
    return ordered


def not_said(what: str, where: Path, *remedies: Remedy) -> ConfigError:
    """Make the error for something that files do not say and nobody has stated."""
    return ConfigError(f"{shown(where)} does not say {what}", remedies=remedies)


def numbered(paths: Sequence[Path], pattern: re.Pattern[str]) -> None:
    """Raise CheckpointError unless the first group of the files' names counts from 0 without a gap."""
    numbers = [int(match[1]) for path in paths if (match := pattern.fullmatch(path.name))]
    if missing := sorted(set(range(max(numbers) + 1)) - set(numbers)):
        listed = shown_list([paths[0].name.replace(f"{numbers[0]:02d}", f"{number:02d}", 1) for number in missing])
        raise CheckpointError(
            f"{shown(paths[0].parent)} lacks {len(missing)} of {max(numbers) + 1} files, by their numbers: {listed}",
            hint="download the checkpoint again: `hf download` resumes where it stopped",
        )
