"""Options that several commands have."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from convert.checkpoint import Stated
    from convert.model import ModelRequest
    from convert.plan import SplitRequest

# What cannot be read or written is told by whoever tries, in words that fit.
PATH: Final = click.Path(path_type=Path, readable=False)
MERGE: Final = click.option(
    "--merge",
    multiple=True,
    metavar="ADAPTER[:WEIGHT]",
    help="Merge a LoRA or DoRA adapter, a directory as peft saves it, or hf://USER/ADAPTER; may be repeated.",
)
_STATED: Final = (
    click.option("--config", type=PATH, metavar="FILE", help="A config.json that counts instead of MODEL's own."),
    click.option("--tokenizer", type=PATH, metavar="DIR", help="Take the tokenizer's files from this directory."),
    click.option(
        "--context",
        type=click.IntRange(min=1),
        metavar="N",
        help="The longest text in tokens, where MODEL does not say.",
    ),
)
_OLD: Final = (
    click.option("--gqa", type=click.IntRange(min=1), metavar="N", help="Of ggmlv3: heads that share one of keys."),
    click.option(
        "--eps", type=click.FloatRange(min=0, min_open=True), metavar="X", help="Of ggmlv3: the norms' epsilon."
    ),
    click.option("--context", type=click.IntRange(min=1), metavar="N", help="Of ggmlv3: the longest text, in tokens."),
)
_PRE_TOKENIZER: Final = click.option(
    "--pre-tokenizer",
    metavar="NAME",
    help="What `tokenizer.ggml.pre` is to be, where the tokenizer is not recognised.",
)
_DEFINITION: Final = (
    click.option(
        "--frontend",
        type=click.Choice(["auto", "native", "llama.cpp"]),
        default="auto",
        show_default=True,
        help="Whose definition of the architecture: auto is ours where there is one, else llama.cpp's.",
    ),
    click.option("--ref", metavar="TAG|COMMIT", help="Of llama.cpp's: another than the pinned one, once fetched."),
    click.option(
        "--max-memory", metavar="SIZE", help="Of llama.cpp's: what tensors that are computed whole may take, as 8GB."
    ),
    click.option(
        "--trust-remote-code", is_flag=True, help="Of llama.cpp's: let Python code of MODEL run, without a network."
    ),
)
_SPLITTING: Final = (
    click.option(
        "--split-max-size",
        metavar="SIZE",
        help="Files in parts, whose tensors take at most so much, as 40G or 500M.",
    ),
    click.option("--split-max-tensors", type=int, metavar="N", help="Files in parts of at most so many tensors."),
)
_WRITING: Final = (
    click.option("--force", is_flag=True, help="Replace files that exist and differ from the plan."),
    click.option(
        "-j",
        "--jobs",
        type=click.IntRange(min=1),
        metavar="N",
        help="Workers; by default one a processor that may be used.",
    ),
    click.option(
        "--allow-nonfinite",
        is_flag=True,
        help="Write NaN, infinity and float16 overflow instead of ending in an error.",
    ),
    click.option("--dry-run", is_flag=True, help="Print the whole plan and write nothing."),
    click.option("--json", "as_json", is_flag=True, help="With --dry-run: the plan as JSON."),
)


def program_name() -> str:
    """Tell what the command is called where it runs: `convert`, `gguf-convert`, or as a module."""
    name = os.path.basename(sys.argv[0])  # noqa: PTH119 - argv, not a path to open
    return "python -m convert" if name == "__main__.py" else name


def operand(path: Path) -> str:
    """Write a path so that a command line does not take it for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def checkpoint_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what every command that reads a checkpoint has."""
    for option in reversed(_DEFINITION):
        command = option(command)
    return MERGE(_PRE_TOKENIZER(stating(command)))


def stating(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what says by name what a checkpoint's own files do not."""
    for option in reversed(_STATED):
        command = option(command)
    return command


def stating_of_old(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what says by name what files older than GGUF do not."""
    for option in reversed(_OLD):
        command = option(command)
    return command


def stated_of(options: dict[str, Any]) -> Stated:
    """Take what `stating` or `stating_of_old` adds out of a command's options."""
    from convert.checkpoint import Stated  # noqa: PLC0415 - NumPy, only when needed

    return Stated(
        **{name: options.pop(name) for name in ("config", "tokenizer", "context", "gqa", "eps") if name in options}
    )


def request_of(model: Path, options: dict[str, Any], directory: Path | None = None) -> ModelRequest:
    """Take what `checkpoint_options` adds out of a command's options, as a request for MODEL."""
    from convert.model import DefinitionRequest, FrontEnd, model_request  # noqa: PLC0415 - NumPy and gguf
    from convert.plan import parse_size  # noqa: PLC0415

    limit = options.pop("max_memory")
    definition = DefinitionRequest(
        FrontEnd(options.pop("frontend")),
        options.pop("ref"),
        options.pop("trust_remote_code"),
        None if limit is None else parse_size(limit),
        directory,
    )
    return model_request(
        model,
        merge=options.pop("merge"),
        pre_tokenizer=options.pop("pre_tokenizer"),
        definition=definition,
        stated=stated_of(options),
    )


def writing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what every command that makes something of weights has."""
    for option in reversed(_WRITING):
        command = option(command)
    return command


def writing_files(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what every command has that writes what is there already."""
    for option in reversed((*_WRITING[:2], *_WRITING[3:])):
        command = option(command)
    return command


def splitting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what every command that makes GGUF files has."""
    for option in reversed(_SPLITTING):
        command = option(command)
    return command


def split_of(options: dict[str, Any]) -> SplitRequest | None:
    """Take what `splitting` adds out of a command's options."""
    from convert.plan import SplitRequest  # noqa: PLC0415 - NumPy and gguf, only when needed

    size, n_tensors = options.pop("split_max_size"), options.pop("split_max_tensors")
    return None if size is None and n_tensors is None else SplitRequest(size, n_tensors)


dir_option = click.option(
    "--dir",
    "directory",
    type=PATH,
    help="Where llama.cpp lives; by default vendor/llama.cpp of this project's checkout around here, else the user's"
    " cache.",
)
