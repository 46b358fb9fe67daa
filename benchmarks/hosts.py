"""
What a second backup host brings: the same full backups by one edge worker, and by two.

A real Airflow with EdgeExecutor backs up the emulated demo's machines. Each host may move so many
megabytes a second, as by a network card of its own: on one machine there is no other way to give a
second host something of its own. Rounds alternate. "streams" is the time from the first stream's
start to the last one's end; "run" has discovery, completion and Airflow's own time in it as well.

    PYTHONPATH=. python benchmarks/hosts.py --scale 4 --limit 20 --rounds 3
"""

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from demo.hosts import set_up
from demo.processes import Processes
from demo.screen import Row, Screen
from demo.site import ROOT, Site, demonstrate
from demo.workers import Edge

HOSTS = ("host-a", "host-b")
BAR = 1.8
MEGABYTE = 1_000_000


class Measured(NamedTuple):
    """One backup."""

    read_bytes: int
    streams_seconds: float
    run_seconds: float


def main() -> int:
    """Measure, print, and fail when the bar is missed or a disk is not the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, default=4, help="multiplies the demo's disks")
    parser.add_argument("--limit", type=int, default=20, help="MB a second that a host may move")
    parser.add_argument("--rounds", type=int, default=3, help="backups by one and by two hosts")
    parser.add_argument("--directory", type=Path, default=ROOT / ".demo")
    options = parser.parse_args()
    ratios: list[float] = []

    def steps(screen: Screen, processes: Processes) -> list[Row]:
        site = build(options, screen, processes)
        found: dict[int, list[Measured]] = {1: [], 2: []}
        back_up(site, HOSTS)  # what is stored once is not compressed again: for both alike
        for _ in range(options.rounds):
            for count, results in found.items():
                results.append(back_up(site, HOSTS[:count]))
        ratios.append(report(screen, found))
        return site.rows

    state = demonstrate(options.directory, steps)
    return state or int(ratios[0] < BAR)


def build(options: argparse.Namespace, screen: Screen, processes: Processes) -> Site:
    """Return a site with two edge workers that are at work."""
    config = {
        "NO_OF_BACKUP_STREAMS_PER_NODE": 2,
        "limit_mb_per_second": options.limit,
        "hosts": {host: {} for host in HOSTS},
    }
    site, _ = set_up(
        screen,
        processes,
        options.directory,
        executor=Edge(),
        config=config,
        scale=options.scale,
    )
    return site


def back_up(site: Site, hosts: tuple[str, ...]) -> Measured:
    """Read every allocated range of all machines by ``hosts``."""
    before = len(site.rows)
    conf = {"mode": "full", "hosts": list(hosts)}
    tries = site.back_up(f"Full backup by {', '.join(hosts)}", conf=conf)
    for copy in site.directory.glob("truth-*"):  # compared already, and as large as the disks
        shutil.rmtree(copy)
    streams = [task for task in tries if task["task_id"].endswith(".workloads.stream")]
    return Measured(
        read_bytes=sum(row.read_bytes for row in site.rows[before:]),
        streams_seconds=span(streams),
        run_seconds=span(task for task in tries if task["start_date"]),
    )


def span(tasks: Iterable[dict[str, Any]]) -> float:
    """Return the seconds from the first start to the last end."""
    known = [task for task in tasks if task["start_date"] and task["end_date"]]
    began = min(datetime.fromisoformat(task["start_date"]) for task in known)
    ended = max(datetime.fromisoformat(task["end_date"]) for task in known)
    return (ended - began).total_seconds()


def report(screen: Screen, found: dict[int, list[Measured]]) -> float:
    """Show the medians; return how much faster two hosts are."""
    table = Table(title="Full backups of the same machines")
    table.add_column("hosts")
    for name in ("read, MB", "streams, s", "MB/s", "run, s", "tries"):
        table.add_column(name, justify="right")
    for count, results in found.items():
        read = results[0].read_bytes / MEGABYTE
        streams = median(result.streams_seconds for result in results)
        run = median(result.run_seconds for result in results)
        figures = (f"{read:.0f}", f"{streams:.1f}", f"{read / streams:.1f}", f"{run:.1f}")
        tries = json.dumps([round(result.streams_seconds, 1) for result in results])
        table.add_row(str(count), *figures, tries)
    screen.console.print(table)
    ratio = faster(found, "streams_seconds")
    whole = faster(found, "run_seconds")
    screen.step(f"two hosts: {ratio:.2f} times one, whole runs {whole:.2f}; the bar is {BAR}")
    return ratio


def faster(found: dict[int, list[Measured]], what: str) -> float:
    """Return the ratio of the medians of one and of two hosts."""
    one, two = (median(getattr(result, what) for result in found[count]) for count in (1, 2))
    return one / two


def median(values: Iterable[float]) -> float:
    """Return the median."""
    return statistics.median(list(values))


if __name__ == "__main__":
    sys.exit(main())
