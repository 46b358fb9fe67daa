"""Copies: another key, another store, the same disks; and repair from a copy."""

import threading
from collections.abc import Iterator, Sequence

import pytest
from msgspec.structs import replace
from oracle import assert_repository_sound
from support.copies import OTHER, Site, damage, other_repository
from support.disks import SparseDisk
from support.points import back_up_vm, restored_digest, vm_key
from support.repositories import PASSPHRASE, new_repository, prose, reopen
from support.stores import Crash, CrashingStore, LostWrites, MemoryStore

from airflow_provider_azstack.errors import (
    Cancelled,
    Refused,
    SessionLost,
    StoreFull,
    Tampered,
)
from airflow_provider_azstack.repo.blocks.packs import BLOCK_SIZE
from airflow_provider_azstack.repo.copies.outcome import Outcome
from airflow_provider_azstack.repo.copies.sync import ALL, Selection, repair, sync
from airflow_provider_azstack.repo.points import census, flags
from airflow_provider_azstack.repo.points.forget import forget
from airflow_provider_azstack.repo.points.holds import add_hold
from airflow_provider_azstack.repo.prune.collector import prune
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.speed import Told
from airflow_provider_azstack.store.base import Buffer
from airflow_provider_azstack.store.guard import AppendOnlyStore, StoreWrapper

pytestmark = pytest.mark.tier1


@pytest.fixture(scope="module")
def built() -> tuple[Site, dict[str, bytes]]:
    site = Site()
    return site, dict(site.repository.store.objects)  # type: ignore[attr-defined]


@pytest.fixture
def site(built: tuple[Site, dict[str, bytes]]) -> Iterator[Site]:
    """The site, its store as it was at first."""
    site, objects = built
    store = site.repository.store
    assert isinstance(store, MemoryStore)
    store.objects.clear()
    store.objects.update(objects)
    return site


def statuses(outcomes: list[Outcome]) -> list[str]:
    return [outcome.status for outcome in outcomes]


def test_a_copy_restores_to_the_same_bytes_under_another_key(site: Site) -> None:
    """R1 in the copy; nothing of it opens with the first repository's keys."""
    copy = other_repository()
    outcomes = sync(site.repository, copy)
    assert statuses(outcomes) == ["copied", "copied"]
    assert_repository_sound(copy, site.expected)
    assert [p.id for p in copy.points()] == [p.id for p in site.repository.points()]
    assert not list(copy.store.list("sessions/"))
    assert not list(site.repository.store.list("sessions/"))
    name = f"points/{vm_key(1)}/{site.points[0].id}"
    with pytest.raises(Tampered):
        site.repository.keys.open(name, copy.store.get(name))


def test_a_copy_stays_compressed_as_it_was() -> None:
    disk = SparseDisk(BLOCK_SIZE)
    disk.write(0, prose())
    small, standard, copy = new_repository(), new_repository(), other_repository()
    back_up_vm(small, {"os": disk}, compression="small")
    back_up_vm(standard, {"os": disk})
    sync(small, copy)
    packs = [sum(i.size_bytes for i in r.store.list("packs/")) for r in (small, copy, standard)]
    assert packs[0] == pytest.approx(packs[1], rel=0.001)
    assert packs[2] > 1.05 * packs[1]


def test_what_is_copied_is_told_with_its_numbers_to_the_end(site: Site) -> None:
    """Each disk by its image; the last line of each is that of all of it."""
    told: list[str] = []
    outcomes = sync(site.repository, other_repository(), progress=told.append)
    lines = [line for line in told if isinstance(line, Told)]
    assert len(lines) == len(told)
    last = {line.key: line.facts for line in lines}
    images = {part.image for point in site.points for part in point.images}
    assert last.keys() <= images
    assert {facts["percent"] for facts in last.values()} == {100.0}
    read = sum(facts["read_bytes"] for facts in last.values())
    assert read == sum(outcome.read_bytes for outcome in outcomes)


