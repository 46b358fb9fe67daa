"""A process that sleeps between two writes of a restore, while another restore takes the place."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.compound import Rig
from support.restores import digests, disk_at, execute, plan

from airflow_provider_azstack.arm.disk_writer import DiskWriter
from airflow_provider_azstack.emulator import DiskSpec, EmulatedVm, Emulator
from airflow_provider_azstack.engine.restore import share
from airflow_provider_azstack.engine.restore.disks import created
from airflow_provider_azstack.engine.restore.execute import discard, opened
from airflow_provider_azstack.engine.restore.records import RestorePlan
from airflow_provider_azstack.engine.restore.standing import look
from airflow_provider_azstack.errors import AzStackError, Refused, SessionLost
from airflow_provider_azstack.repo.sessions import Session

pytestmark = pytest.mark.tier2

MIB = 1 << 20
WAYS = {
    "unmanaged": {"disk_kind": "unmanaged", "storage_account": "staging"},
    "upload": {},
}


class Sleeper:
    """The first writer of a disk: it sleeps before its first page until it is told to go on."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.asleep, self.awake = threading.Event(), threading.Event()
        lock, real, first = threading.Lock(), DiskWriter.write, []

        def write(writer: DiskWriter, offset: int, data: bytes) -> None:
            with lock:
                first.append(writer)
            if writer is first[0]:
                self.asleep.set()
                assert self.awake.wait(480)
            real(writer, offset, data)

        patch.setattr(DiskWriter, "write", write)


@pytest.fixture
def site(it: Rig) -> Rig:
    it.emulator.add_group("dr")
    it.emulator.add_storage_account("staging", "rg")
    it.emulator.behaviour.second_grant = "allowed"  # nothing but us keeps access from two
    return it


@pytest.fixture
def points(site: Rig, emulator: Emulator) -> tuple[str, str]:
    """Two restore points of a VM, whose disk became another one between them."""
    vm = emulator.add_vm("web01", "rg", [DiskSpec(size_bytes=16 * MIB)])
    return backed_up(site, vm, b"old"), backed_up(site, vm, b"new")


def backed_up(site: Rig, vm: EmulatedVm, content: bytes) -> str:
    vm.disks[0].write(0, content * (2 * MIB))
    return site.backup()["web01"].point


def asked(site: Rig, point: str, way: str) -> RestorePlan:
    """Plan to restore the disk of a point, always under one name."""
    changes = {"web01": {"disks": {"os": {"name": "again"}}}}
    made = plan(
        site, vms=["web01"], point=point, mode="disks", resource_group="dr", changes=changes,
        **WAYS[way],
    )  # fmt: skip
    assert made.refusals == ()
    return made


def write(site: Rig, session: Session, made: RestorePlan) -> AzStackError | None:
    """Do what the task of a host does; return why it failed."""
    task = {"vm": made.vms[0].key, "key": "os"}
    with share.at_work(site.stack, session, made, tell=print) as work:
        try:
            share.write(work, task)
        except AzStackError as error:
            return error
    return None


def begin(site: Rig, made: RestorePlan) -> None:
    """Make a plan's disk, and write nothing to it."""
    session = site.repository.open_session("restore", run=made.id)
    with opened(site.stack, session, made, print) as work:
        created(look(work, made.vms[0], made.vms[0].disks[0]))
    session.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_begun", [True, False], ids=["begun", "ended"])
def test_a_writer_that_outlived_its_clean_up_writes_nothing(
    site: Rig, points: tuple[str, str], emulator: Emulator, monkeypatch: pytest.MonkeyPatch,
    way: str, *, is_begun: bool,
) -> None:  # fmt: skip
    """F-R8: neither while the other restore writes, nor after its end; it fails for good."""
    sleeper = Sleeper(monkeypatch)
    old = asked(site, points[0], way)
    session = site.repository.open_session("restore", run="old")
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write, site, session, old)
        assert sleeper.asleep.wait(240)
        site.repository.fence(session.id)
        cleaner = site.repository.open_session("restore", run="cleaner")
        assert discard(site.stack, cleaner, old) == [old.vms[0].disks[0].id]
        cleaner.close()
        new = asked(site, points[1], way)
        assert new.vms[0].disks[0].id == old.vms[0].disks[0].id
        begin(site, new) if is_begun else restored(site, new)
        emulator.requests.clear()
        sleeper.awake.set()
        error = writing.result(240)
    assert isinstance(error, Refused), error
    assert error.never_retry
    assert old.vms[0].disks[0].id in str(error)
    refused = [seen for seen in emulator.requests if seen.method == "PUT"]
    assert {seen.status for seen in refused} <= {403, 404, 412}
    assert len(refused) <= 8  # one for each of its threads
    assert isinstance(write(site, session, old), Refused | SessionLost)  # Airflow tries once more
    restored(site, new)
    assert digests(emulator, new)["web01", "os"] == whole(emulator)


def test_a_copy_of_a_task_that_outlived_the_restore_writes_nothing(
    site: Rig, points: tuple[str, str], emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-R8, F-A3: the disk is whole and somebody's by then, and the copy would put old pages in."""
    sleeper = Sleeper(monkeypatch)
    made = asked(site, points[0], "unmanaged")
    session = site.repository.open_session("restore", run="one")
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write, site, session, made)
        assert sleeper.asleep.wait(240)
        assert write(site, session, made) is None  # the same task once more, to its end
        disk = disk_at(emulator, made.vms[0].disks[0].id)
        disk.write(0, b"what a guest wrote since")
        expected = disk.sha256()
        sleeper.awake.set()
        assert isinstance(writing.result(240), AzStackError)
    assert disk.sha256() == expected
    session.close()


def restored(site: Rig, made: RestorePlan) -> None:
    assert [outcome.status for outcome in execute(site, made)] == ["done"]


def whole(emulator: Emulator) -> str:
    """Return what the VM's disk is now, which is what it was at the newest point."""
    (vm,) = (vm for vm in emulator.vms.values() if vm.name == "web01")
    return str(vm.disks[0].sha256())


def test_a_stack_without_sequence_numbers_is_restored_to_all_the_same(
    site: Rig, points: tuple[str, str], emulator: Emulator, caplog: Any
) -> None:
    """What it lacks is said; a restore is worth more than this one protection."""
    emulator.behaviour.sequence_numbers = False
    made = asked(site, points[1], "unmanaged")
    restored(site, made)
    assert digests(emulator, made)["web01", "os"] == whole(emulator)
    assert "keeps no sequence numbers" in caplog.text
