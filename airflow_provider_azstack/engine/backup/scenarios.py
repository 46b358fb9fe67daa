"""
What more hosts would bring: the same job, shared out to more and more of them.

Owns the comparison; shares out and simulates as a job does; pure, knows no requests.
Invariant: nothing differs between two scenarios but the number of hosts.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from airflow_provider_azstack.config import BackupHost
from airflow_provider_azstack.engine.backup.fleets import Scene
from airflow_provider_azstack.engine.backup.forecast import Costs
from airflow_provider_azstack.engine.backup.outlook import idle, run_seconds
from airflow_provider_azstack.engine.backup.prepare import Terms, prepare
from airflow_provider_azstack.model import HostForecast, Job, JobRecord
from airflow_provider_azstack.speed import amount, duration

COLUMNS = (
    "hosts", "streams", "workloads", "moved", "ends_after", "speedup", "busiest", "idle",
    "left_out",
)  # fmt: skip

STREAMS = 4  # of a host of which nothing is known


def hosts_of(record: JobRecord) -> tuple[BackupHost, ...]:
    """
    Return the backup hosts of a recorded job, with the streams that were counted on; at least one.

    Their limits a record does not tell; what they reached with them, it does.
    """
    streams = {forecast.host: forecast.streams for forecast in record.forecast}
    names = streams or {host for vm in record.vms for host in vm.hosts} or {"host-1"}
    return tuple(
        BackupHost(name=name, streams=streams.get(name, STREAMS), queue=name, executor=None)
        for name in sorted(names)
    )


def with_more(hosts: Sequence[BackupHost], more: int) -> tuple[BackupHost, ...]:
    """Return hosts and so many more, which are like the first of them."""
    added = (replace(hosts[0], name=f"more-{n + 1}", queue=f"more-{n + 1}") for n in range(more))
    return (*hosts, *added)


def compare(
    scene: Scene,
    hosts: Sequence[BackupHost],
    more: Iterable[int],
    terms: Terms,
    job: Job,
    *,
    now: datetime,
    costs: Costs | None = None,
) -> list[dict[str, Any]]:
    """
    Return a row for each number of further hosts; what is gained is relative to the first row.

    :param more: how many hosts more, each a scenario.
    """
    rows: list[dict[str, Any]] = []
    for count in more:
        manifests = prepare(
            job,
            scene.vms,
            with_more(hosts, count),
            terms,
            scene.past,
            now=now,
            rates=scene.rates,
            costs=costs,
            stack_rate=scene.stack_rate,
        )
        first = rows[0]["seconds"] if rows else None
        rows.append(_row([m.forecast for m in manifests if m.forecast], first))
    return rows


def _row(forecasts: Sequence[HostForecast], first: float | None) -> dict[str, Any]:
    end = run_seconds(forecasts)
    streams = sum(f.streams for f in forecasts)
    busy = sum(f.busy_seconds for f in forecasts)
    busiest = min(forecasts, key=lambda f: (idle(f, end), f.host))
    moved = sum(f.expected_bytes for f in forecasts)
    return {
        "hosts": len(forecasts),
        "streams": streams,
        "workloads": sum(f.workloads for f in forecasts),
        "moved": amount(moved),
        "ends_after": duration(end),
        "speedup": f"{(first or end) / end:.2f}x" if end else "-",
        "busiest": f"{busiest.host} {1 - idle(busiest, end):.0%}",
        "idle": f"{max(0.0, 1 - busy / (streams * end)) if end else 0.0:.0%}",
        "left_out": sum(f.left_out for f in forecasts),
        "seconds": end,
        "moved_bytes": moved,
    }
