"""One disk over several hosts: one snapshot set, parts read at once, one image in the end."""

import re
from random import Random

import msgspec
import pytest
from support.compound import Rig, Run, require_point
from support.fleets import host
from support.hosts import at_once, snapshot_at_once, stream_at_once

from airflow_provider_azstack.emulator import DiskSpec, EmulatedVm
from airflow_provider_azstack.emulator.faults import Fault
from airflow_provider_azstack.emulator.http import Answer, Call
from airflow_provider_azstack.engine.backup.manifests import workload_vms
from airflow_provider_azstack.engine.backup.stream import snapshot_workload, stream_workload
from airflow_provider_azstack.errors import SourceBusy
from airflow_provider_azstack.model import Consistency, DiskKind, Image, JobVm, Workload
from airflow_provider_azstack.repo.images.runs import REGION_BYTES

pytestmark = pytest.mark.tier2

MIB = 1 << 20
SIZE = 2 * REGION_BYTES + 8 * MIB  # in parts of 256, 256 and 8 MiB
PARTS = 3
KINDS = ["managed", "unmanaged"]


@pytest.fixture
def it(it: Rig) -> Rig:
    it.emulator.add_storage_account("legacy", "prod")
    it.hosts, it.split_bytes = (host("a", 2), host("b", 2)), REGION_BYTES
    return it


def new_vm(it: Rig, kind: DiskKind = "managed") -> EmulatedVm:
    """A small system disk, and a disk of several regions with data in each."""
    account = "legacy" if kind == "unmanaged" else ""
    disks = [
        DiskSpec(size_bytes=4 * MIB),
        DiskSpec(kind=kind, size_bytes=SIZE, account=account),
    ]
    vm = it.emulator.add_vm("big", "prod", disks)
    noise = Random(1)
    vm.disks[0].write(0, noise.randbytes(MIB))
    for part in range(PARTS):
        vm.disks[1].write(part * REGION_BYTES, noise.randbytes(MIB))
        end = min((part + 1) * REGION_BYTES, SIZE)
        vm.disks[1].write(end - 8192, noise.randbytes(8192))
    return vm


@pytest.fixture
def vm(it: Rig) -> EmulatedVm:
    return new_vm(it)


def finish(it: Rig, run: Run) -> JobVm:
    """Complete and clean up; nothing but the point's own snapshots is left."""
    (done,) = run.complete().vms
    run.clean_up()
    if done.point:
        point = it.point(done)
        kept = {i.snapshot.id.lower() for i in point.images}
        left = {leftover.id.lower().partition("?")[0] for leftover in it.emulator.leftovers()}
        assert left == kept
        assert len(it.emulator.leftovers()) == len(point.images), "R4: one set, and no grant"
    return done


def parts_of(it: Rig, run: Run, disk_key: str = "data-0") -> list[Image]:
    images = it.repository.images(run.job.run, run.inventory.vms[0].key, disk_key)
    return sorted(
        (image for image in images if image.part), key=lambda image: (image.part.first, image.name)
    )


def whole(it: Rig) -> Run:
    """Do a run up to its completion, in one thread."""
    run = it.begin()
    run.snapshot()
    run.stream()
    assert run.failures == {}
    return run


def first_of_big_disk(it: Rig, run: Run) -> Workload:
    """Return a workload that streams a part of the big disk and nothing else."""
    return next(w for w in run.workloads if workload_vms(it.repository, w)[0].elsewhere == ("os",))


def require_shares(it: Rig, run: Run, done: JobVm) -> None:
    """What each host did is told by its own images, and is all that was done."""
    made = [i for i in it.repository.images(run.job.run, done.key) if i.host]
    assert {image.host for image in made} == {share.host for share in done.shares} == {"a", "b"}
    for share in done.shares:
        own = [image for image in made if image.host == share.host]
        assert share.disks == len(own)
        assert share.changed_bytes == sum(image.changed_bytes for image in own)
        assert share.ended_at == max(image.ended_at for image in own)
    assert sum(share.changed_bytes for share in done.shares) == done.changed_bytes
    assert sum(share.seconds for share in done.shares) == pytest.approx(done.seconds)


