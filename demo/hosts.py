"""
Backup hosts as workers of their own: ``make hosts``.

Owns the order of things and the proof of where each task ran. Invariant: it ends with state 0 only
if every task of a host ran on that host's worker, in its pool and queue, never with more streams
at once than slots, whatever was killed meanwhile, and every disk was read back bit by bit.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from demo.airflow import Airflow
from demo.fleet import DemoStack
from demo.pools import check_placement, slots_of
from demo.processes import Child, DemoFailed, Processes
from demo.screen import HostRow, Row, Screen
from demo.site import ROOT, Site, demonstrate
from demo.workers import EDGE, LOCAL, Celery, Edge, Executor, Worker, home_of

# Streams are held back, so that they overlap and can be met while they run.
_LIMIT_MB_PER_SECOND = 6
_MIDSTREAM_SECONDS = 6  # until a task has begun to stream: Python, imports, snapshots
# How soon the scheduler believes that a silent task is dead; Airflow's default is 300.
_KILLED_IS_NOTICED_AFTER_SECONDS = 20


class Hosts:
    """The site's backup hosts: their workers, and what befalls them."""

    def __init__(self, site: Site, executor: Executor) -> None:
        self._site = site
        self._executor = executor
        self._workers: dict[str, Child] = {}
        self._homes: dict[str, list[Path]] = {}

    def start(self) -> None:
        """Start the worker of every host."""
        for host in self._site.config["hosts"]:
            self._start(host, host)

    def _start(self, host: str, name: str) -> None:
        site, slots = self._site, slots_of(self._site.config, host)
        wanted = Worker(host, name, slots)
        worker = self._executor.start(site.processes, site.airflow, wanted)
        home = home_of(site.directory, name) if worker else site.airflow.home
        self._homes.setdefault(host, []).append(home)
        if worker:
            self._workers[host] = worker
        site.screen.remark(f"{host}: {f'worker {name}' if worker else LOCAL}, {home}")

    def kill(self, host: str) -> None:
        """Kill a host's worker with all its tasks, and serve its queue from another machine."""
        self._site.screen.remark(f"kill -9 of the worker of {host} and of everything it started")
        self._site.processes.kill(self._workers.pop(host))
        self._start(host, f"{host}-spare")

    def rows(self, tries: list[dict[str, Any]]) -> list[HostRow]:
        """
        Return what ran on each host.

        :raises DemoFailed: something ran where it must not.
        """
        placements = {p.host: p for p in check_placement(tries, self._site.config)}
        rows = []
        for host, homes in self._homes.items():
            own = [task for task in tries if task["queue"] == host and _has_run(task)]
            elsewhere = [h for other, found in self._homes.items() if other != host for h in found]
            for task in own:
                if not _logged(task, homes) or _logged(task, elsewhere):
                    raise DemoFailed(f"{task['task_id']} did not run on {host}")
            workers = ", ".join(home.name for home in homes)
            lost = sum(task["state"] != "success" for task in own)
            rows.append(HostRow(placements[host], workers, tasks=len(own), lost=lost))
        return rows


def _has_run(task: dict[str, Any]) -> bool:
    return bool(task["start_date"]) and task["state"] not in {"upstream_failed", "skipped"}


def _logged(task: dict[str, Any], homes: Iterable[Path]) -> bool:
    """Tell whether a try wrote its log below one of the directories: there it ran."""
    parts = [f"dag_id={task['dag_id']}", f"run_id={task['dag_run_id']}"]
    parts.append(f"task_id={task['task_id']}")
    if task["map_index"] >= 0:
        parts.append(f"map_index={task['map_index']}")
    log = Path("logs", *parts, f"attempt={task['try_number']}.log")
    return any((home / log).exists() for home in homes)