def test_a_second_sync_moves_nothing_and_a_new_point_only_its_changes(site: Site) -> None:
    """Unchanged blocks are not even read: that both have them is known run by run."""
    copy = other_repository()
    first = sync(site.repository, copy)
    assert first[0].read_bytes > 4 * 40_000
    before = len(copy.store.objects)  # type: ignore[attr-defined]
    again = sync(reopen(site.repository), copy)
    assert statuses(again) == ["there", "there"]
    assert sum(outcome.read_bytes + outcome.stored_bytes for outcome in again) == 0
    assert len(copy.store.objects) == before  # type: ignore[attr-defined]
    assert 0 < first[1].read_bytes < first[0].read_bytes / 4


def test_what_is_copied_is_chosen(site: Site) -> None:
    one, two = site.points
    other = [replace(p, vm=replace(p.vm, key=vm_key(2), name="db")) for p in site.points]
    points = [one, other[0], two, other[1]]
    assert Selection().of(points) == points
    assert Selection(vms=["vm-1"]).of(points) == [one, two]
    assert Selection(vms=[vm_key(2)]).of(points) == other
    assert Selection(points=[two.id]).of(points) == [two, other[1]]
    assert Selection(newest=1).of(points) == [two, other[1]]
    assert Selection(vms=["db"], newest=1).of(points) == [other[1]]
    copy = other_repository()
    sync(site.repository, copy, Selection(newest=1))
    assert [point.id for point in copy.points()] == [two.id]
    sync(site.repository, copy)
    assert_repository_sound(copy, site.expected)


def test_a_copy_of_itself_is_refused(site: Site) -> None:
    with pytest.raises(Refused, match="both are repository"):
        sync(site.repository, reopen(site.repository))


def test_an_interrupted_sync_stores_nothing_twice(site: Site) -> None:
    """What is durable of a point that was not published is used by the next sync."""
    whole = other_repository()
    sync(site.repository, whole)
    counted = CrashingStore(other_repository().store)
    sync(site.repository, Repository.open(counted, OTHER))
    at = next(n for n, (_, name) in enumerate(counted.log) if name.startswith("points/"))
    store = other_repository().store
    with pytest.raises(Crash):
        sync(site.repository, Repository.open(CrashingStore(store, at), OTHER))
    outcomes = sync(site.repository, Repository.open(store, OTHER))
    assert statuses(outcomes) == ["copied", "copied"]
    assert outcomes[0].read_bytes == 0


def test_a_fenced_sync_publishes_nothing(site: Site) -> None:
    copy = other_repository()

    class Fenced(MemoryStore):
        """Loses its sessions just before a point is put."""

        def put(self, name: str, data: object) -> None:
            if name.startswith("points/"):
                for session in [n for n in self.objects if n.startswith("sessions/")]:
                    del self.objects[session]
            super().put(name, data)  # type: ignore[arg-type]

    store = Fenced()
    store.objects = dict(copy.store.objects)  # type: ignore[attr-defined]
    with pytest.raises(SessionLost):
        sync(site.repository, Repository.open(store, OTHER))
    assert list(store.list("points/")) == []


def test_what_a_fenced_sync_took_back_is_copied_by_the_next(site: Site) -> None:
    """F-K13: nobody wanted that point to be gone, however many notes are gathered since."""
    copy = other_repository()

    class Fenced(StoreWrapper):
        """Loses its sessions just after a point is put."""

        def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
            super().put(name, data)
            if name.startswith("points/"):
                for session in list(self.inner.list("sessions/")):
                    self.inner.delete(session.name)

    with pytest.raises(SessionLost, match="was withdrawn"):
        sync(site.repository, Repository.open(Fenced(copy.store), OTHER))
    for number in range(20):
        census.put_forgotten(copy, [f"{vm_key(9)}/{number}"])
    census.gather_forgotten(copy)
    assert len(list(copy.store.list("forgotten/"))) == 2
    assert statuses(sync(site.repository, copy)) == ["copied", "copied"]
    assert len(census.listed_points(copy)) == 2


