"""What killed restores leave: the janitor removes what is half written, and nothing else."""

from typing import Any

import pytest
from support import restores
from support.compound import Rig, connect

from airflow_provider_azstack.emulator import DiskSpec, EmulatedVm
from airflow_provider_azstack.emulator.http import Problem
from airflow_provider_azstack.engine.janitor import janitor
from airflow_provider_azstack.engine.restore.execute import carry_out
from airflow_provider_azstack.engine.restore.records import RestorePlan
from airflow_provider_azstack.engine.restore.share import keep
from airflow_provider_azstack.errors import AzStackError

pytestmark = pytest.mark.tier2

MIB = 1 << 20


@pytest.fixture
def vm(it: Rig) -> EmulatedVm:
    """A VM with a managed and an unmanaged disk, backed up, and a group to restore it to."""
    it.emulator.add_storage_account("legacy", "prod")
    unmanaged = DiskSpec(kind="unmanaged", size_bytes=2 * MIB, account="legacy")
    made = it.emulator.add_vm("vm", "prod", [DiskSpec(size_bytes=2 * MIB), unmanaged])
    for number, disk in enumerate(made.disks):
        disk.write(MIB, bytes([number + 1]) * 70_000)
    it.backup()
    it.emulator.add_group("elsewhere")
    return made


def plan(it: Rig, **more: Any) -> RestorePlan:
    made = restores.plan(it, vms=["vm"], mode="disks", resource_group="elsewhere", **more)
    assert made.refusals == ()
    return made


def killed(it: Rig, made: RestorePlan, *, writes: bool = False) -> str:
    """Carry a plan out, until the first page is refused, as far as a kill lets it; the session."""
    session = it.repository.open_session("restore", run="restore-run")
    keep(session, made, "restore-run")
    if not writes:
        it.emulator.faults.answer("PUT", "comp=page", 403, times=10**6)
    with connect(it.emulator) as stack:
        try:
            outcomes = carry_out(stack, session, made, lambda _: None)
        except AzStackError:
            outcomes = []
    assert writes == any(outcome.status == "done" for outcome in outcomes)
    it.emulator.faults.clear()
    return session.id


def places(it: Rig, made: RestorePlan) -> set[str]:
    """Return which disks of a plan are on the stack."""
    there = set()
    for vm in made.vms:
        for disk in vm.disks:
            try:
                restores.disk_at(it.emulator, disk.id)
            except (KeyError, Problem):
                continue
            there.add(disk.key)
    return there


@pytest.mark.usefixtures("vm")
def test_half_written_disks_go_when_their_session_is_gone(it: Rig) -> None:
    """Managed ones and page blobs, by the sealed plan and its mark; a dry run only tells."""
    made = plan(it)
    session = killed(it, made)
    assert places(it, made) == {"os", "data-0"}
    assert janitor(it.stack, it.repository, dry_run=False) == [], "its session lives"
    it.repository.fence(session)
    told = janitor(it.stack, it.repository, dry_run=True)
    assert sorted(finding.id for finding in told) == sorted(d.id for d in made.vms[0].disks)
    assert {(finding.action, finding.run) for finding in told} == {("delete", "restore-run")}
    assert places(it, made) == {"os", "data-0"}
    assert janitor(it.stack, it.repository, dry_run=False) == told
    assert places(it, made) == set()
    assert janitor(it.stack, it.repository, dry_run=False) == []


@pytest.mark.usefixtures("vm")
def test_disks_that_were_restored_stay(it: Rig) -> None:
    """A restore of disks that ended well leaves what was asked for, whatever became of its run."""
    made = plan(it)
    session = killed(it, made, writes=True)
    it.repository.fence(session)
    assert janitor(it.stack, it.repository, dry_run=False) == []
    assert places(it, made) == {"os", "data-0"}


@pytest.mark.usefixtures("vm")
def test_a_restore_whose_run_is_called_like_a_trial_is_none(it: Rig) -> None:
    """Somebody's DAG may have any name: what it restored stays."""
    made = plan(it)
    session = it.repository.open_session("restore", run="rehearsal-0123abcd")
    keep(session, made, "rehearsal-0123abcd")
    with connect(it.emulator) as stack:
        carry_out(stack, session, made, lambda _: None)
    it.repository.fence(session.id)
    assert janitor(it.stack, it.repository, dry_run=False) == []
    assert places(it, made) == {"os", "data-0"}


@pytest.mark.usefixtures("vm")
def test_a_disk_that_a_vm_has_stays_even_when_its_notes_are_lost(it: Rig) -> None:
    it.emulator.add_group("elsewhere")
    made = restores.plan(
        it, vms=["vm"], mode="alternate", resource_group="elsewhere", disk_kind="managed"
    )
    session = it.repository.open_session("restore", run="restore-run")
    keep(session, made, "restore-run")
    with connect(it.emulator) as stack:
        (outcome,) = carry_out(stack, session, made, lambda _: None)
    assert outcome.status == "done"
    it.repository.fence(session.id)
    for info in list(it.repository.store.list(f"restores/{made.id}/")):
        if "/plan/" not in info.name:
            it.repository.store.delete(info.name)
    assert janitor(it.stack, it.repository, dry_run=False) == []
    assert places(it, made) == {"os", "data-0"}


@pytest.mark.usefixtures("vm")
def test_what_somebody_else_put_in_the_place_stays(it: Rig) -> None:
    """The plan names the place, but only its mark makes what is there the plan's."""
    made = plan(it)
    session = killed(it, made)
    managed = next(disk for disk in made.vms[0].disks if disk.key == "os")
    body = it.stack.get(managed.id)
    it.stack.put(managed.id, {**body, "tags": {"owner": "ops"}})
    it.repository.fence(session)
    janitor(it.stack, it.repository, dry_run=False)
    assert places(it, made) == {"os"}


@pytest.mark.usefixtures("vm")
def test_another_try_of_the_same_plan_protects_its_disks(it: Rig) -> None:
    made = plan(it)
    it.repository.fence(killed(it, made))
    again = it.repository.open_session("restore", run="restore-run")
    assert janitor(it.stack, it.repository, dry_run=False) == []
    assert places(it, made) == {"os", "data-0"}
    again.close()
    assert len(janitor(it.stack, it.repository, dry_run=False)) == 2


@pytest.mark.usefixtures("vm")
def test_a_janitor_that_may_not_delete_says_so_and_the_next_one_finishes(it: Rig) -> None:
    """F-C12: what is left is looked for again."""
    made = plan(it)
    it.repository.fence(killed(it, made))
    it.emulator.faults.answer("DELETE", ".", 403, times=99)
    with pytest.raises(AzStackError, match="could not do"):
        janitor(it.stack, it.repository, dry_run=False)
    it.emulator.faults.clear()
    assert len(janitor(it.stack, it.repository, dry_run=False)) == 2
    assert places(it, made) == set()