class Mishap:
    """Something that happens once to a host or to Airflow itself while streams run."""

    def __init__(self, site: Site, hosts: Hosts, victim: str, *, kill: bool, outage: int) -> None:
        self._site = site
        self._hosts = hosts
        self._victim = victim
        self._kill = kill
        self._outage_seconds = outage

    def watch(self, tasks: list[dict[str, Any]]) -> None:
        """Strike when the victim has been streaming for a while."""
        if not (self._kill or self._outage_seconds) or not self._is_streaming(tasks):
            return
        if self._kill:
            self._kill = False
            self._hosts.kill(self._victim)
        if self._outage_seconds:
            seconds, self._outage_seconds = self._outage_seconds, 0
            self._take_away_the_api_server(seconds)

    def _is_streaming(self, tasks: list[dict[str, Any]]) -> bool:
        for task in tasks:
            if task["task_id"] == f"{self._victim}.workloads.stream" and task["state"] == "running":
                began = datetime.fromisoformat(task["start_date"])
                if (datetime.now(UTC) - began).total_seconds() > _MIDSTREAM_SECONDS:
                    return True
        return False

    def _take_away_the_api_server(self, seconds: int) -> None:
        """Meanwhile the scheduler is killed and started again: it finds its tasks at work."""
        airflow, processes = self._site.airflow, self._site.processes
        self._site.screen.remark(f"kill -9 of the API server, for {seconds} s")
        airflow.kill_component(processes, "api-server")
        self._wait(seconds / 2)
        self._site.screen.remark("kill -9 of the scheduler, which is started again at once")
        airflow.kill_component(processes, "scheduler")
        airflow.start_component(processes, "scheduler")
        self._wait(seconds / 2)
        airflow.start_component(processes, "api-server")
        airflow.wait_until_healthy(processes)
        self._site.screen.remark("the API server is back")

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._site.processes.check()
            time.sleep(0.5)


def config_of(hosts: int, *, mixed: bool) -> dict[str, Any]:
    """Return ``azurestack.conf``: the first host has two streams, the others one."""
    found: dict[str, dict[str, Any]] = {}
    for number in range(hosts):
        found[f"host-{chr(ord('a') + number)}"] = {"executor": EDGE} if mixed else {}
    found["host-a"]["NO_OF_BACKUP_STREAMS_PER_NODE"] = 2
    if mixed:
        found["host-a"]["executor"] = LOCAL
    limits = {"limit_mb_per_second": _LIMIT_MB_PER_SECOND}
    return {"NO_OF_BACKUP_STREAMS_PER_NODE": 1, **limits, "hosts": found}


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo.hosts", description=__doc__)
    chosen = ("edge", "celery", "local,edge")
    parser.add_argument("--executor", choices=chosen, default="edge", help="what runs the tasks")
    parser.add_argument("--hosts", type=int, default=2, choices=range(2, 9), help="how many")
    parser.add_argument("--kill", action="store_true", help="kill a worker in mid-stream")
    parser.add_argument("--outage", type=int, default=0, help="seconds without API server")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example and return its exit state."""
    asked = _options().parse_args(arguments)
    directory = ROOT / ".demo"

    def steps(screen: Screen, processes: Processes) -> list[Row]:
        config = config_of(asked.hosts, mixed=asked.executor == "local,edge")
        local = frozenset(h for h, s in config["hosts"].items() if s.get("executor") == LOCAL)
        executor: Executor = Celery(directory) if asked.executor == "celery" else Edge(local)
        options = dict(executor.options)
        if asked.kill:
            seconds = str(_KILLED_IS_NOTICED_AFTER_SECONDS)
            options["SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT"] = seconds
        home = directory / "airflow"
        airflow = Airflow(home, Path(sys.executable).parent, ROOT / "dags", options)
        stack = DemoStack(directory / "stack", 1)
        site = Site(directory, screen, processes, stack=stack, airflow=airflow, config=config)
        executor.prepare(processes)
        site.prepare()
        screen.step(f"{asked.hosts} backup hosts")
        hosts = Hosts(site, executor)
        hosts.start()
        mishap = Mishap(site, hosts, "host-b", kill=asked.kill, outage=asked.outage)
        screen.hosts(hosts.rows(site.back_up("First backup", mishap.watch)))
        site.change()
        screen.hosts(hosts.rows(site.back_up("Incremental backup")))
        screen.table(site.rows)
        site.look_for_leftovers()
        return site.rows

    return demonstrate(directory, steps)


if __name__ == "__main__":
    sys.exit(main())
