"""What verification makes of damage: it names it, says what it costs, and the next backup heals."""

from collections.abc import Callable
from typing import Literal

import pytest
from msgspec.structs import replace
from oracle import assert_nothing_is_missing, assert_repository_sound
from support.damage import flipped
from support.disks import SparseDisk
from support.points import back_up_vm, digest_of, restored_digest, vm_key
from support.repositories import a_point, an_image, new_repository, noise, reopen
from support.stores import Crash, CrashingStore, MemoryStore

from airflow_provider_azstack.errors import DamageFound, IntegrityError, MissingBlock
from airflow_provider_azstack.model import RestorePoint
from airflow_provider_azstack.repo.blocks.segments import read_directory
from airflow_provider_azstack.repo.images.runs import Run, load_group, store_runs
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sealing.records import BadBlocks, CondemnedPacks
from airflow_provider_azstack.repo.verify.findings import Report
from airflow_provider_azstack.repo.verify.verification import Mode, require_sound, verify
from airflow_provider_azstack.store.base import Store

pytestmark = pytest.mark.tier1
PAGE, MIB = 4096, 2**20
MODES: tuple[Literal["before", "after", "torn"], ...] = ("before", "after", "torn")


class Site:
    """Two VMs that share nothing; the first has two points, a page apart."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.repository = new_repository(self.store)
        self.disk, self.other = SparseDisk(2 * PAGE), SparseDisk(2 * PAGE)
        self.expected: dict[tuple[str, str], dict[str, str]] = {}
        self.added: dict[str, str] = {}
        self.disk.write(0, b"text " * 50 + noise(1, 60))
        self.other.write(0, noise(2, 70))
        self.first = self.back_up(self.disk, 1, 0)
        self.apart = self.back_up(self.other, 2, 0)
        self.disk.write(PAGE, noise(3, 50))
        self.second = self.back_up(self.disk, 1, 1)
        self.intact = dict(self.store.objects)
        self.known = dict(self.expected)

    def back_up(self, disk: SparseDisk, number: int, day: int) -> RestorePoint:
        before = {info.name for info in self.store.list("packs/")}
        point = back_up_vm(reopen(self.repository), {"os": disk}, number=number, day=day)
        disk.freeze()
        [self.added[point.id]] = {info.name for info in self.store.list("packs/")} - before
        self.expected[point.vm.key, point.id] = {"os": digest_of(disk)}
        return point

    def pack_of(self, point: RestorePoint) -> str:
        """Return the pack that the run of a point added."""
        return self.added[point.id]

    def heal(self) -> None:
        self.store.objects.clear()
        self.store.objects.update(self.intact)
        self.expected = dict(self.known)

    def flip(self, name: str, at: int) -> None:
        data = bytearray(self.intact[name])
        data[at] ^= 1 << (at % 8)
        self.store.objects[name] = bytes(data)

    def with_bad_blocks(self, pack: str) -> bytes:
        """Return a pack of which every block is damaged, its directory not."""
        directory = read_directory(self.store, self.repository.keys, self.store.info(pack))
        return flipped(self.intact[pack], *(entry.end - 1 for entry in directory.entries))

    def verify(self, mode: Mode = "full") -> Report:
        return verify(reopen(self.repository), mode, progress=lambda _: None, threads=2)

    def restores(self, point: RestorePoint) -> bool:
        [image] = point.images
        try:
            digest = restored_digest(reopen(self.repository), image.image)
        except IntegrityError:
            return False
        assert digest == self.expected[point.vm.key, point.id]["os"], "wrong bytes"
        return True


@pytest.fixture(scope="module")
def site() -> Site:
    return Site()


@pytest.fixture(autouse=True)
def _heal(site: Site) -> None:
    site.heal()


def affected(report: Report) -> set[str]:
    return {disk.point for disk in report.affected}


def test_a_flip_in_a_pack_is_named_with_the_points_that_it_costs(site: Site) -> None:
    """F-S4: what the report calls damaged does not restore, and all else does."""
    pack = site.pack_of(site.first)
    costly = 0
    for at in range(0, len(site.intact[pack]), 5):
        site.heal()
        site.flip(pack, at)
        report = site.verify()
        [finding] = report.findings
        assert finding.object == pack
        for point in (site.first, site.second, site.apart):
            assert site.restores(point) == (point.id not in affected(report)), at
        assert site.apart.id not in affected(report)
        costly += not report.is_sound
    assert costly > 20
    with pytest.raises(DamageFound, match=pack):
        site.flip(pack, 60)
        require_sound(site.verify())


def test_damage_names_disks_and_the_stretches_of_them(site: Site) -> None:
    """F-S4: the second point shares the damaged page, and keeps its own."""
    pack = site.pack_of(site.second)
    info = site.store.info(pack)
    for entry in read_directory(site.store, site.repository.keys, info).entries:
        site.heal()
        site.flip(pack, entry.end - 1)
        report = site.verify()
        [lost] = report.affected
        assert (lost.vm, lost.point, lost.disk_key) == ("vm-1", site.second.id, "os")
        [stretch] = lost.ranges
        assert (stretch.offset, stretch.length) in {(PAGE, PAGE), (0, 2 * PAGE)}
        assert lost.lost_bytes == stretch.length


@pytest.mark.parametrize(
    "prefix",
    ["index/", "images/", "points/", "keys/", "sessions/", "condemned/", "jobs/", "bad/"],
)
def test_a_flip_or_a_cut_in_any_other_object_is_named(site: Site, prefix: str) -> None:
    """F-S5, F-S6: every kind of object, and an empty one is not none."""
    repository = reopen(site.repository)
    session = repository.open_session("backup")
    repository.records.put("condemned/1/packs", CondemnedPacks(packs=()))
    repository.records.put("bad/1", BadBlocks(blocks=()))
    planted = dict(site.store.objects)
    name = min(name for name in planted if name.startswith(prefix))
    damages: list[Callable[[bytes], bytes]] = [
        lambda data, n=n: data[:n]  # type: ignore[misc]
        for n in sorted({0, 1, len(planted[name]) // 2, len(planted[name]) - 1})
    ]
    damages += [
        lambda data, at=at: data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]  # type: ignore[misc]
        for at in range(0, len(planted[name]), 1 + len(planted[name]) // 8)
        if prefix != "sessions/"  # plain text for people: what is still JSON is a session
    ]
    for damage in damages:
        site.store.objects.clear()
        site.store.objects.update(planted)
        site.store.objects[name] = damage(planted[name])
        report = verify(repository, "structure", progress=lambda _: None, threads=2)
        assert name in {finding.object for finding in report.findings}
        assert not report.is_sound
    session.close()


def test_a_lost_pack_is_named_with_what_it_costs_and_heals(site: Site) -> None:
    """F-S7: points and ranges lost are listed; the next backup brings back what guests have."""
    pack = site.pack_of(site.apart)
    site.store.delete(pack)
    report = site.verify("structure")
    assert {finding.object for finding in report.findings} == {pack}
    [lost] = report.affected
    assert (lost.vm, lost.point, lost.lost_bytes) == ("vm-2", site.apart.id, 2 * PAGE)
    assert not site.restores(site.apart)
    site.back_up(site.other, 2, 1)
    assert_repository_sound(site.repository, site.expected)


def test_a_lost_pack_with_older_states_costs_the_older_points_only(site: Site) -> None:
    """F-S7: what no guest has any more cannot come back; everything else does."""
    site.store.delete(site.pack_of(site.first))
    assert affected(site.verify("structure")) == {site.first.id, site.second.id}
    point = site.back_up(site.disk, 1, 2)
    assert site.restores(point)
    report = site.verify()
    assert affected(report) <= {site.first.id, site.second.id}
    for old in (site.first, site.second):
        assert site.restores(old) == (old.id not in affected(report))


@pytest.mark.parametrize("mode", ["structure", "full"])
def test_a_damaged_pack_is_healed_by_the_next_backup(site: Site, mode: Mode) -> None:
    """F-S4: bad copies are recorded, the next backup stores them again, and old points live."""
    pack = site.pack_of(site.apart)
    site.store.objects[pack] = site.with_bad_blocks(pack)
    assert affected(site.verify(mode)) == {site.apart.id}
    assert not site.restores(site.apart)
    records = len(list(site.store.list("bad/")))
    assert affected(site.verify("structure")) == {site.apart.id}, "what was found is remembered"
    site.verify()
    assert len(list(site.store.list("bad/"))) == records, "what is known is not recorded again"
    site.back_up(site.other, 2, 1)
    report = site.verify()
    assert report.is_sound
    assert [(one.object, one.is_harmless) for one in report.findings] == [(pack, True)]
    assert site.restores(site.apart)


def test_a_pack_cut_short_costs_only_what_was_cut_off(site: Site) -> None:
    """F-S6: blocks before the cut are still read."""
    pack = site.pack_of(site.first)
    whole = site.intact[pack]
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        site.heal()
        site.store.objects[pack] = whole[:length]
        for mode in ("structure", "full"):
            report = site.verify(mode)  # type: ignore[arg-type]
            assert pack in {finding.object for finding in report.findings}
            for point in (site.first, site.second, site.apart):
                assert site.restores(point) == (point.id not in affected(report))


@pytest.mark.parametrize("kind", ["packs/", "images/", "points/", "index/"])
def test_two_objects_that_were_swapped_are_both_named(site: Site, kind: str) -> None:
    """F-S9: names are bound; of another VM nothing is affected."""
    names = sorted(name for name in site.intact if name.startswith(kind))
    one, other = names[0], names[-1]
    objects = site.store.objects
    objects[one], objects[other] = objects[other], objects[one]
    report = site.verify()
    assert {one, other} <= {finding.object for finding in report.findings}
    for point in (site.first, site.second, site.apart):
        if kind != "points/":
            assert site.restores(point) == (point.id not in affected(report))


def test_a_point_that_was_taken_back_is_missed(site: Site) -> None:
    """
    F-S10: objects are never rewritten, so the older state of one is that it was not there.

    A point that a job's record names and that nobody forgot is missed. What cannot be seen from
    within is a whole store that was set back to yesterday: then nothing newer refers to anything.
    """
    name = f"points/{site.second.vm.key}/{site.second.id}"
    site.store.delete(name)
    report = site.verify("structure")
    assert [finding.object for finding in report.findings] == [name]
    assert affected(report) == {site.second.id}
    for image in [name for name in site.intact if name.startswith("images/nightly-1-0/")]:
        site.heal()
        site.store.delete(image)
        assert affected(site.verify("structure")) == {site.first.id}


def test_a_forgotten_point_is_not_missed(site: Site) -> None:
    from airflow_provider_azstack.repo.points.forget import forget

    repository = reopen(site.repository)
    forget(repository, [(site.first.vm.key, site.first.id)])
    assert site.verify("structure").is_sound


def lose_segments(store: MemoryStore) -> list[str]:
    """Damage the whole index, each segment in another way."""
    names = sorted(info.name for info in store.list("index/"))
    for number, name in enumerate(names):
        data = store.objects[name]
        store.objects[name] = data[:-1] if number % 2 else flipped(data, 20)
    return names


def repair(repository: Repository) -> None:
    """What the two commands do, one after the other."""
    repository.rebuild_index()
    require_sound(verify(repository, "full", progress=lambda _: None, threads=1))


def test_a_damaged_index_is_rebuilt_and_the_damage_removed(site: Site) -> None:
    """F-S5: verification names the segments and says what to do; afterwards nothing is wrong."""
    names = lose_segments(site.store)
    report = site.verify("structure")
    assert set(names) <= {finding.object for finding in report.findings}
    assert "azstack rebuild-index" in str(report.findings)
    rebuilt = reopen(site.repository).rebuild_index()
    assert rebuilt.unreadable == tuple(names)
    assert rebuilt.packs == 3
    assert_repository_sound(site.repository, site.expected)


def test_death_at_any_store_call_of_a_repair(site: Site) -> None:
    """
    F-C4: rebuild and full verification, killed at every mutating call, before, after and torn.

    One segment is damaged: points of the other VM restore at every moment, for the old index
    serves until the new one is complete; and doing it again always ends well.
    """
    packs = {info.name for info in site.store.list("packs/")}
    damaged = dict(site.intact)
    broken = min(name for name in damaged if name.startswith("index/"))
    damaged[broken] = damaged[broken][:-1]
    site.store.objects.clear()
    site.store.objects.update(damaged)
    alive = [p for p in (site.first, site.second, site.apart) if site.restores(p)]
    counting = CrashingStore(site.store)
    repair(Repository(counting, site.repository.keys))
    kinds = [(what, name.partition("/")[0]) for what, name in counting.log]
    assert ("put", "index") in kinds
    assert ("delete", "index") in kinds
    assert kinds.index(("put", "index")) < kinds.index(("delete", "index"))
    walked = 0
    for at in range(counting.calls):
        for mode in MODES:
            site.store.objects.clear()
            site.store.objects.update(damaged)
            crashing = CrashingStore(site.store, at, mode)
            with pytest.raises(Crash):
                repair(Repository(crashing, site.repository.keys))
            assert all(site.restores(point) for point in alive)
            again = reopen(site.repository)
            for session in again.sessions():
                again.fence(session)
            repair(again)
            assert {info.name for info in site.store.list("packs/")} == packs
            walked += 1
    assert_repository_sound(site.repository, site.expected)
    print(f"{walked} crash points of a rebuild and a verification")  # noqa: T201
    assert walked == 3 * counting.calls >= 3 * 8


def test_death_at_any_store_call_of_a_verification_that_finds_damage(site: Site) -> None:
    """F-C4: whatever was recorded of it before, the next one finds all, and the backup heals."""
    pack = site.pack_of(site.apart)
    damaged = {**site.intact, pack: site.with_bad_blocks(pack)}

    def verify_on(store: Store) -> Report:
        site.store.objects.clear()
        site.store.objects.update(damaged)
        repository = Repository(store, site.repository.keys)
        return verify(repository, "full", progress=lambda _: None, threads=1)

    counting = CrashingStore(site.store)
    assert affected(verify_on(counting)) == {site.apart.id}
    assert ("put", "bad") in {(what, name.partition("/")[0]) for what, name in counting.log}
    for at in range(counting.calls):
        for mode in MODES:
            with pytest.raises(Crash):
                verify_on(CrashingStore(site.store, at, mode))
            assert affected(site.verify()) == {site.apart.id}
            for session in reopen(site.repository).sessions():
                site.repository.fence(session)
            site.expected = dict(site.known)
            site.back_up(site.other, 2, 1)
            assert site.verify().is_sound
            assert site.restores(site.apart)
    print(f"{3 * counting.calls} crash points of a verification that finds damage")  # noqa: T201
    assert counting.calls >= 5


def test_verification_leaves_nothing_behind(site: Site) -> None:
    """No session, and nothing but what it remembers."""
    site.verify()
    new = site.store.objects.keys() - site.intact.keys()
    assert {name.partition("/")[0] for name in new} == {"verified"}
    assert_nothing_is_missing(site.repository)
    assert site.expected.keys() >= {(vm_key(1), site.first.id)}


def test_a_part_of_a_large_group_is_what_is_blamed() -> None:
    """F-S7: a fragmented region's runs take several blocks; the pack of the lost one is named."""
    store = MemoryStore()
    repository = new_repository(store)
    session = repository.open_session("backup")
    with session.writer() as writer:
        data = writer.add(noise(1, 4096)).block_id
        runs = [Run(170 * n, 170, data, n % 3000) for n in range(98_000)]
        runs.append(Run(runs[-1].end, 16 * MIB - runs[-1].end))
        root, _ = store_runs(writer, runs)
        writer.flush()
    [pack] = [info.name for info in store.list("packs/")]
    image = replace(an_image([root]), size_bytes=16 * MIB, region_bytes=16 * MIB, vm_key=vm_key(1))
    session.put_image(image)
    session.publish(a_point(image, session))
    session.close()
    assert verify(repository, "full").is_sound
    assert root is not None
    _, parts = load_group(repository.reader(), root)
    assert len(parts) == 2
    entries = {
        e.block_id: e for e in read_directory(store, repository.keys, store.info(pack)).entries
    }
    whole = store.objects[pack]
    for block in (root, *parts):
        store.objects[pack] = flipped(whole, entries[block].end - 1)
        report = verify(Repository(store, repository.keys), "structure")
        [finding] = report.findings
        assert (finding.object, finding.bad_blocks, finding.lost_blocks) == (pack, 1, 1)
        assert [disk.lost_bytes for disk in report.affected] == [16 * MIB]
        for name in [name for name in store.objects if name.startswith("bad/")]:
            store.delete(name)


