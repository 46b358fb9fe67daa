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
