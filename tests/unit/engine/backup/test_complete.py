"""Completion decides from the repository: zero or one point for each VM, never part of one."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
import pytest
from support.disks import PASSPHRASE, SparseDisk, new_repository
from support.fleets import host, machine
from support.stores import Crash, CrashingStore, LostWrites, MemoryStore

from airflow_provider_azstack.engine import names
from airflow_provider_azstack.engine.backup.complete import complete, require_done
from airflow_provider_azstack.engine.backup.disk import back_up_disk
from airflow_provider_azstack.engine.backup.distribute import distribute
from airflow_provider_azstack.engine.backup.manifests import spill
from airflow_provider_azstack.engine.backup.parts import stretches
from airflow_provider_azstack.errors import ConfigurationError, IncompleteJob, SessionLost
from airflow_provider_azstack.model import (
    DiskPart,
    DiskSnapshot,
    Job,
    JobRecord,
    Manifest,
    RestorePoint,
    SnapshotSet,
    VirtualMachine,
    to_json,
)
from airflow_provider_azstack.repo.images.runs import REGION_BYTES
from airflow_provider_azstack.repo.points.flags import flagged
from airflow_provider_azstack.repo.points.forget import forget
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sessions import Session
from airflow_provider_azstack.store.base import Store

pytestmark = pytest.mark.tier1

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SIZE = 1 << 20


def noise(number: int) -> bytes:
    return number.to_bytes(4) * 5000


@dataclass
class Prepared:
    """A run whose streams have ended."""

    repository: Repository
    session: Session
    job: Job
    vms: list[VirtualMachine]
    manifests: tuple[Manifest, ...]

    def take_set(self, vm: VirtualMachine, *, session: str = "") -> SnapshotSet:
        number = len(list(self.repository.sets(self.job.run, vm.key))) + 1
        taken = SnapshotSet(
            id=names.set_id(session or self.job.session, number),
            run=self.job.run,
            vm=vm,
            consistency="crash",
            snapshots=tuple(
                DiskSnapshot(
                    disk_key=disk.key,
                    kind="managed",
                    id=f"/snapshots/{disk.unique_id}",
                    size_bytes=disk.size_bytes,
                    unique_id=disk.unique_id,
                    taken_at=datetime.now(UTC),
                )
                for disk in vm.disks
            ),
        )
        self.session.put_set(taken)
        return taken

    def stream(self, vm: VirtualMachine, taken: SnapshotSet, keys: tuple[str, ...] = ()) -> None:
        for snapshot in taken.snapshots:
            if not keys or snapshot.disk_key in keys:
                self.stream_disk(vm, taken, snapshot)

    def stream_disk(
        self,
        vm: VirtualMachine,
        taken: SnapshotSet,
        snapshot: DiskSnapshot,
        part: DiskPart | None = None,
        copy: str = "",
    ) -> None:
        source = SparseDisk(snapshot.size_bytes)
        content = noise(self.vms.index(vm) + len(snapshot.disk_key) * 1000)
        for offset in range(0, snapshot.size_bytes, REGION_BYTES):
            source.write(offset, content)
        which = f"-{part.first}" if part else ""
        back_up_disk(
            source,
            self.session,
            name=f"images/{self.job.run}/{vm.key}.{snapshot.disk_key}/{copy}{taken.id}{which}",
            run=self.job.run,
            vm_key=vm.key,
            set_id=taken.id,
            snapshot=snapshot,
            part=part,
            previous=None,
        )

    def complete(self, **settings: object) -> JobRecord:
        return complete(self.session, self.job, self.manifests, started_at=NOW, **settings)

    def under(self, store: Store) -> "Prepared":
        """Return the same run as another process sees it, through another store."""
        repository = Repository.open(store, PASSPHRASE)
        session = repository.join_session(self.session.id)
        return Prepared(repository, session, self.job, self.vms, self.manifests)


def prepared(
    count: int,
    disks: int = 1,
    store: Store | None = None,
    *,
    size_bytes: int = SIZE,
    split_bytes: int | None = None,
) -> Prepared:
    repository = new_repository(store)
    session = repository.open_session("backup", run="run-1")
    job = Job(run="run-1", session=session.id, policy="p", stack="stack.example")
    vms = [machine(number, [size_bytes] * disks) for number in range(count)]
    hosts = [host("a", 2), host("b", 2)]
    shared = distribute(job, vms, hosts, split_bytes=split_bytes)
    manifests = tuple(spill(session, manifest, limit_bytes=1500) for manifest in shared)
    return Prepared(repository, session, job, vms, manifests)


def streamed(count: int, disks: int = 1, store: Store | None = None) -> Prepared:
    run = prepared(count, disks, store)
    for vm in run.vms:
        run.stream(vm, run.take_set(vm))
    return run


def streamed_in_parts(store: Store | None = None) -> Prepared:
    run = prepared(1, store=store, size_bytes=REGION_BYTES + SIZE, split_bytes=SIZE)
    (vm,) = run.vms
    taken = run.take_set(vm)
    (snapshot,) = taken.snapshots
    for part in stretches(snapshot.size_bytes, 2):
        run.stream_disk(vm, taken, snapshot, part)
    return run


def fates(record: JobRecord) -> dict[str, str]:
    return {vm.name: vm.status for vm in record.vms}


def test_complete_vms_get_a_point_and_the_record_says_so() -> None:
    run = streamed(3, disks=2)
    record = run.complete()
    assert record.status == "done"
    assert fates(record) == dict.fromkeys(["vm0", "vm1", "vm2"], "done")
    require_done(record)
    for vm in record.vms:
        point = run.repository.point(vm.key, vm.point)
        assert [image.disk_key for image in point.images] == ["os", "data-0"]
        assert vm.stored_bytes == sum(image.stored_bytes for image in point.images) > 0
    assert run.repository.job("run-1") == record


def test_doing_it_again_changes_nothing() -> None:
    """F-C10: killed after publishing, before reporting: the same points, one for each VM."""
    run = streamed(2)
    first, again = run.complete(), run.complete()
    assert [vm.point for vm in first.vms] == [vm.point for vm in again.vms]
    assert len(run.repository.points()) == 2


def test_a_retry_brings_no_point_back_that_was_forgotten_since() -> None:
    """F-K15: that VM has no restore point of this run, and the record says why."""
    run = streamed(2)
    one, other = run.complete().vms
    forget(run.repository, [(one.key, one.point)], confirm=run.repository.id)
    again = run.complete()
    assert [vm.status for vm in again.vms] == ["failed", "done"]
    assert "forgotten" in again.vms[0].reason
    assert [point.id for point in run.repository.points()] == [other.point]
    with pytest.raises(IncompleteJob, match=r"1 of 2 VMs.*forgotten"):
        require_done(again)


def test_a_second_copy_of_a_stream_that_ends_late_changes_nothing() -> None:
    """F-A3, F-C10: its images come between two tries; points that are there stay."""
    run = streamed(2)
    late, other = run.vms
    first = run.complete()
    (taken,) = run.repository.sets(run.job.run, late.key)
    run.stream_disk(late, taken, taken.snapshots[0], copy="0-")  # sorts before the first
    again = run.complete()
    assert [vm.status for vm in again.vms] == ["done", "done"]
    assert [vm.point for vm in first.vms] == [vm.point for vm in again.vms]
    assert len(run.repository.points()) == 2
    assert other.key in {point.vm.key for point in run.repository.points()}


def is_whole(point: RestorePoint, vms: list[VirtualMachine]) -> bool:
    vm = next(vm for vm in vms if vm.key == point.vm.key)
    return [image.disk_key for image in point.images] == [disk.key for disk in vm.disks]


@pytest.mark.parametrize("mode", ["before", "after", "torn"])
def test_a_crash_at_any_store_call_of_completion(mode: str) -> None:
    """F-C2: each VM has zero points or one, whole; the retry makes exactly one for each."""
    run = streamed(3, disks=2, store=MemoryStore())
    objects = dict(run.repository.store.objects)
    counting = CrashingStore(restored(objects))
    run.under(counting).complete()
    assert counting.calls >= 4, "three points and a record"
    for at in range(counting.calls):
        store = restored(objects)
        crashing = CrashingStore(store, at, mode)
        with pytest.raises(Crash):
            run.under(crashing).complete()
        assert crashing.crashed
        alive = run.under(store)
        points = alive.repository.points()
        assert len({point.vm.key for point in points}) == len(points)
        assert all(is_whole(point, run.vms) for point in points)
        record = alive.complete()
        assert record.status == "done"
        after = {point.id: point for point in alive.repository.points()}
        assert len(after) == 3
        assert all(point.id in after for point in points)


@pytest.mark.parametrize("mode", ["before", "after", "torn"])
def test_a_crash_at_any_store_call_while_parts_are_joined(mode: str) -> None:
    """F-C2: the joined image is put before the point; whatever is left, the retry ends well."""
    run = streamed_in_parts(store=MemoryStore())
    objects = dict(run.repository.store.objects)
    counting = CrashingStore(restored(objects))
    run.under(counting).complete()
    assert counting.calls >= 3, "an image, a point and a record"
    for at in range(counting.calls):
        store = restored(objects)
        with pytest.raises(Crash):
            run.under(CrashingStore(store, at, mode)).complete()
        alive = run.under(store)
        for point in alive.repository.points():
            assert alive.repository.image(point.images[0].image).part is None
        for _ in range(2):
            assert alive.complete().status == "done"
        (point,) = alive.repository.points()
        image = alive.repository.image(point.images[0].image)
        assert None not in image.regions
        joined = [info for info in store.list("images/") if "-joined-" in info.name]
        assert len(joined) == 1


def test_a_part_whose_blocks_were_lost_fails_its_vm() -> None:
    """F-S15: blocks of all parts are looked for, not only those of the last one."""
    run = streamed_in_parts()
    store = run.repository.store
    packs = [info.name for info in store.list("packs/")]
    assert len(packs) == 2, "one for each part"
    for pack in packs:
        lost = store.objects.pop(pack)
        alone = run.under(restored(dict(store.objects)))
        (failed,) = alone.complete().vms
        assert "lost" in failed.reason
        store.objects[pack] = lost


def test_a_joined_image_that_was_acknowledged_and_lost_fails_its_vm() -> None:
    """F-S15: a restore point never refers to what is not there."""
    run = streamed_in_parts()
    lossy = LostWrites(run.repository.store, lambda name: "-joined-" in name)
    (failed,) = run.under(lossy).complete().vms
    assert (failed.status, run.repository.points()) == ("failed", [])
    assert "-joined-" in failed.reason
    (done,) = run.complete().vms
    assert done.status == "done"


def restored(objects: dict[str, bytes]) -> MemoryStore:
    store = MemoryStore()
    store.objects = dict(objects)
    return store


def lose_image(run: Prepared) -> None:
    vm = run.vms[0]
    run.stream(vm, run.take_set(vm), keys=("os",))


def mix_sets(run: Prepared) -> None:
    """Each disk has an image, but of two sets: as when one stream was cleared by hand."""
    vm = run.vms[0]
    run.stream(vm, run.take_set(vm), keys=("os",))
    run.stream(vm, run.take_set(vm), keys=("data-0",))


def use_another_session(run: Prepared) -> None:
    run.stream(run.vms[0], run.take_set(run.vms[0], session="of-a-run-before"))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda _: None, "no snapshot set"),
        (lambda run: run.take_set(run.vms[0]), "no image of os, data-0"),
        (lose_image, "no image of data-0"),
        (mix_sets, "different snapshot sets"),
        (use_another_session, "no snapshot set"),
    ],
)
def test_a_vm_that_is_not_whole_has_no_point(
    fault: Callable[[Prepared], None], reason: str
) -> None:
    """F-A7, F-A8: whatever the tasks say: no image, no point; the record names VM and reason."""
    run = prepared(2, disks=2)
    run.stream(run.vms[1], run.take_set(run.vms[1]))
    fault(run)
    record = run.complete(reasons={run.vms[0].key: "SourceGone: it told"})
    assert fates(record) == {"vm0": "failed", "vm1": "done"}
    failed = next(vm for vm in record.vms if vm.name == "vm0")
    assert reason in failed.reason
    assert "it told" in failed.reason
    assert record.status == "partial"
    assert [point.vm.name for point in run.repository.points()] == ["vm1"]
    with pytest.raises(IncompleteJob, match=r"1 of 2 VMs.*vm0"):
        require_done(record)


def test_the_newest_whole_set_is_taken() -> None:
    run = prepared(1, disks=2)
    vm = run.vms[0]
    old, new = run.take_set(vm), run.take_set(vm)
    run.stream(vm, old)
    run.stream(vm, new)
    run.stream(vm, run.take_set(vm), keys=("os",))
    (done,) = run.complete().vms
    assert run.repository.point(vm.key, done.point).set_id == new.id


def test_nothing_at_all_is_failed_and_no_vm_is_done() -> None:
    run = prepared(2)
    assert run.complete().status == "failed"
    empty = prepared(0)
    record = empty.complete()
    assert (record.status, record.vms) == ("done", ())
    require_done(record)


def test_a_skipped_vm_is_no_failure_but_shows() -> None:
    run = prepared(1)
    note = SnapshotSet(
        id=names.new_attempt_id(run.job.session),
        run=run.job.run,
        vm=run.vms[0],
        consistency="required_stopped",
        snapshots=(),
    )
    run.session.put_set(note)
    record = run.complete()
    assert (record.status, record.vms[0].status) == ("partial", "skipped")
    assert "running" in record.vms[0].reason
    require_done(record)


def lost(run: Prepared, prefix: str, vm_number: int) -> None:
    """Lose what only one VM's backup added, as if its acknowledged write had never happened."""
    store = run.repository.store
    before = set(store.objects)
    vm = run.vms[vm_number]
    run.stream(vm, run.take_set(vm))
    for name in set(store.objects) - before:
        if name.startswith(prefix):
            store.delete(name)


