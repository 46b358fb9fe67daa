"""What a collector deletes, what it keeps, and when it refuses to delete anything."""

import contextlib
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import cache

import pytest
from msgspec.structs import replace
from oracle import assert_repository_sound
from support.disks import SparseDisk
from support.points import _image, _point, back_up_vm, digest_of, vm_key
from support.pruning import CELLS, Used, fill, forget_all, used_repository
from support.repositories import PASSPHRASE, a_set, new_repository, prose, reopen
from support.stores import FullStore, ListingFault, MemoryStore, StaleListing

from airflow_provider_azstack.errors import (
    AccessDenied,
    IncompatibleRepository,
    ObjectHeld,
    Refused,
    StoreFull,
    Unreachable,
)
from airflow_provider_azstack.model import Image, Job, JobRecord, RestorePoint
from airflow_provider_azstack.repo.blocks import segments
from airflow_provider_azstack.repo.blocks.packs import OWNER_BYTES
from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.points.forget import forget
from airflow_provider_azstack.repo.prune import litter, liveness
from airflow_provider_azstack.repo.prune.collector import prune
from airflow_provider_azstack.repo.prune.repack import copy_blocks
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sealing.records import BadBlock, BadBlocks, CondemnedPacks
from airflow_provider_azstack.repo.sessions import Session
from airflow_provider_azstack.store.base import Buffer, ObjectInfo, Store
from airflow_provider_azstack.store.guard import AppendOnlyStore, ReadOnlyStore, StoreWrapper

pytestmark = pytest.mark.tier1


@cache
def used() -> Used:
    return used_repository()


@pytest.fixture
def repository() -> Repository:
    """A repository of which two points have just been forgotten."""
    repository = used().open()
    forget_all(repository, used())
    return repository


def through(repository: Repository, store: Store) -> Repository:
    return Repository.open(store, PASSPHRASE)


def objects(repository: Repository) -> dict[str, bytes]:
    assert isinstance(repository.store, MemoryStore)
    return repository.store.objects


def names(repository: Repository, prefix: str) -> set[str]:
    return {info.name for info in repository.store.list(prefix)}


def assert_nothing_went(repository: Repository, before: set[str]) -> None:
    assert before - names(repository, "") <= names_that_come_and_go(before)
    assert_repository_sound(repository, used().expected)


def names_that_come_and_go(before: set[str]) -> set[str]:
    return {name for name in before if name.startswith(("sessions/", "census/"))}


def test_what_nothing_needs_goes_and_all_points_restore(repository: Repository) -> None:
    report = prune(repository, dead_sessions=[used().dead])
    assert len(report.of("condemn")) == 5
    assert len(report.of("repack")) == 1
    assert len([row for row in report.of("delete") if row.name.startswith("packs/")]) == 3
    assert report.freed_bytes > 60_000
    assert prune(repository).rows == ()
    assert_repository_sound(repository, used().expected)


def test_what_does_not_fit_into_memory_is_looked_at_by_and_by(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "_BATCH", 1)
    monkeypatch.setattr(liveness, "_HEAP", 2)
    report = prune(repository, dead_sessions=[used().dead])
    assert len(report.of("condemn")) == 5
    assert_repository_sound(repository, used().expected)


def test_the_index_names_no_pack_that_is_gone(repository: Repository) -> None:
    """C6."""
    prune(repository, dead_sessions=[used().dead])
    fresh = reopen(repository)
    packs = {name.rpartition("/")[2] for name in names(repository, "packs/")}
    index = fresh.open_session("look")._own_index()
    index.refresh()
    with index.database() as database:
        assert {pack.hex() for (pack,) in database.execute("SELECT id FROM packs")} == packs


