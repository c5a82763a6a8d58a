"""`convert reproduce` and `convert recipe`: what was written down is done."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convert.cli.asked_options import command_line, invoke, schema_of
from convert.cli.options import PATH
from convert.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convert.recipe import Asked
    from convert.recipe.read import Batch, Recipe


@click.command("reproduce", short_help="Make again what a lock speaks of, and compare.")
@click.argument("lock", type=PATH, metavar="FILE.lock.json")
@click.argument("out", type=PATH, required=False)
@click.option("--model", type=PATH, help="Where the model lies now, if not where the lock says.")
@click.option("--trust-remote-code", "trusts_code", is_flag=True, help="Let code of the model run, if it did then.")
def reproduce(lock: Path, out: Path | None, model: Path | None, trusts_code: bool) -> None:
    """Make again what FILE.lock.json says was made, and say of each file whether it is equal; else exit code 9.

    The files are written to OUT, and stay; without OUT to a temporary directory (TMPDIR), and go when they are
    compared. An input that has changed is named, and so is each program of another version.

    \b
      convert all ./my-finetuned-llama quantized/ --lock
      convert reproduce quantized/convert.lock.json
    """  # noqa: D301 - Click's mark for lines to keep
    from convert.recipe import reproduce as make_again  # noqa: PLC0415 - NumPy and gguf, only when needed
    from convert.terminal import look  # noqa: PLC0415

    reading = partial(look.byte_progress, doing="reading")
    place = Path(tempfile.mkdtemp(prefix="convert-reproduce-")) if out is None else out
    try:
        reproduction = make_again(lock, place, run_asked, model=model, trusts_code=trusts_code, reading=reading)
    finally:
        if out is None:
            shutil.rmtree(place, ignore_errors=True)
    console = look.stderr()
    for line in reproduction.changes:
        look.say(console, line, label="changed:", style="bold")
    for output in reproduction.outputs:
        look.say(look.stdout(), f"{'equal' if output.is_equal else 'differs'}  {output.locked.name}")
    reproduction.check()


@click.group("recipe", short_help="Jobs that are written down: check, run, and a first one.")
def recipe() -> None:
    """Do what a file in TOML says: models, and what is made of each.

    A key is called as the option of the command, without its dashes; `models` are paths, patterns or addresses; each
    [[job]] is a command (by default `all`, or `quantize` for a GGUF file). {model} is a model's name, {path} its path.
    Paths are as seen from the recipe. Everything wrong with it is told before anything starts: exit code 8.

    \b
      models = ["./llama", "runs/*/final"]
      outdir = "quantized/{model}"
      types = ["f16", "q4_k_m", "iq3_xxs"]
      imatrix = { text = "calibration.txt", chunks = 100 }
    """  # noqa: D301 - Click's mark for lines to keep


@recipe.command("run", short_help="Do what a recipe says.")
@click.argument("path", type=PATH, metavar="FILE.toml")
@click.option(
    "--retries",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Try again what failed after 5 s, 10 s, 20 s …",
)
@click.option(
    "--keep-free",
    metavar="SIZE",
    help="Begin no outputs that would leave less of the disk free, as 50G: they wait as --retries says, then fail.",
)
@click.option("--downloads", type=click.IntRange(min=1), metavar="N", help="Requests for a model's bytes at a time.")
def run_recipe(path: Path, retries: int, keep_free: str | None, downloads: int | None) -> None:
    """Do what FILE.toml says, for one model after the other.

    The outputs' convert.lock.json says how they were made, and what it says was made is not made again; of what is
    pushed to the Hub, the one that is there. A model that fails, or finds the disk too full, does not keep the others
    from being made; what failed is listed at the end.
    """
    from convert.file_system import keeping_free  # noqa: PLC0415
    from convert.plan import parse_size  # noqa: PLC0415
    from convert.remote import at_most  # noqa: PLC0415

    with keeping_free(parse_size(keep_free) if keep_free else 0), at_most(downloads):
        _run_batches(_read(path).batches, retries)


def _run_batches(batches: Sequence[Batch], retries: int) -> None:
    from convert.recipe.fleet import carry_out_batches  # noqa: PLC0415
    from convert.terminal import look  # noqa: PLC0415

    console = look.stderr()
    failures = carry_out_batches(
        batches,
        run_asked,
        tell=partial(look.say, console),
        retries=retries,
        reading=partial(look.byte_progress, doing="reading"),
    )
    if not failures:
        return
    if len(batches) > 1:
        look.say(console, f"{len(failures)} of {len(batches)} models failed:")
        for failure in failures:
            look.say(console, f"  {failure.name}: {failure.error.message}")
    raise failures[0].error


@recipe.command("check", short_help="The plan of a recipe; nothing is written.")
@click.argument("path", type=PATH, metavar="FILE.toml")
def check_recipe(path: Path) -> None:
    """Read FILE.toml, and print the plan of everything that it would do, as --dry-run prints it."""
    from convert.recipe.checks import missing_inputs  # noqa: PLC0415

    group = _commands()
    for batch in _read(path).batches:
        for asked in batch.steps:
            click.echo(f"\n{command_line(group.commands[asked.command], asked)}")
            if not any(parameter.name == "dry_run" for parameter in group.commands[asked.command].params):
                continue
            if any(missing_inputs(asked, ())) or asked.options.get("imatrix") == "auto":
                click.echo("what it reads is made first: its plan is known then")
            else:
                run_asked(replace(asked, options={**asked.options, "dry-run": True}))


@recipe.command("init", short_help="A recipe to start from.")
@click.argument("model", type=PATH)
@click.option("-o", "--out", type=PATH, metavar="FILE.toml", help="The file to write; by default MODEL's name.")
def init_recipe(model: Path, out: Path | None) -> None:
    """Write a recipe for MODEL to start from: what it does, and in comments what it could do."""
    from convert.errors import OutputError  # noqa: PLC0415
    from convert.recipe.first import first_recipe  # noqa: PLC0415
    from convert.recipe.models import model_name  # noqa: PLC0415

    place = out or Path(f"{model_name(str(model))}.toml")
    try:
        with place.open("x", encoding="utf-8") as file:
            file.write(first_recipe(str(model), place.parent))
    except OSError as error:
        raise OutputError(f"`{place}` cannot be written: {error.strerror}", hint="name another with -o") from error
    click.echo(f"{place}", err=True)


def _read(path: Path) -> Recipe:
    from convert.recipe.read import read_recipe  # noqa: PLC0415 - NumPy and gguf, only when needed

    return read_recipe(path, schema_of(_commands()))


def _commands() -> click.Group:
    group = click.get_current_context().find_root().command
    assert isinstance(group, click.Group)  # noqa: S101 - the root is `cli`
    return group


def run_asked(asked: Asked) -> None:
    """Do what was asked, by the command of its name."""
    try:
        invoke(_commands().commands[asked.command], asked)
    except click.ClickException as error:
        raise UsageError(f"`{asked.command}`: {error.format_message()}") from error
