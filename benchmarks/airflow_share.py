#!/usr/bin/env python3
"""
Measure what of a backup's time is Airflow's, and what is ours, from the trigger to restore points.

A real scheduler runs the backup of 1, 8, 64 tiny virtual machines of an emulated stack, of which
nothing takes time but the tasks themselves. "Ours" is the time inside our operators, out of the
tasks' logs: the sum over all tasks, and along the path that the run waited for. The rest is
Airflow's: to schedule, to queue, to start a process, to load the DAG, to report the end.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from airflow_provider_azstack.emulator import DiskSpec, Emulator  # noqa: E402
from demo.airflow import Airflow  # noqa: E402
from demo.processes import Processes  # noqa: E402

DAG_ID = "share"
SOURCE = """\
from airflow_provider_azstack.dag_factory import backup_dag

dag = backup_dag("share", policy={"name": "share"})
"""
HOSTS = {"one": {"NO_OF_BACKUP_STREAMS_PER_NODE": 2}, "two": {"NO_OF_BACKUP_STREAMS_PER_NODE": 2}}
PASSPHRASE = "a passphrase of this benchmark only"  # noqa: S105
DISK_BYTES = 4 << 20
# One task waits for another in this order, within a host's group too.
STAGES = ("open_session", "discover", "accept_manifest", "snapshot", "stream", "complete")
_BEGINS, _ENDS = "::group::Pre Execute", "::group::Post Execute"


class Task(NamedTuple):
    """One task instance: when it might have run, ran, and was over; and how long it was in ours."""

    stage: str
    ready: float
    start: float
    end: float
    ours: float


def measure(site: Airflow, processes: Processes, group: str) -> dict[str, Any]:
    """Back up the machines of a resource group, and return where the time went."""
    asked = time.time()
    run_id = site.trigger(DAG_ID, {"resource_groups": [group]})
    state = site.wait_for_run(processes, DAG_ID, run_id, lambda _: None)
    if state != "success":
        raise SystemExit(f"the run is {state}: see {site.logs(DAG_ID, run_id)}")
    tasks = sorted(_tasks(site, run_id), key=lambda task: task.end)
    published = max(task.end for task in tasks if task.stage == "complete")
    counted = [task for task in tasks if task.end <= published]
    path = [[task for task in counted if task.stage == stage][-1] for stage in STAGES]
    return {
        "machines": int(group[1:]),
        "tasks": len(counted),
        "seconds": published - asked,
        "ours_sum": sum(task.ours for task in counted),
        "ours_path": sum(task.ours for task in path),
        "stages": {task.stage: round(task.ours, 2) for task in path},
        "waiting_path": sum(task.start - task.ready for task in path),
    }


def _tasks(site: Airflow, run_id: str) -> Iterator[Task]:
    for found in site.tasks(DAG_ID, run_id):
        if found["state"] != "success":
            continue
        stage = found["task_id"].rpartition(".")[2]
        ready, start, end = (
            datetime.fromisoformat(found[key]).timestamp()
            for key in ("scheduled_when", "start_date", "end_date")
        )
        yield Task(stage, ready, start, end, _ours(site, run_id, found))


def _ours(site: Airflow, run_id: str, task: dict[str, Any]) -> float:
    """Return how long a task was inside our operator, by its log."""
    place = site.logs(DAG_ID, run_id) / f"task_id={task['task_id']}"
    if task["map_index"] >= 0:
        place /= f"map_index={task['map_index']}"
    marks: dict[str, float] = {}
    for line in (place / "attempt=1.log").read_text().splitlines():
        told = json.loads(line)
        when = datetime.fromisoformat(told["timestamp"]).timestamp()
        marks.setdefault(told["event"], when)
    return marks[_ENDS] - marks["::endgroup::"]


def prepare(directory: Path, counts: list[int], processes: Processes) -> tuple[Airflow, Emulator]:
    """Start a stack with its machines, and an Airflow that knows it."""
    emulator = Emulator(directory / "stack", tls=False)
    for count in counts:
        for number in range(count):
            vm = emulator.add_vm(
                f"vm{count}-{number}", f"n{count}", [DiskSpec(size_bytes=DISK_BYTES)]
            )
            vm.disks[0].write(1 << 20, f"{count} {number}".encode() * 4000)
    emulator.start()
    dags = directory / "dags"
    dags.mkdir()
    (dags / "share.py").write_text(SOURCE)
    home = directory / "airflow"
    site = Airflow(home, Path(sys.executable).parent, dags, {"LOGGING__LOGGING_LEVEL": "INFO"})
    site.settings["AZSTACK_CONF"] = str(home / "azurestack.conf")
    site.settings["PYTHONPATH"] = str(ROOT)
    site.settings["PYTHONDONTWRITEBYTECODE"] = ""  # tasks find modules compiled, as they do usually
    (home / "azurestack.conf").write_text(json.dumps({"hosts": HOSTS}))
    site.connect(_connections(emulator, directory))
    site.start(processes)
    for command in ("sync-pools", "init-repository"):
        site.command("azstack", command)
    site.sign_in(processes)
    site.wait_for_dag(processes, DAG_ID)
    return site, emulator


def _connections(emulator: Emulator, directory: Path) -> dict[str, Any]:
    return {
        "azure_stack_default": emulator.airflow_connection,
        "azstack_repository_default": {
            "conn_type": "azstack_repository",
            "host": f"file://{directory}/repository",
            "password": PASSPHRASE,
        },
    }


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", nargs="*", type=int, default=[1, 8, 64], help="machines of a run")
    parser.add_argument("--rounds", type=int, default=3, help="of each; the first one is a full")
    parser.add_argument("--keep", type=Path, help="leave logs and all else there")
    options = parser.parse_args()
    directory = options.keep or Path(tempfile.mkdtemp(prefix="azstack-share-"))
    directory.mkdir(exist_ok=True)
    emulator = None
    print("VMs  round  tasks  total s  ours, sum  ours, path  waiting, path  Airflow's share")
    with Processes(directory) as processes:
        try:
            site, emulator = prepare(directory, options.counts, processes)
            for count in options.counts:
                for number in range(options.rounds):
                    found = measure(site, processes, f"n{count}")
                    share = 1 - found["ours_path"] / found["seconds"]
                    print(
                        f"{count:>3}{number + 1:>7}{found['tasks']:>7}{found['seconds']:>9.1f}"
                        f"{found['ours_sum']:>11.2f}{found['ours_path']:>12.2f}"
                        f"{found['waiting_path']:>15.1f}{100 * share:>16.0f}%   {found['stages']}",
                        flush=True,
                    )
        finally:
            if emulator:
                emulator.stop()


if __name__ == "__main__":
    main()
