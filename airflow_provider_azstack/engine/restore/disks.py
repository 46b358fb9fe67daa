"""
Write the disks of a restore: from images to the stack, several at once, several ranges in flight.

Owns the order of the steps, what is noted after each, and what a second try may rely on; knows
nothing of VMs.
Invariants: a disk is finished only when every part of it, its footer last, was acknowledged and
noted; a part that is noted is on that very disk. Memory is bounded by the number of threads.

In order, for each disk: D1 look for what an earlier try left; an upload that can go on goes on,
one that was ended half way, or that the stack lets nobody else write, is deleted. D2 create it. D3
write each part that is not noted, and note it. D4 write and note the footer. D5 finish: it becomes
usable. D6 read it back, if asked. D7 note that it is complete: nothing uses it before.
"""

import logging
import threading
import time
import uuid
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from typing import NamedTuple

from msgspec.structs import replace

from airflow_provider_azstack.arm.blobs import BlobDisk
from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.arm.disk_writer import MAX_WRITE_BYTES, PAGE_BYTES, DiskWriter
from airflow_provider_azstack.arm.vhd import FOOTER_BYTES, build_footer, parse_footer
from airflow_provider_azstack.engine.accounts import Accounts
from airflow_provider_azstack.engine.crew import Crew
from airflow_provider_azstack.engine.pace import Pace
from airflow_provider_azstack.engine.restore.records import (
    COMPLETE,
    FOOTER,
    USED,
    DiskDone,
    Notes,
    PartDone,
    PlannedDisk,
    PlannedVm,
    RestorePlan,
)
from airflow_provider_azstack.engine.restore.stretches import Stretch, joined, nonzero
from airflow_provider_azstack.engine.restore.targets import (
    Found,
    Target,
    reader_of,
    staged_instead,
    target_of,
    writer_of,
)
from airflow_provider_azstack.errors import (
    AzStackError,
    IntegrityError,
    Refused,
    SourceBusy,
    SourceChanged,
    UnsupportedStack,
)
from airflow_provider_azstack.model import Extent, Image
from airflow_provider_azstack.repo.images import ImageReader
from airflow_provider_azstack.repo.sessions import Session

log = logging.getLogger(__name__)

DISKS_AT_ONCE = 4
PART_BYTES = 256 << 20  # of data: what a killed process has to write again at most
THREADS = 8  # that read, decode and write, over all disks of a process
_TELL_EVERY_SECONDS = 5.0

Tell = Callable[[str], None]
Clock = Callable[[], float]


class Restore(NamedTuple):
    """What a plan is carried out with."""

    stack: Stack
    accounts: Accounts
    session: Session
    plan: RestorePlan
    tell: Tell = log.info
    cancel: threading.Event | None = None
    clock: Clock = time.monotonic
    pace: Pace | None = None


