"""A command's options as the words that a lock and a recipe hold, and back; none is possible in one of them alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from convert.plan import Plan
    from convert.recipe import Asked

lock_option = click.option(
    "--lock",
    is_flag=True,
    help="Also convert.lock.json beside the files: what they were made from, to make them again.",
)


def key_of(parameter: click.Parameter) -> str:
    """Call an option as it is spelled, without its dashes; an argument by its name."""
    if isinstance(parameter, click.Argument):
        return str(parameter.name)
    return max(parameter.opts, key=len).removeprefix("--")


def asked_of(context: click.Context, **instead: Any) -> Asked:
    """Say what a command was asked for. instead: options that have become something else since, such as `auto`."""
    from convert.recipe import Asked  # noqa: PLC0415 - NumPy and gguf, only when needed

    given = {key_of(parameter): context.params.get(str(parameter.name)) for parameter in context.command.params}
    return Asked(str(context.command.name), given | instead)


def invoke(command: click.Command, asked: Asked) -> Any:
    """Run a command as if its command line had said this."""
    with command.make_context(
        command.name, list(_words(command, asked)), parent=click.get_current_context()
    ) as context:
        return command.invoke(context)


def _words(command: click.Command, asked: Asked) -> Iterator[str]:
    arguments: list[str] = []
    for parameter in command.params:
        value = asked.options.get(key_of(parameter))
        if value is None:
            continue
        if isinstance(parameter, click.Argument):
            arguments += _listed(value)
        elif isinstance(value, bool):
            spelled = parameter.opts if value else parameter.secondary_opts
            yield from [max(spelled, key=len)] if spelled else []
        else:
            yield from (f"{max(parameter.opts, key=len)}={each}" for each in _listed(value))
    yield from ("--", *arguments)


def _listed(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, (list, tuple)) else [str(value)]


def with_lock_note(plan: Plan) -> Plan:
    """Say in a plan what the lock costs."""
    return replace(plan, notes=(*plan.notes, "for the lock every input and output is read once more, for its SHA-256"))


def write_lock(plan: Plan, directory: Path, **instead: Any) -> None:
    """Write the lock of a run's outputs beside them, and say so."""
    from convert.recipe import LOCK_FILE, lock_outputs  # noqa: PLC0415

    context = click.get_current_context()
    lock_outputs(
        directory,
        asked_of(context, **instead),
        [output.path for output in plan.outputs],
        jobs=context.params.get("jobs"),
    )
    click.echo(f"{directory / LOCK_FILE}", err=True)
