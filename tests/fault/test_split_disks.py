"""What may go wrong with a disk in parts: hosts die, sets mix, stacks lie, grants end."""

import re
import signal
import threading
from dataclasses import replace
from random import Random

import pytest
from msgspec import structs
from oracle import assert_repository_sound
from support.compound import Rig, Run, connect, keyed
from support.fleets import host
from support.hosts import snapshot_at_once, stream_at_once
from support.split_host import start

from airflow_provider_azstack.arm.blobs import BlobDisk
from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.arm.grants import GrantKeeper
from airflow_provider_azstack.emulator import DiskSpec, EmulatedVm
from airflow_provider_azstack.emulator.faults import Fault
from airflow_provider_azstack.emulator.http import Answer, Call
from airflow_provider_azstack.engine import names
from airflow_provider_azstack.engine.accounts import Accounts
from airflow_provider_azstack.engine.backup.access import SharedAccess
from airflow_provider_azstack.engine.backup.complete import require_done
from airflow_provider_azstack.engine.backup.join import lied_topic
from airflow_provider_azstack.engine.backup.manifests import workload_vms
from airflow_provider_azstack.engine.backup.snapshots import Work
from airflow_provider_azstack.engine.backup.stream import stream_workload
from airflow_provider_azstack.engine.janitor import janitor
from airflow_provider_azstack.errors import IncompleteJob
from airflow_provider_azstack.model import DiskPart, Image, JobVm, Workload
from airflow_provider_azstack.repo.images.runs import REGION_BYTES

pytestmark = pytest.mark.tier2

MIB = 1 << 20
SIZE = REGION_BYTES + 8 * MIB  # in parts of 256 and 8 MiB


@pytest.fixture
def it(it: Rig) -> Rig:
    it.hosts, it.split_bytes = (host("a", 2), host("b", 2)), REGION_BYTES
    return it


@pytest.fixture
def vm(it: Rig) -> EmulatedVm:
    made = it.emulator.add_vm("big", "prod", [DiskSpec(size_bytes=SIZE)])
    noise = Random(1)
    made.disks[0].write(5 * MIB, noise.randbytes(2 * MIB))
    made.disks[0].write(REGION_BYTES, noise.randbytes(4 * MIB))
    return made


def pieces(it: Rig, run: Run) -> list[Workload]:
    """Return the workloads in the disk's order."""
    return sorted(run.workloads, key=lambda w: workload_vms(it.repository, w)[0].piece)


def stream(it: Rig, run: Run, workload: Workload) -> None:
    stream_workload(it.stack, run.session, workload)


def images(it: Rig, run: Run) -> list[Image]:
    found = it.repository.images(run.job.run)
    return sorted(found, key=lambda image: (image.part.first if image.part else -1, image.name))


def require_point(it: Rig, vm: EmulatedVm, done: JobVm) -> None:
    """R1, R2: it restores bit-exactly, and a full verification finds nothing."""
    assert done.status == "done", done
    digests = {key: disk.sha256() for key, disk in keyed(vm.disks).items()}
    assert_repository_sound(it.repository, {(done.key, done.point): digests})


def require_red(it: Rig, run: Run, reason: str) -> None:
    """The VM has no point, and the run is red and says why."""
    record = run.complete()
    assert [vm.status for vm in record.vms] == ["failed"]
    assert reason in record.vms[0].reason, record.vms[0].reason
    with pytest.raises(IncompleteJob, match="big"):
        require_done(record)
    run.clean_up()
    assert record.vms[0].point == ""


def require_next_run_is_fine(it: Rig, vm: EmulatedVm) -> None:
    """R3, R4: with no manual step, and nothing but the reference is left after it."""
    require_point(it, vm, it.backup()["big"])
    janitor(it.stack, it.repository, dry_run=False)
    assert [leftover.kind for leftover in it.emulator.leftovers()] == ["snapshot"]


def test_a_host_that_is_killed_in_the_middle_of_a_part(it: Rig, vm: EmulatedVm) -> None:
    """F-P1: no point, the run is red and names the part; the next run needs nobody's help."""
    run = it.begin()
    run.snapshot()
    lost, done = pieces(it, run)
    reading, dead = threading.Event(), threading.Event()

    def wait(_: Call, answer: Answer) -> Answer:
        reading.set()
        dead.wait(240)
        return answer

    it.emulator.faults.add(Fault("GET", "/md-", alter=wait, times=10**6))
    host = start(it, run, lost)
    assert reading.wait(240)
    host.kill()
    assert host.wait(240) == -signal.SIGKILL
    dead.set()
    it.emulator.faults.clear()
    stream(it, run, done)
    assert [image.part.first for image in images(it, run)] == [REGION_BYTES]
    require_red(it, run, "no image of os (0 to 0.268 GB)")
    require_next_run_is_fine(it, vm)


