"""A window ends a job: what runs is finished or stopped, what is left out goes first next."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.compound import Rig, Run
from support.fleets import host

from airflow_provider_azstack.config import Caps
from airflow_provider_azstack.emulator import DiskSpec, EmulatedVm
from airflow_provider_azstack.engine.backup import disk, outlook
from airflow_provider_azstack.engine.backup.past import Past
from airflow_provider_azstack.engine.backup.prepare import Terms, prepare
from airflow_provider_azstack.engine.backup.stream import snapshot_workload, stream_workload
from airflow_provider_azstack.engine.pace import Limit, Pace
from airflow_provider_azstack.errors import StreamsFailed, WindowEnded
from airflow_provider_azstack.model import JobRecord, JobVm

pytestmark = pytest.mark.tier2

MIB = 1 << 20
SIX = datetime(2026, 5, 5, 6, 0, tzinfo=UTC)
NAMES = ("first", "second", "third")


@pytest.fixture
def it(it: Rig) -> Rig:
    it.hosts = (host("a", 1),)
    return it


@pytest.fixture
def vms(it: Rig) -> dict[str, EmulatedVm]:
    made = {
        name: it.emulator.add_vm(name, "prod", [DiskSpec(size_bytes=4 * MIB)]) for name in NAMES
    }
    for name, vm in made.items():
        vm.disks[0].write(0, name.encode() * 1000)
    return made


class Wall:
    """A clock on the wall that moves on when somebody looks at it."""

    def __init__(self, now: datetime, step: timedelta = timedelta()) -> None:
        self.now = now
        self.step = step

    def __call__(self) -> datetime:
        self.now += self.step
        return self.now


def begin(it: Rig, *, stop_running: bool = False) -> Run:
    """Begin a run with a window until six, as discovery does it: with a forecast."""
    run = it.begin()
    running = SIX + timedelta(hours=1) if stop_running else None
    run.job = replace(run.job, stop_starting_at=SIX, stop_running_at=running)
    past = Past(it.repository.job_outlines())
    run.manifests = prepare(
        run.job, run.inventory.vms, it.hosts, Terms(it.policy), past, now=datetime.now(UTC)
    )
    return run


def snapshot(run: Run) -> None:
    for workload in run.workloads:
        snapshot_workload(
            run.rig.stack, run.session, workload, clock=Wall(SIX - timedelta(hours=1))
        )


def stream(run: Run, wall: Wall) -> dict[str, Exception]:
    failures: dict[str, Exception] = {}
    for workload in run.workloads:
        try:
            stream_workload(run.rig.stack, run.session, workload, clock=wall)
        except StreamsFailed as failed:
            failures |= failed.failures
            run.failures |= failed.failures
    return failures


def finish(run: Run, failures: dict[str, Exception], wall: Wall) -> JobRecord:
    from airflow_provider_azstack.engine.backup.complete import complete

    record = complete(
        run.session,
        run.job,
        run.manifests,
        started_at=datetime.now(UTC),
        reasons={key: f"{type(error).__name__}: {error}" for key, error in failures.items()},
        clock=wall,
    )
    run.clean_up()
    return record


def by_name(record: JobRecord) -> dict[str, JobVm]:
    return {vm.name: vm for vm in record.vms}


def test_a_window_ends_a_run_cleanly_and_the_next_one_takes_first_what_was_left_out(
    it: Rig, vms: dict[str, EmulatedVm]
) -> None:
    """F-L4."""
    run = begin(it)
    order = [vm.name for workload in run.workloads for vm in workload.vms]
    snapshot(run)
    wall = Wall(SIX - timedelta(seconds=1.5), step=timedelta(seconds=1))  # one look is in time
    failures = stream(run, wall)
    assert [type(error) for error in failures.values()] == [WindowEnded] * 2
    record = finish(run, failures, wall)
    assert record.status == "partial"
    told = by_name(record)
    done, *left_out = order
    assert told[done].status == "done"
    for name in left_out:
        assert told[name].status == "failed"
        assert told[name].reason == "not begun: the backup window ended at 06:00"
        assert told[name].is_waiting
    kept = [left.kind for left in it.emulator.leftovers()]
    assert kept == ["snapshot"], "the reference of the VM that was done"
    assert it.repository.sessions() == {}
    again = it.begin()
    past = Past(it.repository.job_outlines())
    assert set(past.waiting()) == {vms[name].vm_id for name in left_out}
    manifests = prepare(
        again.job, again.inventory.vms, it.hosts, Terms(it.policy), past, now=datetime.now(UTC)
    )
    then = [vm.name for m in manifests for w in m.workloads for vm in w.vms]
    assert set(then[:2]) == set(left_out)
    assert then[2] == done
    again.manifests = manifests
    assert {vm.status for vm in again.finish().values()} == {"done"}
    assert Past(it.repository.job_outlines()).waiting() == {}


def test_after_the_window_no_snapshot_is_taken(it: Rig, vms: dict[str, EmulatedVm]) -> None:
    run = begin(it)
    it.emulator.requests.clear()
    for workload in run.workloads:
        with pytest.raises(StreamsFailed) as failed:
            snapshot_workload(it.stack, run.session, workload, clock=Wall(SIX))
        assert failed.value.never_retry
    assert not [seen for seen in it.emulator.requests if seen.method == "PUT"]
    record = finish(run, {}, Wall(SIX))
    assert record.status == "failed"
    assert all(vm.is_waiting for vm in record.vms), "also where no stream ever came to tell"
    assert len(vms) == len(record.vms)


def test_what_runs_is_stopped_at_the_second_end(
    it: Rig, vms: dict[str, EmulatedVm], monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-L4."""
    monkeypatch.setattr(disk, "PROGRESS_SECONDS", 0.0)
    run = begin(it, stop_running=True)
    snapshot(run)
    it.emulator.faults.slow("/md-", 1.0, method="GET")  # in which the clock is looked at
    wall = Wall(SIX - timedelta(minutes=90), step=timedelta(minutes=85))  # 05:55, then 07:20
    failures = stream(run, wall)
    it.emulator.faults.clear()
    assert sorted(map(str, failures.values())) == [
        "not begun: the backup window ended at 06:00",
        "not begun: the backup window ended at 06:00",
        "stopped: the backup window ended at 07:00",
    ]
    record = finish(run, failures, wall)
    assert all(vm.is_waiting for vm in record.vms)
    assert it.emulator.leftovers() == []