def test_a_dry_run_writes_nothing_and_foresees_all(repository: Repository) -> None:
    """It needs no more than the right to read."""
    reader = through(repository, ReadOnlyStore(repository.store))
    foreseen = prune(reader, dry_run=True, dead_sessions=[used().dead])
    done = prune(repository, dead_sessions=[used().dead])
    assert set(foreseen.rows) == set(done.of("fence", "condemn", "repack"))
    assert foreseen.dry_run
    assert not done.dry_run


def test_a_living_session_is_waited_for(repository: Repository) -> None:
    """C4: whoever lived when the list was published may count on what it names."""
    restore = repository.open_session("restore")
    packs = names(repository, "packs/")
    first = prune(repository, dead_sessions=[used().dead])
    [row] = first.of("wait")
    assert restore.id in row.because
    assert packs <= names(repository, "packs/")
    assert not prune(repository, dry_run=True).of("delete")
    again = prune(repository)
    assert not again.of("condemn", "repack"), "it is condemned once"
    restore.close()
    assert prune(repository, dry_run=True).of("delete")
    assert prune(repository).of("delete")
    assert not names(repository, "condemned/")
    assert_repository_sound(repository, used().expected)


def test_packs_and_images_of_a_living_run_are_not_even_condemned(repository: Repository) -> None:
    """F-K4: a prune in the middle of a backup costs that backup nothing."""
    report = prune(repository)  # the run that is called dead elsewhere lives
    assert not {row.name for row in report.rows if "dead" in row.name}
    owner = bytes.fromhex(used().dead)[:OWNER_BYTES].hex()
    assert not {row.name for row in report.of("condemn") if row.name.endswith(owner)}


@pytest.mark.parametrize("text", [b"\xff", b'{"purpose": "", "run": "../points"}'])
def test_a_session_that_does_not_say_its_run_keeps_all_runs(
    repository: Repository, text: bytes
) -> None:
    """F-H9: sessions are plain objects; one that is not readable is a reason to keep."""
    repository.store.put("sessions/planted", text)
    report = prune(repository, dead_sessions=[used().dead])
    assert not [row for row in report.of("condemn") if row.name.startswith("images/")]


def test_a_deleted_session_costs_a_backup_and_no_more(repository: Repository) -> None:
    """F-H9: whoever deletes a session object ends a run; its blocks go, and nothing else."""
    disk = used().disks[3]
    session = repository.open_session("backup", run="live")
    _image(session, "os", disk, run="live", key=vm_key(3), day=0, incremental=False)
    repository.store.delete(f"sessions/{session.id}")
    prune(repository, dead_sessions=[used().dead])
    assert not list(repository.images("live"))
    assert_repository_sound(repository, used().expected)


def test_a_condemned_list_that_no_key_holder_wrote_is_ignored_and_told(
    repository: Repository,
) -> None:
    """F-H9: our collector deletes nothing on the word of a list that it cannot authenticate."""
    living = sorted(names(repository, "packs/"))
    other = used_repository(3).open()
    record = CondemnedPacks(packs=tuple(name.rpartition("/")[2] for name in living))
    other.records.put("condemned/foreign/packs", record)
    planted = {
        "condemned/foreign/packs": objects(other)["condemned/foreign/packs"],
        "condemned/foreign/alive": b"",
        "condemned/garbage/packs": b"all of them",
        "condemned/odd": b"",
    }
    objects(repository).update(planted)
    report = prune(repository, dead_sessions=[used().dead])
    ignored = {row.name for row in report.of("ignore")}
    assert ignored == {"condemned/foreign", "condemned/garbage", "condemned/odd"}
    assert planted.keys() <= objects(repository).keys()
    for name in planted:
        repository.store.delete(name)  # as the report says
    assert_repository_sound(reopen(repository), used().expected)


def test_an_unauthenticated_alive_does_not_open_the_gate(repository: Repository) -> None:
    """F-H9: an empty list of sessions, planted, would let the deletion start at once."""
    restore = repository.open_session("restore")
    prune(repository, dead_sessions=[used().dead])
    [alive] = [name for name in names(repository, "condemned/") if name.endswith("alive")]
    objects(repository)[alive] = b"planted"
    packs = names(repository, "packs/")
    assert prune(repository).of("ignore")
    assert names(repository, "packs/") == packs
    restore.close()


