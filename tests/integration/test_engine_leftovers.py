"""Clean-up and janitor: nothing stays on the stack but what the next backup needs."""

import uuid
from pathlib import Path

import pytest
from support.compound import Rig, new_repository
from support.damage import flipped

from airflow_provider_azstack.arm.compute import Compute
from airflow_provider_azstack.emulator import DiskSpec, EmulatedVm
from airflow_provider_azstack.emulator.faults import Fault
from airflow_provider_azstack.emulator.http import Answer, Call
from airflow_provider_azstack.engine import names
from airflow_provider_azstack.engine.backup.clean_up import clean_up
from airflow_provider_azstack.engine.janitor import janitor
from airflow_provider_azstack.errors import SourceError

pytestmark = pytest.mark.tier2

MIB = 1 << 20


@pytest.fixture
def vm(it: Rig) -> EmulatedVm:
    """A VM with a managed and an unmanaged disk."""
    it.emulator.add_storage_account("legacy", "prod")
    unmanaged = DiskSpec(kind="unmanaged", size_bytes=MIB, account="legacy")
    return it.emulator.add_vm("vm", "prod", [DiskSpec(size_bytes=MIB), unmanaged])


def left(it: Rig) -> set[str]:
    return {leftover.id for leftover in it.emulator.leftovers()}


@pytest.mark.usefixtures("vm")
def test_a_killed_run_is_left_to_the_janitor_who_finds_both_kinds(it: Rig) -> None:
    """F-C8: found by name and tag once the run's session is gone; a dry run only tells."""
    it.backup()
    references = left(it)
    killed = it.begin()
    killed.snapshot()
    assert len(left(it)) == 4
    assert janitor(it.stack, it.repository, dry_run=False) == [], "its session lives"
    it.repository.fence(killed.session.id)
    told = janitor(it.stack, it.repository, dry_run=True)
    assert [finding.action for finding in told] == ["delete", "delete"]
    assert len(left(it)) == 4
    assert janitor(it.stack, it.repository, dry_run=False) == told
    assert left(it) == references
    assert janitor(it.stack, it.repository, dry_run=False) == []


@pytest.mark.parametrize("path", ["/snapshots/", "comp=snapshot"])
def test_a_snapshot_whose_creation_was_never_answered_is_found(
    it: Rig, vm: EmulatedVm, path: str
) -> None:
    """F-C8: killed between request and response: no record, but name and tags are on the stack."""

    def die(_: Call, answer: Answer) -> Answer:
        it.emulator.faults.answer("*", ".", 401, times=10**6)  # the dead ask for nothing
        return answer

    run = it.begin()
    it.emulator.faults.add(Fault("PUT", path, alter=die))
    run.snapshot()
    it.emulator.faults.clear()
    assert vm.vm_id in run.failures
    assert left(it) != set()
    assert list(it.repository.sets(run.job.run)) == []
    it.repository.fence(run.session.id)
    janitor(it.stack, it.repository, dry_run=False)
    assert left(it) == set()


@pytest.mark.usefixtures("vm")
def test_a_janitor_that_is_killed_between_revoke_and_delete(it: Rig) -> None:
    """F-C12: the next one finishes."""
    run = it.begin()
    run.snapshot()
    (taken,) = it.repository.sets(run.job.run)
    Compute(it.stack).grant_read(taken.snapshots[0].id, 3600)
    it.repository.fence(run.session.id)
    it.emulator.faults.answer("DELETE", ".", 403, times=99)
    with pytest.raises(SourceError, match="janitor could not do 2 things"):
        janitor(it.stack, it.repository, dry_run=False)
    kinds = sorted(leftover.kind for leftover in it.emulator.leftovers())
    assert kinds == ["blob snapshot", "snapshot"], "the grant is gone"
    it.emulator.faults.clear()
    janitor(it.stack, it.repository, dry_run=False)
    assert left(it) == set()


@pytest.mark.usefixtures("vm")
def test_what_is_not_ours_beyond_doubt_is_never_touched(it: Rig, tmp_path: Path) -> None:
    """Neither another repository's, nor what has our tags without our name, or our name only."""
    other = new_repository(tmp_path / "other")
    theirs = Rig(it.emulator, it.stack, other)
    run = theirs.begin()
    run.snapshot()
    other.fence(run.session.id)
    disk = next(iter(it.emulator.vms.values())).disks[0].source
    compute = Compute(it.stack)
    group = f"/subscriptions/{it.emulator.subscription_id}/resourceGroups/backup-snapshots"
    base = f"{group}/providers/Microsoft.Compute/snapshots"
    set_id = names.new_attempt_id("gone")
    tags = names.tags(run.job, it.repository.id, str(uuid.uuid4()), set_id)
    compute.create_snapshot(f"{base}/by-hand", disk, it.emulator.location, tags)
    key = str(uuid.uuid4())
    named = f"{base}/{names.snapshot_name(key, 'os', set_id)}"
    compute.create_snapshot(named, disk, it.emulator.location, {"owner": "ops"})
    before = left(it)
    assert janitor(it.stack, it.repository, dry_run=False) == []
    assert left(it) == before
    other.close()


@pytest.mark.usefixtures("vm")
def test_a_failed_run_keeps_the_reference_of_the_point_before(it: Rig) -> None:
    """The old reference goes only after a newer point is published."""
    it.backup()
    references = left(it)
    run = it.begin()
    run.snapshot()
    assert {vm.status for vm in run.complete().vms} == {"failed"}
    run.clean_up()
    assert left(it) == references
    done = it.backup()["vm"]
    assert {image.changes_known for image in it.point(done).images} == {"difference"}


@pytest.mark.usefixtures("vm")
def test_clean_up_tries_everything_closes_the_session_and_may_be_repeated(it: Rig) -> None:
    run = it.begin()
    run.snapshot()
    it.emulator.faults.answer("DELETE", "/snapshots/", 403, times=1)
    with pytest.raises(SourceError, match="1 thing failed"):
        run.clean_up()
    assert len(left(it)) == 1
    assert list(it.repository.sessions()) == []
    assert run.clean_up() == 1
    assert left(it) == set()
    assert run.clean_up() == 0


def test_clean_up_of_a_run_that_discovered_nothing_closes_its_session(it: Rig) -> None:
    session = it.repository.open_session("backup", run="r")
    assert clean_up(it.stack, it.repository, run="r", session_id=session.id) == 0
    assert list(it.repository.sessions()) == []
    assert clean_up(it.stack, it.repository, run="r", session_id=session.id) == 0


@pytest.mark.usefixtures("vm")
def test_a_forgotten_points_references_go(it: Rig) -> None:
    """A reference that no point refers to any more is a leftover."""
    done = it.backup()["vm"]
    it.repository.store.delete(f"points/{done.key}/{done.point}")
    assert [finding.action for finding in janitor(it.stack, it.repository)] == ["delete", "delete"]


@pytest.mark.usefixtures("vm")
def test_nothing_goes_of_a_vm_whose_points_cannot_be_read(it: Rig) -> None:
    done = it.backup()["vm"]
    name = f"points/{done.key}/{done.point}"
    damaged = flipped(it.repository.store.get(name), -1)
    it.repository.store.delete(name)
    it.repository.store.put(name, damaged)
    before = left(it)
    assert janitor(it.stack, it.repository, dry_run=False) == []
    assert left(it) == before
