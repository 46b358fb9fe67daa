"""A process that dies at any store call of a backup, in every mode, and what is left."""

import sys
from random import Random
from typing import Literal

import pytest
from support.disks import PAGE, PASSPHRASE, VM, SparseDisk, assert_same, back_up, new_repository
from support.repositories import a_point
from support.stores import Crash, CrashingStore, MemoryStore

from airflow_provider_azstack.model import Image
from airflow_provider_azstack.repo.blocks import segments
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.store.base import Store

pytestmark = pytest.mark.tier1

MIB = 1024**2
MODES: tuple[Literal["before", "after", "torn"], ...] = ("before", "after", "torn")


def two_days() -> tuple[SparseDisk, SparseDisk]:
    """A disk and its state a day later, a few packs' worth of changes apart."""
    first, second = SparseDisk(20 * MIB), SparseDisk(20 * MIB)
    noise = Random(1)
    for offset in range(0, 6 * MIB, MIB):
        first.write(offset, noise.randbytes(MIB))
    second.pages = dict(first.pages)
    second.freeze()
    for page in range(0, 4000, 350):
        second.write(page * PAGE, noise.randbytes(PAGE))
    second.write(10 * MIB, noise.randbytes(4 * MIB))
    return first, second


def one_run(
    store: Store, disk: SparseDisk, day: int, attempt: int, previous: Image | None = None
) -> Image:
    """Open, back up, publish, close: everything that a run does with one disk."""
    repository = Repository.open(store, PASSPHRASE)
    try:
        session = repository.open_session("backup", run="run-1")
        try:
            name = f"images/run-1/{VM}.os/{day}-{attempt}"
            image = back_up(disk, session, previous, name=name, readers=2)
            session.publish(a_point(image, session, f"point-{day}"))
        finally:
            session.close()
    finally:
        repository.close()
    return image


def check_published(store: Store, days: tuple[SparseDisk, ...]) -> list[str]:
    """Every point that is there restores bit-exactly; return their ids."""
    repository = Repository.open(store, PASSPHRASE)
    session = repository.open_session("check")
    try:
        points = repository.points(VM)
        for point in points:
            disk = days[int(point.id.rpartition("-")[2])]
            assert_same(disk, repository.image(point.images[0].image), session)
        return [point.id for point in points]
    finally:
        session.close()
        repository.close()


@pytest.fixture(autouse=True)
def _small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """More packs and segments, so that more moments are walked."""
    from airflow_provider_azstack.repo.blocks.writer import BlockWriter

    writer_init = BlockWriter.__init__
    monkeypatch.setattr(
        BlockWriter,
        "__init__",
        lambda *args, **more: writer_init(*args, **more, pack_bytes=2 * MIB),
    )
    monkeypatch.setattr(segments, "PACKS_PER_SEGMENT", 2)


def test_a_backup_survives_death_at_every_store_call(capsys: pytest.CaptureFixture[str]) -> None:
    """
    F-C1, F-C2: before the point is put nothing is visible, after it the point is complete; the
    next run succeeds without a manual step, and both days restore bit-exactly.
    """
    days = two_days()
    base = MemoryStore()
    new_repository(base)
    first = one_run(base, days[0], 0, 0)
    counting = CrashingStore(copy_of(base))
    one_run(counting, days[1], 1, 0, first)
    # session, packs, segments, image, point, and the session's end
    assert counting.calls >= 8
    walked = 0
    for at in range(counting.calls):
        for mode in MODES:
            store = copy_of(base)
            crashing = CrashingStore(store, at, mode)
            with pytest.raises(Crash):
                one_run(crashing, days[1], 1, 0, first)
            is_put = any(name.startswith("points/") for name in store.objects if name.endswith("1"))
            assert check_published(store, days) == ["point-0", "point-1"][: 1 + is_put]
            if not is_put:
                one_run(store, days[1], 1, 1, first)
            assert check_published(store, days) == ["point-0", "point-1"]
            walked += 1
    assert walked == 3 * counting.calls
    with capsys.disabled():
        sys.stdout.write(f" [{walked} crash points walked]")


def test_what_was_durable_is_not_stored_again() -> None:
    """A retry after a crash stores only what no index segment knew."""
    _, disk = two_days()
    base = MemoryStore()
    new_repository(base)
    whole = one_run(copy_of(base), disk, 1, 0).stored_bytes
    crashing = CrashingStore(base, 7, "before")
    with pytest.raises(Crash):
        one_run(crashing, disk, 1, 0)
    segments_put = [name for name in base.objects if name.startswith("index/")]
    assert segments_put
    assert one_run(base, disk, 1, 1).stored_bytes < whole - 2 * MIB


def copy_of(store: MemoryStore) -> MemoryStore:
    copied = MemoryStore()
    copied.objects = dict(store.objects)
    return copied
