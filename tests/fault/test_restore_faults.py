"""What happens to a restore when the stack, the network, or the process fails."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace
from support.compound import Rig, connect
from support.restores import body, digests, disk_at, error_of, execute, life, plan, restore

from airflow_provider_azstack.arm.disk_writer import DiskWriter
from airflow_provider_azstack.arm.vhd import build_footer
from airflow_provider_azstack.emulator import DiskSpec, EmulatedVm, Emulator, versions
from airflow_provider_azstack.engine.restore import parts as restore_parts
from airflow_provider_azstack.engine.restore.bodies import TAG
from airflow_provider_azstack.engine.restore.execute import discard
from airflow_provider_azstack.errors import Refused
from airflow_provider_azstack.model import RestorePoint

pytestmark = pytest.mark.tier2

MIB = 1 << 20
ASKED = {"vms": ["web01"], "mode": "alternate", "resource_group": "dr"}


@pytest.fixture
def site(it: Rig) -> Rig:
    it.emulator.add_group("dr")
    return it


def a_vm(emulator: Emulator, *specs: DiskSpec, **more: Any) -> EmulatedVm:
    vm = emulator.add_vm("web01", "rg", specs or [DiskSpec(size_bytes=4 * MIB)], **more)
    for number, disk in enumerate(vm.disks):
        disk.write(number * MIB, bytes([65 + number]) * 8192)
    return vm


def written(emulator: Emulator) -> list[Any]:
    """Return the requests that changed something."""
    changing = {"PUT", "POST", "DELETE"}
    reads = ("listKeys", "token")
    return [s for s in emulator.requests if s.method in changing and not s.path.endswith(reads)]


# Planning refuses


@pytest.mark.parametrize(
    ("address", "why"),
    [("10.0.0.2", "is no host"), ("10.9.0.9", "is no host"), ("10.0.1.9", "is taken by")],
)
def test_an_address_that_is_not_to_be_had_is_refused(
    site: Rig, emulator: Emulator, address: str, why: str
) -> None:
    a_vm(emulator, static_address="10.0.1.9")
    site.backup()
    nics = {"web01-nic": {"private_address": address}}
    made = plan(site, **ASKED, changes={"web01": {"nics": nics}})
    assert [why in line for line in made.refusals] == [True]


def test_a_quota_without_room_is_refused(site: Rig, emulator: Emulator) -> None:
    """F-R2: named, with what is free and what is needed."""
    a_vm(emulator)
    site.backup()
    emulator.behaviour.disk_quota_bytes = 0
    (refusal,) = plan(site, **ASKED).refusals
    assert "StandardDiskSizeGiB" in refusal
    assert "room for 0" in refusal


def test_nothing_that_exists_is_written_over(site: Rig, emulator: Emulator) -> None:
    """F-H10: neither by a plan, nor by one that was agreed to before the other came."""
    vm = a_vm(emulator)
    site.backup()
    in_place = plan(site, vms=["web01"], mode="original")
    assert len(in_place.refusals) == 3  # its disk, its interface, itself
    made = plan(site, **ASKED)
    disk = made.vms[0].disks[0]
    site.stack.put(
        disk.id,
        {
            "location": "local",
            "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1},
        },
    )
    (outcome,) = execute(site, made)
    assert outcome.status == "failed"
    assert "not of this restore" in outcome.reason
    assert disk_at(emulator, disk.id).size_bytes == 1 << 30
    assert site.stack.find(made.vms[0].target) is None
    assert body(site, vm.id)["properties"]["vmId"] == vm.vm_id


def altered(site: Rig, point: RestorePoint, change: Callable[[str], str]) -> None:
    """Publish a later point whose ids are of elsewhere."""
    resources = {change(i): _changed(b, change) for i, b in point.vm.resources.items()}
    vm = replace(point.vm, resources=resources, id=change(point.vm.id))
    session = site.repository.open_session("test")
    session.publish(replace(point, id=f"{point.id}-x", vm=vm, session=session.id))
    session.close()


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {k: _changed(v, change) for k, v in value.items()}
    if isinstance(value, list):
        return [_changed(v, change) for v in value]
    return change(value) if isinstance(value, str) else value


def test_ids_of_elsewhere_are_dropped_or_refused(site: Rig, emulator: Emulator) -> None:
    """F-H6: extensions, identity and ids of another subscription come from the request only."""
    a_vm(emulator, extensions=["evil"], identity={"type": "SystemAssigned"})
    point = site.point(site.backup()["web01"])
    other = "99999999-8888-7777-6666-555555555555"
    altered(site, point, lambda text: text.replace(emulator.subscription_id, other))
    refused = plan(site, **ASKED)
    assert [("subnet" in line, "another place" in line) for line in refused.refusals] == [
        (True, True)
    ]
    made = plan(
        site, **ASKED, changes={"web01": {"nics": {"web01-nic": {"subnet": "rg/net/default"}}}}
    )
    assert made.refusals == ()
    sent = [resource for vm in made.vms for resource in vm.resources]
    assert other not in str(sent)
    assert "evil" not in str(sent)
    assert "identity" not in str([resource.body for resource in sent])


def test_another_api_profile_works_or_is_refused(
    site: Rig, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-R3: an older profile restores by imports; a stack without the versions is refused."""
    vm = a_vm(emulator)
    emulator.add_storage_account("staging", "rg")
    site.backup()
    with connect(emulator, profile="2019-03-01-hybrid") as older:
        site.stack = older
        (refusal,) = plan(site, **ASKED).refusals
        assert "storage_account" in refusal
        made = restore(site, **ASKED, storage_account="staging")
        assert made.vms[0].disks[0].properties == {"osType": "Linux"}  # no more is known there
        assert digests(emulator, made) == {("web01", "os"): vm.disks[0].sha256()}
        kind = "Microsoft.Compute/disks"
        monkeypatch.setitem(versions.SUPPORTED, kind, ("2019-07-01",))
        emulator.add_group("dr2")
        unsupported = plan(site, **{**ASKED, "resource_group": "dr2"}, storage_account="staging")
        assert any("2017-03-30" in line for line in unsupported.refusals)


