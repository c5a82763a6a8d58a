"""The commands that describe files and bring them to the Hub, and the options of `all` that do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from convert.cli.asked_options import with_lock_note, write_lock
from convert.cli.options import PATH, program_name
from convert.errors import UsageError, VerificationError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from convert.hub import UploadedFile
    from convert.plan import Plan

_MODEL: Final = click.option(
    "--model", type=PATH, metavar="MODEL", help="The checkpoint that DIR was made from: its card's YAML and commit."
)
_BASE: Final = click.option(
    "--base-model", metavar="ORG/NAME", help="Its repository, where MODEL does not say: `base_model` of the card."
)
_FORCE: Final = click.option("--force", is_flag=True, help="Replace a README.md that was not written by this command.")
_PUBLISHING: Final = (
    click.option("--push-to-hub", metavar="REPO", help="Also upload the files and a card to USER/NAME-GGUF."),
    click.option("--private", is_flag=True, help="With --push-to-hub: the repository must be private."),
    click.option("--discard-uploaded", is_flag=True, help="With --push-to-hub: delete each file once the Hub has it."),
    click.option("--base-model", metavar="ORG/NAME", help="With --push-to-hub: MODEL's repository, for the card."),
)


@dataclass(frozen=True, slots=True)
class Push:
    """What `all` is asked to upload."""

    repository: str | None
    private: bool
    discard: bool
    base_model: str | None


def publishing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options by which a command uploads what it makes."""
    for option in reversed(_PUBLISHING):
        command = option(command)
    return command


def push_of(options: dict[str, Any]) -> Push:
    """Take what `publishing_options` adds out of a command's options, and see that it makes sense."""
    push = Push(
        options.pop("push_to_hub"), options.pop("private"), options.pop("discard_uploaded"), options.pop("base_model")
    )
    if push.repository is None:
        for asked, flag in (
            (push.private, "--private"),
            (push.discard, "--discard-uploaded"),
            (push.base_model, "--base-model"),
        ):
            if asked:
                raise click.UsageError(f"{flag} goes with --push-to-hub", ctx=click.get_current_context())
        return push
    from convert.hub import check_repository_name  # noqa: PLC0415 - the Hub's client, only when needed

    for name in filter(None, (push.repository, push.base_model)):
        check_repository_name(name)
    return push


@click.command("card", short_help="README.md of a directory of GGUF files.")
@click.argument("directory", type=PATH, metavar="DIR")
@_MODEL
@_BASE
@click.option("--repo", metavar="USER/NAME-GGUF", help="Where the files are to be: commands then name it.")
@_FORCE
def card(directory: Path, model: Path | None, base_model: str | None, repo: str | None, force: bool) -> None:
    """Write DIR/README.md, a card for people who must choose: files, sizes, memory, prompt format, commands, checksums.

    What stands between its marks for your own words is kept when it is written again. The measured figures of
    `convert report … --markdown DIR/report.md` are shown in it.

    \b
      convert card quantized/
      convert card quantized/ --model ./llama --base-model meta-llama/Llama-3.1-8B --repo me/Llama-3.1-8B-GGUF
    """  # noqa: D301 - Click's mark for "do not wrap"
    from convert.file_system import write_text  # noqa: PLC0415
    from convert.hub import check_repository_name  # noqa: PLC0415
    from convert.publish.card import CARD, card_text, read_earlier  # noqa: PLC0415 - NumPy and gguf, only when needed
    from convert.publish.checksums import sums_of  # noqa: PLC0415
    from convert.publish.publication import facts_of  # noqa: PLC0415
    from convert.terminal import look  # noqa: PLC0415

    for name in filter(None, (base_model, repo)):
        check_repository_name(name)
    earlier = read_earlier(directory / CARD, force=force)
    facts = facts_of(directory, _here(model), base_model, repo, earlier)
    names = [name for file in facts.directory.files for name in file.names]
    with look.byte_progress(sum(file.nbytes for file in facts.directory.files), doing="reading") as progress:
        facts = facts.with_sums(sums_of(directory, names, progress=progress))
    write_text(directory / CARD, card_text(facts, earlier.kept))
    err = look.stderr()
    if facts.source.repository is None:
        look.say(err, "the card names no base model: --base-model ORG/NAME says which", label="note:")
    look.say(err, f"wrote {directory / CARD}: {look.counted(len(facts.directory.models), 'model')}")


