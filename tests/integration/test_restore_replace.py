"""Restored disks take the place of those that a VM has: bit-exact, kept safe, and asked first."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.compound import Rig, keyed, rig
from support.restores import body, digests, disk_at, execute, plan, restore

from airflow_provider_azstack.emulator import DiskSpec, EmulatedVm, Emulator
from airflow_provider_azstack.engine.janitor import janitor
from airflow_provider_azstack.engine.restore import bodies
from airflow_provider_azstack.engine.restore.bodies import TAG
from airflow_provider_azstack.engine.restore.safety import KEEP
from airflow_provider_azstack.engine.restore.safety import TAG as SAFETY

pytestmark = pytest.mark.tier2

MIB = 1 << 20
ASKED: dict[str, Any] = {"vms": ["web01"], "mode": "original", "replace": True}


@pytest.fixture
def site(emulator: Emulator, tmp_path: Path) -> Iterator[Rig]:
    with rig(emulator, tmp_path / "repository") as made:
        yield made


def a_vm(emulator: Emulator, kind: Any = "managed", **more: Any) -> EmulatedVm:
    vm = emulator.add_vm(
        "web01", "rg", [DiskSpec(kind, 8 * MIB)] * 2, **{"tags": {"role": "web"}, **more}
    )
    for number, disk in enumerate(vm.disks):
        disk.write(number * MIB, bytes([65 + number]) * 12288)
    return vm


def spoil(vm: EmulatedVm) -> dict[str, str]:
    """Let the guest write and clear; return what its disks were before."""
    was = {key: disk.sha256() for key, disk in keyed(vm.disks).items()}
    for disk in vm.disks:
        disk.write(5 * MIB, b"encrypted by an extortionist" * 1000)
        disk.write(0, bytes(MIB))
    return was


def places(site: Rig, vm: EmulatedVm) -> dict[str, str]:
    found = bodies.entries_of(body(site, vm.id))
    return {key: bodies.place_of(entry) for key, entry in found.items()}


def power(site: Rig, vm: EmulatedVm) -> str:
    return str(site.emulator.world.get(vm.id).settings["power"])


@pytest.mark.parametrize("kind", ["managed", "unmanaged"])
@pytest.mark.parametrize("power_on", [False, True])
def test_a_vm_gets_the_disks_of_its_restore_point(
    site: Rig, emulator: Emulator, kind: str, *, power_on: bool
) -> None:
    """It stays the same VM, with everything but its disks."""
    vm = a_vm(emulator, kind)
    site.backup()
    was, before = spoil(vm), body(site, vm.id)
    spoilt = {key: disk.sha256() for key, disk in keyed(vm.disks).items()}
    made = restore(site, **ASKED, power_on=power_on)
    assert digests(emulator, made) == {("web01", key): digest for key, digest in was.items()}
    assert places(site, vm) == {disk.key: disk.id.lower() for disk in made.vms[0].disks}
    assert power(site, vm) == ("running" if power_on else "deallocated")
    after = body(site, vm.id)
    for one in (before, after):
        del one["properties"]["storageProfile"]
    assert after == before
    assert {key: disk.sha256() for key, disk in keyed(vm.disks).items()} == spoilt  # kept
    assert site.backup()["web01"].status == "done"


def test_the_old_disks_are_kept_safe_until_somebody_deletes_them(
    site: Rig, emulator: Emulator
) -> None:
    """Neither the next backup's clean-up nor the janitor touches what is tagged to be kept."""
    vm = a_vm(emulator)
    site.backup()
    spoil(vm)
    spoilt = {disk.source: disk.sha256() for disk in vm.disks}
    made = restore(site, **ASKED)
    site.backup()
    assert janitor(site.stack, site.repository, dry_run=False) == []
    kept = {
        found.body["properties"]["creationData"]["sourceResourceId"]: found
        for found in emulator.world.of_type("Microsoft.Compute/snapshots")
        if SAFETY in found.body["tags"]
    }
    assert kept.keys() == spoilt.keys()
    for source, found in kept.items():
        assert found.body["tags"] == {TAG: made.id, SAFETY: KEEP}
        assert found.content is not None
        assert found.content.read(5 * MIB, 28) == b"encrypted by an extortionist"
        assert disk_at(emulator, source).sha256() == spoilt[source]


