"""Showing a plan, and carrying it out: what all commands that write GGUF files do last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from convert.cli.cluster_commands import write_plan
from convert.cli.options import program_name

if TYPE_CHECKING:
    from pathlib import Path

    from convert.plan import Plan
    from convert.stream import Progress, Report, Writing


def show_and_write(
    plan: Plan, *, dry_run: bool, as_json: bool, ray: str | None = None, plan_file: Path | None = None, **writing: Any
) -> None:
    """Show a plan, and carry it out unless it is a dry run.

    ray: a cluster's address, where it is to be done by one. plan_file: where the plan goes instead, cut up for others.
    """
    from convert import stream  # noqa: PLC0415
    from convert.codec import kernel_level  # noqa: PLC0415
    from convert.plan.as_json import plan_as_json  # noqa: PLC0415
    from convert.terminal import look  # noqa: PLC0415
    from convert.terminal.plan import show_plan, show_whole_plan  # noqa: PLC0415
    from convert.terminal.report import show_report  # noqa: PLC0415

    if as_json and not dry_run:
        raise click.UsageError("--json goes with --dry-run", ctx=click.get_current_context())
    if dry_run:
        if as_json:
            click.echo(plan_as_json(plan))
        else:
            show_whole_plan(plan)
        return
    show_plan(plan, look.stderr())
    with look.warnings_shown():
        kernel_level()
    if plan_file is not None:
        write_plan(plan, plan_file, **writing)
        return
    with look.warnings_shown(), look.byte_progress(plan.nbytes) as progress:
        how = stream.Writing(**writing)
        report = stream.carry_out(plan, how, progress=progress) if ray is None else _by_ray(plan, how, ray, progress)
    show_report(report, then=try_out(plan))


def _by_ray(plan: Plan, how: Writing, address: str, progress: Progress) -> Report:
    from convert.cluster import carry_out_by_ray, make_job  # noqa: PLC0415

    return carry_out_by_ray(make_job(plan, how), address or None, jobs=how.jobs, progress=progress)


def try_out(plan: Plan) -> list[str]:
    """Give the command line that tries the smallest of the files."""
    smallest = min(plan.models, key=lambda files: sum(output.nbytes for output in files))
    return [*program_name().split(), "run", str(smallest[0].path), "-p", "Once upon a time", "-n", "50"]