@click.command("modelfile", short_help="Ollama's Modelfile for each GGUF file of a directory.")
@click.argument("directory", type=PATH, metavar="DIR")
@_MODEL
def modelfile(directory: Path, model: Path | None) -> None:
    """Write DIR/Modelfile-TYPE for each model in DIR: FROM, and what is known of template, stop tokens and sampling.

    TEMPLATE is written where the chat template is pieces around messages; one that also writes tools is left to Ollama,
    which reads it in the file.
    """
    from convert.file_system import write_text  # noqa: PLC0415
    from convert.publish.files import FileRole, describe_directory  # noqa: PLC0415
    from convert.publish.modelfile import modelfile as text_of  # noqa: PLC0415
    from convert.publish.modelfile import modelfile_name  # noqa: PLC0415
    from convert.publish.source import read_source  # noqa: PLC0415
    from convert.terminal import look  # noqa: PLC0415

    described, source = describe_directory(directory), read_source(_here(model))
    projectors = [file.names[0] for file in described.of(FileRole.MMPROJ)][:1]
    for each in described.models:
        write_text(directory / modelfile_name(each), text_of(each, projectors, source.end_ids))
        look.say(look.stderr(), f"wrote {directory / modelfile_name(each)}")


@click.command("publish", short_help="Upload a directory of GGUF files, with a card, in one commit.")
@click.argument("directory", type=PATH, metavar="DIR")
@click.argument("repository", metavar="USER/NAME-GGUF")
@_MODEL
@_BASE
@click.option("--private", is_flag=True, help="The repository must be private.")
@_FORCE
def publish(
    directory: Path, repository: str, model: Path | None, base_model: str | None, private: bool, force: bool
) -> None:
    """Upload the GGUF files of DIR, a card, checksums and what Ollama reads: visible together, when all is there.

    The token is HF_TOKEN's or `hf auth login`'s. Interrupted and run again, nothing is sent twice.
    """
    from convert.hub import check_repository_name  # noqa: PLC0415
    from convert.publish.card import CARD, read_earlier  # noqa: PLC0415
    from convert.publish.publication import facts_of, prepare, publish_files  # noqa: PLC0415
    from convert.terminal import look  # noqa: PLC0415

    for name in filter(None, (repository, base_model)):
        check_repository_name(name)
    earlier = read_earlier(directory / CARD, force=force)
    facts = facts_of(directory, _here(model), base_model, repository, earlier)
    prepared = prepare(facts, repository, private=private, force=force)
    look.say(look.stderr(), f"uploading to {prepared.repository.url}")
    with look.warnings_shown():
        publish_files(prepared, told=_tell)
    look.say(look.stderr(), f"published: {prepared.repository.url}")


def _here(model: Path | None) -> Path | None:
    """Give where the small files of a model are, which may be elsewhere."""
    from convert.remote import located  # noqa: PLC0415

    return None if model is None else Path(located(model))


def _tell(file: UploadedFile) -> None:
    from convert.terminal import look  # noqa: PLC0415

    done = "uploaded" if file.sent else "there already:"
    look.say(look.stderr(), f"{done} {file.name}  {look.size(file.nbytes)}")


