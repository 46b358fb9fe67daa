"""What is expected of a job: from measured tempo, within the figures of disks and all limits."""

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace
from support.fleets import host, key_of, machine

from airflow_provider_azstack.config import BackupHost, Caps
from airflow_provider_azstack.engine.backup import outlook
from airflow_provider_azstack.engine.backup.forecast import (
    NO_COSTS,
    Costs,
    figure,
    parts_at_once,
    with_limit,
)
from airflow_provider_azstack.engine.backup.past import Past, Rates, Tempo
from airflow_provider_azstack.engine.backup.prepare import Terms, prepare
from airflow_provider_azstack.model import (
    HostForecast,
    HostShare,
    Job,
    JobRecord,
    JobVm,
    Manifest,
    VirtualMachine,
    WorkloadDisk,
)
from airflow_provider_azstack.policy import Policy

pytestmark = pytest.mark.tier1

MB, GIB = 1_000_000, 1 << 30
PREMIUM = "Premium_LRS"
NOW = datetime(2026, 5, 4, 20, 0, tzinfo=UTC)
JOB = Job(run="r", session="s", policy="nightly", stack="x")
POLICY = Policy(name="nightly")


def measured(rate: float, vms: int = 10, where: str = "a") -> Past:
    """Ten VMs that moved a gigabyte each."""
    seen = tuple(
        JobVm(
            key=key_of(n + 1),
            name=f"vm{n + 1}",
            host=where,
            status="done",
            disks=1,
            changed_bytes=1000 * MB,
            seconds=1000 * MB / rate,
        )
        for n in range(vms)
    )
    return Past([JobRecord(job=JOB, status="done", started_at=NOW, ended_at=NOW, vms=seen)])


def expected(
    vms: list[VirtualMachine],
    hosts: list[BackupHost],
    past: Past,
    policy: Policy = POLICY,
    job: Job = JOB,
    **rest: object,
) -> tuple[HostForecast, ...]:
    settings = {"now": NOW, "costs": NO_COSTS, **rest}
    manifests = prepare(job, vms, hosts, Terms(policy), past, **settings)
    return tuple(m.forecast for m in manifests if m.forecast)


FLEET = [machine(n + 1, [10 * GIB], sku=PREMIUM) for n in range(10)]


def test_measured_rates_tell_the_end() -> None:
    """Ten gigabytes at 50 MB/s by two streams: a hundred seconds."""
    [forecast] = expected(FLEET, [host("a", 2)], measured(50 * MB))
    assert forecast.end_seconds == pytest.approx(100, rel=0.01)
    assert forecast.busy_seconds == pytest.approx(200, rel=0.01)
    assert forecast.expected_bytes == pytest.approx(10_000 * MB, rel=0.01)


def test_a_second_host_halves_it_and_a_slow_one_does_not() -> None:
    two = expected(FLEET, [host("a", 2), host("b", 2)], measured(50 * MB))
    assert outlook.run_seconds(two) == pytest.approx(60, rel=0.01), "5 of 20 s on 2 streams each"
    slow = expected(FLEET, [host("a", 2), host("b", 2, limit=10)], measured(50 * MB))
    assert 80 <= outlook.run_seconds(slow) <= 100, "it gets as little as it can do meanwhile"
    assert slow[1].expected_bytes < slow[0].expected_bytes / 4


def test_a_host_that_was_seen_to_be_slower_gets_less() -> None:
    fast, slow = measured(100 * MB, 10, "a"), measured(25 * MB, 10, "b")
    rates = Rates({"a": fast.rates().tempo("a"), "b": slow.rates().tempo("b")}, Tempo())
    many = [machine(n + 1, [10 * GIB], sku=PREMIUM) for n in range(50)]
    a, b = expected(many, [host("a", 2), host("b", 2)], Past([]), rates=rates)
    assert a.expected_bytes == pytest.approx(4 * b.expected_bytes, rel=0.15)
    assert a.end_seconds == pytest.approx(b.end_seconds, rel=0.2)


def test_no_forecast_promises_more_than_limits_give() -> None:
    past, whole = measured(100 * MB), 10_000 * MB
    limited = expected(FLEET, [host("a", 8, limit=40)], past)
    assert limited[0].end_seconds >= whole / (40 * MB) * 0.99
    policy = Policy(name="nightly", limit_mb_per_second=20)
    shared = expected(FLEET, [host("a", 4), host("b", 4)], past, policy)
    assert outlook.run_seconds(shared) >= whole / (20 * MB) * 0.99
    assert expected(FLEET, [host("a", 8)], past, stack_rate=25 * MB)[0].end_seconds >= 400 * 0.99


