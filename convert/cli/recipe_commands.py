"""`convert reproduce` and `convert recipe`: what was written down is done."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convert.cli.asked_options import invoke
from convert.cli.options import PATH

if TYPE_CHECKING:
    from convert.recipe import Asked


@click.command("reproduce", short_help="Make again what a lock speaks of, and compare.")
@click.argument("lock", type=PATH, metavar="FILE.lock.json")
@click.argument("out", type=PATH, required=False)
@click.option("--model", type=PATH, help="Where the model lies now, if not where the lock says.")
def reproduce(lock: Path, out: Path | None, model: Path | None) -> None:
    """Make again what FILE.lock.json says was made, and say of each file whether it is equal; else exit code 9.

    The files are written to OUT, and stay; without OUT to a temporary directory (TMPDIR), and go when they are
    compared. An input that has changed is named, and so is each program of another version.

    \b
      convert all ./my-finetuned-llama quantized/ --lock
      convert reproduce quantized/convert.lock.json
    """  # noqa: D301 - Click's mark for lines to keep
    from convert.recipe import reproduce as make_again  # noqa: PLC0415 - NumPy and gguf, only when needed
    from convert.terminal import look  # noqa: PLC0415

    place = Path(tempfile.mkdtemp(prefix="convert-reproduce-")) if out is None else out
    try:
        reproduction = make_again(lock, place, run_asked, model=model)
    finally:
        if out is None:
            shutil.rmtree(place, ignore_errors=True)
    console = look.stderr()
    for line in reproduction.changes:
        look.say(console, line, label="changed:", style="bold")
    for output in reproduction.outputs:
        look.say(look.stdout(), f"{'equal' if output.is_equal else 'differs'}  {output.locked.name}")
    reproduction.check()


def run_asked(asked: Asked) -> None:
    """Do what was asked, by the command of its name."""
    group = click.get_current_context().find_root().command
    assert isinstance(group, click.Group)  # noqa: S101 - the root is `cli`
    invoke(group.commands[asked.command], asked)
