"""How long the records of a restore live, and what a restore does when they are gone."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.compound import Rig, connect, keyed, rig
from support.restores import digests, disk_at, plan

from airflow_provider_azstack.emulator import DiskSpec, EmulatedVm, Emulator
from airflow_provider_azstack.engine.janitor import janitor
from airflow_provider_azstack.engine.restore.execute import Outcome, carry_out, discard
from airflow_provider_azstack.engine.restore.records import RestorePlan
from airflow_provider_azstack.engine.restore.share import keep
from airflow_provider_azstack.repo.prune.collector import prune
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.restores import KEPT
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store.base import Store
from airflow_provider_azstack.store.guard import StoreWrapper

pytestmark = pytest.mark.tier2

MIB = 1 << 20
LATER = KEPT + timedelta(hours=1)


@pytest.fixture
def site(emulator: Emulator, tmp_path: Path) -> Iterator[Rig]:
    emulator.add_group("dr")
    emulator.add_storage_account("legacy", "rg")
    with rig(emulator, tmp_path / "repository") as made:
        yield made


@pytest.fixture
def vm(site: Rig) -> EmulatedVm:
    """A VM with a managed and an unmanaged disk, backed up."""
    unmanaged = DiskSpec(kind="unmanaged", size_bytes=4 * MIB, account="legacy")
    made = site.emulator.add_vm("web01", "rg", [DiskSpec(size_bytes=4 * MIB), unmanaged])
    for number, disk in enumerate(made.disks):
        disk.write(MIB, bytes([number + 1]) * 70_000)
    site.backup()
    return made


def asked(site: Rig, **more: Any) -> RestorePlan:
    return plan(site, vms=["web01"], mode="disks", resource_group="dr", **more)


def carried_out(site: Rig, made: RestorePlan, run: str = "run") -> list[Outcome]:
    """Carry a plan out as a command or a DAG does: it is kept first."""
    session = site.repository.open_session("restore", run=run)
    keep(session, made, run)
    try:
        return carry_out(site.stack, session, made, lambda _: None)
    finally:
        session.close()


def statuses(outcomes: list[Outcome]) -> set[str]:
    return {outcome.status for outcome in outcomes}


def later(site: Rig, by: timedelta = LATER) -> None:
    """Let time pass, for the repository."""
    now = site.repository.now
    site.repository.now = lambda: now() + by


def clean(site: Rig) -> None:
    """Let the janitor look."""
    janitor(site.stack, site.repository, dry_run=False)


def records(site: Rig) -> set[str]:
    return {info.name for info in site.repository.store.list("restores/")}


def grown_old(site: Rig, made: RestorePlan) -> None:
    """Restore, let the records go, and let somebody use the disks meanwhile."""
    assert statuses(carried_out(site, made)) == {"done"}
    clean(site)
    for disk in made.vms[0].disks:
        disk_at(site.emulator, disk.id).write(0, b"a guest ran here")
    later(site)
    prune(site.repository)
    assert records(site) == set()


def test_records_of_a_restore_that_ended_go_after_their_time(site: Rig, vm: EmulatedVm) -> None:
    """What it restored stays, and so does every restore point."""
    made = asked(site)
    assert statuses(carried_out(site, made)) == {"done"}
    whole = {("web01", key): disk.sha256() for key, disk in keyed(vm.disks).items()}
    before = records(site)
    later(site)
    prune(site.repository)
    assert records(site) == before, "nobody has looked whether something is left of it"
    clean(site)
    settled = records(site)
    assert before < settled
    prune(site.repository)
    assert records(site) == settled, "its time begins now"
    later(site)
    told = prune(site.repository, dry_run=True)
    assert {row.name for row in told.of("condemn")} == settled == records(site)
    prune(site.repository)
    assert records(site) == set()
    clean(site)
    assert digests(site.emulator, made) == whole


def test_a_disk_whose_records_are_gone_is_not_taken_for_half_written(
    site: Rig, vm: EmulatedVm
) -> None:
    """Neither by the same request, an old plan, one that is given up, nor the janitor."""
    made = asked(site)
    grown_old(site, made)
    used = digests(site.emulator, made)
    refusals = asked(site).refusals
    assert ["records are gone by their age" in line for line in refusals] == [True, True]
    (outcome,) = carried_out(site, made, "again")
    assert outcome.status == "failed"
    assert "records are gone by their age" in outcome.reason
    session = site.repository.open_session("restore", run="again")
    assert discard(site.stack, session, made) == []
    session.close()
    clean(site)
    assert digests(site.emulator, made) == used


class Interrupting(StoreWrapper):
    """Lets something happen before one of the deletions of records of restores."""

    def __init__(self, inner: Store, at: int, what: Callable[[], None]) -> None:
        super().__init__(inner)
        self.left, self.what = at, what

    def delete(self, name: str) -> None:
        if name.startswith("restores/"):
            self.left -= 1
            if self.left == 0:
                self.what()
        super().delete(name)


def test_a_request_that_comes_back_while_its_records_go_harms_nothing(
    site: Rig, vm: EmulatedVm
) -> None:
    """F-K4: before each deletion in turn; somebody has used the disk since it was restored."""
    at, is_reached = 0, True
    while is_reached:
        at += 1
        disks = {"os": {"name": f"os-{at}"}, "data-0": {"skip": True}}
        made = asked(site, changes={"web01": {"disks": disks}})
        assert statuses(carried_out(site, made)) == {"done"}
        clean(site)
        disk_at(site.emulator, made.vms[0].disks[0].id).write(0, b"a guest ran here")
        used = digests(site.emulator, made)
        later(site)
        outcomes: list[Outcome] = []
        store = Interrupting(
            site.repository.store,
            at,
            lambda made=made, outcomes=outcomes: outcomes.extend(carried_out(site, made, "again")),
        )
        prune(Repository.open(store, Secret("passphrase"), clock=site.repository.now), threads=1)
        is_reached = bool(outcomes)
        assert statuses(outcomes) <= {"failed"}
        clean(site)
        assert digests(site.emulator, made) == used, at
    assert at > 7


def test_what_was_deleted_is_restored_anew(site: Rig, vm: EmulatedVm) -> None:
    made = asked(site)
    grown_old(site, made)
    site.stack.delete(made.vms[0].disks[0].id)
    site.emulator.world.blobs.pop(blob_key(site, made))
    again = asked(site)
    assert (again.id, again.refusals) == (made.id, ())
    assert statuses(carried_out(site, again, "again")) == {"done"}
    whole = {("web01", key): disk.sha256() for key, disk in keyed(vm.disks).items()}
    assert digests(site.emulator, again) == whole


def blob_key(site: Rig, made: RestorePlan) -> Any:
    (url,) = (disk.id for disk in made.vms[0].disks if disk.id.startswith("http"))
    return tuple(url.removeprefix(f"{site.emulator.blob_url}/").split("/", 2))


def test_a_second_try_of_the_same_run_is_cleaned_up_after(site: Rig, vm: EmulatedVm) -> None:
    """That an earlier try left nothing says nothing of it."""
    made = asked(site)
    half_written(site, made)
    clean(site)
    assert not [blob for blob in site.emulator.world.blobs if "again" in blob[2]]
    half_written(site, made)
    later(site)
    before = records(site)
    prune(site.repository)
    assert records(site) == before
    found = janitor(site.stack, site.repository, dry_run=False)
    assert {finding.id for finding in found} == {disk.id for disk in made.vms[0].disks}


def half_written(site: Rig, made: RestorePlan) -> None:
    fault = site.emulator.faults.answer("PUT", "comp=page", 403, times=10**6)
    with connect(site.emulator) as stack:
        session = site.repository.open_session("restore", run=made.id)
        keep(session, made, made.id)
        outcomes = carry_out(stack, session, made, lambda _: None)
    assert statuses(outcomes) == {"failed"}
    assert fault.struck
    site.emulator.faults.clear()
    site.repository.fence(session.id)


@pytest.mark.parametrize("kind", ["managed", "unmanaged"])
def test_records_stay_while_there_is_something_to_go_back_to(
    site: Rig, emulator: Emulator, kind: Any
) -> None:
    """Safety snapshots, and old disks that no VM has: who has to delete them may ask for them."""
    vm = emulator.add_vm("db01", "rg", [DiskSpec(kind, 4 * MIB, account="legacy")])
    vm.disks[0].write(0, b"before" * 1000)
    site.backup()
    vm.disks[0].write(0, b"after!" * 1000)
    made = plan(site, vms=["db01"], mode="original", replace=True)
    assert statuses(carried_out(site, made)) == {"done"}
    clean(site)
    assert not [name for name in records(site) if "/settled/" in name]
    remove_snapshots(emulator)
    clean(site)
    assert not [name for name in records(site) if "/settled/" in name]
    later(site)
    prune(site.repository)
    assert records(site)
    remove(site, made.vms[0].replaces[0].place)
    clean(site)
    assert [name for name in records(site) if "/settled/" in name]
    later(site)
    prune(site.repository)
    assert records(site) == set()


def remove_snapshots(emulator: Emulator) -> None:
    """Delete the safety snapshots, as a user does."""
    for found in list(emulator.world.of_type("Microsoft.Compute/snapshots")):
        if "azstack-restore-safety" in found.body["tags"]:
            emulator.world.remove(found)
    for blob in emulator.world.blobs.values():
        for stamp, snapshot in list(blob.snapshots.items()):
            if "azstack_restore_safety" in snapshot.metadata:
                del blob.snapshots[stamp]


def remove(site: Rig, place: str) -> None:
    if place.startswith("/"):
        site.stack.delete(place)
        return
    account, container, name = place.removeprefix(f"{site.emulator.blob_url}/").split("/", 2)
    site.emulator.world.blobs.pop((account, container, name))


def test_an_old_disk_that_a_vm_has_again_keeps_no_records(site: Rig, emulator: Emulator) -> None:
    """Somebody went back: that disk is in use, and nothing that has to be cleaned up."""
    vm = emulator.add_vm("db01", "rg", [DiskSpec(size_bytes=4 * MIB)])
    site.backup()
    vm.disks[0].write(0, b"after!" * 1000)
    made = plan(site, vms=["db01"], mode="original", replace=True)
    carried_out(site, made)
    remove_snapshots(emulator)
    old = emulator.world.get(made.vms[0].replaces[0].place)
    old.body["managedBy"] = vm.id
    clean(site)
    assert [name for name in records(site) if "/settled/" in name]