def test_a_record_that_a_killed_collector_did_not_stamp_is_stamped_by_the_next(
    repository: Repository,
) -> None:
    session = repository.open_session("backup")
    prune(repository, dead_sessions=[used().dead])
    [alive] = [name for name in names(repository, "condemned/") if name.endswith("alive")]
    del objects(repository)[alive]
    assert prune(repository).of("wait")
    session.close()
    assert prune(repository).of("delete")
    repository.store.put("condemned/ended/alive", b"a killed collector's last word")
    prune(repository)
    assert not names(repository, "condemned/")


def test_a_pack_that_is_needed_after_all_is_copied_before_it_goes() -> None:
    """C5: a run that lived when a pack was condemned publishes a point with its blocks."""
    repository = used().open()
    first = used().forgotten[1]  # VM 2's: its pack is all dead once it is forgotten
    disk = SparseDisk(CELLS * 2**20)
    session = repository.open_session("backup", run="late")
    session.writer().abort()  # W2, W3: it has seen that nothing is condemned
    forget_all(repository, used())
    waits = prune(repository, dead_sessions=[used().dead])
    assert waits.of("wait")
    old = restored_disk(used(), first)
    disk.pages = dict(old)
    image = _image(session, "os", disk, run="late", key=vm_key(2), day=5, incremental=False)
    assert image.stored_bytes < 4096, "it counted on the condemned pack, as it may"
    point = publish(session, image)
    session.close()
    report = prune(repository)
    assert not report.of("keep")
    expected = {(point.vm.key, point.id): {"os": digest_of(disk)}}
    assert_repository_sound(reopen(repository), {**used().expected, **expected})
    assert not names(repository, "condemned/")