def test_a_pack_that_is_gone_with_its_segments_comes_back_with_a_full_backup() -> None:
    """F-S7: nothing tells an incremental of such a loss; a verification does, and what to do."""
    repository, content = new_repository(), noise(9, 2**20)
    store = repository.store
    one, two = SparseDisk(2 * 2**20), SparseDisk(600 * 2**20)
    one.write(0, content)
    two.write(2**20, content)  # the same block, in a group of its own
    back_up_vm(repository, {"os": one})
    lost = [info.name for prefix in ("packs/", "index/") for info in store.list(prefix)]
    back_up_vm(repository, {"os": two}, number=2)
    for name in lost:
        store.delete(name)
    repository = reopen(repository)
    two.freeze()
    two.write(300 * 2**20, noise(3, 5000))

    idle = back_up_vm(repository, {"os": two}, number=2, day=1)
    with pytest.raises(MissingBlock):
        restored_digest(repository, idle.images[0].image)
    report = verify(repository, "structure", progress=lambda _: None, threads=1)
    assert idle.id in affected(report)
    [advice] = [one.problem for one in report.findings if one.object == "index/"]
    assert "mode 'full'" in advice

    back_up_vm(repository, {"os": two}, number=2, day=2, incremental=False)
    repository = reopen(repository)
    assert restored_digest(repository, idle.images[0].image) == digest_of(two)
