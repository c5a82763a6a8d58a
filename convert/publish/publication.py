"""Files to a repository: each uploaded when it is complete, all made visible by one commit.

    prepare   names, card and permission are checked, before any work
    upload    a file at a time: those that are there by `publish_files`, those being made by `making`
    finish    the card, the sums, Ollama's files; the commit

Until then nothing of it is seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from convert.file_system import write_text
from convert.gguf_file import parse_gguf
from convert.hub import HubCommit, HubRepository, UploadedFile, prepare_repository
from convert.publish.card import CARD, REPORT, CardFacts, EarlierCard, card_text, read_earlier
from convert.publish.checksums import SUMS, sums_text
from convert.publish.files import describe, describe_directory
from convert.publish.modelfile import hub_files
from convert.publish.source import read_source
from convert.recipe import LOCK_FILE, Lock, read_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from convert.plan import Plan


@dataclass(frozen=True, slots=True)
class Prepared:
    """A repository that can take the files. kept: an author's words in the card."""

    facts: CardFacts
    repository: HubRepository
    kept: str | None

    @property
    def directory(self) -> Path:
        """Where the files lie."""
        return self.facts.directory.path

    @property
    def names(self) -> list[str]:
        """The large files, in the order in which the card lists them."""
        return [name for file in self.facts.directory.files for name in file.names]


def facts_of(
    directory: Path, model: Path | None, base_model: str | None, repository: str | None, earlier: EarlierCard
) -> CardFacts:
    """Gather what a card says of files that are there.

    model: the checkpoint's directory. base_model: its repository; an earlier card's where neither says it.
    Raises as for `describe_directory`.
    """
    source = read_source(model, base_model)
    if model is None:
        source = replace(earlier.source, repository=base_model or earlier.source.repository)
    described = describe_directory(directory)
    measured, lock = _measured(directory), _lock_of(directory)
    return CardFacts(described, source, repository, made_here=earlier.made_here, measured=measured, lock=lock)


def planned_facts(plan: Plan, outdir: Path, model: Path, base_model: str | None, repository: str) -> CardFacts:
    """Gather what a card says of files that are planned; their lengths and headers are known."""
    outputs = {output.path.relative_to(outdir).as_posix(): output for output in plan.outputs}
    described = describe(
        outdir, outputs, lambda name: parse_gguf(outputs[name].path, outputs[name].header, outputs[name].nbytes)
    )
    source = read_source(model, base_model)
    return CardFacts(described, source, repository, made_here=True, measured=_measured(outdir))


def _lock_of(directory: Path) -> Lock | None:
    """Read how the files were made, where that is written beside them. Raises RecipeError for a lock that is none."""
    return read_lock(directory / LOCK_FILE) if (directory / LOCK_FILE).is_file() else None


def _measured(directory: Path) -> str | None:
    report = directory / REPORT
    return report.read_text(encoding="utf-8", errors="replace") if report.is_file() else None


def prepare(facts: CardFacts, name: str, *, private: bool, force: bool, also: Sequence[str] = ()) -> Prepared:
    """Find or create the repository, and see that it can take these files and their card. Nothing is uploaded.

    also: files beside the models, of any kind. Raises as for `prepare_repository`, and OutputError for a README.md
    that is someone else's.
    """
    kept = read_earlier(facts.directory.path / CARD, force=force).kept
    files = [each for file in facts.directory.files for each in file.names] + [*also]
    repository = prepare_repository(name, private=private, files=files, card=card_text(facts, kept))
    return Prepared(replace(facts, repository=repository.name), repository, kept)


def publish_files(prepared: Prepared, *, told: Callable[[UploadedFile], None]) -> str:
    """Upload files that are there, and make them visible together; return the commit's address.

    told: of each file when the Hub has it. Raises OutputError.
    """
    commit = HubCommit(prepared.repository)
    uploaded = []
    for name in prepared.names:
        uploaded.append(commit.upload(prepared.directory / name, name))
        told(uploaded[-1])
    return finish(prepared, commit, uploaded)


def finish(prepared: Prepared, commit: HubCommit, uploaded: Sequence[UploadedFile]) -> str:
    """Add the card, the sums and what Ollama reads, make all of it visible, and return the commit's address.

    The card and the sums are written to the directory too. Raises OutputError.
    """
    sums = {file.name: file.sha256 for file in uploaded}
    facts = replace(prepared.facts.with_sums(sums), lock=_lock_of(prepared.directory))
    texts = {CARD: card_text(facts, prepared.kept), SUMS: sums_text(sums)}
    for name, text in texts.items():
        write_text(prepared.directory / name, text)
    if facts.lock is not None:
        texts[LOCK_FILE] = (prepared.directory / LOCK_FILE).read_text(encoding="utf-8")
    for name, text in (texts | hub_files(facts.model, facts.source.end_ids)).items():
        commit.add(name, text.encode())
    types = ", ".join(dict.fromkeys(model.label for model in facts.directory.models))
    return commit.finish(f"GGUF files: {types}")
