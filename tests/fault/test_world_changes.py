"""The world changes between discovery and streaming: noticed, never backed up as if it had not."""

import uuid
from collections.abc import Callable

import pytest
from support.compound import Rig, Run, keyed, require_point

from airflow_provider_azstack.arm.compute import Compute
from airflow_provider_azstack.emulator import DiskSpec, EmulatedVm
from airflow_provider_azstack.emulator.faults import Fault
from airflow_provider_azstack.emulator.http import Answer, Call
from airflow_provider_azstack.errors import SourceChanged, SourceError, SourceGone

pytestmark = pytest.mark.tier2

MIB = 1 << 20


def spec(kind: str = "managed", size_mib: int = 4) -> DiskSpec:
    return DiskSpec(
        kind=kind, size_bytes=size_mib * MIB, account="legacy" if kind == "unmanaged" else ""
    )


@pytest.fixture
def it(it: Rig) -> Rig:
    it.emulator.add_storage_account("legacy", "prod")
    return it


@pytest.fixture
def other(it: Rig) -> EmulatedVm:
    """A VM that nothing happens to: it is backed up whatever happens to the one under test."""
    return add_vm(it, "other", ["managed"])


def add_vm(it: Rig, name: str, kinds: list[str]) -> EmulatedVm:
    vm = it.emulator.add_vm(name, "prod", [spec(kind) for kind in kinds])
    for number, disk in enumerate(vm.disks):
        disk.write(MIB, f"{name} {number} ".encode() * 500)
    return vm


def require_nothing_left_but_references(it: Rig) -> None:
    """R4: what is left on the stack is the reference snapshot of each disk of a newest point."""
    wanted = set()
    for key in {point.vm.key for point in it.repository.points()}:
        for image in it.repository.latest_point(key).images:
            stamp = (
                f"?snapshot={image.snapshot.blob_snapshot}" if image.snapshot.blob_snapshot else ""
            )
            wanted.add(image.snapshot.id + stamp)
    assert {leftover.id for leftover in it.emulator.leftovers()} == wanted
    assert list(it.repository.sessions()) == []


@pytest.mark.parametrize("kind", ["managed", "unmanaged"])
def test_a_disk_that_was_resized(it: Rig, other: EmulatedVm, kind: str) -> None:
    """F-W1: ``SourceChanged`` for that VM, the others are published; the next run has it."""
    vm = add_vm(it, "vm", [kind])
    run = it.begin()
    it.emulator.resize(vm.disks[0], 8 * MIB)
    done = run.finish()
    assert isinstance(run.failures[vm.vm_id], SourceChanged)
    assert (done["vm"].status, done["vm"].point) == ("failed", "")
    require_point(it, other, done["other"])
    require_nothing_left_but_references(it)
    require_point(it, vm, it.backup()["vm"])


def test_a_disk_that_grew_after_a_backup_is_read_anew(it: Rig) -> None:
    """F-W1: a difference over two sizes is not asked for."""
    vm = add_vm(it, "vm", ["managed", "unmanaged"])
    it.backup()
    for disk in vm.disks:
        it.emulator.resize(disk, 8 * MIB)
        disk.write(7 * MIB, b"new end" * 1000)
    (old, *_) = [left.id for left in it.emulator.leftovers() if left.kind == "snapshot"]
    it.emulator.requests.clear()
    done = it.backup()["vm"]
    assert f"{old}/beginGetAccess" not in {seen.path for seen in it.emulator.requests}
    require_point(it, vm, done)
    assert {image.changes_known for image in it.point(done).images} == {"allocated"}
    assert {it.repository.image(i.image).based_on for i in it.point(done).images} == {""}


@pytest.mark.parametrize("change", ["detach", "attach", "swap"])
@pytest.mark.parametrize("kind", ["managed", "unmanaged"])
def test_disks_that_were_detached_attached_or_swapped(
    it: Rig, other: EmulatedVm, kind: str, change: str
) -> None:
    """F-W2, F-W5: known by their unique ids, and never silently backed up without a disk."""
    vm = add_vm(it, "vm", ["managed", kind])
    run = it.begin()
    if change == "detach":
        it.emulator.detach(vm, 0)
    elif change == "attach":
        it.emulator.attach(vm, spec(kind), 1)
    else:
        it.emulator.swap(vm, spec(kind), 0)
    done = run.finish()
    assert isinstance(run.failures[vm.vm_id], SourceChanged)
    assert done["vm"].status == "failed"
    require_point(it, other, done["other"])
    require_nothing_left_but_references(it)
    require_point(it, vm, it.backup()["vm"])