def write_disks(restore: Restore, disks: Sequence[tuple[PlannedVm, PlannedDisk]]) -> None:
    """
    Write disks until they are complete; those that are already are left alone.

    :raises AzStackError: the first disk's error; all others were tried.
    """
    at_once = max(1, min(DISKS_AT_ONCE, len(disks)))
    with ThreadPoolExecutor(at_once, "restore-disk") as pool:
        futures = [
            pool.submit(write_disk, restore, vm, disk, threads=max(2, THREADS // at_once))
            for vm, disk in disks
        ]
    errors = [future.exception() for future in futures]
    for error, (vm, disk) in zip(errors, disks, strict=True):
        if error:
            log.error("%s %s: %s", vm.name, disk.key, error)
    for error in filter(None, errors):
        raise error


def write_disk(
    restore: Restore, vm: PlannedVm, disk: PlannedDisk, *, threads: int = THREADS
) -> None:
    """Write one disk until it is complete."""
    _DiskRestore(restore, vm, disk, threads).run()


def is_complete(restore: Restore, vm: PlannedVm, disk: PlannedDisk) -> bool:
    """Tell whether a disk is there, whole, and noted to be."""
    # A disk whose direct upload was refused is made by an import: either way it is the same disk.
    target = target_of(restore.stack, restore.accounts, restore.plan.id, disk)
    found = target.found()
    return found is not None and COMPLETE in _notes(restore, vm, disk, found).done()


def first_use(restore: Restore, vm: PlannedVm, disk: PlannedDisk) -> None:
    """
    Note that a complete disk is about to be used; it must not have been changed since.

    The note comes before the use, so a disk that has it may be untouched, or may be what is left of
    a VM that ran: then it is read back and compared.

    :raises Refused: it is not what was restored any more.
    """
    target = target_of(restore.stack, restore.accounts, restore.plan.id, disk)
    found = target.found()
    if found is None:
        raise Refused(f"{disk.id} is gone: restore again")
    notes = _notes(restore, vm, disk, found)
    if USED in notes.done():
        try:
            _DiskRestore(restore, vm, disk, THREADS).verify(target)
        except (IntegrityError, SourceBusy) as error:
            raise Refused(
                f"{disk.id} was restored by this very request before, and used since ({error}): "
                "delete it, or ask for another name"
            ) from None
    notes.note(USED, PartDone(bytes=0))


def discard_unfinished(
    restore: Restore, disks: Iterable[tuple[PlannedVm, PlannedDisk]]
) -> list[str]:
    """
    Delete what a restore left half-written; return their places.

    :raises AzStackError: the first error; all others were tried.
    """
    gone: list[str] = []
    first_error: AzStackError | None = None
    for vm, disk in disks:
        try:
            gone += _discarded(restore, vm, disk)
        except AzStackError as error:
            log.warning("%s %s: %s", vm.name, disk.key, error)
            first_error = first_error or error
    if first_error:
        raise first_error
    return gone


def _discarded(restore: Restore, vm: PlannedVm, disk: PlannedDisk) -> list[str]:
    variants = [disk]
    if disk.staging and disk.way == "upload":
        variants = [replace(disk, way="import")]
    for one in variants:
        target = target_of(restore.stack, restore.accounts, restore.plan.id, one)
        try:
            found = target.found()
        except Refused:
            continue  # somebody else's
        if found and COMPLETE not in _notes(restore, vm, disk, found).done():
            target.discard()
            return [disk.id]
    return []


def _notes(restore: Restore, vm: PlannedVm, disk: PlannedDisk, found: Found) -> Notes:
    repository = restore.session.repository
    return Notes(repository, restore.plan.id, vm.key, disk.key, found.attempt)


class _DiskRestore:
    """One disk. Its threads share the writer, the reader and the counter."""

    def __init__(self, restore: Restore, vm: PlannedVm, disk: PlannedDisk, threads: int) -> None:
        self._restore = restore
        self._vm = vm
        self._disk = disk
        self._threads = threads
        repository = restore.session.repository
        self._image: Image = repository.image(disk.image)
        self._source = ImageReader(self._image, repository.reader())
        self._written = 0
        self._lock = threading.Lock()
        self._began = self._told = restore.clock()

    def run(self) -> None:
        """Do D1 to D7."""
        self._restore.session.check()
        if is_complete(self._restore, self._vm, self._disk):
            return
        target, found = self._opened()
        notes = self._notes(found)
        done = notes.done()
        if found.is_open:
            self._write(target, notes, done)
            done = notes.done()
        missing = [part for part, _ in self._parts if part not in done]
        if missing and not found.is_whole:
            raise IntegrityError(f"{self._disk.id}: parts {missing[:5]} are not noted: try again")
        target.finish()  # D5
        found = self._finished(target, found)
        if self._restore.plan.request.verify:
            self.verify(target)  # D6
        seconds = self._restore.clock() - self._began
        self._restore.session.check()
        whole = DiskDone(
            bytes=self._written, seconds=seconds, verified=self._restore.plan.request.verify
        )
        self._notes(found).note(COMPLETE, whole)  # D7
        self._restore.tell(f"{self._vm.name} {self._disk.key}: complete, {self._progress()}")

    def _finished(self, target: Target, before: Found) -> Found:
        """Return the disk that was finished; it must be the very one that was written."""
        after = target.found()
        if after is None or not (after.is_whole or after.attempt == before.attempt):
            raise SourceChanged(f"{self._disk.id} was made again by another try meanwhile")
        return after

    def _notes(self, found: Found) -> Notes:
        return _notes(self._restore, self._vm, self._disk, found)

    def _opened(self) -> tuple[Target, Found]:
        """Return the disk to go on with, or a new one."""
        target = self._target(self._disk)
        found = target.found()  # D1
        may_be_staged = found is None or found.is_whole
        if may_be_staged and self._disk.way == "upload" and self._disk.staging:
            staged = self._target(replace(self._disk, way="import"))
            if (half := staged.found()) is not None:
                target, found = staged, half
        if found is not None and not self._can_go_on(found):
            log.warning("%s was ended half way: it is deleted and made again", self._disk.id)
            target.discard()
            found = None
        if found is not None and found.is_open and not self._is_admitted(target):
            target.discard()
            found = None
        if found is not None:
            return target, found
        try:
            return target, target.create()  # D2
        except UnsupportedStack as error:
            target = self._target(staged_instead(self._disk, error))
            return target, target.create()

    def _is_admitted(self, target: Target) -> bool:
        try:
            target.admit()
        except SourceBusy:
            log.warning(
                "%s: an earlier try's access has not ended and the stack gives no second one: it "
                "is deleted and made again",
                self._disk.id,
            )
            return False
        return True

    def _can_go_on(self, found: Found) -> bool:
        done = self._notes(found).done()
        is_whole = found.is_whole or all(part in done for part, _ in self._parts)
        return found.is_open or is_whole

    def _target(self, disk: PlannedDisk) -> Target:
        return target_of(self._restore.stack, self._restore.accounts, self._restore.plan.id, disk)

    @cached_property
    def _parts(self) -> list[tuple[str, Extent]]:
        """
        The parts in order, the footer last: what is noted, and written again, as a whole.

        Regions that hold little go together. An image never changes, so neither do its parts.
        """
        parts, first, data_bytes, step = [], -1, 0, self._image.region_bytes
        for number, group in enumerate(self._image.regions):
            if group is not None:
                first = number if first < 0 else first
                held = self._source.extents(number * step, step)
                data_bytes += sum(extent.length for extent in held)
                if data_bytes >= PART_BYTES:
                    parts.append((first, number + 1))
                    first, data_bytes = -1, 0
        if first >= 0:
            parts.append((first, len(self._image.regions)))
        size_bytes = self._source.size_bytes
        named = [
            (f"part-{a:06d}", Extent(a * step, min(b * step, size_bytes) - a * step))
            for a, b in parts
        ]
        return [*named, (FOOTER, Extent(self._disk.size_bytes, FOOTER_BYTES))]

    def _write(self, target: Target, notes: Notes, done: set[str]) -> None:
        with writer_of(self._restore.stack, target, self._threads) as writer:
            for part, stretch in self._parts:
                if part in done:
                    continue
                if part == FOOTER:
                    writer.write(self._disk.size_bytes, self._footer())  # D4
                    notes.note(part, PartDone(bytes=len(self._footer())))
                else:
                    before = self._written
                    self._write_part(writer, stretch)  # D3
                    self._restore.session.check()
                    notes.note(part, PartDone(bytes=self._written - before))

    def _write_part(self, writer: DiskWriter, part: Extent) -> None:
        stretches = joined(self._source.stream(start=part.offset, length=part.length))

        def work(tasks: Iterator[Stretch]) -> None:
            for stretch in tasks:
                self._write_stretch(writer, stretch)

        self._crew(stretches, work)

    def _write_stretch(self, writer: DiskWriter, stretch: Stretch) -> None:
        data = b"".join(stretch.data)
        data = data.ljust(-(-len(data) // PAGE_BYTES) * PAGE_BYTES, b"\0")
        view = memoryview(data)
        for start, end in nonzero(data):
            self._wait_for(end - start)
            writer.write(stretch.offset + start, view[start:end])
            with self._lock:
                self._written += end - start

    def _wait_for(self, count: int) -> None:
        if self._restore.pace:
            self._restore.pace.take(count, self._restore.cancel)

    def _crew(
        self, tasks: Generator[Stretch, None, None], work: Callable[[Iterator[Stretch]], None]
    ) -> None:
        try:
            Crew(tasks).run(work, self._threads, cancel=self._restore.cancel, glance=self._glance)
        finally:
            with suppress(ValueError):  # a thread that was left behind still asks it
                tasks.close()

    def _footer(self) -> bytes:
        """Return the footer that was read with the image, or a new one when the size differs."""
        was = parse_footer(self._image.footer)
        if was is not None and was.disk_bytes == self._disk.size_bytes:
            return self._image.footer
        unique = uuid.UUID(was.unique_id) if was else uuid.uuid5(uuid.NAMESPACE_URL, self._disk.id)
        return build_footer(self._disk.size_bytes, unique, self._vm.taken_at)

    def verify(self, target: Target) -> None:
        """Read the disk back and compare it with the image, where either of them holds data."""
        with reader_of(self._restore.stack, target, self._disk.size_bytes) as disk:

            def work(tasks: Iterator[Stretch]) -> None:
                for stretch in tasks:
                    self._compare(disk, stretch)

            self._crew(self._expected(disk.allocated(0, self._disk.size_bytes)), work)

    def _expected(self, allocated: list[Extent]) -> Generator[Stretch, None, None]:
        """Yield what must be on the disk: the image's data, and zeros where only it has pages."""
        yield from joined(self._source.stream())
        ends = [extent.offset + extent.length for extent in allocated]
        gap = 0
        for data in (*self._source.extents(), Extent(self._disk.size_bytes, 0)):
            for extent in allocated[bisect_right(ends, gap) :]:
                if extent.offset >= data.offset:
                    break
                stop = min(data.offset, extent.offset + extent.length)
                for at in range(max(gap, extent.offset), stop, MAX_WRITE_BYTES):
                    yield Stretch(at, [bytes(min(MAX_WRITE_BYTES, stop - at))])
            gap = data.offset + data.length

    def _compare(self, disk: BlobDisk, stretch: Stretch) -> None:
        expected = b"".join(stretch.data)
        self._wait_for(len(expected))
        found = bytearray(len(expected))
        disk.read_into(stretch.offset, memoryview(found))
        if found != expected:
            raise IntegrityError(
                f"{self._disk.id} differs from its image within {len(expected)} bytes at "
                f"{stretch.offset}: it is not used; restore again"
            )

    def _glance(self) -> None:
        now = self._restore.clock()
        if now - self._told >= _TELL_EVERY_SECONDS:
            self._told = now
            self._restore.tell(f"{self._vm.name} {self._disk.key}: {self._progress()}")

    def _progress(self) -> str:
        seconds = max(self._restore.clock() - self._began, 1e-3)
        rate = self._written / seconds
        return (
            f"{self._written / 1e6:.1f} of at most {self._disk.data_bytes / 1e6:.1f} MB written, "
            f"{rate / 1e6:.0f} MB/s"
        )
