"""Streams: what a failure leaves untouched, what a retry does not read again, who is believed."""

import logging
import threading

import pytest
from msgspec.structs import replace
from support.compound import Rig, connect, require_point
from support.damage import flipped
from support.repositories import prose

from airflow_provider_azstack.emulator import DiskSpec, EmulatedVm
from airflow_provider_azstack.emulator.faults import Fault
from airflow_provider_azstack.emulator.http import Answer, Call
from airflow_provider_azstack.engine.backup.stream import stream_workload
from airflow_provider_azstack.errors import Cancelled, SessionLost, StreamsFailed
from airflow_provider_azstack.model import Compression

pytestmark = pytest.mark.tier2

MIB = 1 << 20


@pytest.fixture
def it(it: Rig) -> Rig:
    it.emulator.add_storage_account("legacy", "prod")
    return it


@pytest.fixture
def vm(it: Rig) -> EmulatedVm:
    disks = [
        DiskSpec(size_bytes=8 * MIB),
        DiskSpec(size_bytes=8 * MIB),
        DiskSpec(kind="unmanaged", size_bytes=8 * MIB, account="legacy"),
    ]
    vm = it.emulator.add_vm("vm", "prod", disks)
    for number, disk in enumerate(vm.disks):
        disk.write(number * MIB, bytes([number + 1]) * MIB)
    return vm


def refuse_grants_of(it: Rig, disk_key: str) -> Fault:
    return it.emulator.faults.answer("POST", f"-{disk_key}-.*beginGetAccess", 403, times=99)


def reads(it: Rig) -> list[str]:
    return [seen.path for seen in it.emulator.requests if seen.status == 206]


def test_a_log_tells_each_finished_disk_once(
    it: Rig, vm: EmulatedVm, caplog: pytest.LogCaptureFixture
) -> None:
    """By the line that is told to whoever watches, which has the VM's name."""
    run = it.begin()
    caplog.set_level(logging.INFO)
    for workload in run.workloads:
        stream_workload(it.stack, run.session, workload, progress=logging.info)
    finished = [line for line in caplog.messages if "100.0% of" in line]
    assert sorted(line.partition(":")[0] for line in finished) == [
        "vm data-0",
        "vm data-1",
        "vm os",
    ]
    assert run.complete().vms[0].key == vm.vm_id
    run.clean_up()


def test_a_disk_that_fails_stops_no_other_and_a_retry_reads_only_that_one(
    it: Rig, vm: EmulatedVm
) -> None:
    """F-A8 in small: what is in an image is not read again."""
    run = it.begin()
    refuse_grants_of(it, "data-0")
    run.stream()
    assert vm.vm_id in run.failures
    done = {image.snapshot.disk_key: image.name for image in it.repository.images(run.job.run)}
    assert set(done) == {"os", "data-1"}
    it.emulator.faults.clear()
    it.emulator.requests.clear()
    run.stream()
    assert run.failures == {}
    assert len(set(reads(it))) == 1, "one disk was read"
    (record,) = run.complete().vms
    require_point(it, vm, record)
    named = {image.disk_key: image.image for image in it.point(record).images}
    assert {key: named[key] for key in done} == done
    run.clean_up()


def test_a_disk_that_fails_is_one_line_of_the_log(
    it: Rig, vm: EmulatedVm, caplog: pytest.LogCaptureFixture
) -> None:
    """What is wrong with it, and nothing of our own insides."""
    run = it.begin()
    refuse_grants_of(it, "data-0")
    caplog.set_level(logging.INFO)
    run.stream()
    assert set(run.failures) == {vm.vm_id}
    [error] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert error.message.startswith("vm data-0: ")
    assert not any(record.exc_info for record in caplog.records)
    it.emulator.faults.clear()
    run.clean_up()


def test_new_blocks_are_compressed_as_the_policy_says(it: Rig) -> None:
    disk = it.emulator.add_vm("vm", "prod", [DiskSpec(size_bytes=8 * MIB)]).disks[0]
    stored: dict[Compression, int] = {}
    choices: tuple[Compression, ...] = ("fast", "standard", "small")
    for number, choice in enumerate(choices):
        disk.write(number * MIB, bytes([number]) + prose(MIB - 1))
        it.policy = replace(it.policy, compression=choice)
        stored[choice] = it.backup()["vm"].stored_bytes
    assert stored["fast"] > 1.05 * stored["standard"] > 1.1 * stored["small"] > 0


def test_an_older_stack_is_read_in_the_versions_that_it_speaks(it: Rig) -> None:
    """It refuses newer blob versions, and tells neither a disk's bytes nor its unique id."""
    it.stack = connect(it.emulator, profile="2019-03-01-hybrid")
    disks = [DiskSpec(size_bytes=1024 * MIB)]
    disks += [DiskSpec(kind="unmanaged", size_bytes=8 * MIB, account="legacy")]
    vm = it.emulator.add_vm("old", "prod", disks)
    for disk in vm.disks:
        disk.write(MIB, b"old" * MIB)
    require_point(it, vm, it.backup()["old"])
    spoken = {seen.ms_version for seen in it.emulator.requests if seen.ms_version}
    assert spoken == {"2017-11-09"}


def test_a_vm_that_fails_stops_no_other_of_its_workload(it: Rig, vm: EmulatedVm) -> None:
    small = it.emulator.add_vm("small", "prod", [DiskSpec(size_bytes=MIB)])
    it.hosts = it.hosts[:1]
    refuse_grants_of(it, "data-0")
    done = it.backup()
    assert done["vm"].status == "failed"
    require_point(it, small, done["small"])
    assert vm.name == "vm"