def test_a_vm_of_which_a_piece_was_begun_is_finished_after_the_window(it: Rig) -> None:
    vm = it.emulator.add_vm("big", "prod", [DiskSpec(size_bytes=512 * MIB)])
    for part in (0, 300):
        vm.disks[0].write(part * MIB, b"big" * 10_000)
    it.hosts = tuple(replace(it.hosts[0], name=name) for name in "ab")
    run = it.begin()
    run.job = replace(run.job, stop_starting_at=SIX)
    terms = Terms(it.policy, Caps(disk=2), split_bytes=1)
    run.manifests = prepare(
        run.job, run.inventory.vms, it.hosts, terms, Past([]), now=datetime.now(UTC)
    )
    first, second = run.workloads
    stream_workload(it.stack, run.session, first, clock=Wall(SIX - timedelta(minutes=1)))
    stream_workload(it.stack, run.session, second, clock=Wall(SIX + timedelta(minutes=1)))
    (done,) = finish(run, {}, Wall(SIX + timedelta(minutes=2))).vms
    assert it.digest(it.point(done), "os") == vm.disks[0].sha256()


def test_a_stream_waits_for_its_bandwidth_and_the_record_says_how_the_forecast_held(
    it: Rig, vms: dict[str, EmulatedVm], tmp_path: Path
) -> None:
    run = begin(it)
    pace = Pace([Limit("a", 4 * MIB)], directory=tmp_path / "pace")
    began = time.monotonic()
    for workload in run.workloads:
        stream_workload(
            it.stack, run.session, workload, pace=pace, clock=Wall(SIX - timedelta(hours=1))
        )
    seconds = time.monotonic() - began
    record = finish(run, {}, Wall(SIX - timedelta(hours=1)))
    read = sum(vm.read_bytes for vm in record.vms)
    assert seconds >= read / (4 * MIB) - 0.25
    assert record.status == "done"
    assert {f.host for f in record.forecast} == {"a"}
    *_, whole = outlook.estimate_rows(record)
    assert whole["moved_bytes"] == sum(vm.changed_bytes for vm in record.vms)
    assert whole["end_seconds"] is not None
    assert all(vm.expected_seconds > 0 and vm.ended_at for vm in record.vms)
