"""The commands that share a conversion among machines: plan it, work at it, finish it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from convert.cli.options import PATH, program_name

if TYPE_CHECKING:
    from pathlib import Path

    from convert.plan import Plan

# Of `all`: what happens after the files are there, or instead; and as what it is then not asked for.
_NOT_FOR_A_PLAN = {
    "as_json": False, "base_model": None, "discard_uploaded": False, "dry_run": False, "lock": False, "private": False,
    "push_to_hub": None, "verifies": False,
}  # fmt: skip
_EPILOG = """
Plan once, work anywhere, finish once; every machine needs MODEL, OUTDIR and plan.bin under the same paths:

\b
  convert plan /shared/llama-405b /shared/out --types q8_0,q4_k_m -o /shared/plan.bin
  sbatch --array=1-16 --wrap 'convert work /shared/plan.bin --part $SLURM_ARRAY_TASK_ID/16'
  convert finish /shared/plan.bin
"""


def planning(whole: click.Command) -> click.Command:
    """Make the command that plans what another, which does everything, would do: its arguments and options."""
    options = [option for option in whole.params if option.name not in {*_NOT_FOR_A_PLAN, "ray"}]
    out = click.Option(["-o", "plan_file"], type=PATH, required=True, metavar="FILE", help="Where the plan goes.")

    def plan(**given: Any) -> None:
        """Write a plan of what `convert all MODEL OUTDIR` does, for workers on other machines.

        The plan holds all that is decided: types, places, statistics of whole tensors. Weights and the importance
        matrix are read where they are. Whoever carries a plan out reads and writes the files that it names: take it, as
        a program, only from whom you trust.
        """
        assert whole.callback is not None  # noqa: S101 - it is a command's
        whole.callback(**_NOT_FOR_A_PLAN, **given)

    return type(whole)(
        "plan",
        callback=plan,
        params=[*options, out],
        help=plan.__doc__,
        epilog=_EPILOG,
        short_help="A conversion, cut up for many machines.",
    )


def write_plan(plan: Plan, path: Path, **writing: Any) -> None:
    """Cut a plan into units and write it to a file."""
    from convert.cluster import make_job, write_job  # noqa: PLC0415 - NumPy and gguf, only when needed
    from convert.stream import Writing  # noqa: PLC0415

    job = make_job(plan, Writing(**writing))
    write_job(job, path)
    name = program_name()
    click.echo(f"{path}  {path.stat().st_size} bytes, {len(job.units)} units", err=True)
    click.echo(f"next: {name} work {path} --part 1/N … N/N, then {name} finish {path}", err=True)


class _Part(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of Click only
    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Read `3/16`."""
        part, _, of = str(value).partition("/")
        if not (part.isdecimal() and of.isdecimal()):
            self.fail(f"{value!r} is no part of a whole, as 3/16", param, ctx)
        return int(part), int(of)


@click.command("work", short_help="A worker's share of a plan.")
@click.argument("plan", type=PATH)
@click.option(
    "--part", type=_Part(), default="1/1", metavar="I/N", help="Which share, from 1/N to N/N; by default all."
)
@click.option("-j", "--jobs", type=click.IntRange(min=1), metavar="N", help="Threads; by default one a processor.")
def work(plan: Path, part: tuple[int, int], jobs: int | None) -> None:
    """Carry out a share of PLAN's units: their bytes go to hidden files beside the outputs, at their places.

    Units that are done are passed over: the same command again, or another share, goes on where one was cut short.

    \b
      convert work /shared/plan.bin --part $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT
      convert work /shared/plan.bin                     # what is left, here
    """  # noqa: D301 - Click's mark for lines to keep
    from convert.cluster import carry_out_units, nbytes_of, read_job, share, units_to_do  # noqa: PLC0415
    from convert.codec import kernel_level  # noqa: PLC0415
    from convert.terminal import look  # noqa: PLC0415

    job = read_job(plan)
    units = share(job, *part)
    with look.warnings_shown():
        kernel_level()
    with look.warnings_shown(), look.byte_progress(sum(nbytes_of(job.plan, unit) for unit in units)) as progress:
        carry_out_units(job, units, jobs=jobs, progress=progress)
    left = len(units_to_do(job))
    click.echo(
        f"part {part[0]} of {part[1]} is done: {look.counted(len(units), 'unit')}; {_left(left, plan)}", err=True
    )


def _left(n_units: int, plan: Path) -> str:
    return f"of all, {n_units} are left" if n_units else f"none is left: {program_name()} finish {plan}"


@click.command("finish", short_help="Publish a plan's files, when all is done.")
@click.argument("plan", type=PATH)
def finish(plan: Path) -> None:
    """Give the files of PLAN their final names, all together, when every unit is done.

    \b
      convert finish /shared/plan.bin
    """  # noqa: D301 - Click's mark for lines to keep
    from convert import cluster  # noqa: PLC0415
    from convert.cli.writing import try_out  # noqa: PLC0415
    from convert.terminal.report import show_report  # noqa: PLC0415

    job = cluster.read_job(plan)
    show_report(cluster.finish(job), then=try_out(job.plan))
