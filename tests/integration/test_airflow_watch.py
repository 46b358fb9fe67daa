"""Runs that are watched: the summary in XCom, the task state store, metrics over real UDP."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.airflow_run import Site, xcoms
from support.statsd_server import StatsdServer

from airflow_provider_azstack.emulator import DiskSpec, Emulator

pytestmark = pytest.mark.tier2
MIB = 1 << 20
VERIFY = """\
from airflow_provider_azstack.dag_factory import verify_dag

dag = verify_dag({dag_id!r}, config={conf!r}, mode="full")
for task in dag.tasks:
    task.retries = 0
"""


@pytest.fixture
def site(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    site = Site(emulator, tmp_path, monkeypatch)
    for number in range(2):
        vm = emulator.add_vm(f"vm{number}", "web", [DiskSpec(size_bytes=4 * MIB)])
        vm.disks[0].write(MIB, bytes([number + 1]) * 50_000)
    return site


@pytest.fixture
def statsd(monkeypatch: pytest.MonkeyPatch) -> Iterator[StatsdServer]:
    """A listener, and Airflow's own emitters set up as a task's process does it."""
    from airflow.sdk._shared.observability.metrics import stats
    from airflow.sdk.observability.metrics import stats_utils

    with StatsdServer() as server:
        monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "True")
        monkeypatch.setenv("AIRFLOW__METRICS__STATSD_HOST", "127.0.0.1")
        monkeypatch.setenv("AIRFLOW__METRICS__STATSD_PORT", str(server.port))
        monkeypatch.setenv("AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED", "True")
        stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=False)
        yield server
        stats._get_backend().statsd.close()
        stats.initialize(factory=stats_utils.NoStatsLogger, export_legacy_names=False)


def states(run_id: str) -> dict[str, Any]:
    from airflow.models.task_state_store import TaskStateStoreModel as Row
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        rows = session.scalars(select(Row).where(Row.run_id == run_id))
        return {row.key: json.loads(row.value) for row in rows}


def test_a_backup_leaves_its_summary_its_metrics_and_its_progress(
    site: Site, statsd: StatsdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_azstack.operators.watch.STATE_SECONDS", 0.0)
    run = site.run(site.dag("watched"))
    assert run.state == "success"
    (summary,) = xcoms(run.run_id, "summary")
    assert {row["vm"] for row in summary["rows"]} == {"vm0", "vm1"}
    assert (summary["totals"]["done"], summary["totals"]["failed"]) == (2, 0)
    assert "| VM |" in summary["markdown"]
    images = {
        part.image: part.read_bytes for point in site.reopen().points() for part in point.images
    }
    kept = states(run.run_id)
    assert kept.keys() == images.keys()
    assert {value["percent"] for value in kept.values()} == {100.0}
    streamed = statsd.named("airflow.azstack.backup.stream.read_bytes")
    assert len(streamed) == 2
    assert all("policy=all" in line and "host=" in line and "|c" in line for line in streamed)
    read = sum(images.values())
    (total,) = statsd.named("airflow.azstack.backup.read_bytes")
    assert total.endswith(f":{read}|c")
    assert statsd.named("airflow.azstack.backup.done")[0].endswith(":2|c")
    assert statsd.named("airflow.azstack.backup.duration")[0].endswith("|ms")


def test_a_verification_tells_sizes_and_ages(site: Site, statsd: StatsdServer) -> None:
    assert site.run(site.dag("watched_backup")).state == "success"
    run = site.run(site.dag("watched_verify", VERIFY))
    assert run.state == "success"
    (summary,) = xcoms(run.run_id, "summary")
    assert summary["totals"]["damaged_points"] == 0
    assert summary["totals"]["read_bytes"] > 0
    assert statsd.named("airflow.azstack.points.total")[-1].endswith(":2|g")
    (age,) = statsd.named("airflow.azstack.points.newest_age_seconds.max")
    assert 0 <= int(age.rpartition(":")[2].partition("|")[0]) < 600
    size = statsd.named("airflow.azstack.repository.bytes")[-1]
    assert int(size.rpartition(":")[2].partition("|")[0]) > 0
    assert statsd.named("airflow.azstack.repository.sound")[-1].endswith(":1|g")