def test_a_sync_stops_when_it_is_told(site: Site) -> None:
    cancel = threading.Event()
    cancel.set()
    copy = other_repository()
    with pytest.raises(Cancelled):
        sync(site.repository, copy, cancel=cancel)
    assert copy.points() == []
    assert not list(copy.store.list("sessions/"))


@pytest.mark.parametrize("kind", ["packs/", "index/", "images/"])
def test_a_lost_write_is_found_before_a_copy_is_published(site: Site, kind: str) -> None:
    """F-S15: the destination acknowledged an object and has it not: the point fails."""
    store = LostWrites(other_repository().store, lambda name: name.startswith(kind))
    copy = Repository.open(store, OTHER)
    outcomes = sync(site.repository, copy)
    assert statuses(outcomes) == ["failed", "failed"]
    assert copy.points() == []


def test_a_damaged_point_does_not_keep_the_others(site: Site) -> None:
    """Each damaged one is named; the state of the whole is that of its worst."""
    store = site.repository.store
    assert isinstance(store, MemoryStore)
    one, two = site.points
    name = f"points/{vm_key(1)}/{one.id}"
    store.objects[name] = store.objects[name][:-1]
    copy = other_repository()
    outcomes = sync(reopen(site.repository), copy)
    assert [(o.point, o.status) for o in outcomes] == [(one.id, "failed"), (two.id, "copied")]
    assert name in outcomes[0].reason


def test_another_point_of_that_id_is_not_overwritten(site: Site) -> None:
    copy = other_repository()
    sync(site.repository, copy)
    store = copy.store
    assert isinstance(store, MemoryStore)
    one = site.points[0]
    name = f"images/{one.run}/{vm_key(1)}.os/{one.session}"
    image = copy.image(name)
    store.delete(name)
    copy.records.put(name, replace(image, seconds=99.0))
    store.delete(f"points/{vm_key(1)}/{one.id}")
    outcomes = sync(site.repository, Repository.open(store, OTHER))
    assert statuses(outcomes) == ["failed", "there"]
    assert "another image" in outcomes[0].reason


def test_append_only_credentials_are_enough_for_a_sync(site: Site) -> None:
    """F-S18: at both ends nothing is deleted but sessions."""
    copy = other_repository()
    source = reopen(site.repository, AppendOnlyStore(site.repository.store))
    sync(source, Repository.open(AppendOnlyStore(copy.store), OTHER))
    assert_repository_sound(copy, site.expected)


DAMAGES = ["packs gone", "index gone", "images damaged", "images gone", "points damaged"]
DAMAGES += ["a pack is cut", "blocks are bad"]


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("direction", ["here", "there"])
def test_what_one_lost_the_other_brings_back(site: Site, how: str, direction: str) -> None:
    """Repair in both directions, by the ordinary writer: in new packs, under the own key."""
    copy = other_repository()
    sync(site.repository, copy)
    passphrases = {"here": PASSPHRASE, "there": OTHER}
    stores = {"here": site.repository.store, "there": copy.store}
    damage(Repository.open(stores[direction], passphrases[direction]), how)
    replica = "there" if direction == "here" else "here"
    damaged = Repository.open(stores[direction], passphrases[direction])
    whole = Repository.open(stores[replica], passphrases[replica])
    assert "repaired" in statuses(repair(damaged, whole))
    healed = Repository.open(stores[direction], passphrases[direction])
    for point in healed.points():
        restored = {i.disk_key: restored_digest(healed, i.image) for i in point.images}
        assert restored == site.expected[point.vm.key, point.id]
    assert len(healed.points()) == len(site.expected)
    assert set(statuses(repair(healed, whole))) == {"there"}