def test_two_processes_back_one_disk_up(it: Rig, vm: EmulatedVm) -> None:
    """Each takes a part, with nothing in common but the stack and the repository."""
    run = it.begin()
    run.snapshot()
    hosts = [start(it, run, workload) for workload in pieces(it, run)]
    assert [host.wait(240) for host in hosts] == [0, 0]
    (done,) = run.complete().vms
    run.clean_up()
    require_point(it, vm, done)


def test_parts_of_two_snapshot_sets_are_refused(it: Rig, vm: EmulatedVm) -> None:
    """F-P2: a snapshot was deleted between two parts; the second took a new set for itself."""
    run = it.begin()
    run.snapshot()
    first, second = pieces(it, run)
    stream(it, run, first)
    vm.disks[0].write(0, b"between the two sets")
    revoke_and_delete(it, run)
    stream(it, run, second)
    assert len({image.set_id for image in images(it, run)}) == 2
    require_red(it, run, "different snapshot sets")
    require_next_run_is_fine(it, vm)


def revoke_and_delete(it: Rig, run: Run) -> None:
    """As an administrator does who wonders what that is."""
    for taken in it.repository.sets(run.job.run):
        for snapshot in taken.snapshots:
            it.stack.run(f"{snapshot.id}/endGetAccess")
            it.stack.delete(snapshot.id)


def test_a_part_that_is_done_again_fits_the_others(it: Rig, vm: EmulatedVm) -> None:
    """F-A7 for parts: cleared by hand after its image was lost, it is made of the same set."""
    run = it.begin()
    run.snapshot()
    run.stream()
    gone = images(it, run)[1]
    it.repository.store.delete(gone.name)
    it.emulator.requests.clear()
    stream(it, run, pieces(it, run)[1])
    made = [r for r in it.emulator.requests if r.method == "PUT" and "/snapshots/" in r.path]
    assert made == []
    (done,) = run.complete().vms
    run.clean_up()
    require_point(it, vm, done)


def test_a_part_of_another_session_does_not_count(it: Rig, vm: EmulatedVm) -> None:
    """F-A7 for parts: whatever the same run left under an earlier session is not relied on."""
    run = it.begin()
    run.snapshot()
    stream(it, run, pieces(it, run)[0])
    (image,) = images(it, run)
    stranger = structs.replace(
        image,
        name=f"{image.name}-old",
        set_id=names.set_id("an earlier session", 1),
        part=DiskPart(REGION_BYTES, SIZE),
    )
    run.session.put_image(stranger)
    require_red(it, run, "no image of os (0.268 to")
    require_next_run_is_fine(it, vm)


def hidden(it: Rig, first: int) -> None:
    """Let the stack say that nothing changed from an offset on."""

    def nothing(call: Call, answer: Answer) -> Answer:
        asked = re.match(r"bytes=(\d+)-", call.headers.get("x-ms-range", ""))
        if asked is None or int(asked[1]) < first:
            return answer
        return replace(answer, body=b'<?xml version="1.0" encoding="utf-8"?><PageList></PageList>')

    it.emulator.faults.add(Fault("GET", "comp=pagelist", alter=nothing, times=10**6))


