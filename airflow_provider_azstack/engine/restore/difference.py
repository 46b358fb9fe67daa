"""
Write only what differs: a copy of the disk that is replaced, made by the stack, and what is not the
restore point's in it.

Owns where a disk may differ and the comparison; the copy's end, its footer and its use are those of
any other disk.
Invariants: a page is left as it is only if it was compared, or the stack says that it did not
change and both images say that it is the same; samples of the stack's word are compared too. A copy
is used only when all of this was noted as done: any other is thrown away and written whole.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from random import Random, SystemRandom

from airflow_provider_azstack.arm.blob_http import settings_of
from airflow_provider_azstack.arm.blobs import BlobDisk
from airflow_provider_azstack.arm.compute import Compute
from airflow_provider_azstack.arm.disk_writer import MAX_WRITE_BYTES, PAGE_BYTES, DiskWriter
from airflow_provider_azstack.arm.grants import Grant
from airflow_provider_azstack.engine.backup.audit import compare, sample_offsets, unread_ranges
from airflow_provider_azstack.engine.crew import Crew
from airflow_provider_azstack.engine.pages import unequal
from airflow_provider_azstack.engine.restore.page_blob import READ_SECONDS, BlobTarget, is_copy
from airflow_provider_azstack.engine.restore.parts import Regions, part_name
from airflow_provider_azstack.engine.restore.records import (
    COMPARED,
    PartDone,
    PlannedDisk,
    PlannedVm,
)
from airflow_provider_azstack.engine.restore.safety import Safety
from airflow_provider_azstack.engine.restore.standing import Standing, look
from airflow_provider_azstack.engine.restore.targets import writer_of
from airflow_provider_azstack.engine.restore.writing import THREADS, Restore
from airflow_provider_azstack.errors import (
    AzStackError,
    Cancelled,
    ChangesUnknown,
    SessionLost,
    Unreachable,
    UnsupportedStack,
)
from airflow_provider_azstack.model import Extent, Image
from airflow_provider_azstack.repo.images.overlay import split_at
from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.images.runs import Run, load_runs
from airflow_provider_azstack.repo.repository import Repository

log = logging.getLogger(__name__)

COPY_SECONDS = 6 * 3600.0  # a terabyte within the stack, at what its standard disks do
_POLL_SECONDS = 2.0


def differing(repository: Repository, one: Image, other: Image) -> Iterator[Extent]:
    """Yield where two images of the same size say different things, in order, by region."""
    reader, step = repository.reader(), one.region_bytes
    for number, groups in enumerate(zip(one.regions, other.regions, strict=True)):
        if groups[0] == groups[1]:
            continue
        offset = number * step
        length = min(step, one.size_bytes - offset)
        left, right = (load_runs(reader, group, offset, length) for group in groups)
        yield from _joined(_different(left, right))


def _different(left: list[Run], right: list[Run]) -> Iterator[Extent]:
    """Yield the stretches on which two lists of runs, of the same stretch, do not agree."""
    at, mine, theirs = left[0].offset, iter(left), iter(right)
    a, b = next(mine), next(theirs)
    while True:
        end = min(a.end, b.end)
        if not _says_the_same(a, b):
            yield Extent(at, end - at)
        at = end
        if end == left[-1].end:
            return
        a = next(mine) if a.end == end else a
        b = next(theirs) if b.end == end else b


def _says_the_same(a: Run, b: Run) -> bool:
    if a.block_id is None or b.block_id is None:
        return a.block_id is b.block_id
    return a.block_id == b.block_id and a.start - a.offset == b.start - b.offset


def _joined(extents: Iterator[Extent]) -> Iterator[Extent]:
    last: Extent | None = None
    for extent in extents:
        if last is not None and extent.offset <= last.offset + last.length:
            end = max(last.offset + last.length, extent.offset + extent.length)
            last = Extent(last.offset, end - last.offset)
            continue
        if last is not None:
            yield last
        last = extent
    if last is not None:
        yield last


def overwrite(
    restore: Restore,
    vm: PlannedVm,
    disk: PlannedDisk,
    safety: Safety,
    rng: Callable[[], Random] = SystemRandom,
) -> None:
    """
    Make a disk of a copy of what it replaces, and write what differs; doing it again goes on.

    Where that cannot be done nothing is left of it, and the disk is written whole.

    :raises Refused: the disk is there, and not known to be half-written.
    """
    there = look(restore, vm, disk)
    there.done()  # what is not known to be half-written is not discarded below either
    if there.found is not None and (there.is_whole or not is_copy(there.found.attempt)):
        return  # it is imported already, or being written whole
    work = _Overwriting(there, safety, rng())
    try:
        work.run()
    except (SessionLost, Cancelled):
        raise
    except AzStackError as error:
        log.warning("%s is written whole: %s", disk.id, error)
        work.discard()


class _Overwriting:
    """One disk."""

    def __init__(self, there: Standing, safety: Safety, rng: Random) -> None:
        self._there = there
        self._restore, self._disk = there.restore, there.disk
        self._safety = safety
        self._rng = rng
        self._url = there.disk.id if there.disk.way == "blob" else there.disk.staging
        self._blob = BlobTarget(
            there.restore.accounts, there.restore.plan.id, self._url, there.disk.size_bytes
        )
        repository = there.restore.session.repository
        self._base = repository.image(there.disk.base)
        self._image = repository.image(there.disk.image)
        self._source = ImageReader(self._image, repository.reader())
        self._mark = hashlib.sha256(f"{safety.id} {safety.blob_snapshot}".encode()).hexdigest()[:16]
        self._written = 0

    def run(self) -> None:
        """Copy, compare and write, and note that everything that differs was written."""
        found = self._there.found
        if found is not None and COMPARED in self._there.done():
            return
        if found is not None and not is_copy(found.attempt, self._mark):
            self.discard()  # of what the disk was before it ran once more
            found = None
        with ExitStack() as undo:
            if found is None:
                self._there.begin()
                self._blob.copy(self._read(undo)().url, self._mark)
            self._until_copied()
            self._there = self._there._replace(found=self._blob.distinguished())
            before = BlobDisk(
                self._read(undo),
                size_bytes=self._disk.size_bytes,
                previous_snapshot=self._base.snapshot.blob_snapshot,
                previous_grant=self._read_reference(undo),
                **settings_of(self._restore.stack),
            )
            undo.enter_context(before)
            found = self._there.found
            with writer_of(self._restore.stack, self._blob, found, THREADS) as writer:
                self._write(before, writer)
        self._restore.session.check()
        self._there.note(COMPARED, PartDone(bytes=self._written))
        self._restore.tell(
            f"{self._there.vm.name} {self._disk.key}: {self._written / 1e6:.1f} MB differed"
        )

    def discard(self) -> None:
        self._blob.discard()

    def _until_copied(self) -> None:
        stack, label = self._restore.stack, f"{self._there.vm.name} {self._disk.key}"
        self._restore.tell(f"{label}: the stack copies what was there to {self._url}")
        deadline = stack.clock() + COPY_SECONDS
        while not self._blob.is_copied():
            if self._blob.found() is None:
                raise UnsupportedStack("the copy is gone")
            if stack.clock() > deadline:
                raise Unreachable(f"the copy did not end within {COPY_SECONDS:.0f} s")
            if self._restore.cancel is not None and self._restore.cancel.is_set():
                raise Cancelled("the restore was told to stop")
            self._restore.session.check()
            stack.patience.sleep(_POLL_SECONDS)

    def _write(self, before: BlobDisk, writer: DiskWriter) -> None:
        offsets = sample_offsets(self._base, self._rng, 0, self._base.size_bytes)
        done, step = self._there.done(), self._image.region_bytes
        different = list(differing(self._restore.session.repository, self._base, self._image))
        for number in range(len(self._image.regions)):
            part = part_name(Regions(number, number + 1))
            if part in done:
                continue
            start, end = number * step, min((number + 1) * step, self._image.size_bytes)
            extents = self._candidates(before, start, end, different)
            self._audit(before, [o for o in offsets if start <= o < end], extents, end)
            sent = self._write_region(before, writer, extents)
            self._restore.session.check()
            self._there.note(part, PartDone(bytes=sent))

    def _candidates(
        self, before: BlobDisk, start: int, end: int, different: list[Extent]
    ) -> list[Extent]:
        """Return where a region may differ: by the stack's word and the images, else all of it."""
        try:
            extents = before.changed(start, end - start)
            extents += [one for one in different if start <= one.offset < end]
        except ChangesUnknown:
            extents = before.allocated(start, end - start)
            extents += list(self._source.extents(start, end - start))
        plain = sorted(Extent(one.offset, one.length) for one in extents)
        return list(_joined(_pages(iter(plain), self._image.size_bytes)))

    def _audit(self, before: BlobDisk, offsets: list[int], extents: list[Extent], end: int) -> None:
        for sample in unread_ranges(offsets, extents, end):
            now = bytearray(sample.length)
            before.read_into(sample.offset, memoryview(now))
            compare(
                sample,
                memoryview(now),
                self._source.read(sample.offset, sample.length),
                self._base.name,
            )

    def _write_region(self, before: BlobDisk, writer: DiskWriter, extents: list[Extent]) -> int:
        sent: list[int] = []

        def work(tasks: Iterator[Extent]) -> None:
            sent.extend(self._write_extent(before, writer, extent) for extent in tasks)

        pieces = split_at(extents, MAX_WRITE_BYTES)
        Crew(pieces).run(work, THREADS, cancel=self._restore.cancel)
        self._written += sum(sent)
        return sum(sent)

    def _write_extent(self, before: BlobDisk, writer: DiskWriter, extent: Extent) -> int:
        now = bytearray(extent.length)
        self._wait_for(extent.length)
        before.read_into(extent.offset, memoryview(now))
        wanted = self._source.read(extent.offset, extent.length)
        sent = 0
        for start, end in unequal(now, wanted):
            self._wait_for(end - start)
            writer.write(extent.offset + start, memoryview(wanted)[start:end])
            sent += end - start
        return sent

    def _wait_for(self, count: int) -> None:
        if self._restore.pace:
            self._restore.pace.take(count, self._restore.cancel)

    # Access

    def _read(self, undo: ExitStack) -> Callable[[], Grant]:
        return self._reading(undo, self._safety.id, self._safety.blob_snapshot)

    def _read_reference(self, undo: ExitStack) -> Callable[[], Grant] | None:
        snapshot = self._base.snapshot
        return None if snapshot.blob_snapshot else self._reading(undo, snapshot.id, "")

    def _reading(self, undo: ExitStack, place: str, stamp: str) -> Callable[[], Grant]:
        if stamp:
            return lambda: self._restore.accounts.grant(place, stamp, READ_SECONDS)
        compute = Compute(self._restore.stack)
        undo.callback(compute.revoke, place)
        return lambda: compute.grant_read(place, READ_SECONDS)


def _pages(extents: Iterator[Extent], size_bytes: int) -> Iterator[Extent]:
    """Yield extents widened to whole pages."""
    for extent in extents:
        start = extent.offset - extent.offset % PAGE_BYTES
        end = -(-(extent.offset + extent.length) // PAGE_BYTES) * PAGE_BYTES
        yield Extent(start, min(end, size_bytes) - start)
