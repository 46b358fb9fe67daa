"""
Backup hosts as workers of their own: ``make hosts``.

Owns the order of things and the proof of where each task ran. Invariant: it ends with state 0 only
if every task of a host ran on that host's worker, in its pool and queue, never with more streams
at once than slots, whatever was killed meanwhile, and every disk was read back bit by bit.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow_provider_azstack.speed import counted
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
# How soon the scheduler believes that a silent task is dead, for whoever does not want to wait.
_NOTICED_SOON = {
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
}
_IMPATIENT = """\
from datetime import timedelta

from airflow_provider_azstack.dag_factory import backup_dag, policy_files

for file in policy_files():
    dag = backup_dag(f"azstack_{file.stem}", policy=file)
    for task in dag.tasks:
        task.retry_delay = timedelta(seconds=2)
"""


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

    def freeze(self, host: str) -> Callable[[], None]:
        """Freeze a host's worker, serve its queue from another machine; return what thaws it."""
        self._site.screen.remark(f"SIGSTOP of the worker of {host} and of everything it started")
        resume = self._site.processes.suspend(self._workers[host])
        self._start(host, f"{host}-spare")

        def thaw() -> None:
            self._site.screen.remark(f"SIGCONT: what was frozen on {host} goes on")
            resume()

        return thaw

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
            # An edge worker sends its logs to the API server, too.
            elsewhere = [home for home in elsewhere if home != self._site.airflow.home]
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
    """
    Something that happens once to a host or to Airflow itself while streams run.

    :param kind: ``kill`` or ``freeze`` a worker, ``outage`` of the API server, or nothing.
    """

    def __init__(self, site: Site, hosts: Hosts, victim: str, kind: str, seconds: int) -> None:
        self._site = site
        self._hosts = hosts
        self._victim = victim
        self._kind = kind
        self._seconds = seconds
        self._thaw: Callable[[], None] | None = None

    def watch(self, tasks: list[dict[str, Any]]) -> None:
        """Strike when the victim has been streaming for a while."""
        if self._thaw and self._is_streaming(tasks, tried=2):
            self._thaw()
            self._thaw = None
        if not self._kind or not self._is_streaming(tasks, tried=1):
            return
        kind, self._kind = self._kind, ""
        if kind == "kill":
            self._hosts.kill(self._victim)
        elif kind == "freeze":
            self._thaw = self._hosts.freeze(self._victim)
        else:
            self._take_away_the_api_server(self._seconds)

    def check(self) -> None:
        """
        Refuse a run that was over before all of it happened.

        :raises DemoFailed: it proves nothing.
        """
        if self._kind or self._thaw:
            raise DemoFailed(f"no stream of {self._victim} ran long enough to be met")

    def _is_streaming(self, tasks: list[dict[str, Any]], *, tried: int) -> bool:
        stream = (f"{self._victim}.workloads.stream", "running", tried)
        for task in tasks:
            if (task["task_id"], task["state"], task["try_number"]) == stream:
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


def set_up(
    screen: Screen,
    processes: Processes,
    directory: Path,
    *,
    executor: Executor,
    config: dict[str, Any],
    dags: Path = ROOT / "dags",
    scale: int = 1,
    options: Mapping[str, str] | None = None,
) -> tuple[Site, Hosts]:
    """
    Return a site whose backup hosts are at work.

    :param options: settings of Airflow besides the executor's.
    """
    airflow = Airflow(
        directory / "airflow",
        Path(sys.executable).parent,
        dags,
        {**executor.options, **(options or {})},
    )
    stack = DemoStack(directory / "stack", scale)
    site = Site(directory, screen, processes, stack=stack, airflow=airflow, config=config)
    executor.prepare(processes)
    site.prepare()
    screen.step(counted(len(config["hosts"]), "backup host"))
    hosts = Hosts(site, executor)
    hosts.start()
    return site, hosts


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo.hosts", description=__doc__)
    chosen = ("edge", "celery", "local,edge")
    parser.add_argument("--executor", choices=chosen, default="edge", help="what runs the tasks")
    parser.add_argument("--hosts", type=int, default=2, choices=range(2, 9), help="how many")
    mishaps = parser.add_mutually_exclusive_group()
    mishaps.add_argument("--kill", action="store_true", help="kill a worker in mid-stream")
    mishaps.add_argument("--freeze", action="store_true", help="freeze it until another took over")
    mishaps.add_argument("--outage", type=int, default=0, help="seconds without API server")
    parser.add_argument("--once", action="store_true", help="no incremental backup after it")
    parser.add_argument("--directory", type=Path, default=ROOT / ".demo", help="is emptied")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example and return its exit state."""
    asked = _options().parse_args(arguments)
    silent = asked.kill or asked.freeze  # a host falls silent, and the scheduler is to notice

    def steps(screen: Screen, processes: Processes) -> list[Row]:
        config = config_of(asked.hosts, mixed=asked.executor == "local,edge")
        local = frozenset(h for h, s in config["hosts"].items() if s.get("executor") == LOCAL)
        site, hosts = set_up(
            screen,
            processes,
            asked.directory,
            executor=Celery(asked.directory) if asked.executor == "celery" else Edge(local),
            config=config,
            dags=_impatient_dags(asked.directory / "dags") if silent else ROOT / "dags",
            options=_NOTICED_SOON if silent else {},
        )
        kind = "kill" if asked.kill else "freeze" if asked.freeze else ""
        kind = "outage" if asked.outage else kind
        mishap = Mishap(site, hosts, "host-b", kind, asked.outage)
        screen.hosts(hosts.rows(site.back_up("First backup", mishap.watch)))
        mishap.check()
        if not asked.once:
            site.change()
            screen.hosts(hosts.rows(site.back_up("Incremental backup")))
        screen.table(site.rows)
        site.look_for_leftovers()
        return site.rows

    return demonstrate(asked.directory, steps)


def _impatient_dags(directory: Path) -> Path:
    """Write the shipped DAG with short delays before a retry: they are a minute and more."""
    directory.mkdir()
    (directory / "azstack_backup.py").write_text(_IMPATIENT)
    return directory


if __name__ == "__main__":
    sys.exit(main())
