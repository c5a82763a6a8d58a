"""llama-quantize's options, on every command that quantizes; and as words for llama-quantize itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from convert.cli.options import PATH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from convert.quant_mix import QuantizeOptions

TYPES_HELP: Final = (
    "Comma-separated, in any case: f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, iq4_xs … (an unknown one lists all); "
    "or standard, what publishers make, or all."
)

_OPTIONS: Final = (
    click.option(
        "--imatrix", metavar="FILE", help="An importance matrix, as llama-imatrix makes it; on `all` auto makes one."
    ),
    click.option("--imatrix-name", metavar="TEXT", help="What the files call it; by default its path, as given."),
    click.option("--include-weights", multiple=True, metavar="NAME", help="Use it only for tensors with this name."),
    click.option("--exclude-weights", multiple=True, metavar="NAME", help="Do not use it for tensors with this name."),
    click.option("--pure", is_flag=True, help="No mixture: every tensor in the file's own type."),
    click.option("--leave-output-tensor", is_flag=True, help="Do not quantize output.weight."),
    click.option("--output-tensor-type", metavar="TYPE", help="Type of output.weight."),
    click.option("--token-embedding-type", metavar="TYPE", help="Type of the token embedding."),
    click.option(
        "--tensor-type", multiple=True, metavar="REGEX=TYPE", help="Type of tensors by name; the first that fits."
    ),
    click.option("--tensor-type-file", type=PATH, metavar="FILE", help="More of these, after the others."),
    click.option("--prune-layers", metavar="N,N…", help="Leave layers out."),
    click.option(
        "--lossless",
        type=click.Choice(["possible", "strict"]),
        metavar="[=strict]",
        help="Keep a packed checkpoint's integers and scales where blocks of the type can hold them; =strict: or fail.",
    ),
    click.option("--override-kv", multiple=True, metavar="KEY=TYPE:VALUE", help="Set metadata: int, float, bool, str."),
)
_REQUANTIZE: Final = click.option(
    "--allow-requantize", is_flag=True, help="Quantize tensors again that are quantized already; they lose twice."
)
_KEEP_SPLIT: Final = click.option("--keep-split", is_flag=True, help="Files in parts, cut where IN.gguf is.")
_NAMES: Final = (
    "imatrix", "imatrix_name", "include_weights", "exclude_weights", "pure", "leave_output_tensor",
    "output_tensor_type", "token_embedding_type", "tensor_type", "tensor_type_file", "prune_layers", "override_kv",
    "allow_requantize", "keep_split", "lossless",
)  # fmt: skip


def quantizing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that make sense wherever something is quantized."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def requantizing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add those, and the ones for sources that are quantized or in parts already."""
    return quantizing(_REQUANTIZE(_KEEP_SPLIT(command)))


def taken_from(run: dict[str, Any]) -> QuantizeOptions:
    """Take these options out of all that a command was given, and read them."""
    return read(words(run))


def words(run: dict[str, Any]) -> dict[str, Any]:
    """Take these options out of all that a command was given, as words."""
    return {name: run.pop(name) for name in _NAMES if name in run}


def read(asked: Mapping[str, Any]) -> QuantizeOptions:
    """Read the options."""
    from convert.quant_mix import quantize_options  # noqa: PLC0415 - NumPy and gguf, only when needed

    return quantize_options(**asked)


def as_flags(asked: Mapping[str, Any]) -> tuple[str, ...]:
    """Give the options to llama-quantize, which spells them the same."""
    return tuple(_flags(asked))


def _flags(asked: Mapping[str, Any]) -> Iterator[str]:
    for name, value in asked.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            yield flag
        elif isinstance(value, tuple):
            for each in value:
                yield from (flag, each)
        elif value:
            yield from (flag, str(value))