def test_the_plan_names_what_it_touches_and_what_it_keeps(site: Rig, emulator: Emulator) -> None:
    vm = a_vm(emulator)
    emulator.add_vm("db01", "rg", [DiskSpec(size_bytes=MIB)])
    site.backup()
    emulator.requests.clear()
    made = plan(site, **ASKED)
    assert made.refusals == ()
    assert set(made.touched) == {vm.id, *(disk.source for disk in vm.disks)}
    assert not [seen for seen in emulator.requests if seen.method in {"PUT", "DELETE"}]
    said = "\n".join(made.remarks)
    for line in ("left stopped", "safety snapshot of each are kept", "created again"):
        assert line in said
    needed = {permission.action for permission in made.permissions}
    assert {f"Microsoft.Compute/{action}" for action in (
        "snapshots/write", "virtualMachines/write", "virtualMachines/deallocate/action",
        "virtualMachines/start/action")} <= needed  # fmt: skip
    emulator.behaviour.denied = {
        "Microsoft.Compute/snapshots/write",
        "Microsoft.Compute/virtualMachines/delete",
    }
    denied = plan(site, **ASKED)
    assert ["snapshots/write" in line for line in denied.refusals] == [True]
    assert "would need the permission" in "\n".join(denied.remarks)


def test_only_the_disks_that_are_asked_for_give_way(site: Rig, emulator: Emulator) -> None:
    """The OS disk may stay; a disk that was added since stays; one that was detached comes back."""
    vm = a_vm(emulator, size="Standard_DS2_v2")
    site.backup()
    emulator.attach(vm, DiskSpec(size_bytes=MIB), 1)
    emulator.detach(vm, 0)
    old = places(site, vm)
    made = restore(site, **ASKED, changes={"web01": {"disks": {"os": {"skip": True}}}})
    assert [disk.key for disk in made.vms[0].disks] == ["data-0"]
    assert any("data-1, os stay" in line for line in made.remarks)
    assert places(site, vm) == {**old, "data-0": made.vms[0].disks[0].id.lower()}
    again = restore(site, **ASKED)
    assert any("data-0: " in line and "is another disk" in line for line in again.remarks)
    now = places(site, vm)
    assert now == {**old, **{disk.key: disk.id.lower() for disk in again.vms[0].disks}}


@pytest.mark.parametrize("kind", ["managed", "unmanaged"])
def test_where_no_os_disk_can_be_changed_the_vm_is_created_again(
    site: Rig, emulator: Emulator, kind: str
) -> None:
    """With its interface, address, size, tags and availability set; and with a new vmId."""
    vm = a_vm(emulator, kind, static_address="10.0.1.9", availability_set="front",
              extensions=["hello"])  # fmt: skip
    site.backup()
    was, before = spoil(vm), body(site, vm.id)
    emulator.behaviour.os_disk_swap = False
    made = restore(site, **ASKED, power_on=True)
    assert digests(emulator, made) == {("web01", key): digest for key, digest in was.items()}
    after = body(site, vm.id)
    assert after["properties"]["vmId"] != before["properties"]["vmId"]
    for name in ("hardwareProfile", "networkProfile", "availabilitySet"):
        assert after["properties"][name] == before["properties"][name]
    assert after["tags"] == {**before["tags"], TAG: made.id}
    assert power(site, vm) == "running"
    assert execute(site, made)[0].status == "done"


def test_doing_it_again_changes_nothing_and_going_back_and_again_works(
    site: Rig, emulator: Emulator
) -> None:
    vm = a_vm(emulator)
    site.backup()
    made = restore(site, **ASKED)
    emulator.requests.clear()
    again = plan(site, **ASKED)
    assert (again.id, again.vms) == (made.id, made.vms)
    assert execute(site, again)[0].status == "done"
    assert not [seen for seen in emulator.requests if seen.method in {"PUT", "DELETE"}]
    assert power(site, vm) == "deallocated"


def test_another_kind_of_system_is_not_put_in(site: Rig, emulator: Emulator) -> None:
    vm = a_vm(emulator)
    site.backup()
    emulator.delete_vm(vm, with_disks=True)
    emulator.add_vm("web01", "rg", [DiskSpec(size_bytes=MIB)], os_type="Windows")
    made = plan(site, **ASKED)
    assert any("runs Windows" in line for line in made.refusals)
    assert any("another VM than was backed up" in line for line in made.remarks)
