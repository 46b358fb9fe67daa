"""What happens to a VM whose disks are being replaced when the stack or the process fails."""

from typing import Any

import pytest
from support.compound import Rig, keyed
from support.restores import body, digests, disk_at, execute, life, plan

from airflow_provider_azstack.emulator import DiskSpec, EmulatedVm, Emulator
from airflow_provider_azstack.engine.restore import bodies
from airflow_provider_azstack.engine.restore.execute import discard
from airflow_provider_azstack.engine.restore.records import RestorePlan
from airflow_provider_azstack.engine.restore.safety import TAG as SAFETY
from airflow_provider_azstack.errors import SourceError

pytestmark = pytest.mark.tier2

MIB = 1 << 20
ASKED: dict[str, Any] = {"mode": "original", "replace": True, "power_on": True}


def a_vm(emulator: Emulator, name: str = "web01", kind: Any = "managed") -> EmulatedVm:
    vm = emulator.add_vm(name, "rg", [DiskSpec(kind, MIB)] * 2)
    for number, disk in enumerate(vm.disks):
        disk.write(number * 8192, f"{name} {number} ".encode() * 100)
    return vm


def sums(vm: EmulatedVm) -> dict[str, str]:
    return {key: disk.sha256() for key, disk in keyed(vm.disks).items()}


def spoil(vm: EmulatedVm) -> None:
    for disk in vm.disks:
        disk.write(65536, b"spoilt" * 1000)


def attached(it: Rig, vm: EmulatedVm) -> dict[str, str]:
    """Return the digests of the disks that the VM has, by key."""
    entries = bodies.entries_of(body(it, vm.id))
    managed = {key: (entry.get("managedDisk") or {}).get("id") for key, entry in entries.items()}
    return {
        key: disk_at(it.emulator, managed[key] or entry["vhd"]["uri"]).sha256()
        for key, entry in entries.items()
    }


def power(it: Rig, vm: EmulatedVm) -> str:
    return str(it.emulator.world.get(vm.id).settings["power"])


def given_up(it: Rig, made: RestorePlan) -> None:
    session = it.repository.open_session("restore")
    try:
        discard(it.stack, session, made)
    finally:
        session.close()


@pytest.mark.parametrize(
    ("kind", "after", "swap", "step"),
    [
        ("managed", False, True, 1),
        ("managed", True, False, 2),
        ("unmanaged", True, True, 2),
        ("staged", False, True, 1),
    ],
    ids=["swapped", "created again", "unmanaged", "differences"],
)
def test_death_at_every_call_leaves_a_vm_to_go_on_with_or_back(
    it: Rig,
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    *,
    kind: str,
    after: bool,
    swap: bool,
    step: int,
) -> None:
    """F-C5, F-R7: the next try ends well; giving up gives the VM its old disks, running."""
    emulator.behaviour.os_disk_swap = swap
    ask = dict(ASKED)
    if kind == "staged":  # then the stack makes the new disks of the old ones
        emulator.add_storage_account("staging", "rg")
        kind, ask = "managed", {**ask, "storage_account": "staging"}
    a_vm(emulator, "web000", kind)
    it.backup()
    calls = life(it, monkeypatch, plan(it, vms=["web000"], **ask), None, after=after)
    assert calls > 20
    vms = [a_vm(emulator, f"web{at:03d}", kind) for at in range(1, calls + 1, step)]
    it.backup()
    for at, vm in zip(range(1, calls + 1, step), vms, strict=True):
        was = sums(vm)
        spoil(vm)
        spoilt = sums(vm)
        made = plan(it, vms=[vm.name], **ask)
        life(it, monkeypatch, made, at, after=after)
        if vms.index(vm) % 2:
            given_up(it, made)
            assert attached(it, vm) in (spoilt, was), at
            assert power(it, vm) == "running", at
        again = plan(it, vms=[vm.name], **ask)
        assert again.id == made.id
        assert [o.status for o in execute(it, again)] == ["done"], at
        assert attached(it, vm) == was, at
        assert power(it, vm) == "running", at
        assert sums(vm) == spoilt, at
        assert digests(emulator, again) == {(vm.name, key): digest for key, digest in was.items()}
    assert not [left for left in emulator.leftovers() if left.kind == "grant"]


BACK = "has its old disks and runs"


@pytest.mark.parametrize(
    ("method", "path", "skip"),
    [
        ("PUT", r"/md-.*comp=page", 1),  # a page of a disk
        ("PUT", "snapshots/azstack-safety", 1),  # the second safety snapshot
        ("PUT", "virtualMachines/web01", 0),  # the OS disk goes in
        ("PUT", "virtualMachines/web01", 1),  # the data disk goes in
        ("POST", "virtualMachines/web01/deallocate", 0),
    ],
    ids=["writing", "safety", "OS disk", "data disk", "stopping"],
)
def test_a_step_that_fails_leaves_the_old_vm_running(
    it: Rig, emulator: Emulator, method: str, path: str, skip: int
) -> None:
    """F-R7: the reason says so; safety snapshots stay; the next try succeeds."""
    vm = a_vm(emulator)
    it.backup()
    was = sums(vm)
    spoil(vm)
    spoilt = sums(vm)
    made = plan(it, vms=["web01"], **ASKED)
    # A stack that refuses until the way back begins.
    emulator.faults.answer(method, path, 409, times=1, skip=skip)
    (outcome,) = execute(it, made)
    assert outcome.status == "failed"
    assert BACK in outcome.reason
    assert list(emulator.faults.struck())
    assert attached(it, vm) == spoilt
    assert power(it, vm) == "running"
    safe = safeties(emulator)
    assert [o.status for o in execute(it, made)] == ["done"]
    assert attached(it, vm) == was
    assert safe <= safeties(emulator)


