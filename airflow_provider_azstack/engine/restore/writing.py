"""
The content of one disk on its way from an image to the stack, or back to be compared.

Owns the threads, the reading ahead and what is told meanwhile; knows neither what is noted nor when
a disk is whole.
Invariant: what is not written is zero in the image. Memory is bounded by the number of threads.
"""

import logging
import threading
import time
import uuid
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from airflow_provider_azstack.arm.blobs import BlobDisk
from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.arm.disk_writer import MAX_WRITE_BYTES, PAGE_BYTES, DiskWriter
from airflow_provider_azstack.arm.vhd import build_footer, parse_footer
from airflow_provider_azstack.engine.accounts import Accounts
from airflow_provider_azstack.engine.crew import Crew
from airflow_provider_azstack.engine.export.disk import Losses
from airflow_provider_azstack.engine.pace import Pace
from airflow_provider_azstack.engine.pages import nonzero
from airflow_provider_azstack.engine.restore.parts import Regions
from airflow_provider_azstack.engine.restore.records import (
    LostRange,
    PlannedDisk,
    PlannedVm,
    RestorePlan,
)
from airflow_provider_azstack.engine.restore.stretches import Stretch, joined
from airflow_provider_azstack.errors import IntegrityError
from airflow_provider_azstack.model import Extent, Image
from airflow_provider_azstack.repo.images.reader import ImageReader, OnDamage
from airflow_provider_azstack.repo.restores import PREFIX
from airflow_provider_azstack.repo.sessions import Session
from airflow_provider_azstack.speed import Course, amount, ended

log = logging.getLogger(__name__)

THREADS = 8  # that read, decode and write, over all disks of a process

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
    host: str = ""  # which backup host this is, where there are several


class Sent(NamedTuple):
    """What became of a part."""

    bytes: int
    lost: tuple[LostRange, ...]


