"""Verification: what each mode reads, what it remembers, and what it says."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from support.disks import SparseDisk
from support.points import DAY_ONE, back_up_vm, vm_key
from support.repositories import new_repository, noise
from support.stores import Crash, CrashingStore, MemoryStore

from airflow_provider_azstack.errors import (
    Cancelled,
    ConfigurationError,
    SessionLost,
    StoreError,
)
from airflow_provider_azstack.model import Extent
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.verify import ledger, survey
from airflow_provider_azstack.repo.verify.findings import LostRange, joined
from airflow_provider_azstack.repo.verify.verification import verify
from airflow_provider_azstack.speed import Told
from airflow_provider_azstack.store.base import MOST_BYTES, ObjectInfo
from airflow_provider_azstack.store.guard import AppendOnlyStore, StoreWrapper

pytestmark = pytest.mark.tier1
MIB = 1024**2
NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def pass_days(self, days: float) -> None:
        self.now += timedelta(days=days)


class Reads(StoreWrapper):
    """Remembers which packs were read whole."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.packs: list[str] = []

    def get(self, name: str, most_bytes: int = MOST_BYTES) -> bytes:
        if name.startswith("packs/"):
            self.packs.append(name)
        return super().get(name, most_bytes)


class Site:
    """A repository with six packs of about the same size: three VMs, two days."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.reads = Reads(self.store)
        self.clock = Clock()
        keys = new_repository(self.store).keys
        self.repository = Repository(self.reads, keys, clock=self.clock)
        for number in range(1, 4):
            disk = SparseDisk(4 * MIB)
            for day in range(2):
                disk.write(day * MIB, noise(10 * number + day, 20_000))
                back_up_vm(self.repository, {"os": disk}, number=number, day=day)
                disk.freeze()

    def packs(self) -> list[ObjectInfo]:
        return sorted(self.store.list("packs/"))


@pytest.fixture
def site() -> Site:
    return Site()


def test_structure_reads_no_pack_and_finds_a_lost_one(site: Site) -> None:
    report = verify(site.repository, "structure")
    assert report.is_sound
    assert (report.points, report.packs, report.read_packs, site.reads.packs) == (6, 6, 0, [])
    assert report.unneeded_packs == 0
    lost = site.packs()[0].name
    site.store.delete(lost)
    report = verify(site.repository, "structure")
    assert not report.is_sound
    assert [(finding.object, finding.problem) for finding in report.findings] == [(lost, "is gone")]
    assert report.damaged_points >= 1


def test_what_does_not_fit_into_memory_is_looked_up_by_and_by(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "_BATCH", 1)
    monkeypatch.setattr(survey, "_TOGETHER", 1)
    assert verify(site.repository, "structure").is_sound
    lost = site.packs()[0].name
    site.store.delete(lost)
    report = verify(site.repository, "structure")
    assert [finding.object for finding in report.findings] == [lost]
    assert report.damaged_points >= 1


def test_full_reads_each_pack_once_however_many_points_share_it(site: Site) -> None:
    report = verify(site.repository, "full")
    assert report.is_sound
    assert sorted(site.reads.packs) == [info.name for info in site.packs()]
    assert report.read_bytes == report.pack_bytes == sum(i.size_bytes for i in site.packs())
    assert {point.vm_key for point in report.verified} == {vm_key(n) for n in (1, 2, 3)}
    assert {point.read_since for point in report.verified} == {NOW}


def test_a_cycle_reads_what_was_never_read_and_then_what_was_read_longest_ago(site: Site) -> None:
    """Each pack once before any pack twice, within the budget."""
    size = max(info.size_bytes for info in site.packs())
    for _ in range(3):
        report = verify(site.repository, "cycle", budget_bytes=2 * size)
        assert report.read_packs == 2
        site.clock.pass_days(1)
    assert sorted(site.reads.packs) == [info.name for info in site.packs()]
    first = site.reads.packs[:2]
    site.reads.packs.clear()
    disk = SparseDisk(MIB)
    disk.write(0, noise(99, 20_000))
    back_up_vm(site.repository, {"os": disk}, number=9)
    read = _ever_read(site)
    [new] = [info.name for info in site.packs() if info.name not in read]
    verify(site.repository, "cycle", budget_bytes=3 * size)
    assert site.reads.packs[0] == new
    assert set(site.reads.packs[1:]) == set(first)


def _ever_read(site: Site) -> set[str]:
    records = site.repository.records
    read = {pack for entry in ledger.entries(records, site.clock()) for pack in entry.record.packs}
    return {f"packs/{pack[:2]}/{pack}" for pack in read}


def test_a_cycle_without_a_budget_reads_everything_within_the_days(site: Site) -> None:
    for _ in range(3):
        report = verify(site.repository, "cycle", days=3)
        assert report.cycle is not None
        assert report.cycle.is_enough
        site.clock.pass_days(1)
    assert set(site.reads.packs) == {info.name for info in site.packs()}
    assert report.cycle.overdue_packs == 0


def test_a_budget_that_is_too_small_is_said_to_be(site: Site) -> None:
    report = verify(site.repository, "cycle", budget_bytes=1, days=2)
    assert report.cycle is not None
    assert not report.cycle.is_enough
    assert report.cycle.needed_bytes >= report.pack_bytes / 2
    assert (report.read_packs, report.cycle.overdue_packs) == (1, 5)


def test_a_point_is_verified_when_all_its_packs_were_read(site: Site) -> None:
    """And since when: the moment at which the stalest of them was read."""
    size = max(info.size_bytes for info in site.packs())
    seen: list[int] = []
    for _ in range(6):
        seen.append(len(verify(site.repository, "cycle", budget_bytes=size).verified))
        site.clock.pass_days(1)
    assert seen == sorted(seen)
    assert seen[0] <= 1
    assert seen[-1] == 3
    points = ledger.verified_points(site.repository.records, site.clock())
    assert {point.taken_at for point in points.values()} == {DAY_ONE + timedelta(days=1)}
    assert min(point.read_since for point in points.values()) >= NOW
    assert len(points) == 3


def test_a_pack_read_in_the_future_was_never_read(site: Site) -> None:
    """A clock that was wrong once hides no pack."""
    site.clock.pass_days(4000)
    verify(site.repository, "full")
    site.clock.pass_days(-4000)
    site.reads.packs.clear()
    report = verify(site.repository, "cycle", days=1)
    assert report.read_packs == 6
    assert len(report.verified) == 3


def test_what_was_damaged_since_is_not_verified_any_more(site: Site) -> None:
    assert len(verify(site.repository, "full").verified) == 3
    for info in site.packs():
        site.store.delete(info.name)
    assert verify(site.repository, "structure").verified == ()
    assert ledger.verified_points(site.repository.records, site.clock()) == {}


def test_a_full_verification_that_died_goes_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only packs that the ledger does not have yet are read again."""
    monkeypatch.setattr("airflow_provider_azstack.repo.verify.verification._PACKS_PER_RECORD", 1)
    crashing = CrashingStore(site.reads, at=4)  # the session, three records
    with pytest.raises(Crash):
        verify(Repository(crashing, site.repository.keys, clock=site.clock), "full", threads=1)
    site.clock.pass_days(1)
    [session] = site.repository.sessions()
    site.repository.fence(session)
    done = _ever_read(site)
    assert len(done) == 3
    site.reads.packs.clear()
    report = verify(site.repository, "full", resume=True)
    assert report.started_at == NOW
    assert set(site.reads.packs) == {i.name for i in site.packs()} - done
    assert len(report.verified) == 3
    site.reads.packs.clear()
    verify(site.repository, "full", resume=True)
    assert len(site.reads.packs) == 6, "one that came to its end is not gone on with"