def restored_disk(used: Used, key: tuple[str, str]) -> dict[int, bytes]:
    """Return the pages of a point's disk, read back before it is forgotten."""
    repository = used.open()
    image = repository.image(repository.point(*key).images[0].image)
    reader = ImageReader(image, repository.reader())
    return {
        page: reader.read(extent.offset, extent.length)
        for extent in reader.extents()
        for page in [extent.offset // 4096]
    }


def publish(session: Session, image: Image) -> RestorePoint:
    session.verify_present(group for group in image.regions if group)
    point = _point(session, [image], run="late", policy="p", number=2, day=5, previous="")
    return session.publish(point)


def damage(kind: str) -> str:
    """Return the name of an object of that kind which a kept point needs."""
    repository = used().open()
    point = repository.points(vm_key(1))[-1]
    if kind == "points":
        return f"points/{point.vm.key}/{point.id}"
    if kind == "images":
        return point.images[0].image
    owner = bytes.fromhex(point.session)[:OWNER_BYTES]
    if kind == "packs":  # it holds the group of the newest image
        return next(
            name
            for name in used().objects
            if name.startswith("packs/") and name.endswith(owner.hex())
        )
    return next(
        info.name
        for info in repository.store.list("index/")
        if any(one.pack.endswith(owner) for one in segments.get(repository.records, info))
    )


@pytest.mark.parametrize("kind", ["points", "images", "packs", "index"])
@pytest.mark.parametrize("how", ["damaged", "gone"])
def test_a_root_that_cannot_be_read_stops_it(repository: Repository, kind: str, how: str) -> None:
    """C2: nothing is deleted when what a point needs is unknown."""
    prune(repository)  # a census is there
    name = damage(kind)
    content = objects(repository).pop(name)
    if how == "damaged":
        objects(repository)[name] = bytes(len(content))
    before = names(repository, "")
    with pytest.raises(Refused):
        prune(reopen(repository), dead_sessions=[used().dead])
    assert before - names(repository, "") <= names_that_come_and_go(before)


def test_a_store_error_stops_it(repository: Repository) -> None:
    before = names(repository, "")
    broken = through(repository, ListingFault(repository.store, None, 1))
    assert isinstance(broken.store, ListingFault)
    broken.store.fault = "second page"
    with pytest.raises(Unreachable):
        prune(broken, dry_run=True)
    assert_nothing_went(repository, before)


@pytest.mark.parametrize("fault", ["truncated", "empty"])
def test_points_that_are_not_listed_stop_it(repository: Repository, fault: str) -> None:
    """F-S11, F-S12: a listing that is short or empty, with a success, is not fewer points."""
    prune(repository, dead_sessions=[used().dead])
    fill(used_repository().disks[1], range(1), random.Random(1))

    class PointsOnly(ListingFault):
        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            return super().list(prefix) if prefix == "points/" else self.inner.list(prefix)

    before = names(repository, "")
    with pytest.raises(Refused, match="restore points that were there are not listed"):
        prune(through(repository, PointsOnly(repository.store, fault, 1)))
    assert_nothing_went(repository, before)


@pytest.mark.parametrize("fault", ["truncated", "empty"])
def test_a_store_whose_every_listing_is_short_loses_nothing(
    repository: Repository, fault: str
) -> None:
    """F-S11, F-S12: whatever is refused or done, all points restore once the store is well."""
    for page in range(12):
        copy = used().open()
        forget_all(copy, used())
        prune(copy, dry_run=True)
        store = ListingFault(copy.store, None, page)
        lying = through(copy, store)
        store.fault = fault
        with contextlib.suppress(Refused):
            prune(lying, dead_sessions=[used().dead])
        assert_repository_sound(reopen(copy), used().expected)


def test_a_stale_listing_is_refused(repository: Repository) -> None:
    """F-S13: with the probe skipped, a store whose listings are behind loses nothing."""
    now = 0.0
    store = StaleListing(repository.store, lambda: now)
    before = names(repository, "")
    stale = through(repository, store)
    now = 100.0
    with pytest.raises(Refused, match="does not list"):
        prune(stale, dead_sessions=[used().dead])
    assert_nothing_went(repository, before)


def test_an_emptied_repository_needs_its_id(repository: Repository) -> None:
    """F-H11: prune with no points."""
    forget(repository, list(used().expected), confirm=repository.id)
    for confirm in ("", "yes"):
        with pytest.raises(Refused, match=repository.id):
            prune(repository, confirm=confirm)
        with pytest.raises(Refused, match=repository.id):
            prune(repository, confirm=confirm, dry_run=True)
    assert len(names(repository, "packs/")) == 6
    prune(repository, confirm=repository.id, dead_sessions=[used().dead])
    assert not names(repository, "packs/")
    assert not names(repository, "index/")
    assert prune(repository).rows == ()


def test_credentials_that_cannot_delete_cannot_prune(repository: Repository) -> None:
    """F-S18: one error, nothing lost, and the next backup is not hindered."""
    before = names(repository, "")
    with pytest.raises(AccessDenied):
        prune(through(repository, AppendOnlyStore(repository.store)), dead_sessions=[used().dead])
    assert_nothing_went(repository, before)
    disk = used().disks[3]
    back_up_vm(repository, {"os": disk}, number=3, day=9)
    prune(repository)
    assert_repository_sound(repository, used().expected)


def test_objects_that_the_store_holds_are_told_and_go_later(repository: Repository) -> None:
    """F-S19: refused until a date: told, tried once by each prune, deleted when it has passed."""
    until = datetime(2027, 1, 2, tzinfo=UTC)
    asked: list[str] = []

    class Locked(StoreWrapper):
        is_locked = True

        def delete(self, name: str) -> None:
            if self.is_locked and name.startswith(("packs/", "images/")):
                asked.append(name)
                raise ObjectHeld(f"{name} is locked", until)
            super().delete(name)

    store = Locked(repository.store)
    locked = through(repository, store)
    first = prune(locked, dead_sessions=[used().dead])
    assert len(first.of("held")) == len(asked) == len(set(asked)) == 6
    assert all("held until 2027-01-02" in row.because for row in first.of("held"))
    again = prune(locked)
    assert (len(again.of("held")), len(asked)) == (6, 12)
    assert not again.of("condemn", "repack")
    assert_repository_sound(repository, used().expected)
    store.is_locked = False
    assert len(prune(locked).of("delete")) == 6
    assert prune(locked).rows == ()
    assert_repository_sound(repository, used().expected)


class Bounded(FullStore):
    """A store that gives back what is deleted."""

    def delete(self, name: str) -> None:
        size_bytes = self.inner.info(name).size_bytes
        super().delete(name)
        self.room_bytes += size_bytes


def test_a_full_store_can_be_pruned(repository: Repository) -> None:
    """F-S1: with the reserve that the last prune left, for any room that is left beside it."""
    prune(repository)
    forget_all(repository, used())
    for room_bytes in (0, 100, 2000, 10_000):
        copy = used().open()
        objects(copy).clear()
        objects(copy).update(objects(repository))
        store = Bounded(copy.store, room_bytes)
        report = prune(through(copy, store), dead_sessions=[used().dead])
        assert [row for row in report.of("delete") if row.name.startswith("packs/")]
        assert_repository_sound(reopen(copy), used().expected)
        assert names(copy, "reserve/"), "and leaves a reserve again"
    with pytest.raises(StoreFull):
        prune(through(used().open(), FullStore(used().open().store, 0)))


def test_a_pack_that_cannot_be_repacked_stays(repository: Repository) -> None:
    """There is room for what makes room, not for copies."""

    class NoPacks(StoreWrapper):
        def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
            if name.startswith("packs/"):
                raise StoreFull("no room for a pack")
            super().put(name, data)

    report = prune(through(repository, NoPacks(repository.store)), dead_sessions=[used().dead])
    assert len(report.of("keep")) == 1
    assert len([row for row in report.of("delete") if row.name.startswith("packs/")]) == 2
    assert_repository_sound(repository, used().expected)


def test_what_is_repacked_stays_compressed_as_it_was() -> None:
    repository = new_repository()
    session = repository.open_session("prune")
    with session.writer("small") as writer:
        stored = writer.add(prose(100_000))
        writer.flush()
    going, index = names(repository, "packs/"), session._own_index()
    copied = copy_blocks(repository, session, index, [stored.block_id], going=going, threads=1)
    assert copied == stored.new_bytes
    assert len(names(repository, "packs/")) == 2


def test_a_small_pack_that_is_all_needed_is_not_repacked_for_ever(repository: Repository) -> None:
    """What a pack has beside its blocks counts for little in a large one, for much in this."""
    disk = SparseDisk(4096)
    disk.write(0, bytes([7]) * 4096)
    back_up_vm(repository, {"os": disk}, number=5)
    prune(repository, dead_sessions=[used().dead])
    assert min(info.size_bytes for info in repository.store.list("packs/")) < 500
    assert prune(repository).rows == ()


def test_a_damaged_copy_is_not_the_one_that_is_kept(repository: Repository) -> None:
    """A block is stored twice, and verification found one of the copies bad."""
    disk = used().disks[1]
    day = 7
    for name in list(names(repository, "index/")):
        repository.store.delete(name)
    point = back_up_vm(repository, {"os": disk}, number=4, day=day, incremental=False)
    expected = {**used().expected, (point.vm.key, point.id): {"os": digest_of(disk)}}
    repository.rebuild_index()
    session = repository.open_session("look")
    index = session._own_index()
    index.refresh()
    owner = bytes.fromhex(point.session)[:OWNER_BYTES]
    with index.database() as database:
        rows = database.execute("SELECT b.id, p.id FROM blocks b JOIN packs p ON p.number = b.pack")
        bad = [BadBlock(block_id=b, pack=p.hex()) for b, p in rows if p.endswith(owner)]
    repository.records.put("bad/one", BadBlocks(blocks=tuple(bad)))
    session.close()
    report = prune(repository, dead_sessions=[used().dead])
    gone = {row.name for row in report.of("delete") if row.name.endswith(owner.hex())}
    assert gone, "all of it is elsewhere"
    assert_repository_sound(reopen(repository), expected)


def test_notes_of_a_stop_stay_until_the_start_is_noted(repository: Repository) -> None:
    """The janitor starts by them the VMs that a killed run left stopped."""
    session = repository.open_session("backup", run="stopped")
    for set_id in ("a.stopping", "b.stopping", "b.started", "c"):
        session.put_set(replace(a_set("stopped"), id=set_id))
    session.close()
    prune(repository, dead_sessions=[used().dead])
    left = {name.rpartition("/")[2] for name in names(repository, "sets/stopped/")}
    assert left == {"a.stopping"}


def test_records_of_jobs_are_kept_for_points_and_for_reports(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(litter, "JOBS_KEPT", 2)
    session = repository.open_session("backup")
    for number in range(4):
        at = datetime(2026, 1, 1 + number, tzinfo=UTC)
        job = Job(run=f"failed-{number}", session=session.id, policy="p", stack="s")
        record = JobRecord(job=job, status="failed", started_at=at, ended_at=at, vms=())
        session.put_job(record)
        session.put_job(record)
    session.close()
    prune(repository, dead_sessions=[used().dead])
    left = {name for name in names(repository, "jobs/") if "failed" in name}
    assert left == {"jobs/failed-2/0002", "jobs/failed-3/0002"}
    assert {f"jobs/{point.run}/0001" for point in repository.points()} <= names(repository, "jobs/")


def test_many_small_segments_become_few(repository: Repository) -> None:
    prune(repository, dead_sessions=[used().dead])
    session = repository.open_session("backup", run="many")
    with session.writer() as writer:
        for number in range(70):
            writer.add(bytes([number]) * 50)
            writer.flush()
    assert len(names(repository, "index/")) > 70
    session.close()
    prune(repository)
    assert len(names(repository, "index/")) < 5
    assert_repository_sound(reopen(repository), used().expected)


def test_a_segment_of_packs_that_vanished_is_replaced(repository: Repository) -> None:
    """A fenced writer that resumes puts one; nobody believes it, and it does not stay for ever."""
    session = repository.open_session("backup", run="sleeper")
    with session.writer() as writer:
        writer.add(b"what the sleeper had in hand")
        writer.flush()
    owner = bytes.fromhex(session.id)[:OWNER_BYTES].hex()
    [pack] = [name for name in names(repository, "packs/") if name.endswith(owner)]
    session.close()
    repository.store.delete(pack)
    prune(repository, dead_sessions=[used().dead])
    index = repository.open_session("look")._own_index()
    index.refresh()
    with index.database() as database:
        assert not database.execute(
            "SELECT 1 FROM packs WHERE id = ?", (bytes.fromhex(pack.rpartition("/")[2]),)
        ).fetchone()


def test_claims_of_ended_sessions_are_removed(repository: Repository) -> None:
    session = repository.open_session("backup", run="claims")
    session.claim(vm_key(9))
    prune(repository, dead_sessions=[used().dead])
    assert names(repository, "claims/") == {f"claims/{vm_key(9)}/{session.id}"}


def test_a_record_of_a_newer_version_stops_it(repository: Repository) -> None:
    repository.records.put_bytes("condemned/new/packs", b'{"packs": [], "because": "new"}')
    before = names(repository, "")
    with pytest.raises(IncompatibleRepository):
        prune(repository, dead_sessions=[used().dead])
    assert_nothing_went(repository, before)
