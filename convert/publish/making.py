"""Files made and uploaded at once: each is uploaded when it is complete, while the next are made.

    maker    makes the next turn's files when the disk has room for them
    sender   uploads each file; where the turns say so, notes it and deletes it

One commit at the end makes all visible.
"""

from __future__ import annotations

import queue
import threading
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from convert.hub import HubCommit, UploadedFile, without_bars
from convert.plan import part
from convert.publish.journal import JournalEntry, fingerprint, read_journal, remove_journal, write_journal
from convert.publish.publication import finish
from convert.publish.turns import sparing_time
from convert.stream import Report, Writing, WrittenOutput, carry_out, remove_empty, with_statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from convert.plan import Plan
    from convert.publish.publication import Prepared
    from convert.publish.turns import Taking
    from convert.stream import Progress


def _no_progress(total: int) -> AbstractContextManager[None]:
    del total
    return nullcontext()


@dataclass(frozen=True, slots=True)
class Making:
    """How files are made and uploaded.

    taking: in which turns. also: what else goes there, such as the importance matrix. told: of each file when the Hub
    has it. progress: given the bytes of a turn, what is called while they are written. before_commit: what is still to
    be seen before all is visible, given what is uploaded; it may raise.
    """

    writing: Writing = Writing()  # noqa: RUF009 - frozen
    taking: Taking = sparing_time
    also: tuple[Path, ...] = ()
    told: Callable[[UploadedFile], None] = lambda _: None
    progress: Callable[[int], AbstractContextManager[Progress | None]] = _no_progress
    before_commit: Callable[[Sequence[UploadedFile]], None] = lambda _: None


@dataclass(slots=True)
class _Sender:
    """The thread that uploads what is complete. journal: of what has been deleted. on_disk: bytes that are not yet."""

    prepared: Prepared
    commit: HubCommit
    told: Callable[[UploadedFile], None]
    deletes: bool = False
    journal: dict[str, JournalEntry] = field(default_factory=dict)
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
        if self.deletes:
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
            while self.failure is None and not is_so():
                self.changed.wait(0.2)  # so that an interruption is heard
            if self.failure is not None:
                raise self.failure


def make_and_publish(plan: Plan, prepared: Prepared, making: Making) -> tuple[Report, str]:
    """Make a plan's files, upload each, and commit; return what was made and the commit's address.

    A file that an interrupted run has uploaded and deleted, from the same sources, is neither made nor sent again; one
    that is there is compared, and sent only if the Hub lacks it.
    Raises as for `carry_out`, and OutputError for what the Hub refuses.
    """
    commit = HubCommit(prepared.repository)
    sender = _Sender(prepared, commit, making.told)
    plan = with_statistics(plan, jobs=making.writing.jobs)
    names = [output.path.relative_to(prepared.directory).as_posix() for output in plan.outputs]
    prints = _fingerprints(plan, making)
    for name, entry in _uploaded_before(prepared, commit, dict(zip(names, prints, strict=True))):
        sender.journal[name] = entry
        sender.uploaded.append(commit.take(UploadedFile(name, entry.sha256, entry.nbytes, sent=False)))
        making.told(sender.uploaded[-1])
    rest = [index for index, name in enumerate(names) if name not in sender.journal]
    items = {index: (names[index], prints[index]) for index in rest}
    report = _make_all(plan, items, sender, making)
    making.before_commit(sender.uploaded)
    others = [commit.upload(path, path.name) for path in making.also]
    address = finish(prepared, commit, [*sender.uploaded, *others])
    remove_journal(prepared.directory)
    return report, address


def _fingerprints(plan: Plan, making: Making) -> list[str]:
    """Give a fingerprint for each file, where files are deleted: what is there is compared instead."""
    if not making.taking(plan, ()).deletes:
        return [""] * len(plan.outputs)
    return [fingerprint(part(plan, [index])) for index in range(len(plan.outputs))]


def _uploaded_before(
    prepared: Prepared, commit: HubCommit, prints: dict[str, str]
) -> Iterator[tuple[str, JournalEntry]]:
    """Yield the files that an interrupted run has uploaded, from the same sources, and that the Hub still has."""
    for name, entry in read_journal(prepared.directory, prepared.repository.name).items():
        if prints.get(name) == entry.fingerprint and commit.has(entry.sha256, entry.nbytes):
            yield name, entry


def _make_all(plan: Plan, items: dict[int, tuple[str, str]], sender: _Sender, making: Making) -> Report:
    turns = making.taking(plan, items)
    sender.deletes = turns.deletes
    made: list[WrittenOutput] = []
    seconds = 0.0
    threading.Thread(target=sender.work, daemon=True).start()  # it ends with the process, in whatever it is
    try:
        for group in turns.groups:
            some = part(plan, group)
            sender.wait_for(lambda: sender.on_disk + some.nbytes <= turns.nbytes)  # noqa: B023 - used at once
            with without_bars(), making.progress(some.nbytes) as progress:
                report = carry_out(some, making.writing, progress=progress)
            made, seconds = [*made, *report.outputs], seconds + report.seconds
            sender.take_over([items[index] for index in group], some.nbytes)
        sender.wait_for(lambda: sender.on_disk == 0)
    finally:
        sender.waiting.put(None)
    return Report(tuple(made), seconds)