def test_a_vm_that_was_deleted_before_its_snapshots(it: Rig, other: EmulatedVm) -> None:
    """F-W3: ``SourceGone``; the others are published."""
    vm = add_vm(it, "vm", ["managed"])
    run = it.begin()
    it.emulator.delete_vm(vm, with_disks=True)
    done = run.finish()
    assert isinstance(run.failures[vm.vm_id], SourceGone)
    assert done["vm"].status == "failed"
    require_point(it, other, done["other"])
    require_nothing_left_but_references(it)


def test_a_vm_that_was_deleted_while_its_snapshots_are_read(it: Rig) -> None:
    """F-W3: the snapshots are there, so the point is complete: it may be the last of that VM."""
    vm = add_vm(it, "vm", ["managed", "managed"])
    run = it.begin()
    run.snapshot()
    digests = {key: disk.sha256() for key, disk in keyed(vm.disks).items()}
    it.emulator.delete_vm(vm, with_disks=True)
    done = run.finish()["vm"]
    assert done.status == "done"
    assert {key: it.digest(it.point(done), key) for key in digests} == digests
    require_nothing_left_but_references(it)


def changed_between(it: Rig, vm: EmulatedVm, kind: str, change: Callable[[], object]) -> Run:
    """Let a VM change when its first disk has its snapshot; the set is dropped."""

    def alter(_: Call, answer: Answer) -> Answer:
        change()
        return answer

    path = "/snapshots/" if kind == "managed" else "comp=snapshot"
    fault = it.emulator.faults.add(Fault("PUT", path, alter=alter))
    run = it.begin()
    run.snapshot()
    assert fault.struck == 1
    assert isinstance(run.failures[vm.vm_id], SourceChanged)
    assert it.emulator.leftovers() == [], "half a set is not left behind"
    return run


@pytest.mark.parametrize("kind", ["managed", "unmanaged"])
def test_a_vm_whose_power_changes_while_it_is_snapshotted(it: Rig, kind: str) -> None:
    """F-W4: such a set is dropped and taken again; the point records the state that was seen."""
    vm = add_vm(it, "vm", [kind, kind])

    run = changed_between(it, vm, kind, lambda: it.emulator.set_power(vm, "deallocated"))
    run.stream()
    assert run.failures == {}
    done = {vm.name: vm for vm in run.complete().vms}
    require_point(it, vm, done["vm"])
    assert it.point(done["vm"]).vm.power_state == "deallocated"


@pytest.mark.parametrize("kind", ["managed", "unmanaged"])
def test_a_disk_that_is_swapped_while_the_vm_is_snapshotted(it: Rig, kind: str) -> None:
    """F-W2: between the look and the snapshot: the set is dropped, nothing of it stays."""
    vm = add_vm(it, "vm", ["managed", kind])

    run = changed_between(it, vm, kind, lambda: it.emulator.swap(vm, spec(kind), 0))
    assert run.finish()["vm"].status == "failed"
    require_point(it, vm, it.backup()["vm"])


def test_a_disk_that_moved_to_another_lun(it: Rig) -> None:
    """F-W2: the same disks in other places are another VM to restore: the next run has it."""
    vm = add_vm(it, "vm", ["managed", "managed"])
    run = it.begin()
    profile = it.emulator.world.get(vm.id).properties["storageProfile"]
    profile["dataDisks"][0]["lun"] = 5
    assert run.finish()["vm"].status == "failed"
    assert "moved from data-0 to data-5" in str(run.failures[vm.vm_id])
    assert it.backup()["vm"].status == "done"


def test_a_vm_that_joined_a_scale_set(it: Rig) -> None:
    """It cannot be protected any more, and the run says so."""
    vm = add_vm(it, "vm", ["managed"])
    run = it.begin()
    it.emulator.world.get(vm.id).properties["virtualMachineScaleSet"] = {"id": "x"}
    assert run.finish()["vm"].status == "failed"
    assert "scale set" in str(run.failures[vm.vm_id])


def test_a_vm_that_was_renamed_and_its_name_given_to_another(it: Rig) -> None:
    """F-W6: the identity is the unique id: the new bearer of the name is not taken for the old."""
    old = add_vm(it, "vm", ["managed"])
    first = it.backup()["vm"]
    run = it.begin()
    it.emulator.rename(old, "renamed")
    new = add_vm(it, "vm", ["managed"])
    done = run.finish()
    assert isinstance(run.failures[old.vm_id], SourceError)
    assert done["vm"].status == "failed"
    after = it.backup()
    assert after["renamed"].key == first.key
    assert it.point(after["renamed"]).previous == first.point
    assert after["vm"].key == new.vm_id != first.key
    assert it.point(after["vm"]).previous == ""
    require_point(it, new, after["vm"])
    require_nothing_left_but_references(it)


