"""Every error a user can meet, as one tree; each class has the exit code the command ends with.

ConvertError                  1
├── UsageError                2   the command line or a function's arguments
├── CheckpointError           3   the model directory: missing, broken, hostile
│   ├── ConfigError           3   config.json: a key that is missing, of the wrong type, or absurd
│   ├── TokenizerError        3   tokenizer files
│   └── WeightsError          3   NaN, infinity or float16 overflow in a weight
├── UnsupportedError          4   well formed, but not something this version converts
├── PlanError                 5   names, shapes or types that cannot be brought together
│   └── ShapeError            5   rows that a codec cannot take
├── OutputError               6   disk space, permissions, existing files
├── ToolchainError            7   llama.cpp could not be fetched, built or run
│   └── ProgramError          7   a program ended badly
├── RecipeError               8   a recipe file
└── VerificationError         9   an output is not what it should be
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class ConvertError(Exception):
    """Root of the tree: a message in one line, and an optional hint that says what to do."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(ConvertError):
    """The command line, or a function's arguments, make no sense."""

    exit_code = 2


class CheckpointError(ConvertError):
    """The checkpoint is missing, truncated, inconsistent or hostile."""

    exit_code = 3


class ConfigError(CheckpointError):
    """`config.json` lacks a key, or a value has the wrong type or an absurd size."""


class TokenizerError(CheckpointError):
    """The tokenizer files are missing, broken or contradict the model."""


class WeightsError(CheckpointError):
    """A weight is NaN or infinite, or overflows the type asked for."""


class UnsupportedError(ConvertError):
    """A well-formed input of a kind that this version does not convert."""

    exit_code = 4


class PlanError(ConvertError):
    """The checkpoint's tensors, the config and the request cannot be brought together."""

    exit_code = 5


class ShapeError(PlanError):
    """Rows have a length that the codec cannot take."""


class OutputError(ConvertError):
    """An output cannot be written: disk space, permissions, or a file that is already there."""

    exit_code = 6


class ToolchainError(ConvertError):
    """llama.cpp, or a tool needed to build it, could not be fetched, built or run."""

    exit_code = 7


class ProgramError(ToolchainError):
    """A program could not be started, ran out of time, or ended with an exit code other than 0.

    command: its arguments, the program first. exit_code_of_program: negative for a signal, None if it never ended.
    step: what it was to do. log: the file with all it said, if there is one.
    """

    def __init__(
        self,
        message: str,
        *,
        command: Sequence[str],
        step: str | None = None,
        exit_code_of_program: int | None = None,
        log: Path | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.command = tuple(command)
        self.step = step
        self.exit_code_of_program = exit_code_of_program
        self.log = log


class RecipeError(ConvertError):
    """A recipe file is wrong."""

    exit_code = 8


class VerificationError(ConvertError):
    """An output, read again, is not what it should be."""

    exit_code = 9