def test_a_cancelled_verification_keeps_what_it_read(site: Site) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        verify(site.repository, "full", threads=1, cancel=cancel)
    assert _ever_read(site)
    assert site.repository.sessions() == {}


def test_records_that_say_nothing_new_are_removed(site: Site) -> None:
    for _ in range(4):
        verify(site.repository, "full")
        verify(site.repository, "structure")
        site.clock.pass_days(1)
    assert len(list(site.store.list(ledger.PREFIX))) <= 4


def test_verification_needs_no_right_to_delete(site: Site) -> None:
    """F-S18, verification's half: it only adds, and ends its session."""
    careful = Repository(AppendOnlyStore(site.store), site.repository.keys, clock=site.clock)
    for _ in range(2):
        assert verify(careful, "full").is_sound
    assert careful.sessions() == {}


def test_how_far_it_is_is_told_with_its_numbers(site: Site) -> None:
    told: list[str] = []
    report = verify(site.repository, "full", progress=told.append)
    last = told[-1]
    assert isinstance(last, Told)
    assert last.key == f"verifications/{report.verification}"
    assert (last.facts["percent"], last.facts["eta_seconds"]) == (100.0, 0)
    assert last.facts["read_bytes"] == report.read_bytes


def test_damage_is_not_reported_when_our_session_was_fenced(site: Site) -> None:
    """What is missing then may have been collected."""

    def fence(_text: str) -> None:
        for session in site.repository.sessions():
            site.repository.fence(session)
        site.store.delete(site.packs()[0].name)

    with pytest.raises(SessionLost):
        verify(site.repository, "full", progress=fence)