@pytest.mark.parametrize("kind", KINDS)
def test_first_and_incremental_backups_by_two_hosts_restore_bit_exactly(
    it: Rig, kind: DiskKind
) -> None:
    """R1, R3, R4: all streams at once; the next backup takes each part's changes only."""
    vm = new_vm(it, kind)
    run = it.begin()
    assert len(run.workloads) == PARTS, "the small last part goes with the OS disk"
    assert {workload.host for workload in run.workloads} == {"a", "b"}
    assert snapshot_at_once(it, run) == []
    assert stream_at_once(it, run) == []
    assert [s.id.rpartition("-")[2] for s in it.repository.sets(run.job.run)] == ["0000000001"]
    parts = parts_of(it, run)
    assert [image.part.length for image in parts] == [REGION_BYTES, REGION_BYTES, 8 * MIB]
    assert [image.changed_bytes for image in parts] == [MIB + 8192] * PARTS
    first = finish(it, run)
    assert sorted(first.hosts) == ["a", "b"]
    require_shares(it, run, first)
    require_point(it, vm, first)
    before = vm.disks[1].sha256()
    assert sum(image.stored_bytes for image in parts) < first.stored_bytes

    vm.disks[1].write(REGION_BYTES - 4096, b"across the border of two parts" * 1000)
    vm.disks[1].clear(2 * REGION_BYTES, MIB)
    run = it.begin()
    assert snapshot_at_once(it, run) + stream_at_once(it, run) == []
    parts = parts_of(it, run)
    assert {image.changes_known for image in parts} == {"difference"}
    assert 0 < parts[0].changed_bytes < parts[1].changed_bytes < MIB <= parts[2].changed_bytes
    second = finish(it, run)
    require_point(it, vm, second)
    assert it.digest(it.point(first), "data-0") == before
    (joined,) = (i for i in it.point(second).images if i.disk_key == "data-0")
    assert joined.changed_bytes == sum(image.changed_bytes for image in parts)
    assert it.repository.image(joined.image).part is None


def test_a_part_asks_for_the_changes_of_its_own_stretch_only(it: Rig, vm: EmulatedVm) -> None:
    """Neither what is allocated elsewhere nor what changed there costs a part anything."""
    finish(it, whole(it))
    vm.disks[1].write(REGION_BYTES, b"changed")
    run = it.begin()
    run.snapshot()
    asked: list[tuple[int, int]] = []

    def note(call: Call, answer: Answer) -> Answer:
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", call.headers.get("x-ms-range", ""))
        assert found
        asked.append((int(found[1]), int(found[2]) + 1))
        return answer

    it.emulator.faults.add(Fault("GET", "comp=pagelist", alter=note, times=10**6))
    workload = first_of_big_disk(it, run)
    stream_workload(it.stack, run.session, workload)
    (piece,) = workload_vms(it.repository, workload)
    (disk,) = piece.streamed
    lists = [stretch for stretch in asked if stretch[1] - stretch[0] > 4096]
    assert lists == [(disk.part.first, disk.part.end)]
    it.emulator.faults.clear()
    run.clean_up()
    assert vm.name == "big"


def test_a_retry_reads_only_the_part_that_failed(it: Rig, vm: EmulatedVm) -> None:
    """What is in an image of the set is not read again."""
    run = it.begin()
    run.snapshot()
    failing = first_of_big_disk(it, run)
    done = [workload for workload in run.workloads if workload is not failing]
    assert at_once(it, run, done, stream_workload) == []
    names = {image.name for image in parts_of(it, run)}
    it.emulator.requests.clear()
    assert stream_at_once(it, run) == []
    assert len(parts_of(it, run)) == PARTS
    assert names < {image.name for image in parts_of(it, run)}
    require_point(it, vm, finish(it, run))


