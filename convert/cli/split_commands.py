"""The commands that cut GGUF files into parts, and put parts together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from convert.cli.options import PATH, split_of, splitting, writing_files
from convert.cli.writing import show_and_write

if TYPE_CHECKING:
    from pathlib import Path

_USUAL_TENSORS = 128  # llama-gguf-split's, where nothing is said


@click.command("split", short_help="A GGUF file to parts.")
@click.argument("file", type=PATH, metavar="FILE.gguf")
@click.argument("out", type=click.Path(path_type=str))
@splitting
@click.option("--no-tensor-first-split", "first_is_empty", is_flag=True, help="Metadata alone in the first part.")
@writing_files
def split(file: Path, out: str, first_is_empty: bool, **run: Any) -> None:
    """Cut FILE.gguf into OUT-00001-of-00003.gguf and so on, byte for byte as llama-gguf-split does.

    Where OUT is a directory, the parts in it are called as FILE.gguf is. Without a limit a part has 128 tensors.

    \b
      convert split my-model-Q8_0.gguf my-model-Q8_0/ --split-max-size 40G
    """  # noqa: D301 - Click's mark for lines to keep
    from dataclasses import replace  # noqa: PLC0415

    from convert.conversion import plan_split  # noqa: PLC0415 - NumPy and gguf, only when needed
    from convert.plan import SplitRequest  # noqa: PLC0415

    request = split_of(run) or SplitRequest(max_tensors=_USUAL_TENSORS)
    show_and_write(plan_split(file, out, replace(request, first_is_empty=first_is_empty)), **run)


@click.command("merge", short_help="The parts of a GGUF file to one.")
@click.argument("first", type=PATH, metavar="FIRST.gguf")
@click.argument("out", type=click.Path(path_type=str), metavar="OUT.gguf")
@writing_files
def merge(first: Path, out: str, **run: Any) -> None:
    """Put parts together, whose first is FIRST.gguf, to the file OUT.gguf, byte for byte as llama-gguf-split does.

    \b
      convert merge my-model-Q8_0-00001-of-00003.gguf my-model-Q8_0.gguf
    """  # noqa: D301 - Click's mark for lines to keep
    from convert.conversion import plan_merge  # noqa: PLC0415

    show_and_write(plan_merge(first, out), **run)