def test_roles_on_groups_are_enough(site: Rig, emulator: Emulator) -> None:
    """Versions, sizes and quotas are the subscription's: they are not known, and no obstacle."""
    vm = a_vm(emulator)
    emulator.behaviour.roles_on_groups = True
    site.backup()
    made = restore(site, **ASKED)
    assert any("versions cannot be told" in line for line in made.remarks)
    assert digests(emulator, made) == {("web01", "os"): vm.disks[0].sha256()}


# Writing survives


def bad_writes(emulator: Emulator, kind: str) -> None:
    pages = r"/md-.*comp=page"
    if kind == "throttled":
        emulator.faults.throttle(pages, status=503, times=5, method="PUT")
        emulator.faults.throttle(pages, retry_after="1", times=3, method="PUT")
    elif kind == "answers lost":
        emulator.faults.lose_answer("PUT", pages, times=4)
    elif kind == "server errors":
        emulator.faults.answer("PUT", pages, 500, times=6)
    elif kind == "access expires":
        emulator.behaviour.second_grant = "allowed"
        emulator.faults.answer("PUT", pages, 403, times=1, skip=1)


@pytest.mark.parametrize("kind", ["throttled", "answers lost", "server errors", "access expires"])
def test_a_bad_network_costs_time_only(site: Rig, emulator: Emulator, kind: str) -> None:
    """F-R1: what is in doubt is written again; the disk is read back and equal."""
    vm = a_vm(emulator, DiskSpec(size_bytes=64 * MIB))
    vm.disks[0].write(8 * MIB, bytes(range(256)) * 4096 * 20)
    site.backup()
    bad_writes(emulator, kind)
    made = restore(site, **ASKED, verify=True)
    assert digests(emulator, made) == {("web01", "os"): vm.disks[0].sha256()}
    assert list(emulator.faults.struck())