@pytest.mark.parametrize("prefix", ["packs/", "index/"])
def test_a_write_that_was_acknowledged_and_lost(prefix: str) -> None:
    """F-S15: the existence check fails the VM that needs it, and no other; no point for it."""
    run = prepared(2)
    run.stream(run.vms[1], run.take_set(run.vms[1]))
    lost(run, prefix, 0)
    run = run.under(run.repository.store)
    record = run.complete()
    assert fates(record) == {"vm0": "failed", "vm1": "done"}
    assert "lost" in next(vm for vm in record.vms if vm.name == "vm0").reason
    assert [point.vm.name for point in run.repository.points()] == ["vm1"]


def test_a_fenced_session_commits_nothing() -> None:
    run = streamed(2)
    run.repository.fence(run.session.id)
    with pytest.raises(SessionLost):
        run.complete()
    assert run.repository.points() == []
    assert run.repository.jobs() == []


def test_a_manifest_of_another_run_is_refused() -> None:
    """F-A12: nothing of it is used."""
    run = streamed(1)
    other = msgspec.structs.replace(run.job, run="run-2")
    stranger = msgspec.structs.replace(run.manifests[0], job=other, workloads=())
    run.manifests = (stranger,)
    with pytest.raises(ConfigurationError, match="run-2"):
        run.complete()
    assert run.repository.points() == []


