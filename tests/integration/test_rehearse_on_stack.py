"""Restores on trial on a stack: checked there, evidence kept, nothing left or touched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.compound import Rig
from support.damage import flip_files, packs_of

from airflow_provider_azstack.emulator import DiskSpec
from airflow_provider_azstack.emulator.faults import Fault
from airflow_provider_azstack.emulator.guests import GuestDisk
from airflow_provider_azstack.engine.janitor import janitor
from airflow_provider_azstack.engine.rehearse_stack import Scratch, rehearse_on_stack
from airflow_provider_azstack.errors import AzStackError, Refused
from airflow_provider_azstack.model import RestorePoint
from airflow_provider_azstack.repo.verify.rehearsals import Rehearsal, rehearsals

pytestmark = pytest.mark.tier2

MIB = 1 << 20


@pytest.fixture
def point(it: Rig, guest_disk: Callable[..., GuestDisk]) -> RestorePoint:
    """A restore point of a VM with a guest's disk and a page blob, and an empty scratch group."""
    guest = guest_disk("web", size_bytes=16 * MIB, content_bytes=2 * MIB)
    it.emulator.add_storage_account("legacy", "prod")
    blob = DiskSpec(kind="unmanaged", size_bytes=2 * MIB, account="legacy")
    vm = it.emulator.add_vm("web", "prod", [DiskSpec(size_bytes=16 * MIB), blob])
    with guest.path.open("rb") as file:
        for at in range(0, 16 * MIB, MIB):
            piece = file.read(MIB)
            if any(piece):
                vm.disks[0].write(at, piece)
    vm.disks[1].write(MIB, b"data" * 9000)
    it.emulator.add_group("scratch")
    return it.point(it.backup()["web"])


def all_resources(it: Rig) -> set[str]:
    return {resource.id for resource in it.emulator.world.resources.values()}


def rehearse(it: Rig, point: RestorePoint, **scratch: Any) -> Rehearsal:
    return rehearse_on_stack(it.stack, it.repository, point, Scratch("scratch", **scratch))


def test_a_point_is_restored_compared_looked_into_and_removed(it: Rig, point: RestorePoint) -> None:
    """F-R5: on the stack itself; the evidence says where, what and how it went."""
    before = all_resources(it)
    done = rehearse(it, point)
    assert done.is_good
    assert not done.booted
    assert done.place.endswith("/resourceGroups/scratch")
    disks = {disk.disk_key: disk for disk in done.disks}
    assert disks["os"].file_systems[0].startswith("1: ext, ")
    assert disks["data-0"].data_bytes >= 36_000
    assert all(len(disk.digest) == 64 for disk in done.disks)
    assert all_resources(it) == before
    assert list(rehearsals(it.repository.records)) == [done]
    assert not it.repository.sessions()


def test_with_a_network_that_leads_nowhere_the_vm_is_started(it: Rig, point: RestorePoint) -> None:
    """It gets no public address, no static one, and its own names; then all of it goes."""
    started: list[str] = []

    def note(call: Any, answer: Any) -> Any:
        started.append(call.path)
        return answer

    before = all_resources(it)
    network = next(one for one in before if "/virtualNetworks/" in one).partition("/subnets/")[0]
    subnet = it.stack.get(network)["properties"]["subnets"][0]["id"]
    it.emulator.faults.add(Fault("PUT", "/virtualMachines/", alter=note, times=99))
    done = rehearse(it, point, subnet=subnet)
    assert done.is_good, done.problems
    assert done.booted
    assert len(started) == 1
    assert "/resourceGroups/scratch/" in started[0]
    assert all_resources(it) == before


@pytest.mark.usefixtures("point")
def test_a_group_that_holds_anything_else_is_refused(it: Rig, point: RestorePoint) -> None:
    """Before anything is written: not even a VM of ours would be safe from a mistake here."""
    it.emulator.add_vm("innocent", "scratch", [DiskSpec(size_bytes=MIB)])
    before = all_resources(it)
    with pytest.raises(Refused, match=r"holds .*innocent"):
        rehearse(it, point)
    assert all_resources(it) == before
    assert not list(rehearsals(it.repository.records))


def test_a_disk_that_is_not_what_was_backed_up_is_bad(it: Rig, point: RestorePoint) -> None:
    """A stack that loses a page while it acknowledges all of them."""
    it.emulator.faults.add(Fault("PUT", "comp=page", instead=lambda _: _created()))
    done = rehearse(it, point)
    assert not done.is_good
    assert "are not what the repository holds" in str([disk.problems for disk in done.disks])
    assert not [one for one in all_resources(it) if "azstack-trial" in one]


def test_damage_is_evidence_and_not_an_error(it: Rig, point: RestorePoint, tmp_path: Path) -> None:
    for pack in packs_of(tmp_path / "repository"):
        flip_files([pack], *range(100, pack.stat().st_size - 400, 97))
    done = rehearse(it, point)
    assert not done.is_good
    assert not [one for one in all_resources(it) if "azstack-trial" in one]


def killed(it: Rig, point: RestorePoint) -> None:
    """Begin a trial that can remove nothing."""
    it.emulator.faults.answer("DELETE", ".", 403, times=99)
    it.emulator.faults.answer("POST", "endGetAccess", 403, times=99)
    with pytest.raises(AzStackError):
        rehearse(it, point)
    it.emulator.faults.clear()


def test_what_a_killed_trial_made_is_found(it: Rig, point: RestorePoint) -> None:
    """F-C5: nothing could be removed; the janitor does it, and the group is fit again."""
    before = all_resources(it)
    killed(it, point)
    left = all_resources(it) - before
    assert left
    for session in it.repository.sessions():
        it.repository.fence(session)
    found = janitor(it.stack, it.repository, dry_run=False)
    assert {finding.id.lower() for finding in found} == {one.lower() for one in left}
    assert all_resources(it) == before


def test_the_next_trial_removes_what_a_killed_one_left(it: Rig, point: RestorePoint) -> None:
    before = all_resources(it)
    killed(it, point)
    assert rehearse(it, point).is_good
    assert all_resources(it) == before


def _created() -> Any:
    from airflow_provider_azstack.emulator.http import Answer

    return Answer(201)
