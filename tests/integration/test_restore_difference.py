"""Disks that replace others: only what differs is written, into a copy that the stack makes."""

from typing import Any

import pytest
from support.compound import Rig, keyed
from support.restores import digests, execute, plan, restore

from airflow_provider_azstack.arm.blobs import BlobDisk
from airflow_provider_azstack.emulator import DiskSpec, EmulatedVm, Emulator

pytestmark = pytest.mark.tier2

MIB = 1 << 20
ASKED: dict[str, Any] = {"vms": ["web01"], "mode": "original", "replace": True}


@pytest.fixture
def site(it: Rig) -> Rig:
    it.emulator.add_storage_account("staging", "rg")
    return it


def changed_since(site: Rig, emulator: Emulator, kind: Any) -> tuple[EmulatedVm, dict[str, str]]:
    """A VM with two restore points, changed after both; and its disks as the first one has them."""
    vm = emulator.add_vm("web01", "rg", [DiskSpec(kind, 264 * MIB)] * 2)
    for disk in vm.disks:
        disk.write(0, bytes(range(256)) * 4096 * 8)
        disk.write(260 * MIB, b"far away" * 100_000)
    site.backup()
    was = {key: disk.sha256() for key, disk in keyed(vm.disks).items()}
    vm.disks[0].write(2 * MIB, b"between the points" * 1000)
    site.backup()
    for disk in vm.disks:
        disk.write(3 * MIB + 4096, b"after the last" * 500)
        disk.write(100 * MIB, b"where nothing was" * 1000)
        disk.write(4 * MIB, bytes(65536))
    return vm, was


def asked(site: Rig, kind: str) -> dict[str, Any]:
    """Ask for the first point of the VM."""
    points = sorted(site.repository.points(), key=lambda point: point.taken_at)
    staged = {"storage_account": "staging"} if kind == "managed" else {}
    return {**ASKED, "point": points[0].id, **staged}


def page_writes(emulator: Emulator) -> list[Any]:
    return [s for s in emulator.requests if s.method == "PUT" and ".vhd" in s.path]


@pytest.mark.parametrize(
    ("kind", "differences"),
    [
        ("managed", "supported"),
        ("unmanaged", "supported"),
        ("managed", "refused"),
        ("unmanaged", "ignored"),
    ],
)
def test_only_what_differs_is_written(
    site: Rig, emulator: Emulator, kind: str, differences: Any
) -> None:
    """Bit-exact however the changes are known; what was cleared or written since is put right."""
    _, was = changed_since(site, emulator, kind)
    emulator.behaviour.managed_differences = differences
    emulator.behaviour.blob_differences = differences
    request = asked(site, kind)
    said = plan(site, **request)
    assert sum("written into a copy" in remark for remark in said.remarks) == 2
    assert 0 < said.write_bytes < MIB
    emulator.requests.clear()
    made = restore(site, **request, verify=True)
    assert digests(emulator, made) == {("web01", key): digest for key, digest in was.items()}
    # Of 17 MiB in several pieces: those that differ, a copy, a footer, a number at its end.
    assert len(page_writes(emulator)) <= 2 * 9
    assert not [key for key in emulator.world.blobs if key[0] == "staging"]
    copies = [blob.sequence for blob in emulator.world.blobs.values() if blob.copy_status]
    assert len(set(copies) - {0}) == len(copies)  # a copy comes with the number of its source
    assert not [left for left in emulator.leftovers() if left.kind == "grant"]


def test_a_stack_that_lies_about_changes_is_found_out(
    site: Rig, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-W10: samples of what it says is unchanged are compared; then everything is written."""
    vm, was = changed_since(site, emulator, "unmanaged")
    for disk in vm.disks:
        disk.write(64 * MIB, b"x" * (128 * MIB))
    monkeypatch.setattr(BlobDisk, "changed", lambda *_: [])
    made = restore(site, **asked(site, "unmanaged"), verify=True)
    assert digests(emulator, made) == {("web01", key): digest for key, digest in was.items()}


@pytest.mark.parametrize("kind", ["managed", "unmanaged"])
@pytest.mark.parametrize("how", ["refused", "failed"])
def test_a_stack_that_copies_nothing_is_written_to_whole(
    site: Rig, emulator: Emulator, kind: str, how: str
) -> None:
    """At once, also where it accepts the copy: nobody waits for what has failed."""
    _, was = changed_since(site, emulator, kind)
    emulator.behaviour.copy_from_url = how == "failed"
    emulator.behaviour.copies_fail = how == "failed"
    made = restore(site, **asked(site, kind))
    assert digests(emulator, made) == {("web01", key): digest for key, digest in was.items()}


@pytest.mark.parametrize(
    ("why", "line"),
    [
        ("no account", "give storage_account"),
        ("no reference", "no snapshot is left of its last backup"),
        ("another disk", "no snapshot is left of its last backup"),
        ("most of it", "most of it differs"),
    ],
)
def test_the_plan_says_why_all_is_written(
    site: Rig, emulator: Emulator, why: str, line: str
) -> None:
    vm, was = changed_since(site, emulator, "managed")
    request = asked(site, "managed")
    if why == "no account":
        del request["storage_account"]
    elif why == "no reference":
        for snapshot in list(emulator.world.of_type("Microsoft.Compute/snapshots")):
            site.stack.delete(snapshot.id)
    elif why == "another disk":
        emulator.swap(vm, DiskSpec(size_bytes=264 * MIB), 0)
    else:
        vm.disks[1].write(0, b"new" * 3 * MIB)
        site.backup()
    made = plan(site, **request)
    assert [one for one in made.remarks if "data-0: all " in one and line in one], made.remarks
    assert [outcome.status for outcome in execute(site, made)] == ["done"]
    assert digests(emulator, made) == {("web01", key): digest for key, digest in was.items()}