def test_a_wrong_byte_on_the_stack_is_found_when_asked_for(
    site: Rig, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-R1: a disk that reads back differently is not used, and the next try makes a new one."""
    vm = a_vm(emulator)
    site.backup()
    honest = DiskWriter.write

    def lying(self: DiskWriter, offset: int, data: bytes) -> None:
        honest(self, offset, bytes([data[0] ^ 1]) + bytes(data[1:]) if offset == 0 else data)

    made = plan(site, **ASKED, verify=True)
    with monkeypatch.context() as patch:
        patch.setattr(DiskWriter, "write", lying)
        (outcome,) = execute(site, made)
    assert "differs from its image" in outcome.reason
    assert site.stack.find(made.vms[0].target) is None
    assert discarded(site, made) == [made.vms[0].disks[0].id]
    assert [o.status for o in execute(site, made)] == ["done"]
    assert digests(emulator, made) == {("web01", "os"): vm.disks[0].sha256()}


def discarded(site: Rig, made: Any) -> list[str]:
    session = site.repository.open_session("restore")
    try:
        return discard(site.stack, session, made)
    finally:
        session.close()


# Dying


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_death_at_every_call_leaves_no_half_disk_in_use(
    site: Rig, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    """F-C5: a VM that is there has whole disks; the next try ends well and leaves nothing."""
    vm = a_vm(emulator, DiskSpec(size_bytes=4 * MIB), DiskSpec(size_bytes=4 * MIB))
    site.backup()
    whole = {("web01", f"{k}"): d.sha256() for k, d in zip(("os", "data-0"), vm.disks, strict=True)}

    def planned(number: int) -> Any:
        return plan(site, **ASKED, changes={"web01": {"name": f"web{number:03d}"}})

    calls = life(site, monkeypatch, planned(0), None, after=after)
    assert calls > 15
    for at in range(1, calls + 1):
        made = planned(at)
        life(site, monkeypatch, made, at, after=after)
        for disk in made.vms[0].disks:
            there = site.stack.find(disk.id)
            assert there is None or there["tags"][TAG] == made.id
        if site.stack.find(made.vms[0].target):
            assert digests(emulator, made) == whole
        assert [o.status for o in execute(site, planned(at))] == ["done"], at
        assert digests(emulator, made) == whole
    assert not [left for left in emulator.leftovers() if left.kind == "grant"]


@pytest.mark.parametrize(("second", "again"), [("allowed", 3), ("refused", 5)])
def test_a_killed_restore_goes_on_where_it_stopped(
    site: Rig, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, second: str, again: int
) -> None:
    """F-C5: parts that were noted are not written again, unless the stack gives no access."""
    monkeypatch.setattr(restore_parts, "PART_BYTES", MIB)
    emulator.behaviour.second_grant = second
    vm = a_vm(emulator, DiskSpec(size_bytes=800 * MIB))
    for part in range(3):
        vm.disks[0].write(part * 256 * MIB + MIB, bytes([part + 1]) * MIB)
    site.backup()
    made = plan(site, **ASKED)
    emulator.faults.answer("PUT", r"/md-.*comp=page", 409, times=1, skip=3)
    assert execute(site, made)[0].status == "failed"
    emulator.requests.clear()
    assert execute(site, made)[0].status == "done"
    writes = [s for s in emulator.requests if s.method == "PUT" and "/md-" in s.path]
    assert len(writes) <= again  # the footer included
    assert digests(emulator, made) == {("web01", "os"): vm.disks[0].sha256()}


def test_a_half_disk_that_somebody_finished_is_made_again(site: Rig, emulator: Emulator) -> None:
    """F-C5: what was ended half way looks usable to the stack, and is none to us."""
    vm = a_vm(emulator, DiskSpec(size_bytes=4 * MIB))
    vm.disks[0].write(2 * MIB, b"z" * MIB)
    site.backup()
    made = plan(site, **ASKED)
    emulator.faults.answer("PUT", r"/md-.*comp=page", 409, times=1)
    assert execute(site, made)[0].status == "failed"
    disk = made.vms[0].disks[0]
    before = body(site, disk.id)["properties"]["uniqueId"]
    footer = build_footer(4 * MIB, uuid4(), datetime.now(UTC))  # else the stack finishes nothing
    disk_at(emulator, disk.id).volume.write(4 * MIB, footer)
    site.stack.run(f"{disk.id}/endGetAccess")
    assert body(site, disk.id)["properties"]["diskState"] == "Unattached"
    assert execute(site, made)[0].status == "done"
    assert body(site, disk.id)["properties"]["uniqueId"] != before
    assert digests(emulator, made) == {("web01", "os"): vm.disks[0].sha256()}


def test_what_a_failed_try_made_is_taken_back(site: Rig, emulator: Emulator) -> None:
    a_vm(emulator)
    site.backup()
    asked = {"changes": {"web01": {"nics": {"web01-nic": {"public_address": "new"}}}}}
    made = plan(site, **ASKED, **asked)
    emulator.faults.answer("PUT", "virtualMachines/web01", 409, times=1)
    (outcome,) = execute(site, made)
    assert outcome.status == "failed"
    for resource in made.vms[0].resources:
        assert site.stack.find(resource.id) is None
    assert execute(site, made)[0].status == "done"


def test_a_disk_that_was_used_since_is_not_passed_off_as_restored(
    site: Rig, emulator: Emulator
) -> None:
    """The same request again, after its VM ran and was deleted, does not revive what it became."""
    vm = a_vm(emulator)
    site.backup()
    made = restore(site, **ASKED)
    place = made.vms[0].disks[0].id
    site.stack.delete(made.vms[0].target)
    assert execute(site, made)[0].status == "done"  # nothing was written to it
    disk_at(emulator, place).write(0, b"a guest ran here")
    site.stack.delete(made.vms[0].target)
    (outcome,) = execute(site, made)
    assert outcome.status == "failed"
    assert "used since" in outcome.reason
    site.stack.delete(place)
    assert execute(site, made)[0].status == "done"
    assert digests(emulator, made) == {("web01", "os"): vm.disks[0].sha256()}


def test_another_subscription_that_is_not_there_is_refused(site: Rig, emulator: Emulator) -> None:
    a_vm(emulator)
    site.backup()
    other = "99999999-8888-7777-6666-555555555555"
    refusals = plan(site, **ASKED, subscription_id=other).refusals
    assert any(f"{other}/resourceGroups/dr does not exist" in line for line in refusals)
    assert any("subnet" in line for line in refusals)


def test_one_vm_that_fails_stops_no_other(site: Rig, emulator: Emulator) -> None:
    a_vm(emulator)
    emulator.add_vm("db01", "rg", [DiskSpec(size_bytes=MIB)])
    site.backup()
    made = plan(site, **{**ASKED, "vms": ["web01", "db01"]})
    emulator.faults.answer("PUT", "disks/web01", 409, times=9)
    assert {o.vm: o.status for o in execute(site, made)} == {"web01": "failed", "db01": "done"}


def test_a_half_written_disk_can_be_given_up(site: Rig, emulator: Emulator) -> None:
    a_vm(emulator)
    site.backup()
    made = plan(site, **ASKED)
    emulator.faults.answer("PUT", r"/md-.*comp=page", 409, times=1)
    execute(site, made)
    assert discarded(site, made) == [made.vms[0].disks[0].id]
    assert discarded(site, made) == []
    assert site.stack.find(made.vms[0].disks[0].id) is None
    restore(site, **ASKED)
    assert discarded(site, made) == []


def test_a_plan_of_elsewhere_is_not_carried_out(site: Rig, emulator: Emulator) -> None:
    a_vm(emulator)
    site.backup()
    made = plan(site, **ASKED)
    for other in (replace(made, stack="elsewhere"), replace(made, repository="0" * 32)):
        assert isinstance(error_of(site, other), Refused)
