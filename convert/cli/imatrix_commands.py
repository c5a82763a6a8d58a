"""`convert imatrix`: how much each column of a model's weights counts, by a text."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from convert.cli.llama_cpp_commands import find_or_build, telling
from convert.cli.options import PATH, dir_option

if TYPE_CHECKING:
    from pathlib import Path

    from convert.model import ModelRequest
    from convert.plan import OutputRequest


@click.command("imatrix", short_help="An importance matrix, from a model and a text.")
@click.argument("model", type=PATH, metavar="MODEL|GGUF")
@click.option("--text", type=PATH, required=True, metavar="FILE", help="What the model reads: plain text.")
@click.option("-o", "--out", type=PATH, required=True, metavar="M.gguf", help="The file to make.")
@click.option(
    "--chunks", type=click.IntRange(min=1), metavar="N", help="Windows of the text, 512 tokens each, at most."
)
@click.option("--in-file", "added", type=PATH, multiple=True, metavar="M.gguf", help="Add what this matrix has seen.")
@click.option("-j", "--jobs", type=click.IntRange(min=1), metavar="N", help="Threads; by default llama.cpp's choice.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@dir_option
def imatrix(
    model: Path,
    text: Path,
    out: Path,
    chunks: int | None,
    added: tuple[Path, ...],
    jobs: int | None,
    force: bool,
    directory: Path | None,
) -> None:
    """Make an importance matrix by the built llama-imatrix, for --imatrix.

    A checkpoint is converted on the way, to f16, or to q8_0 where that does not fit the memory. A run that is
    interrupted goes on when it is started again.

    \b
      convert imatrix ./my-finetuned-llama --text calibration.txt -o my.imatrix.gguf
      convert all ./my-finetuned-llama quantized/ --types standard,iq3_xxs --imatrix my.imatrix.gguf
    """  # noqa: D301 - Click's mark for lines to keep
    from convert.model import as_request  # noqa: PLC0415

    run_calibration(
        as_request(model), text, out, n_windows=chunks, added=added, jobs=jobs, force=force, directory=directory
    )


def importance_for(
    model: ModelRequest,
    wanted: OutputRequest,
    text: Path | None,
    *,
    n_windows: int | None = None,
    directory: Path | None,
    **run: Any,
) -> Path:
    """Give the importance matrix of `convert all --imatrix auto`: beside the outputs, made where it is not there.

    It is made with the F16 file, where that is wanted and is the converter's; that file then is there already.
    """
    from convert import stream  # noqa: PLC0415
    from convert.calibration import stays_in_memory  # noqa: PLC0415
    from convert.conversion import plan_all  # noqa: PLC0415
    from convert.model import as_request  # noqa: PLC0415
    from convert.plan import directory_name, parse_types  # noqa: PLC0415
    from convert.quant_mix import FILE_TYPES  # noqa: PLC0415

    if text is None:
        raise click.UsageError("--imatrix auto needs --text", ctx=click.get_current_context())
    path = wanted.path(directory_name(model.directory), "imatrix")
    if path.exists() and not run["force"]:
        click.echo(f"{path} is there already, and used", err=True)
        return path
    if run["dry_run"]:
        raise click.UsageError(f"{path} is to be made first: `convert imatrix`", ctx=click.get_current_context())
    source, plan = model, None
    if FILE_TYPES["F16"] in parse_types(wanted.types) and not wanted.discard_f16:
        plan = plan_all(model, replace(wanted, types="f16"))
    if plan is not None and stays_in_memory(plan.nbytes):
        writing = {name: run[name] for name in ("force", "jobs", "allow_nonfinite")}
        stream.carry_out(plan, stream.Writing(**writing))
        source = as_request(plan.outputs[0].path)
    run_calibration(source, text, path, n_windows=n_windows, jobs=run["jobs"], force=run["force"], directory=directory)
    return path


def run_calibration(
    model: ModelRequest,
    text: Path,
    out: Path,
    *,
    n_windows: int | None = None,
    added: tuple[Path, ...] = (),
    jobs: int | None = None,
    force: bool = False,
    directory: Path | None = None,
) -> None:
    """Make an importance matrix and tell of it; also for `convert all --imatrix auto`."""
    from convert.calibration import Calibration, CalibrationPrograms, make_importance  # noqa: PLC0415

    programs = CalibrationPrograms(*(find_or_build(role, directory) for role in ("imatrix", "tokenize")))
    calibration = Calibration(model, text, n_windows, added, jobs)
    try:
        with telling() as reporter:
            make_importance(programs, calibration, out, force=force, reporter=reporter)
    except KeyboardInterrupt:
        click.echo("what was read so far is kept; the same command goes on from there", err=True)
        raise
    click.echo(f"{out}  {out.stat().st_size} bytes", err=True)
