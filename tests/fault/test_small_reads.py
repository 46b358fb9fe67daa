"""A day of a database: scattered pages over the wire, many at once, and what goes wrong then."""

import contextlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.disks import PAGE, SparseDisk, assert_same, back_up, open_session
from support.stacks import disk_reader, snapshot_id, stack_of
from support.virtual_clock import VirtualClock

from airflow_provider_azstack.arm.blobs import BlobDisk
from airflow_provider_azstack.arm.compute import Compute
from airflow_provider_azstack.emulator import DiskSpec, Emulator
from airflow_provider_azstack.emulator.faults import shorter
from airflow_provider_azstack.emulator.http import Answer, Call
from airflow_provider_azstack.engine.backup.disk import IN_FLIGHT, READERS
from airflow_provider_azstack.engine.backup.reads import NEIGHBOURHOOD_BYTES
from airflow_provider_azstack.engine.pace import Pace
from airflow_provider_azstack.errors import SourceGone, Throttled
from airflow_provider_azstack.model import Image
from airflow_provider_azstack.repo.sessions import Session

pytestmark = pytest.mark.tier1

SIZE = READERS * NEIGHBOURHOOD_BYTES  # each reader has one to work on
PAGES = range(0, SIZE, NEIGHBOURHOOD_BYTES // 8)  # too far from each other for one read


class Scattered:
    """A snapshot of noise in single pages, as a source of the pipeline and as what it must say."""

    def __init__(self, emulator: Emulator, compute: Compute, directory: Path) -> None:
        self.truth = SparseDisk(SIZE)
        self.empty = SparseDisk(SIZE)
        self.truth.freeze()
        noise = random.Random(1)
        for offset in PAGES:
            self.truth.write(offset, noise.randbytes(PAGE))
        content = directory / "content"
        with content.open("wb") as file:
            file.truncate(SIZE)
            for number, page in self.truth.pages.items():
                file.seek(number * PAGE)
                file.write(page)
        self.emulator = emulator
        self.faults = emulator.faults
        self.clock = VirtualClock()
        disk = emulator.add_vm("vm", "group", [DiskSpec(size_bytes=SIZE, content=content)]).disks[0]
        snapshot = snapshot_id(disk.source)
        compute.create_snapshot(snapshot, disk.source, emulator.location, {})
        self.blob: BlobDisk = disk_reader(
            compute,
            snapshot,
            size_bytes=SIZE,
            connections=IN_FLIGHT,
            clock=self.clock,
            sleep=self.clock.sleep,
        )
        self.blob.footer()

    def back_up(self, session: Session, **options: object) -> Image:
        """Back up the day, told which pages changed, from a disk that was empty before."""
        first = back_up(self.empty, session)
        day = SparseDisk(SIZE)
        day.changed = self.truth.changed  # type: ignore[method-assign]
        day.read_into = self.blob.read_into  # type: ignore[method-assign]
        image = back_up(day, session, first, readers=READERS, **options)
        assert image.changes_known == "difference"
        assert_same(self.truth, image, session)
        return image


@pytest.fixture
def scattered(emulator: Emulator, tmp_path: Path) -> Iterator[Scattered]:
    with stack_of(emulator, sleep=lambda _: None) as stack:
        setup = Scattered(emulator, Compute(stack), tmp_path)
        with setup.blob:
            yield setup


def test_all_that_a_stream_may_have_in_flight_is_in_flight_and_no_more(
    scattered: Scattered,
) -> None:
    """The first answers wait until as many requests are there as a stream may have."""
    lock, meeting = threading.Lock(), threading.Barrier(IN_FLIGHT)
    asked = running = most = 0

    def wait(_: Call, answer: Answer) -> Answer:
        nonlocal asked, running, most
        with lock:
            asked += 1
            running += 1
            most = max(most, running)
            is_held = asked <= IN_FLIGHT
        if is_held:
            with contextlib.suppress(threading.BrokenBarrierError):
                meeting.wait(30)  # only a test that fails waits that long
        with lock:
            running -= 1
        return answer

    scattered.faults.alter_reads(wait, times=10_000)
    with open_session() as session:
        scattered.back_up(session)
    assert not meeting.broken
    assert most == IN_FLIGHT
    assert asked >= len(PAGES)


@pytest.mark.parametrize("kind", ["cut", "short", "hang up", "500", "refused"])
def test_what_goes_wrong_among_many_small_reads_is_read_again(
    scattered: Scattered, kind: str
) -> None:
    """F-N1, F-N2, F-N6: each range for itself, as with one in flight: bit-exact."""
    faults = scattered.faults
    struck = {
        "cut": lambda: faults.cut(100, times=20, skip=3),
        "short": lambda: faults.alter_reads(shorter, times=4, skip=3),
        "hang up": lambda: faults.lose_answer("GET", "sig=", times=20, skip=3),
        "500": lambda: faults.answer("GET", "sig=", 500, times=20, skip=3),
        "refused": lambda: faults.answer("GET", "sig=", 403, times=1, skip=3),
    }[kind]()
    with open_session() as session:
        scattered.back_up(session)
    assert struck.struck == struck.times


@pytest.mark.parametrize("status", [429, 503])
def test_throttling_holds_all_small_reads_back(scattered: Scattered, status: int) -> None:
    """F-N5: refused together is one sign: half as many go on, and who was refused waits."""
    refused = scattered.faults.throttle("sig=", retry_after="7", status=status, times=8)
    refused.skip = 16
    with open_session() as session:
        scattered.back_up(session)
    assert refused.struck == 8
    assert len(scattered.clock.slept) == 8
    assert min(scattered.clock.slept) > 7
    assert scattered.blob.concurrency <= IN_FLIGHT // 2 + 2  # good answers raise it slowly


def test_a_storm_on_small_reads_ends_the_disk(scattered: Scattered) -> None:
    """F-N5: one request at a time in the end, then the error that says so, and no image."""
    scattered.faults.throttle("sig=", status=503, times=100_000)
    with open_session() as session:
        with pytest.raises(Throttled):
            scattered.back_up(session, name="images/run-1/throttled")
        assert not session.repository.store.exists("images/run-1/throttled")
    assert scattered.blob.concurrency == 1


def test_a_snapshot_that_is_gone_ends_the_disk(scattered: Scattered) -> None:
    """The error of one small read is the error of the backup; there is no image."""
    scattered.faults.answer("GET", "sig=", 404, times=100_000, skip=20)
    with open_session() as session:
        with pytest.raises(SourceGone):
            scattered.back_up(session, name="images/run-1/gone")
        assert not session.repository.store.exists("images/run-1/gone")


def test_the_limit_counts_every_byte_once(scattered: Scattered) -> None:
    """Whoever reads, a reader or a helper, waits for its bytes and for no others."""
    taken: list[int] = []

    class Counted(Pace):
        def take(self, count: int, cancel: threading.Event | None = None) -> None:
            taken.append(count)
            super().take(count, cancel)

    with open_session() as session:
        image = scattered.back_up(session, pace=Counted([]))
    assert sum(taken) == image.read_bytes >= PAGE * len(PAGES)