def test_every_grant_is_revoked_when_a_disk_is_done_or_failed(it: Rig, vm: EmulatedVm) -> None:
    it.backup()
    run = it.begin()
    run.snapshot()
    it.emulator.faults.answer("GET", "/md-", 404, times=999)
    run.stream()
    assert vm.vm_id in run.failures
    assert not [leftover for leftover in it.emulator.leftovers() if leftover.kind == "grant"]
    it.emulator.faults.clear()
    run.clean_up()


def test_changed_ranges_that_lie_are_not_believed_twice(
    it: Rig, vm: EmulatedVm, caplog: pytest.LogCaptureFixture
) -> None:
    """F-W10: the audit catches it, says so, and the whole disk is read at once."""
    it.backup()
    for disk in vm.disks:
        for at in range(0, 8 * MIB, MIB):
            disk.write(at, b"changed" * 60_000)  # 40%: no sample misses that

    def nothing_changed(_: Call, answer: Answer) -> Answer:
        from dataclasses import replace

        body = b'<?xml version="1.0" encoding="utf-8"?><PageList></PageList>'
        return replace(answer, body=body)

    lie = "comp=pagelist"
    it.emulator.faults.add(Fault("GET", lie, alter=nothing_changed, times=999))
    done = it.backup()["vm"]
    require_point(it, vm, done)
    assert {image.changes_known for image in it.point(done).images} == {"everything"}
    assert caplog.text.count("have not changed") == 3


@pytest.mark.parametrize("trait", ["blob_differences", "managed_differences"])
def test_a_stack_without_differences_is_read_by_what_is_allocated(
    it: Rig, vm: EmulatedVm, trait: str
) -> None:
    """Whether it refuses the question or ignores it: the bytes are right, the record says how."""
    it.backup()
    for answer in ("refused", "ignored"):
        setattr(it.emulator.behaviour, trait, answer)
        for disk in vm.disks:
            disk.clear(0, 2 * MIB)
            disk.write(6 * MIB, answer.encode() * 1000)
        done = it.backup()["vm"]
        require_point(it, vm, done)
        known = {image.disk_key: image.changes_known for image in it.point(done).images}
        changed = "data-1" if trait == "blob_differences" else "os"
        assert known[changed] == "allocated"
        assert sorted(known.values()).count("difference") == (2 if changed == "data-1" else 1)


def test_a_reference_snapshot_that_somebody_deleted_costs_only_time(
    it: Rig, vm: EmulatedVm
) -> None:
    it.backup()
    for leftover in it.emulator.leftovers():
        if leftover.kind == "snapshot":
            it.stack.delete(leftover.id)
        else:
            for blob in it.emulator.world.blobs.values():
                blob.snapshots.clear()
    done = it.backup()["vm"]
    require_point(it, vm, done)
    assert {image.changes_known for image in it.point(done).images} == {"allocated"}


@pytest.mark.parametrize("what", ["points", "images"])
def test_a_damaged_record_of_the_backup_before_costs_only_time(
    it: Rig, vm: EmulatedVm, what: str
) -> None:
    """F-S5: what cannot be read is not relied on; the next point is whole without it."""
    first = it.point(it.backup()["vm"])
    store = it.repository.store
    for info in list(store.list(f"{what}/")):
        damaged = flipped(store.get(info.name), -1)
        store.delete(info.name)
        store.put(info.name, damaged)
    done = it.backup()["vm"]
    require_point(it, vm, done)
    point = it.point(done)
    assert {image.changes_known for image in point.images} == {"allocated"}
    assert point.previous == first.id


def test_a_fenced_stream_stops_at_once(it: Rig, vm: EmulatedVm) -> None:
    run = it.begin()
    run.snapshot()
    it.repository.fence(run.session.id)
    it.emulator.requests.clear()
    with pytest.raises(SessionLost):
        run.stream()
    assert reads(it) == []
    assert vm.name == "vm"


@pytest.mark.usefixtures("vm")
def test_a_stream_that_is_told_to_stop_stops(it: Rig) -> None:
    run = it.begin()
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        stream_workload(it.stack, run.session, run.workloads[0], cancel=cancel)
    run.clean_up()
    assert it.emulator.leftovers() == []


def test_progress_is_told_by_vm_and_disk(it: Rig, vm: EmulatedVm) -> None:
    run = it.begin()
    told: list[str] = []
    stream_workload(it.stack, run.session, run.workloads[0], progress=told.append)
    assert {line.split(":")[0] for line in told} == {"vm os", "vm data-0", "vm data-1"}
    assert all("100.0%" in line for line in told[-1:])
    run.clean_up()
    assert vm.name == "vm"


def test_errors_show_no_signature(
    it: Rig, vm: EmulatedVm, caplog: pytest.LogCaptureFixture
) -> None:
    """R5: not in the log, not in what is raised."""
    run = it.begin()
    run.snapshot()
    it.emulator.faults.answer("*", "/md-|/legacy/", 403, times=999)
    with pytest.raises(StreamsFailed) as caught:
        stream_workload(it.stack, run.session, run.workloads[0])
    for text in (str(caught.value), caplog.text, *caught.value.reasons.values()):
        assert "sig=" not in text
    assert vm.vm_id in caught.value.reasons
    it.emulator.faults.clear()
    run.clean_up()