def test_a_disk_gives_what_is_documented_unless_it_was_seen_to_give_more() -> None:
    assert figure("Premium_LRS") == 145 * MB
    assert figure("Standard_LRS") == 60 * MB
    assert figure("") == 145 * MB
    standard = [machine(1, [10 * GIB], sku="Standard_LRS")]
    [slow] = expected(standard, [host("a", 2)], measured(65 * MB, 1))
    assert slow.end_seconds == pytest.approx(1000 / 60, rel=0.01)
    [fast] = expected(standard, [host("a", 2)], measured(400 * MB, 1))
    assert fast.end_seconds == pytest.approx(2.5, rel=0.01)


@pytest.mark.parametrize(
    ("sku", "fastest", "limit", "cap", "parts"),
    [
        ("Premium_LRS", None, None, None, 4),  # 145 / 40, which is assumed
        ("Standard_LRS", None, None, None, 2),
        ("Premium_LRS", 140 * MB, None, None, 1),
        ("Premium_LRS", 70 * MB, None, None, 2),
        ("Premium_LRS", 400 * MB, None, None, None),  # the figure does not hold here
        ("Premium_LRS", 140 * MB, 20, None, 15),  # two streams share 20 MB/s
        ("Premium_LRS", 140 * MB, None, 3, 3),
    ],
)
def test_a_disk_gets_no_more_streams_than_it_can_feed(
    sku: str, fastest: float | None, limit: int | None, cap: int | None, parts: int | None
) -> None:
    disk = WorkloadDisk(
        key="os", kind="managed", source="s", size_bytes=GIB, unique_id="u", expected_bytes=GIB,
        sku=sku,
    )  # fmt: skip
    rates = Rates(usual=Tempo(), fastest=fastest)
    assert parts_at_once(rates, [host("a", 2, limit)], cap)(disk) == parts