def safeties(emulator: Emulator) -> set[str]:
    found = emulator.world.of_type("Microsoft.Compute/snapshots")
    return {snapshot.id for snapshot in found if SAFETY in snapshot.body["tags"]}


def test_a_way_back_that_fails_says_what_to_do(it: Rig, emulator: Emulator) -> None:
    """F-R7: no stack lets everything be made good; then the disks to attach are named."""
    vm = a_vm(emulator)
    it.backup()
    spoil(vm)
    made = plan(it, vms=["web01"], **ASKED)
    emulator.faults.answer("PUT", "virtualMachines/web01", 409, times=5, skip=1)
    (outcome,) = execute(it, made)
    assert "could not be put back" in outcome.reason
    for disk in vm.disks:
        assert disk.source in outcome.reason
    emulator.faults.clear()
    given_up(it, made)
    assert attached(it, vm) == sums(vm)
    assert power(it, vm) == "running"


def test_a_vm_that_does_not_start_keeps_its_restored_disks(it: Rig, emulator: Emulator) -> None:
    vm = a_vm(emulator)
    it.backup()
    was = sums(vm)
    spoil(vm)
    made = plan(it, vms=["web01"], **ASKED)
    emulator.faults.answer("POST", "virtualMachines/web01/start", 409, times=2)
    (outcome,) = execute(it, made)
    assert "has the right disks and did not start" in outcome.reason
    assert attached(it, vm) == was
    assert [o.status for o in execute(it, made)] == ["done"]
    assert power(it, vm) == "running"


def test_what_ran_since_it_was_kept_safe_is_kept_safe_again(
    it: Rig, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-R7: a killed restore, a VM that somebody started, and then the restore again."""
    vm = a_vm(emulator)
    it.backup()
    made = plan(it, vms=["web01"], **ASKED)
    calls = life(it, monkeypatch, made, 12, after=True)
    assert calls >= 12
    first = safeties(emulator)
    assert len(first) == 2
    emulator.set_power(vm, "running")
    vm.disks[0].write(131072, b"work of the day")
    assert [o.status for o in execute(it, made)] == ["done"]
    (again,) = (i for i in safeties(emulator) - first if "-os-" in i)
    content = emulator.world.get(again).content
    assert content is not None
    assert content.read(131072, 15) == b"work of the day"


@pytest.mark.parametrize("change", ["another VM", "another disk", "gone"])
def test_what_changed_since_the_plan_is_left_alone(
    it: Rig, emulator: Emulator, change: str
) -> None:
    vm = a_vm(emulator)
    it.backup()
    made = plan(it, vms=["web01"], **ASKED)
    if change == "another disk":
        emulator.swap(vm, DiskSpec(size_bytes=MIB), 0)
    else:
        emulator.delete_vm(vm, with_disks=True)
        if change != "gone":
            vm = a_vm(emulator)
    emulator.requests.clear()
    (outcome,) = execute(it, made)
    assert outcome.status == "failed"
    assert "plan again" in outcome.reason
    assert not [seen for seen in emulator.requests if seen.method == "PUT"]


def test_a_vm_that_is_being_backed_up_is_not_touched(it: Rig, emulator: Emulator) -> None:
    """F-K11: neither waits for the other; each says whose session it is."""
    vm = a_vm(emulator)
    it.backup()
    made = plan(it, vms=["web01"], **ASKED)
    run = it.begin()
    run.session.claim(vm.vm_id)
    (outcome,) = execute(it, made)
    assert run.session.id in outcome.reason
    assert power(it, vm) == "running"
    run.session.close()
    assert [o.status for o in execute(it, made)] == ["done"]


def test_giving_up_tries_every_vm(
    it: Rig, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-R7: one that does not start is named, and does not keep the other stopped."""
    vms = [a_vm(emulator, name) for name in ("web01", "web02")]
    it.backup()
    made = plan(it, vms=["web01", "web02"], **ASKED)
    life(it, monkeypatch, made, 24, after=True)
    assert [power(it, vm) for vm in vms] == ["deallocated"] * 2
    emulator.faults.answer("POST", "virtualMachines/web01/start", 409, times=1)
    with pytest.raises(SourceError, match="web01 could not be put back"):
        given_up(it, made)
    assert [power(it, vm) for vm in vms] == ["deallocated", "running"]
    given_up(it, made)
    assert [power(it, vm) for vm in vms] == ["running"] * 2
