"""Showing a plan, and carrying it out: what all commands that write GGUF files do last."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from convert.cli.asked_options import with_lock_note, write_lock
from convert.cli.options import operand, program_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from convert.plan import Plan


def show_and_write(
    plan: Plan,
    place: Path | None = None,
    settled: Mapping[str, Any] = MappingProxyType({}),
    *,
    dry_run: bool,
    as_json: bool,
    lock: bool = False,
    **writing: Any,
) -> None:
    """Show a plan, and carry it out unless it is a dry run.

    place: where a lock goes. settled: options that are known better by now, for the lock.
    """
    from convert import stream  # noqa: PLC0415
    from convert.codec import kernel_level  # noqa: PLC0415
    from convert.plan.as_json import plan_as_json  # noqa: PLC0415
    from convert.remote import received_nbytes  # noqa: PLC0415
    from convert.terminal import look  # noqa: PLC0415
    from convert.terminal.plan import show_plan, show_whole_plan  # noqa: PLC0415
    from convert.terminal.report import show_report  # noqa: PLC0415

    if as_json and not dry_run:
        raise click.UsageError("--json goes with --dry-run", ctx=click.get_current_context())
    plan = with_lock_note(plan) if lock else plan
    if dry_run:
        if as_json:
            click.echo(plan_as_json(plan))
        else:
            show_whole_plan(plan)
        return
    show_plan(plan, look.stderr())
    with look.warnings_shown():
        kernel_level()
    with look.warnings_shown(), look.byte_progress(plan.nbytes, received_nbytes) as progress:
        report = stream.carry_out(plan, stream.Writing(**writing), progress=progress)
    if lock and place is not None:
        write_lock(plan, place, **settled)
    context = click.get_current_context()
    show_report(report, then=_try_out(plan) if context.parent is context.find_root() else ())


def _try_out(plan: Plan) -> list[str]:
    """Give the command line that tries the smallest of the files."""
    smallest = min(plan.models, key=lambda files: sum(output.nbytes for output in files))
    return [*program_name().split(), "run", operand(smallest[0].path), "-p", "Once upon a time", "-n", "50"]