def test_blocks_that_moved_meanwhile_are_not_lost(site: Site) -> None:
    """A collector repacks and deletes while we read: the index is asked again."""
    from airflow_provider_azstack.repo.blocks import segments
    from airflow_provider_azstack.repo.blocks.packs import PackContents

    moved = site.packs()[0]
    index = site.repository.reader()
    contents = segments.read_directory(site.store, site.repository.keys, moved)
    blocks = [index.read(entry.block_id) for entry in contents.entries]

    def repack(_text: str) -> None:
        if not site.store.exists(moved.name):
            return
        site.store.delete(moved.name)
        session = site.repository.open_session("prune")
        with session.writer() as writer:
            for block in blocks:
                writer.add(block)
            writer.flush()
        session.close()

    assert isinstance(contents, PackContents)
    report = verify(site.repository, "full", progress=repack)
    assert report.is_sound


def test_nonsense_is_refused(site: Site) -> None:
    for settings in ({"budget_bytes": 0}, {"days": 0}):
        with pytest.raises(ConfigurationError):
            verify(site.repository, "cycle", **settings)
    assert site.repository.sessions() == {}


def test_an_empty_repository_is_sound() -> None:
    for mode in ("structure", "cycle", "full"):
        assert verify(new_repository(), mode).is_sound


def test_a_disk_of_zeros_is_verified_without_reading() -> None:
    repository = new_repository()
    back_up_vm(repository, {"os": SparseDisk(3 * MIB)})
    assert len(verify(repository, "structure").verified) == 1


def test_stretches_are_joined_and_counted() -> None:
    assert joined([]) == (0, ())
    total, ranges = joined([Extent(0, 10), Extent(10, 5), Extent(20, 1)])
    assert total == 16
    assert ranges == (LostRange(offset=0, length=15), LostRange(offset=20, length=1))
    total, ranges = joined(Extent(2 * n, 1) for n in range(3000))
    assert (total, len(ranges)) == (3000, 1000)


class Unreliable(StoreWrapper):
    """A disk with a bad sector: reading some packs fails, once or always."""

    def __init__(self, store: MemoryStore, name: str, times: int) -> None:
        super().__init__(store)
        self.name = name
        self.times = times

    def get(self, name: str, most_bytes: int = MOST_BYTES) -> bytes:
        self._fail(name)
        return super().get(name, most_bytes)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        if offset >= 40:  # its header can be read
            self._fail(name)
        return super().get_range(name, offset, length)

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        return [self.get_range(name, *one) for one in ranges]

    def _fail(self, name: str) -> None:
        if name == self.name and self.times:
            self.times -= 1
            raise StoreError(f"{name}: Input/output error")


def test_a_pack_that_fails_once_is_not_called_damaged(site: Site) -> None:
    disk = Unreliable(site.store, site.packs()[0].name, times=1)
    assert verify(Repository(disk, site.repository.keys), "full").findings == ()


def test_a_pack_that_cannot_be_read_is_damaged_and_does_not_stop_the_others(site: Site) -> None:
    """F-S3: an I/O error that stays is damage: named, and recorded for the next backup."""
    bad = site.packs()[0].name
    disk = Unreliable(site.store, bad, times=1000)
    report = verify(Repository(disk, site.repository.keys), "full", threads=1)
    [finding] = report.findings
    assert (finding.object, finding.is_harmless) == (bad, False)
    assert "Input/output error" in finding.problem
    assert finding.bad_blocks >= 2
    assert 1 <= report.damaged_points < 6
    assert report.read_packs == 6
    assert list(site.store.list("bad/"))


def test_a_collection_meanwhile_takes_nothing_away(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-K4: points are forgotten and pruned while we read: our session keeps their packs."""
    from airflow_provider_azstack.repo.points.forget import forget
    from airflow_provider_azstack.repo.prune.collector import prune

    monkeypatch.setattr("airflow_provider_azstack.repo.verify.verification._PACKS_PER_RECORD", 1)
    keys = site.repository.keys
    points = site.repository.points()
    packs = site.packs()

    def collect(_text: str) -> None:
        collector = Repository(site.store, keys, clock=site.clock)
        forget(collector, [(point.vm.key, point.id) for point in points[:3]])
        for _ in range(2):
            prune(collector)
        assert {info.name for info in packs} <= {info.name for info in site.packs()}

    report = verify(site.repository, "full", threads=1, progress=collect)
    assert report.is_sound
    assert report.read_packs == 6
    assert report.points == 3
    for _ in range(2):
        prune(Repository(site.store, keys, clock=site.clock))
    assert verify(site.repository, "full").findings == ()