def test_a_repair_of_what_is_whole_writes_nothing(site: Site) -> None:
    copy = other_repository()
    sync(site.repository, copy)
    before = set(copy.store.objects)  # type: ignore[attr-defined]
    outcomes = repair(copy, site.repository)
    assert statuses(outcomes) == ["there", "there"]
    assert sum(outcome.read_bytes for outcome in outcomes) == 0
    assert set(copy.store.objects) == before  # type: ignore[attr-defined]


def test_a_replica_that_holds_another_disk_heals_nothing(site: Site) -> None:
    """Blocks are compared by their ids under the own key: wrong ones are never taken."""
    copy = other_repository()
    sync(site.repository, copy)
    one = site.points[0]
    name = f"images/{one.run}/{vm_key(1)}.os/{one.session}"
    image = copy.image(name)
    copy.store.delete(name)
    later = copy.image(site.points[1].images[0].image)
    copy.records.put(name, replace(image, regions=later.regions))
    damage(site.repository, "packs gone")
    damaged = reopen(site.repository)
    outcomes = repair(damaged, copy, Selection(points=[one.id]))
    assert statuses(outcomes) == ["failed"]
    assert "not the same disk" in outcomes[0].reason


def test_what_was_forgotten_in_the_copy_stays_forgotten(site: Site) -> None:
    """The copy has a retention of its own; a point that is asked for by its id comes back."""
    copy = other_repository()
    sync(site.repository, copy)
    one = site.points[0]
    forget(copy, [(vm_key(1), one.id)])
    assert statuses(sync(site.repository, reopen_other(copy))) == ["forgotten", "there"]
    asked = Selection(points=[one.id])
    assert statuses(sync(site.repository, reopen_other(copy), asked)) == ["copied"]
    assert_repository_sound(copy, site.expected)


@pytest.mark.parametrize("is_meant", [True, False])
def test_what_came_back_can_be_held_and_is_missed_when_it_goes(
    site: Site, *, is_meant: bool
) -> None:
    """F-K16: a point that was forgotten, or taken back, and copied again is like any other."""
    copy = other_repository()
    sync(site.repository, copy)
    one = site.points[0]
    if is_meant:
        forget(copy, [(vm_key(1), one.id)])
    else:
        copy.store.delete(f"points/{vm_key(1)}/{one.id}")
        census.put_forgotten(copy, [f"{vm_key(1)}/{one.id}"], is_withdrawn=True)
    asked = Selection(points=[one.id]) if is_meant else ALL
    assert statuses(sync(site.repository, reopen_other(copy), asked))[0] == "copied"
    add_hold(copy, vm_key(1), one.id)
    census.put_census(copy, census.listed_points(copy))
    copy.store.delete(f"points/{vm_key(1)}/{one.id}")
    with pytest.raises(Refused, match="not listed"):
        census.listed_points(copy)


def test_a_note_that_stayed_is_taken_back_by_the_next_copy_that_is_asked_for(site: Site) -> None:
    """F-K16: as when a copy died just before that. Other copies leave what may be about to go."""
    copy = other_repository()
    sync(site.repository, copy)
    one = site.points[0]
    census.put_forgotten(copy, [f"{vm_key(1)}/{one.id}"])
    assert statuses(sync(site.repository, reopen_other(copy))) == ["there", "there"]
    assert len(census.forgotten(copy)) == 1
    asked = Selection(points=[one.id])
    assert statuses(sync(site.repository, reopen_other(copy), asked)) == ["there"]
    add_hold(copy, vm_key(1), one.id)


