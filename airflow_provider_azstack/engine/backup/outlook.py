"""
A forecast before a run, and beside what became of it afterwards, as rows and lines for people.

Owns what is compared with what; knows neither how forecasts are made nor how rows are printed.
Invariant: what was not forecast, or not measured, is shown as such and never as zero.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Any

from airflow_provider_azstack.model import HostForecast, HostShare, Job, JobRecord
from airflow_provider_azstack.speed import amount, counted, duration

HOST_COLUMNS = (
    "host", "streams", "workloads", "vms", "expected_bytes", "begins", "ends", "idle", "left_out",
)  # fmt: skip
ESTIMATE_COLUMNS = (
    "host", "vms", "expected_bytes", "moved_bytes", "expected_busy", "busy",
    "expected_end", "end", "off",
)  # fmt: skip
VM_COLUMNS = (
    "vm", "host", "expected_bytes", "moved_bytes", "expected_seconds", "seconds", "off",
)  # fmt: skip
SHOWN = 20  # VMs whose estimate was furthest off


def run_seconds(forecasts: Iterable[HostForecast]) -> float:
    """Return when the last stream of all hosts is expected to end, from the forecast on."""
    return max((forecast.end_seconds for forecast in forecasts), default=0.0)


def host_rows(forecasts: Sequence[HostForecast], zone: tzinfo) -> list[dict[str, Any]]:
    """
    Return what is expected of each host.

    :param zone: whose clock the ends are told by.
    """
    run = run_seconds(forecasts)
    return [
        {
            "host": f.host,
            "streams": f.streams,
            "workloads": f.workloads,
            "vms": f.vms,
            "expected_bytes": f.expected_bytes,
            "begins": _clock(f.made_at, zone) if f.workloads else "-",
            "ends": _clock(_end(f), zone) if f.workloads else "-",
            "seconds": f.end_seconds,
            "busy_seconds": f.busy_seconds,
            "idle": f"{idle(f, run):.0%}",
            "left_out": f.left_out,
        }
        for f in forecasts
    ]


def idle(forecast: HostForecast, seconds: float) -> float:
    """Return which share of ``seconds`` a host's streams have nothing to do."""
    whole = forecast.streams * seconds
    return max(0.0, 1 - forecast.busy_seconds / whole) if whole else 0.0


def lines(job: Job, forecasts: Sequence[HostForecast]) -> Iterator[str]:
    """Yield a forecast for a log: a line for each host, and one for the run."""
    run = run_seconds(forecasts)
    for f in forecasts:
        yield (
            f"{f.host}: {counted(f.workloads, 'workload')}, {counted(f.vms, 'VM')}, "
            f"{amount(f.expected_bytes)} expected in {duration(f.end_seconds)}, streams idle "
            f"{idle(f, run):.0%} of the run"
        )
    yield verdict(job, forecasts)


def verdict(job: Job, forecasts: Sequence[HostForecast]) -> str:
    """Return when the run is expected to end, and whether the backup window is long enough."""
    stop = job.stop_starting_at
    moved = amount(sum(f.expected_bytes for f in forecasts))
    text = f"the run: {moved} expected in {duration(run_seconds(forecasts))}"
    if stop is None or not forecasts:
        return text
    left_out = sum(f.left_out for f in forecasts)
    end = max(_end(f) for f in forecasts)
    if left_out:
        out = f"{counted(left_out, 'VM')} would be left out"
        return f"{text}; the backup window ends at {stop:%H:%M}: {out}"
    if end > stop:
        return f"{text}; what runs when the backup window ends at {stop:%H:%M} goes on until then"
    return f"{text}, inside the backup window, which ends at {stop:%H:%M}"


def estimate_rows(record: JobRecord) -> list[dict[str, Any]]:
    """Return for each host what was expected and what came; the last row is the run."""
    done: dict[str, list[HostShare]] = defaultdict(list)
    for share in (share for vm in record.vms for share in vm.by_host):
        done[share.host].append(share)
    rows = [_estimated(f, done[f.host]) for f in record.forecast]
    if record.forecast:
        rows.append(_whole(record, rows))
    return rows


def vm_rows(record: JobRecord, shown: int = SHOWN) -> list[dict[str, Any]]:
    """Return the VMs whose time was expected worst, by seconds."""
    timed = [vm for vm in record.vms if vm.status == "done" and vm.expected_seconds]
    timed.sort(key=lambda vm: (-abs(vm.seconds - vm.expected_seconds), vm.key))
    return [
        {
            "vm": vm.name,
            "host": ", ".join(vm.hosts),
            "expected_bytes": vm.expected_bytes,
            "moved_bytes": vm.changed_bytes,
            "expected_seconds": round(vm.expected_seconds, 1),
            "seconds": round(vm.seconds, 1),
            "off": off(vm.seconds, vm.expected_seconds),
        }
        for vm in timed[:shown]
    ]


def off(found: float | None, expected: float) -> str:
    """Return how far an estimate was off; ``+20%`` took a fifth longer than expected."""
    return "-" if found is None or not expected else f"{found / expected - 1:+.0%}"


def _end(forecast: HostForecast) -> datetime:
    return forecast.made_at + timedelta(seconds=forecast.end_seconds)


def _clock(moment: datetime, zone: tzinfo) -> str:
    return f"{moment.astimezone(zone):%Y-%m-%d %H:%M}"


def _estimated(forecast: HostForecast, done: Sequence[HostShare]) -> dict[str, Any]:
    ends = [share.ended_at for share in done if share.ended_at is not None]
    end = (max(ends) - forecast.made_at).total_seconds() if ends else None
    busy = sum(share.seconds for share in done)
    return {
        "host": forecast.host,
        "vms": len(done),
        "expected_bytes": forecast.expected_bytes,
        "moved_bytes": sum(share.changed_bytes for share in done),
        "expected_busy": duration(forecast.busy_seconds),
        "busy": duration(busy),
        "expected_end": duration(forecast.end_seconds),
        "end": "-" if end is None else duration(end),
        "off": off(end, forecast.end_seconds),
        "expected_end_seconds": forecast.end_seconds,
        "end_seconds": end,
    }


def _whole(record: JobRecord, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    expected = run_seconds(record.forecast)
    end = max((row["end_seconds"] for row in rows if row["end_seconds"] is not None), default=None)
    return {
        "host": "all",
        "vms": len(record.vms),
        "expected_bytes": sum(row["expected_bytes"] for row in rows),
        "moved_bytes": sum(vm.changed_bytes for vm in record.vms),
        "expected_busy": duration(sum(f.busy_seconds for f in record.forecast)),
        "busy": duration(sum(vm.seconds for vm in record.vms)),
        "expected_end": duration(expected),
        "end": "-" if end is None else duration(end),
        "off": off(end, expected),
        "expected_end_seconds": expected,
        "end_seconds": end,
    }