@click.command("lint", short_help="Which file of a repository each program finds, and what none does.")
@click.argument("place", metavar="DIR|hf://USER/NAME")
@click.option("--json", "as_json", is_flag=True, help="All of it, as JSON.")
def lint(place: str, as_json: bool) -> int:
    """Say which file llama.cpp, the Hub, Ollama and LM Studio take for every tag, and what to mend.

    Exit code 9 where some program does not run what it should.
    """
    import json  # noqa: PLC0415
    from dataclasses import asdict  # noqa: PLC0415

    from convert.publish.lint import choices, findings, list_directory, list_repository  # noqa: PLC0415
    from convert.terminal.lint import show_lint  # noqa: PLC0415

    name, _, revision = place.removeprefix("hf://").partition("@")
    if place.startswith("hf://"):
        listing = list_repository(name, revision or None)
    elif Path(place).is_dir():
        listing = list_directory(Path(place))
    else:
        raise UsageError(f"{shown(place)} is no directory", hint="a repository of the Hub is written hf://USER/NAME")
    chosen, found = choices(listing), findings(listing)
    if as_json:
        click.echo(json.dumps({"choices": [*map(asdict, chosen)], "findings": [*map(asdict, found)]}, indent=2))
    else:
        show_lint(chosen, found)
    return VerificationError.exit_code if any(each.is_problem for each in found) else 0


def make_and_push(
    plan: Plan,
    push: Push,
    model: Path,
    outdir: Path,
    *,
    settled: Mapping[str, Any],
    check: Callable[[], None],
    dry_run: bool,
    as_json: bool,
    lock: bool,
    **writing: Any,
) -> None:
    """Show what is to be made, make it and upload it, with a lock, asked for or not.

    model: its directory. settled: options that are known better by now, for the lock; the importance matrix among them.
    check: what must be so before all is visible.
    """
    del lock
    from convert.codec import kernel_level  # noqa: PLC0415
    from convert.plan.as_json import plan_as_json  # noqa: PLC0415
    from convert.publish.making import Making, make_and_publish  # noqa: PLC0415
    from convert.publish.publication import planned_facts, prepare  # noqa: PLC0415
    from convert.publish.turns import sparing_disk, sparing_time  # noqa: PLC0415
    from convert.recipe import FileDigest  # noqa: PLC0415
    from convert.stream import Writing  # noqa: PLC0415
    from convert.terminal import look  # noqa: PLC0415
    from convert.terminal.plan import show_plan, show_whole_plan  # noqa: PLC0415
    from convert.terminal.report import show_report  # noqa: PLC0415

    if as_json and not dry_run:
        raise click.UsageError("--json goes with --dry-run", ctx=click.get_current_context())
    taking = sparing_disk if push.discard else sparing_time
    turns = taking(plan, range(len(plan.outputs)))
    plan = with_lock_note(replace(plan, notes=(*plan.notes, *([turns.note] if turns.note else []))), are_uploaded=True)
    at_once = turns.nbytes if turns.deletes else None
    if dry_run:
        click.echo(plan_as_json(plan)) if as_json else show_whole_plan(plan, at_once=at_once)
        return
    err = look.stderr()
    show_plan(plan, err, at_once=at_once)
    also = () if settled["imatrix"] is None else (Path(settled["imatrix"]),)
    assert push.repository is not None  # noqa: S101 - asked for
    facts = planned_facts(plan, outdir, model, push.base_model, push.repository)
    names, force = [path.name for path in also], bool(writing.get("force"))
    prepared = prepare(facts, push.repository, private=push.private, force=force, also=names)
    look.say(err, f"uploading to {prepared.repository.url}")
    with look.warnings_shown():
        kernel_level()

    def before_commit(uploaded: Sequence[UploadedFile]) -> None:
        check()
        known = {outdir / file.name: FileDigest(file.nbytes, file.sha256) for file in uploaded}
        write_lock(plan, outdir, known, **settled)

    making = Making(Writing(**writing), taking, also, _tell, look.byte_progress, before_commit)
    with look.warnings_shown():
        report, _ = make_and_publish(plan, prepared, making)
    look.say(err, f"published: {prepared.repository.url}")
    if push.discard:  # nothing of it is kept here
        report = replace(report, outputs=tuple(output for output in report.outputs if output.written))
    show_report(report, then=[*program_name().split(), "lint", f"hf://{prepared.repository.name}"])
