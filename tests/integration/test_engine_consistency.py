"""Power around snapshots: who was running runs again, whatever happened."""

import msgspec
import pytest
from support.compound import Rig, Run

from airflow_provider_azstack.emulator import DiskSpec, EmulatedVm, Emulator
from airflow_provider_azstack.emulator.faults import Fault
from airflow_provider_azstack.emulator.http import Answer, Call
from airflow_provider_azstack.engine.janitor import janitor
from airflow_provider_azstack.errors import AccessDenied, SourceBusy
from airflow_provider_azstack.model import Consistency

pytestmark = pytest.mark.tier2

MIB = 1 << 20


@pytest.fixture
def vm(emulator: Emulator) -> EmulatedVm:
    return emulator.add_vm("vm", "prod", [DiskSpec(size_bytes=MIB), DiskSpec(size_bytes=MIB)])


def use(it: Rig, consistency: Consistency) -> None:
    it.policy = msgspec.structs.replace(it.policy, consistency=consistency)


def actions(emulator: Emulator, vm: EmulatedVm) -> list[str]:
    """Return in order what was done to the VM and its snapshots."""
    names = {"deallocate": "deallocate", "start": "start"}
    found = []
    for seen in emulator.requests:
        last = seen.path.rpartition("/")[2]
        if seen.method == "POST" and last in names and seen.path.startswith(vm.id):
            found.append(names[last])
        elif seen.method == "PUT" and "/snapshots/" in seen.path:
            found.append("snapshot")
    return found


def test_a_crash_consistent_backup_touches_no_power(
    it: Rig, emulator: Emulator, vm: EmulatedVm
) -> None:
    assert it.backup()["vm"].status == "done"
    assert actions(emulator, vm) == ["snapshot", "snapshot"]


def test_a_running_vm_is_stopped_snapshotted_and_started_again(
    it: Rig, emulator: Emulator, vm: EmulatedVm
) -> None:
    use(it, "stopped")
    done = it.backup()["vm"]
    assert actions(emulator, vm) == ["deallocate", "snapshot", "snapshot", "start"]
    assert emulator.power(vm) == "running"
    point = it.point(done)
    assert (point.consistency, point.vm.power_state) == ("stopped", "deallocated")


def test_a_vm_that_was_off_stays_off(it: Rig, emulator: Emulator, vm: EmulatedVm) -> None:
    use(it, "stopped")
    emulator.set_power(vm, "deallocated")
    assert it.backup()["vm"].status == "done"
    assert actions(emulator, vm) == ["snapshot", "snapshot"]
    assert emulator.power(vm) == "deallocated"


def test_a_vm_is_started_even_when_its_snapshots_fail(
    it: Rig, emulator: Emulator, vm: EmulatedVm
) -> None:
    use(it, "stopped")
    emulator.faults.end_operation("snapshots.write", "Failed", times=99)
    run = it.begin()
    run.snapshot()
    assert vm.vm_id in run.failures
    assert emulator.power(vm) == "running"
    emulator.faults.clear()
    assert run.finish()["vm"].status == "done"
    assert emulator.power(vm) == "running"


def killed_while_stopped(it: Rig, run: Run | None = None) -> Run:
    """Stop a VM for its snapshots and die: nothing that a ``finally`` would do happens."""
    use(it, "stopped")
    faults = it.emulator.faults

    def die(_: Call, answer: Answer) -> Answer:
        faults.answer("*", ".", 401, times=10**6)  # the dead ask for nothing
        return answer

    run = run or it.begin()
    faults.add(Fault("PUT", "/snapshots/", alter=die))
    run.snapshot()
    faults.clear()
    return run


def test_a_vm_that_a_killed_task_left_stopped_is_started_by_the_retry(
    it: Rig, emulator: Emulator, vm: EmulatedVm
) -> None:
    run = killed_while_stopped(it)
    assert emulator.power(vm) == "deallocated"
    assert run.finish()["vm"].status == "done"
    assert emulator.power(vm) == "running"


def test_a_vm_that_a_killed_task_left_stopped_is_started_by_the_clean_up(
    it: Rig, emulator: Emulator, vm: EmulatedVm
) -> None:
    run = killed_while_stopped(it)
    run.clean_up()
    assert emulator.power(vm) == "running"
    assert emulator.leftovers() == []


def test_a_vm_that_was_left_stopped_is_started_by_the_janitor_once(
    it: Rig, emulator: Emulator, vm: EmulatedVm
) -> None:
    """When the clean-up was killed too; and who stops the VM later keeps it stopped."""
    run = killed_while_stopped(it)
    assert janitor(it.stack, it.repository, dry_run=False) == [], "its session lives"
    it.repository.fence(run.session.id)
    told = janitor(it.stack, it.repository)
    assert told[0].action == "start"
    assert emulator.power(vm) == "deallocated"
    assert janitor(it.stack, it.repository, dry_run=False) == told
    assert emulator.power(vm) == "running"
    emulator.set_power(vm, "deallocated")
    assert janitor(it.stack, it.repository, dry_run=False) == []
    assert emulator.power(vm) == "deallocated"


def test_a_second_stop_that_is_interrupted_is_made_up_for_as_well(
    it: Rig, emulator: Emulator, vm: EmulatedVm
) -> None:
    """A set that was recorded before does not hide that the VM was stopped again."""
    use(it, "stopped")
    run = it.begin()
    run.snapshot()
    (whole,) = [s for s in it.repository.sets(run.job.run) if s.snapshots]
    it.stack.delete(whole.snapshots[0].id)
    killed_while_stopped(it, run)
    assert emulator.power(vm) == "deallocated"
    run.clean_up()
    assert emulator.power(vm) == "running"


def test_a_vm_that_may_not_be_stopped_keeps_running(
    it: Rig, emulator: Emulator, vm: EmulatedVm
) -> None:
    use(it, "stopped")
    emulator.behaviour.denied.add("Microsoft.Compute/virtualMachines/deallocate/action")
    run = it.begin()
    run.snapshot()
    assert isinstance(run.failures[vm.vm_id], AccessDenied)
    assert emulator.power(vm) == "running"
    run.clean_up()
    assert actions(emulator, vm).count("start") == 0


def test_a_vm_that_runs_is_skipped_when_it_must_be_stopped(
    it: Rig, emulator: Emulator, vm: EmulatedVm
) -> None:
    """Skipped is not failed: the record says so with the reason, and the job is partial."""
    use(it, "required_stopped")
    off = emulator.add_vm("off", "prod", [DiskSpec(size_bytes=MIB)], power="deallocated")
    done = it.backup()
    assert done["vm"].status == "skipped"
    assert "running" in done["vm"].reason
    assert done["off"].status == "done"
    assert it.repository.jobs()[-1].status == "partial"
    assert emulator.power(off) == "deallocated"
    assert actions(emulator, vm) == ["snapshot"]


def test_two_runs_do_not_work_on_one_vm(it: Rig, emulator: Emulator, vm: EmulatedVm) -> None:
    """F-K11: the second fails on the claim; a dead run's claim is void."""
    first, second = it.begin(), it.begin()
    first.snapshot()
    second.snapshot()
    assert isinstance(second.failures[vm.vm_id], SourceBusy)
    it.repository.fence(first.session.id)
    second.snapshot()
    assert second.finish()["vm"].status == "done"