def test_a_policys_limit_goes_to_hosts_that_have_something_to_do() -> None:
    vms = [machine(1, [GIB], sku=PREMIUM), machine(2, [GIB], sku=PREMIUM)]
    terms = Terms(Policy(name="p", limit_mb_per_second=90))
    manifests = prepare(JOB, vms, [host("a", 1), host("b", 2)], terms, Past([]), now=NOW)
    shares = {m.host: {w.limit_bytes for w in m.workloads} for m in manifests}
    streams = {m.host: min(len(m.workloads), 1 if m.host == "a" else 2) for m in manifests}
    whole = sum(streams.values())
    assert shares == {
        h: {90 * MB * count // whole} if count else set() for h, count in streams.items()
    }
    assert with_limit(manifests, [host("a", 2), host("b", 2)], None) == manifests


def test_a_big_disk_on_two_hosts_is_held_up_by_its_figure() -> None:
    vms, past = [machine(1, [500 * GIB], sku=PREMIUM)], Past([])
    terms = Terms(POLICY, Caps(disk=8), split_bytes=8 * GIB)
    hosts = [host("a", 4), host("b", 4)]
    manifests = prepare(JOB, vms, hosts, terms, past, now=NOW, costs=NO_COSTS)
    assert all(manifest.workloads for manifest in manifests)
    end = outlook.run_seconds([m.forecast for m in manifests if m.forecast])
    assert end == pytest.approx(500 * GIB / (145 * MB), rel=0.01), "8 streams of 40 MB/s"


def test_a_vm_in_pieces_is_left_out_once() -> None:
    """However many pieces of it the hosts have no time for."""
    terms = Terms(POLICY, Caps(disk=8), split_bytes=8 * GIB)
    vms, hosts = [machine(1, [500 * GIB], sku=PREMIUM)], [host("a", 1), host("b", 1)]
    job = windowed(0.5)
    manifests = prepare(job, vms, hosts, terms, Past([]), now=NOW)
    assert sum(len(manifest.workloads) for manifest in manifests) > 4
    forecasts = [m.forecast for m in manifests if m.forecast]
    assert sum(forecast.left_out for forecast in forecasts) == 1
    assert "1 VM would be left out" in outlook.verdict(job, forecasts)


def windowed(hours: float) -> Job:
    return replace(JOB, stop_starting_at=NOW + timedelta(hours=hours))


def test_a_window_that_is_too_short_is_said_before() -> None:
    past = measured(50 * MB)
    enough = expected(FLEET, [host("a", 2)], past, job=windowed(1))
    assert "inside the backup window" in outlook.verdict(windowed(1), enough)
    short = expected(FLEET, [host("a", 2)], past, job=windowed(30 / 3600))
    assert short[0].left_out == 6, "two streams begin at 0 s and 20 s, not at 40 s"
    assert "6 VMs would be left out" in outlook.verdict(windowed(30 / 3600), short)
    late = expected(FLEET, [host("a", 2)], past, job=windowed(90 / 3600))
    assert late[0].left_out == 0
    assert "goes on until then" in outlook.verdict(windowed(90 / 3600), late)


def test_requests_and_tasks_take_their_time() -> None:
    costs = Costs(vm=3.0, workload=5.0, run=10.0)
    [bare] = expected(FLEET[:2], [host("a", 2)], measured(50 * MB))
    [real] = expected(FLEET[:2], [host("a", 2)], measured(50 * MB), costs=costs)
    assert real.end_seconds == pytest.approx(bare.end_seconds + 3 + 5 + 10, abs=0.1)


def test_seconds_of_vms_are_in_the_manifests_and_survive_json() -> None:
    manifests = prepare(JOB, FLEET, [host("a", 2)], Terms(POLICY), measured(50 * MB), now=NOW)
    for manifest in manifests:
        for workload in manifest.workloads:
            assert all(vm.expected_seconds == pytest.approx(20, rel=0.05) for vm in workload.vms)
    assert isinstance(manifests[0], Manifest)


def test_an_estimate_is_set_beside_what_became_of_it() -> None:
    forecast = HostForecast(
        host="a", made_at=NOW, streams=2, workloads=2, vms=2, expected_bytes=2000 * MB,
        busy_seconds=40.0, end_seconds=20.0,
    )  # fmt: skip

    def done(number: int, seconds: float, after: float) -> JobVm:
        return JobVm(
            key=key_of(number), name=f"vm{number}", host="a", status="done", seconds=seconds,
            changed_bytes=1000 * MB, expected_bytes=1000 * MB, expected_seconds=20.0,
            ended_at=NOW + timedelta(seconds=after),
        )  # fmt: skip

    record = JobRecord(
        job=JOB, status="done", started_at=NOW, ended_at=NOW + timedelta(seconds=40),
        vms=(done(1, 20, 20), done(2, 30, 30)), forecast=(forecast,),
    )  # fmt: skip
    by_host, run = outlook.estimate_rows(record)
    assert (by_host["end_seconds"], by_host["off"]) == (30.0, "+50%")
    assert (run["host"], run["off"], run["moved_bytes"]) == ("all", "+50%", 2000 * MB)
    assert [row["vm"] for row in outlook.vm_rows(record)] == ["vm2", "vm1"]
    assert outlook.estimate_rows(replace(record, forecast=())) == []


def test_a_vm_in_pieces_counts_for_each_host_with_what_it_did() -> None:
    """Records of earlier versions do not tell that: there it counts for its first host."""
    forecasts = tuple(
        HostForecast(
            host=name, made_at=NOW, streams=1, workloads=1, vms=1, expected_bytes=500 * MB,
            busy_seconds=10.0, end_seconds=10.0,
        )
        for name in "ab"
    )  # fmt: skip
    shares = tuple(
        HostShare(
            host=name, disks=1, changed_bytes=count * MB, seconds=seconds,
            ended_at=NOW + timedelta(seconds=seconds),
        )
        for name, count, seconds in (("a", 400, 10.0), ("b", 600, 20.0))
    )  # fmt: skip
    cut = JobVm(
        key=key_of(1), name="vm1", host="a", more_hosts=("b",), status="done", disks=1,
        changed_bytes=1000 * MB, seconds=30.0, ended_at=NOW + timedelta(seconds=20), shares=shares,
    )  # fmt: skip
    record = JobRecord(
        job=JOB, status="done", started_at=NOW, ended_at=NOW, vms=(cut,), forecast=forecasts
    )

    def told(of: JobRecord) -> list[tuple[int, int, str]]:
        return [(row["vms"], row["moved_bytes"], row["off"]) for row in outlook.estimate_rows(of)]

    whole = (1, 1000 * MB, "+100%")
    assert told(record) == [(1, 400 * MB, "+0%"), (1, 600 * MB, "+100%"), whole]
    old = replace(record, vms=(replace(cut, shares=()),))
    assert told(old) == [(1, 1000 * MB, "+100%"), (0, 0, "-"), whole]


def test_a_host_that_did_nothing_has_no_end_to_be_off() -> None:
    forecast = HostForecast(
        host="a", made_at=NOW, streams=2, workloads=0, vms=0, expected_bytes=0,
        busy_seconds=0.0, end_seconds=0.0,
    )  # fmt: skip
    record = JobRecord(
        job=JOB, status="done", started_at=NOW, ended_at=NOW, vms=(), forecast=(forecast,)
    )
    assert [row["off"] for row in outlook.estimate_rows(record)] == ["-", "-"]


def test_what_was_measured_under_a_limit_is_not_taken_for_the_speed_of_a_stream() -> None:
    """Four streams shared 20 MB/s; the last of them alone has all of it."""
    limited = host("a", 4, limit=20)
    [forecast] = expected([machine(1, [10 * GIB], sku=PREMIUM)], [limited], measured(5 * MB, 1))
    assert forecast.end_seconds == pytest.approx(1000 / 20, rel=0.05)
