"""Files made, uploaded and deleted, a few at a time: for a disk that has no room for all of them.

    groups   the longest file alone, the others together as far as they are no longer; each is one read of the model
    maker    makes the next group when the disk has room for it
    sender   uploads each file, notes it, deletes it, while the next are made

No more lies on the disk at a time than the longest file.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from convert.hub import HubCommit, UploadedFile
from convert.plan import packed, part
from convert.publish.journal import JournalEntry, fingerprint, read_journal, remove_journal, write_journal
from convert.publish.publication import Prepared, finish
from convert.stream import Report, Writing, WrittenOutput, carry_out, remove_empty, with_statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from convert.plan import Plan
    from convert.stream import Progress


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which files are made together. groups: indices of the plan's outputs. nbytes: that lie on the disk at most."""

    groups: tuple[tuple[int, ...], ...]
    nbytes: int

    def __str__(self) -> str:
        """Say what it costs."""
        n_reads = len(self.groups)
        reads = "one read" if n_reads == 1 else f"{n_reads} reads"
        return f"each file is deleted once the Hub has it, so the types are made in {reads} of the model"


def schedule(plan: Plan, directory: Path, indices: Sequence[int] | None = None) -> Schedule:
    """Group a plan's files so that no more than the longest lies on the disk, in as few reads as that takes.

    What lies in one folder below the directory, as the parts of a split file do, counts as one file. indices: of the
    outputs that are left to make; by default all.
    """
    units: dict[Path, list[int]] = {}
    for index in range(len(plan.outputs)) if indices is None else indices:
        path = plan.outputs[index].path
        units.setdefault(path if path.parent == directory else path.parent, []).append(index)
    listed = list(units.values())
    sizes = [sum(plan.outputs[index].nbytes for index in unit) for unit in listed]
    groups = tuple(tuple(index for unit in group for index in listed[unit]) for group in packed(sizes))
    return Schedule(groups, max(sizes, default=0))


@dataclass(slots=True)
class _Sender:
    """The thread that uploads what is there, notes it and deletes it."""

    prepared: Prepared
    commit: HubCommit
    told: Callable[[UploadedFile], None]
    journal: dict[str, JournalEntry]
    uploaded: list[UploadedFile] = field(default_factory=list)
    on_disk: int = 0
    failure: BaseException | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)
    waiting: queue.SimpleQueue[tuple[str, str] | None] = field(default_factory=queue.SimpleQueue)

    def work(self) -> None:
        try:
            while (item := self.waiting.get()) is not None:
                self._send(*item)
        except BaseException as error:  # noqa: BLE001 - raised again where it can be told
            with self.changed:
                self.failure = error
                self.changed.notify_all()

    def _send(self, name: str, made_from: str) -> None:
        path = self.prepared.directory / name
        file = self.commit.upload(path, name)
        self.uploaded.append(file)
        self.journal[name] = JournalEntry(file.sha256, file.nbytes, made_from)
        write_journal(self.prepared.directory, self.prepared.repository.name, self.journal)
        path.unlink()
        if path.parent != self.prepared.directory:
            remove_empty([path.parent])
        self.told(file)
        with self.changed:
            self.on_disk -= file.nbytes
            self.changed.notify_all()

    def take_over(self, items: Sequence[tuple[str, str]], nbytes: int) -> None:
        """Upload files that are complete: names, and fingerprints of what they were made from."""
        with self.changed:
            self.on_disk += nbytes
        for item in items:
            self.waiting.put(item)

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        """Wait until the disk is as wished. Raises what has stopped the uploads."""
        with self.changed:
            while not is_so():
                if self.failure is not None:
                    raise self.failure
                self.changed.wait(0.2)  # so that an interruption is heard
            if self.failure is not None:
                raise self.failure


def make_and_discard(
    plan: Plan,
    prepared: Prepared,
    writing: Writing,
    *,
    also: Sequence[Path] = (),
    told: Callable[[UploadedFile], None] = lambda _: None,
    progress: Progress | None = None,
) -> tuple[Report, str]:
    """Make a plan's files, upload and delete each, and commit; return what was made and the commit's address.

    A file that an interrupted run has uploaded, from the same sources, is neither made nor sent again.
    Raises as for `carry_out`, and OutputError for what the Hub refuses.
    """
    commit = HubCommit(prepared.repository)
    plan = with_statistics(plan, jobs=writing.jobs)
    prints = {index: fingerprint(part(plan, [index])) for index in range(len(plan.outputs))}
    names = [output.path.relative_to(prepared.directory).as_posix() for output in plan.outputs]
    journal = read_journal(prepared.directory, prepared.repository.name)
    done = {
        index
        for index, made_from in prints.items()
        if (entry := journal.get(names[index])) is not None
        and entry.fingerprint == made_from
        and commit.has(entry.sha256, entry.nbytes)
    }
    sender = _Sender(prepared, commit, told, {names[index]: journal[names[index]] for index in done})
    for index in sorted(done):
        entry = journal[names[index]]
        sender.uploaded.append(commit.take(UploadedFile(names[index], entry.sha256, entry.nbytes, sent=False)))
        told(sender.uploaded[-1])
    rest = [index for index in range(len(plan.outputs)) if index not in done]
    report = _make_all(plan, rest, sender, writing, {index: (names[index], prints[index]) for index in rest}, progress)
    others = [commit.upload(path, path.name) for path in also]
    address = finish(prepared, commit, [*sender.uploaded, *others])
    remove_journal(prepared.directory)
    return report, address


def _make_all(
    plan: Plan,
    rest: Sequence[int],
    sender: _Sender,
    writing: Writing,
    items: dict[int, tuple[str, str]],
    progress: Progress | None,
) -> Report:
    turns = schedule(plan, sender.prepared.directory, rest)
    made: list[WrittenOutput] = []
    seconds = 0.0
    threading.Thread(target=sender.work, daemon=True).start()  # it ends with the process, in whatever it is
    try:
        for group in turns.groups:
            some = part(plan, group)
            sender.wait_for(lambda: sender.on_disk + some.nbytes <= turns.nbytes)  # noqa: B023 - used at once
            report = carry_out(some, writing, progress=progress)
            made, seconds = [*made, *report.outputs], seconds + report.seconds
            sender.take_over([items[index] for index in group], some.nbytes)
        sender.wait_for(lambda: sender.on_disk == 0)
    finally:
        sender.waiting.put(None)
    return Report(tuple(made), seconds)
