"""A command's options as the words that a lock and a recipe hold, and back; none is possible in one of them alone."""

from __future__ import annotations

import glob
import shlex
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from convert.cli.options import program_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from convert.plan import Plan
    from convert.recipe import Asked, FileDigest
    from convert.recipe.schema import Key, Schema

lock_option = click.option(
    "--lock",
    is_flag=True,
    help="Also convert.lock.json beside the files: what they were made from, to make them again.",
)


# What a recipe has no use for: commands that make nothing, and options that `recipe check` stands for.
NO_JOBS = frozenset({"build-llamacpp", "doctor", "inspect", "recipe", "reproduce", "run"})
NO_KEYS = frozenset({"dry_run", "as_json"})


def key_of(parameter: click.Parameter) -> str:
    """Call an option as it is spelled, without its dashes; an argument by its name."""
    if isinstance(parameter, click.Argument):
        return str(parameter.name)
    return max(parameter.opts, key=len).removeprefix("--")


def schema_of(group: click.Group) -> Schema:
    """Say what a recipe may ask of each command that makes something: every option of it, but for dry runs."""
    return {name: _keys(command) for name, command in group.commands.items() if name not in NO_JOBS}


def _keys(command: click.Command) -> dict[str, Key]:
    defaults = command.make_context(command.name, [], resilient_parsing=True).params
    return {
        key_of(parameter): replace(_key(parameter), default=defaults.get(str(parameter.name)))
        for parameter in command.params
        if parameter.name not in NO_KEYS
    }


def _key(parameter: click.Parameter) -> Key:
    from convert.recipe.schema import Key, Kind  # noqa: PLC0415

    many = parameter.nargs == -1 or parameter.multiple
    if isinstance(parameter, click.Option) and parameter.is_flag:
        return Key(Kind.FLAG)
    if isinstance(parameter.type, click.Choice):
        return Key(Kind.TEXT, many, parameter.required, tuple(map(str, parameter.type.choices)))
    if isinstance(parameter.type, click.types.IntParamType):
        return Key(Kind.INTEGER, many, parameter.required, least=getattr(parameter.type, "min", None))
    if isinstance(parameter.type, click.types.FloatParamType):
        return Key(Kind.NUMBER, many, parameter.required)
    kind = Kind.PLACE if isinstance(parameter.type, click.Path) else Kind.TEXT
    return Key(kind, many, parameter.required)


def asked_of(context: click.Context, **instead: Any) -> Asked:
    """Say what a command was asked for. instead: options that have become something else since, such as `auto`."""
    from convert.recipe import Asked  # noqa: PLC0415 - NumPy and gguf, only when needed

    given = {
        key_of(parameter): context.params.get(str(parameter.name))
        for parameter in context.command.params
        if parameter.name not in NO_KEYS
    }
    return Asked(str(context.command.name), given | instead)


def invoke(command: click.Command, asked: Asked) -> Any:
    """Run a command as if its command line had said this."""
    with command.make_context(
        command.name, list(_words(command, asked)), parent=click.get_current_context()
    ) as context:
        return command.invoke(context)


def command_line(command: click.Command, asked: Asked) -> str:
    """Write the command line that asks for the same; what is the default anyway is left out."""
    defaults = {name: key.default for name, key in _keys(command).items()}
    options = {name: value for name, value in asked.options.items() if value != defaults.get(name)}
    words = (word for word in _words(command, replace(asked, options=options)) if word != "--")
    return f"{program_name()} {asked.command} {shlex.join(words)}"


def _words(command: click.Command, asked: Asked) -> Iterator[str]:
    arguments: list[str] = []
    for parameter in command.params:
        value = asked.options.get(key_of(parameter))
        if value is None:
            continue
        if isinstance(parameter, click.Argument):
            arguments += [found for word in _listed(value) for found in _expanded(word, parameter)]
        elif isinstance(value, bool):
            spelled = parameter.opts if value else parameter.secondary_opts
            yield from [max(spelled, key=len)] if spelled else []
        else:
            yield from (f"{max(parameter.opts, key=len)}={each}" for each in _listed(value))
    yield from ("--", *arguments)


def _expanded(word: str, parameter: click.Argument) -> list[str]:
    """Put the files for a pattern, as a shell does, where there may be several."""
    found = sorted(glob.glob(word)) if parameter.nargs == -1 else []  # noqa: PTH207 - it may be absolute
    return found or [word]


def _listed(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, (list, tuple)) else [str(value)]


def with_lock_note(plan: Plan, *, are_uploaded: bool = False) -> Plan:
    """Say in a plan what the lock costs: of weights on the Hub, and of what goes there, the digests are known."""
    from convert.remote import said  # noqa: PLC0415

    is_elsewhere = said(str(plan.source)) != str(plan.source)
    read = [word for word, is_known in (("input", is_elsewhere), ("output", are_uploaded)) if not is_known]
    note = f"for the lock every {' and '.join(read)} is read once more, for its SHA-256"
    return replace(plan, notes=(*plan.notes, note)) if read else plan


def write_lock(
    plan: Plan, directory: Path, known: Mapping[Path, FileDigest] = MappingProxyType({}), **instead: Any
) -> None:
    """Write the lock of a run's outputs beside them, and say so. known: digests of outputs that need no reading."""
    from convert.recipe import LOCK_FILE, lock_outputs  # noqa: PLC0415
    from convert.terminal import look  # noqa: PLC0415

    context = click.get_current_context()
    lock_outputs(
        directory,
        asked_of(context, **instead),
        [output.path for output in plan.outputs],
        jobs=context.params.get("jobs"),
        known=known,
        reading=partial(look.byte_progress, doing="reading"),
    )
    click.echo(f"{directory / LOCK_FILE}", err=True)