def test_a_vm_that_was_created_again_with_the_same_name_and_disks(it: Rig) -> None:
    """F-W6: it is another VM: its vmId says so, though name and disks are the same."""
    vm = add_vm(it, "vm", ["managed"])
    first = it.backup()["vm"]
    run = it.begin()
    it.emulator.world.get(vm.id).properties["vmId"] = str(uuid.uuid4())
    done = run.finish()
    assert done["vm"].status == "failed"
    assert "another VM now" in str(run.failures[vm.vm_id])
    again = it.backup()["vm"]
    assert again.key != first.key
    assert it.point(again).previous == ""


@pytest.mark.parametrize("kind", ["managed", "unmanaged"])
def test_a_snapshot_that_an_administrator_deleted(it: Rig, kind: str) -> None:
    """F-W7: the retry takes a whole new set for all disks; nothing of the old one is mixed in."""
    vm = add_vm(it, "vm", ["managed", kind])
    run = it.begin()
    run.snapshot()
    (taken,) = it.repository.sets(run.job.run)
    lost = taken.snapshots[1]
    if kind == "managed":
        fault = it.emulator.faults.answer("POST", "-data-0-.*beginGetAccess", 404, times=99)
    else:
        fault = it.emulator.faults.answer("GET", "/legacy/.*snapshot=", 404, times=99)
    run.stream()
    assert fault.struck
    assert [image.set_id for image in it.repository.images(run.job.run)] == [taken.id]
    it.emulator.faults.clear()
    assert vm.vm_id in run.failures
    if kind == "managed":
        Compute(it.stack).delete_snapshot(lost.id)
    else:
        blob = next(b for key, b in it.emulator.world.blobs.items() if lost.id.endswith(key[2]))
        del blob.snapshots[lost.blob_snapshot]
    vm.disks[0].write(0, b"later")
    vm.disks[1].write(0, b"later")
    run.stream()
    assert run.failures == {}
    done = {vm.name: vm for vm in run.complete().vms}["vm"]
    require_point(it, vm, done)
    point = it.point(done)
    assert point.set_id != taken.id
    assert {it.repository.image(image.image).set_id for image in point.images} == {point.set_id}
    run.clean_up()
    require_nothing_left_but_references(it)


def test_snapshots_that_the_quota_refuses(it: Rig, other: EmulatedVm) -> None:
    """F-N17: the other VMs go on; this one fails with the quota named, and leaves nothing."""
    vm = add_vm(it, "vm", ["managed", "managed", "managed"])
    run = it.begin()
    it.emulator.behaviour.snapshot_quota = 2
    done = run.finish()
    assert done["vm"].status == "failed"
    assert "quota" in str(run.failures[vm.vm_id]).lower()
    require_point(it, other, done["other"])
    require_nothing_left_but_references(it)


def test_deleting_a_snapshot_that_is_still_exported(it: Rig) -> None:
    """F-N16, F-C9: the grant of a stream that was killed is revoked, then the delete succeeds."""
    vm = add_vm(it, "vm", ["managed"])
    run = it.begin()
    run.snapshot()
    (taken,) = it.repository.sets(run.job.run)
    Compute(it.stack).grant_read(taken.snapshots[0].id, 3600)
    assert {leftover.kind for leftover in it.emulator.leftovers()} == {"snapshot", "grant"}
    record = run.complete()
    assert [seen.status for seen in record.vms] == ["failed"]
    run.clean_up()
    assert it.emulator.leftovers() == []
    assert vm.name == record.vms[0].name


@pytest.mark.parametrize("end", ["Failed", "Canceled", "404"])
def test_a_snapshot_operation_that_does_not_end_well(it: Rig, other: EmulatedVm, end: str) -> None:
    """F-N12: the VM fails with the operation's reason, and no snapshot of it stays."""
    vm = add_vm(it, "vm", ["managed", "managed"])
    run = it.begin()
    it.emulator.faults.end_operation("snapshots.write", end, times=1)
    run.snapshot()
    assert len(run.failures) == 1
    it.emulator.faults.clear()
    done = run.finish()
    require_point(it, vm, done["vm"])
    require_point(it, other, done["other"])
    require_nothing_left_but_references(it)