def changed_since(it: Rig, vm: EmulatedVm) -> Run:
    """Back up, let the guest rewrite the second part and a page of the first, begin again."""
    require_point(it, vm, it.backup()["big"])
    vm.disks[0].write(REGION_BYTES, Random(2).randbytes(8 * MIB))
    vm.disks[0].write(5 * MIB, b"one page")
    run = it.begin(mode="incremental")
    run.snapshot()
    return run


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_lie_about_one_part_is_a_lie_about_the_disk(
    it: Rig, vm: EmulatedVm, order: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    """F-W10 for parts: whichever part is first, all of the disk is read, once the lie is out."""
    it.split_bytes = MIB
    run = changed_since(it, vm)
    assert len(run.workloads) == 2
    hidden(it, REGION_BYTES)
    for number in order:
        stream(it, run, pieces(it, run)[number])
    it.emulator.faults.clear()
    assert "have not changed" in caplog.text
    (done,) = run.complete().vms
    run.clean_up()
    require_point(it, vm, done)
    (image,) = it.point(done).images
    assert image.changes_known == "everything"


def test_a_lie_that_comes_out_while_another_part_is_read(it: Rig, vm: EmulatedVm) -> None:
    """Both at once: at least one of them sees the other."""
    it.split_bytes = MIB
    run = changed_since(it, vm)
    hidden(it, REGION_BYTES)
    assert stream_at_once(it, run) == []
    it.emulator.faults.clear()
    (done,) = run.complete().vms
    run.clean_up()
    require_point(it, vm, done)
    assert {image.changes_known for image in it.point(done).images} == {"everything"}


def test_a_lie_that_nobody_made_up_for_is_no_restore_point(it: Rig, vm: EmulatedVm) -> None:
    """The stream that found out died: what believed the stack does not count."""
    it.split_bytes = MIB
    run = changed_since(it, vm)
    run.stream()
    (taken,) = it.repository.sets(run.job.run)
    run.session.leave_note(taken.vm.key, lied_topic(taken.id, "os"), b"a host that is gone")
    require_red(it, run, "lied about what changed")
    require_next_run_is_fine(it, vm)


def shared(it: Rig, run: Run, stack: Stack) -> SharedAccess:
    (taken,) = it.repository.sets(run.job.run)
    session = it.repository.join_session(run.job.session)
    accounts = Accounts(stack, ())
    work = Work(stack, accounts, session, run.job)
    return SharedAccess(work, taken.vm.key, taken.snapshots[0].id)


@pytest.mark.parametrize("second", ["refused", "allowed"])
def test_readers_on_several_hosts_share_a_grant_and_find_the_next_one(
    it: Rig, vm: EmulatedVm, second: str
) -> None:
    """F-P5: ended by somebody, it is asked for once, and nobody ends it for others."""
    it.emulator.behaviour.second_grant = second
    run = it.begin()
    run.snapshot()
    with connect(it.emulator) as one, connect(it.emulator) as two:
        disks = [BlobDisk(shared(it, run, stack), size_bytes=SIZE) for stack in (one, two)]
        for _ in range(3):
            page = bytearray(4096)
            for disk in disks:
                disk.read_into(REGION_BYTES, memoryview(page))
                assert bytes(page) == vm.disks[0].read(REGION_BYTES, 4096)
            (taken,) = it.repository.sets(run.job.run)
            it.stack.run(f"{taken.snapshots[0].id}/endGetAccess")
        begun = [r for r in it.emulator.requests if r.path.endswith("/beginGetAccess")]
        assert len([seen for seen in begun if seen.status < 400]) == 3
        for disk in disks:
            disk.close()
    run.clean_up()
    assert it.emulator.leftovers() == []


def test_a_grant_whose_asker_died_is_asked_for_by_the_next(it: Rig, vm: EmulatedVm) -> None:
    """F-P5: the turn passes on; an active grant that nobody knows is ended."""
    run = it.begin()
    run.snapshot()
    with connect(it.emulator) as stack:
        dead = shared(it, run, stack)
        run.session.leave_note(vm.vm_id, dead._turn(1), b"it died before it could ask")
        grant = dead()
        assert grant is not None
        run.session.leave_note(vm.vm_id, dead._turn(3), b"it died after it had asked")
        keeper = GrantKeeper(shared(it, run, stack))
        assert keeper.current().url.reveal() == grant.url.reveal()
        it.stack.run(f"{next(it.repository.sets(run.job.run)).snapshots[0].id}/endGetAccess")
        keeper.refused(keeper.current())
        assert keeper.current().url.reveal() != grant.url.reveal()
    run.clean_up()
    assert it.emulator.leftovers() == []


def test_notes_of_grants_are_sealed_and_go_with_the_session(it: Rig, vm: EmulatedVm) -> None:
    """R5: no signature is anywhere in the repository's plain bytes; nothing is left of it."""
    run = it.begin()
    assert snapshot_at_once(it, run) + stream_at_once(it, run) == []
    store = it.repository.store
    noted = [info.name for info in store.list("claims/")]
    assert any("/access-" in name for name in noted)
    for info in store.list("claims/"):
        assert b"sig=" not in store.get(info.name)
    (done,) = run.complete().vms
    run.clean_up()
    require_point(it, vm, done)
    assert list(store.list("claims/")) == []