def test_whoever_may_not_delete_can_copy_what_was_forgotten(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """F-S18: the note stays, and that is told."""
    copy = other_repository()
    sync(site.repository, copy)
    one = site.points[0]
    forget(copy, [(vm_key(1), one.id)])
    appending = Repository.open(AppendOnlyStore(copy.store), OTHER)
    asked = Selection(points=[one.id])
    assert statuses(sync(site.repository, appending, asked)) == ["copied"]
    assert "still noted as forgotten" in caplog.text
    assert_repository_sound(copy, site.expected)


def test_what_another_sync_copied_and_was_forgotten_stays_forgotten(site: Site) -> None:
    """F-K15: also when this sync had begun before."""
    copy = other_repository()
    one = site.points[0]

    class Meanwhile(StoreWrapper):
        """Another sync runs, and its first point is forgotten, before our first is put."""

        is_done = False

        def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
            if name.startswith("points/") and not self.is_done:
                self.is_done = True
                sync(site.repository, reopen_other(copy))
                forget(reopen_other(copy), [(vm_key(1), one.id)])
            super().put(name, data)

    ours = Repository.open(Meanwhile(copy.store), OTHER)
    assert statuses(sync(site.repository, ours)) == ["forgotten", "there"]
    assert [point.id for point in copy.points()] == [site.points[1].id]
    assert not list(copy.store.list("claims/"))


def reopen_other(copy: Repository) -> Repository:
    return Repository.open(copy.store, OTHER)


def test_a_suspicious_point_is_suspicious_in_the_copy_too(site: Site) -> None:
    """Also when it was flagged after it was copied: the copy's retention must know."""
    copy = other_repository()
    one, two = site.points
    flags.put_flag(site.repository, vm_key(1), one.id, ("everything changed",), one.taken_at)
    sync(site.repository, copy)
    flags.put_flag(site.repository, vm_key(1), two.id, ("no longer compressible",), two.taken_at)
    sync(site.repository, reopen_other(copy))
    assert flags.flagged(copy) == {(vm_key(1), one.id), (vm_key(1), two.id)}
    assert flags.reasons(copy, vm_key(1), two.id) == ("no longer compressible",)


def test_an_image_that_an_interrupted_sync_left_and_a_collector_condemned(site: Site) -> None:
    """W4 for records: it is not counted on, or a collector takes it just before publication."""
    store = other_repository().store
    assert isinstance(store, MemoryStore)
    counted = CrashingStore(store)
    sync(site.repository, Repository.open(counted, OTHER))
    _, at = (n for n, (_, name) in enumerate(counted.log) if name.startswith("points/"))
    copy = other_repository()
    with pytest.raises(Crash):
        sync(site.repository, Repository.open(CrashingStore(copy.store, at), OTHER))
    (dead,) = copy.sessions()
    slow = copy.open_session("restore")
    prune(copy, dead_sessions=[dead])

    class Collected(StoreWrapper):
        """Whoever waited ends, and a collection goes on, just before a point is put."""

        def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
            if name.startswith("points/") and copy.store.exists(f"sessions/{slow.id}"):
                slow.close()
                prune(copy)
            self.inner.put(name, data)

    outcomes = sync(site.repository, Repository.open(Collected(copy.store), OTHER))
    assert statuses(outcomes) == ["there", "failed"]
    assert "is condemned" in outcomes[1].reason
    visible = {(point.vm.key, point.id) for point in copy.points()}
    assert_repository_sound(copy, {key: site.expected[key] for key in visible})
    slow.close()
    prune(copy)
    assert statuses(sync(site.repository, reopen_other(copy))) == ["there", "copied"]
    assert_repository_sound(copy, site.expected)


def test_a_full_destination_ends_the_sync(site: Site) -> None:
    """F-S2: it is not taken for a fault of one point after the other."""

    class Full(MemoryStore):
        def put(self, name: str, data: object) -> None:
            if name.startswith("packs/"):
                raise StoreFull("no room")
            super().put(name, data)  # type: ignore[arg-type]

    store = Full()
    other_repository(store)
    with pytest.raises(StoreFull):
        sync(site.repository, Repository.open(store, OTHER))
    assert not list(store.list("sessions/"))
