"""The whole compound job on the emulator, with guests whose disks are real file systems."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.compound import Rig, require_point, rig

from airflow_provider_azstack.emulator import DiskSpec, EmulatedVm, Emulator
from airflow_provider_azstack.emulator.guests import GuestDisk
from airflow_provider_azstack.model import JobVm

pytestmark = pytest.mark.tier2

MIB = 1 << 20


@pytest.fixture
def fleet(emulator: Emulator, guest_disk: Callable[..., GuestDisk]) -> dict[str, EmulatedVm]:
    """Three VMs: managed with several disks, unmanaged, and small; all with file systems."""
    images = {name: guest_disk(name, seed=n) for n, name in enumerate(["web", "db", "log", "old"])}

    def disk(name: str, **settings: str) -> DiskSpec:
        return DiskSpec(size_bytes=images[name].size_bytes, content=images[name].path, **settings)

    emulator.add_storage_account("legacy", "prod")
    vms = [
        emulator.add_vm("web", "prod", [disk("web")], public_address=True, extensions=["agent"]),
        emulator.add_vm("db", "prod", [disk("db"), disk("log")], availability_set="dbs"),
        emulator.add_vm("old", "prod", [disk("old", kind="unmanaged", account="legacy")]),
    ]
    return {vm.name: vm for vm in vms}


def require_points(rig: Rig, fleet: dict[str, EmulatedVm], done: dict[str, JobVm]) -> None:
    for name, vm in fleet.items():
        require_point(rig, vm, done[name])


def test_a_full_and_an_incremental_backup_restore_bit_exactly_and_leave_only_references(
    emulator: Emulator,
    fleet: dict[str, EmulatedVm],
    guest_disk: Callable[..., GuestDisk],
    tmp_path: Path,
) -> None:
    """R1, R3, R4: both points are the guests' bytes; one reference per disk is left, no grant."""
    with rig(emulator, tmp_path / "repository") as it:
        first = it.backup()
        assert {vm.status for vm in first.values()} == {"done"}, first
        require_points(it, fleet, first)
        references = {leftover.id for leftover in emulator.leftovers()}
        assert len(references) == 4
        assert {leftover.kind for leftover in emulator.leftovers()} == {"snapshot", "blob snapshot"}
        assert list(it.repository.sessions()) == []
        before = {name: vm.disks[0].sha256() for name, vm in fleet.items()}

        for number, (name, vm) in enumerate(fleet.items()):
            guest = GuestDisk(tmp_path / f"{name}.img", vm.disks[0].size_bytes)
            guest.change(number)
            assert vm.disks[0].sync_from(guest.path) > 0
        second = it.backup()

        assert {vm.status for vm in second.values()} == {"done"}, second
        require_points(it, fleet, second)
        for name, vm in second.items():
            point = it.point(vm)
            assert {image.changes_known for image in point.images} == {"difference"}
            assert vm.changed_bytes < first[name].changed_bytes / 5
            assert vm.stored_bytes < first[name].stored_bytes / 5
            assert point.previous == first[name].point
            assert it.digest(it.point(first[name]), "os") == before[name], "the first is as it was"
        left = {leftover.id for leftover in emulator.leftovers()}
        assert len(left) == 4
        assert not left & references, "the first run's references were replaced"
        records = it.repository.jobs()
        assert [record.status for record in records] == ["done", "done"]


def test_a_point_holds_what_is_needed_to_create_the_vm_again(
    emulator: Emulator, fleet: dict[str, EmulatedVm], tmp_path: Path
) -> None:
    with rig(emulator, tmp_path / "repository") as it:
        done = it.backup()
        web = it.point(done["web"]).vm
        kinds = sorted(resource_id.split("/")[-2] for resource_id in web.resources)
        assert kinds == [
            "disks",
            "extensions",
            "networkInterfaces",
            "networkSecurityGroups",
            "publicIPAddresses",
            "virtualMachines",
        ]
        assert web.resources[web.id]["properties"]["hardwareProfile"]["vmSize"] == web.size
        assert web.power_state == "running"
        db = it.point(done["db"])
        assert [disk.key for disk in db.vm.disks] == ["os", "data-0"]
        assert any("availabilitySets" in resource_id for resource_id in db.vm.resources)
        assert db.stack == it.stack.name


def test_a_full_backup_asks_for_no_difference(
    emulator: Emulator, fleet: dict[str, EmulatedVm], tmp_path: Path
) -> None:
    """``mode: full`` reads what is allocated; deduplication stores next to nothing of it again."""
    with rig(emulator, tmp_path / "repository") as it:
        first = it.backup()
        again = it.backup(mode="full")
        for name, vm in again.items():
            assert {image.changes_known for image in it.point(vm).images} == {"allocated"}
            assert vm.read_bytes == first[name].read_bytes
            assert vm.stored_bytes < first[name].stored_bytes / 10
        require_points(it, fleet, again)