class Content:
    """One disk's content. Its threads share the reader and the counter."""

    def __init__(
        self, restore: Restore, vm: PlannedVm, disk: PlannedDisk, threads: int = THREADS
    ) -> None:
        self._restore = restore
        self._vm = vm
        self._disk = disk
        self._threads = threads
        repository = restore.session.repository
        self.image: Image = repository.image(disk.image)
        self._source = ImageReader(self.image, repository.reader())
        self._lock = threading.Lock()
        self._began = restore.clock()
        self.written_bytes = 0
        self._course = self._begun("written", disk.data_bytes)

    @property
    def seconds(self) -> float:
        """How long this has been going on."""
        return self._restore.clock() - self._began

    def expect(self, regions: Iterable[int]) -> None:
        """Say which regions will be written: what an earlier try wrote takes no time."""
        self._course = self._begun("written", sum(map(self.data_bytes, regions)))

    def data_bytes(self, region: int) -> int:
        """Return how many bytes of data a region holds."""
        step = self.image.region_bytes
        held = self._source.extents(region * step, step, on_damage=self._told_later)
        return sum(extent.length for extent in held)

    def first_page(self) -> bytes:
        """Return the disk's first page, which may be written at any time."""
        held = min(PAGE_BYTES, self._source.size_bytes)
        pieces = self._source.stream(start=0, length=held, on_damage=self._told_later)
        page = b"".join(piece.data or bytes(piece.length) for piece in pieces)
        return page.ljust(PAGE_BYTES, b"\0")

    @property
    def _told_later(self) -> OnDamage | None:
        """What is lost is told where it is written."""
        return (lambda _extent, _error: None) if self._restore.plan.request.salvage else None

    def write(self, writer: DiskWriter, part: Regions) -> Sent:
        """Write a part; what the repository has lost of it is zero, if that was asked for."""
        losses, is_asked = Losses(), self._restore.plan.request.salvage
        before, step = self.written_bytes, self.image.region_bytes
        start, end = part.first * step, min(part.end * step, self._source.size_bytes)

        def work(tasks: Iterator[Stretch]) -> None:
            for stretch in tasks:
                self._write_stretch(writer, stretch)

        on_damage = losses.note if is_asked else None
        stream = self._source.stream(start=start, length=end - start, on_damage=on_damage)
        self._crew(joined(stream), work)
        if self._course.is_over(self._passed_bytes):
            self._tell()
        lost = [LostRange(**one._asdict()) for one in losses.ranges()]
        return Sent(self.written_bytes - before, tuple(lost))

    def compare(self, disk: BlobDisk) -> None:
        """
        Read a disk back and compare it with the image, where either of them holds data.

        :raises IntegrityError: they differ.
        """

        def work(tasks: Iterator[Stretch]) -> None:
            for stretch in tasks:
                self._compare_stretch(disk, stretch)

        self._course = self._begun("compared", self._disk.data_bytes)
        self._crew(self._expected(disk.allocated(0, self._disk.size_bytes)), work)
        self._tell()

    def footer(self) -> bytes:
        """Return the footer that was read with the image, or a new one when the size differs."""
        was = parse_footer(self.image.footer)
        if was is not None and was.disk_bytes == self._disk.size_bytes:
            return self.image.footer
        unique = uuid.UUID(was.unique_id) if was else uuid.uuid5(uuid.NAMESPACE_URL, self._disk.id)
        return build_footer(self._disk.size_bytes, unique, self._vm.taken_at)

    def __str__(self) -> str:
        """Say what was written."""
        took = ended(self.written_bytes, self.seconds)
        label = f"{self._vm.name} {self._disk.key}"
        return f"{label}: {amount(self.written_bytes)} written {took}"

    def _begun(self, verb: str, total_bytes: int) -> Course:
        """
        Return a new course of what is told. A disk that is written and read back has two.

        What is told of a disk has one key through all tries: they go on with the same disk.
        """
        self._passed_bytes = 0
        key = f"{PREFIX}{self._restore.plan.id}/{self._vm.key}.{self._disk.key}/{verb}"
        label = f"{self._vm.name} {self._disk.key}"
        return Course(key, label, total_bytes, verb=verb, began=self._restore.clock())

    def _tell(self) -> None:
        is_writing = self._course.verb == "written"
        moved = self.written_bytes if is_writing else self._passed_bytes
        now = self._restore.clock()
        self._restore.tell(self._course.at(now, self._passed_bytes, moved))

    def _write_stretch(self, writer: DiskWriter, stretch: Stretch) -> None:
        data = b"".join(stretch.data)
        data = data.ljust(-(-len(data) // PAGE_BYTES) * PAGE_BYTES, b"\0")
        view = memoryview(data)
        for start, end in nonzero(data):
            self._wait_for(end - start)
            writer.write(stretch.offset + start, view[start:end])
            with self._lock:
                self.written_bytes += end - start
        self._pass(len(data))

    def _compare_stretch(self, disk: BlobDisk, stretch: Stretch) -> None:
        expected = b"".join(stretch.data)
        self._wait_for(len(expected))
        found = bytearray(len(expected))
        disk.read_into(stretch.offset, memoryview(found))
        if found != expected:
            raise IntegrityError(
                f"{self._disk.id} differs from its image within {len(expected)} bytes at "
                f"{stretch.offset}: it is not used; restore again"
            )

        self._pass(len(expected))

    def _pass(self, count: int) -> None:
        with self._lock:
            self._passed_bytes += count

    def _expected(self, allocated: list[Extent]) -> Generator[Stretch, None, None]:
        """Yield what must be on the disk: the image's data, and zeros where only it has pages."""
        yield from joined(self._source.stream(on_damage=self._told_later))
        ends = [extent.offset + extent.length for extent in allocated]
        gap = 0
        held = self._source.extents(on_damage=self._told_later)
        for data in (*held, Extent(self._disk.size_bytes, 0)):
            for extent in allocated[bisect_right(ends, gap) :]:
                if extent.offset >= data.offset:
                    break
                stop = min(data.offset, extent.offset + extent.length)
                for at in range(max(gap, extent.offset), stop, MAX_WRITE_BYTES):
                    yield Stretch(at, [bytes(min(MAX_WRITE_BYTES, stop - at))])
            gap = data.offset + data.length

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

    def _glance(self) -> None:
        if self._course.is_due(self._restore.clock()):
            self._tell()