def test_each_point_names_the_one_before_it_also_when_done_twice() -> None:
    run = streamed(1)
    (first,) = run.complete().vms
    run.stream(run.vms[0], run.take_set(run.vms[0]))
    for _ in range(2):
        (second,) = run.complete().vms
    assert second.point != first.point
    assert run.repository.point(second.key, second.point).previous == first.point


def test_many_vms_take_seconds() -> None:
    """The cost of a VM is a few milliseconds of our own: 10,000 VMs end within a minute."""
    run = prepared(400)
    template = run.take_set(run.vms[0])
    run.stream(run.vms[0], template)
    image = next(run.repository.images("run-1"))
    for vm in run.vms[1:]:
        taken = run.take_set(vm)
        run.session.put_image(
            msgspec.structs.replace(
                image,
                name=f"images/run-1/{vm.key}.os/{taken.id}",
                vm_key=vm.key,
                set_id=taken.id,
                snapshot=taken.snapshots[0],
            )
        )
    began = time.process_time()
    record = run.complete()
    spent = time.process_time() - began
    assert record.status == "done"
    assert spent / 400 < 0.006
    assert len(to_json(record)) < 400 * 500


def test_a_suspicious_point_is_published_flagged_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal fails nothing; record and asset event carry it, also after a retry."""
    monkeypatch.setattr("airflow_provider_azstack.engine.backup.signals.MIN_CHANGED_BYTES", 1)
    monkeypatch.setattr("airflow_provider_azstack.engine.backup.signals.MIN_CHANGED_SHARE", 0.0)
    run = streamed(2)
    first = run.complete().vms[0]
    template = run.repository.point(first.key, first.point)
    [image] = template.images
    # The same disk, quiet for a while before this run.
    quiet = msgspec.structs.replace(image, stored_bytes=1)
    for day in range(10):
        earlier = msgspec.structs.replace(
            template, id=f"20250101t00000{day}-x", images=(quiet,), previous="one"
        )
        run.repository.records.put(f"points/{first.key}/{earlier.id}", earlier)
    record = run.complete()
    assert record.status == "done"
    suspicious, normal = record.vms
    assert "times as much as usual" in suspicious.suspicious[0]
    assert normal.suspicious == ()
    assert flagged(run.repository) == {(first.key, first.point)}