@pytest.mark.parametrize("kind", KINDS)
def test_copies_of_one_task_that_take_the_set_at_once_leave_one_set(
    it: Rig, kind: DiskKind
) -> None:
    """F-A3, R4: both have the turn; the first that is recorded counts, the other's snapshots go."""
    vm = new_vm(it, kind)
    run = it.begin()
    twice = [run.workloads[0]] * 3
    assert at_once(it, run, twice, snapshot_workload) == []
    (taken,) = it.repository.sets(run.job.run)
    assert len(it.emulator.leftovers()) == len(taken.snapshots) == 2
    assert stream_at_once(it, run) == []
    require_point(it, vm, finish(it, run))


def test_streams_without_a_set_wait_for_the_one_that_takes_it(it: Rig, vm: EmulatedVm) -> None:
    """No snapshot is taken in vain: the first stream takes them, the others use them."""
    run = it.begin()
    assert stream_at_once(it, run) == []
    made = [r for r in it.emulator.requests if r.method == "PUT" and "/snapshots/" in r.path]
    assert len(made) == 2
    require_point(it, vm, finish(it, run))


def power(it: Rig) -> list[str]:
    return [
        seen.path.rpartition("/")[2]
        for seen in it.emulator.requests
        if seen.method == "POST" and seen.path.endswith(("/deallocate", "/start"))
    ]


def use(it: Rig, consistency: Consistency) -> None:
    it.policy = msgspec.structs.replace(it.policy, consistency=consistency)


@pytest.mark.parametrize("state", ["running", "deallocated"])
def test_a_vm_is_stopped_once_for_all_its_streams_and_ends_as_it_began(
    it: Rig, vm: EmulatedVm, state: str
) -> None:
    """F-P4: with ``stopped`` only the stream whose turn it is touches the power."""
    use(it, "stopped")
    it.emulator.set_power(vm, state)
    run = it.begin()
    assert snapshot_at_once(it, run) + stream_at_once(it, run) == []
    assert power(it) == (["deallocate", "start"] if state == "running" else [])
    assert it.emulator.power(vm) == state
    require_point(it, vm, finish(it, run))


def test_copies_of_one_task_that_stop_a_vm_at_once_leave_it_running(
    it: Rig, vm: EmulatedVm
) -> None:
    """F-P4: whoever stops it starts it, and what failed is made up for."""
    use(it, "stopped")
    run = it.begin()
    at_once(it, run, [run.workloads[0]] * 3, snapshot_workload)
    run.snapshot()
    assert run.failures == {}
    run.stream()
    assert run.failures == {}
    done = finish(it, run)
    assert it.emulator.power(vm) == "running"
    require_point(it, vm, done)


def test_a_vm_that_must_be_stopped_and_runs_is_skipped_by_all_its_streams(
    it: Rig, vm: EmulatedVm
) -> None:
    """Also when it was stopped in between: skipped is skipped."""
    use(it, "required_stopped")
    run = it.begin()
    run.snapshot()
    it.emulator.set_power(vm, "deallocated")
    assert stream_at_once(it, run) == []
    (done,) = run.complete().vms
    assert done.status == "skipped"
    run.clean_up()
    assert it.emulator.leftovers() == []


def test_a_stream_that_never_took_its_turn_holds_nobody_up_for_ever(
    it: Rig, vm: EmulatedVm
) -> None:
    """Its host died: after a while another stream takes the snapshots."""
    run = it.begin()
    run.session.leave_note(vm.vm_id, "set-1", b"a host that is gone")
    run.snapshot()
    assert list(it.repository.sets(run.job.run)) == []
    run.stream()
    assert run.failures == {}
    require_point(it, vm, finish(it, run))


def test_a_vm_is_never_stopped_by_a_stream_whose_turn_it_is_not(it: Rig, vm: EmulatedVm) -> None:
    """It fails and is tried again: two that stop and start one VM would fight over it."""
    use(it, "stopped")
    run = it.begin()
    run.session.leave_note(vm.vm_id, "set-1", b"a host that is gone")
    run.stream()
    assert isinstance(run.failures[vm.vm_id], SourceBusy)
    assert power(it) == []
    (failed,) = run.complete().vms
    assert (failed.status, failed.point) == ("failed", "")
    run.clean_up()
    assert it.emulator.power(vm) == "running"
