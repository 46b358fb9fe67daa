"""
Runs the demo from an empty directory to the table: ``make demo``, ``make ui``.

Owns the order of things. Invariant: it ends with state 0 only if every disk of every restore point
was read back and is the same, byte by byte, and it leaves no process behind on any way out.
"""

import argparse
import json
import secrets
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from airflow_provider_azstack.model import RestorePoint
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store import open_store
from demo.airflow import USER, Airflow
from demo.comparison import differences
from demo.fleet import DemoStack
from demo.pools import check_placement
from demo.processes import DemoFailed, Processes
from demo.screen import Row, Screen, size

ROOT = Path(__file__).parents[1]
CONFIG = {
    "NO_OF_BACKUP_STREAMS_PER_NODE": 1,
    "hosts": {"host-a": {"NO_OF_BACKUP_STREAMS_PER_NODE": 2}, "host-b": {}},
}
TAG = ("backup", "nightly")
POLICY = {"name": "nightly", "selection": {"tags": dict([TAG])}}
DAG_ID = "azstack_nightly"


class Demo:
    """The demo's parts, and the steps it takes with them."""

    def __init__(self, directory: Path, screen: Screen, processes: Processes, scale: int) -> None:
        self.directory = directory
        self.screen = screen
        self.processes = processes
        self.stack = DemoStack(directory / "stack", scale)
        self.airflow = Airflow(directory / "airflow", Path(sys.executable).parent, ROOT / "dags")
        self.repository_url = f"file://{directory}/repository"
        self.passphrase = secrets.token_urlsafe(24)
        self.rows: list[Row] = []
        self._known: set[str] = set()

    def prepare(self) -> None:
        """Build the guests, start the stack and Airflow, create pools and repository."""
        self.screen.step("A stack with virtual machines: partition tables, ext4, files")
        self.stack.start(self.processes)
        for line in self.stack.describe():
            self.screen.remark(line)
        self.screen.remark(f"Resource Manager at {self.stack.endpoint}, with a CA of its own")
        self.screen.step("Airflow: API server, scheduler, DAG processor")
        home = self.airflow.home
        (home / "azurestack.conf").write_text(json.dumps(CONFIG, indent=2))
        (home / "policies").mkdir()
        (home / "policies" / "nightly.yaml").write_text(yaml.safe_dump(POLICY, sort_keys=False))
        self.airflow.connect(self._connections())
        self.airflow.start(self.processes)
        # While Airflow's parts come up: the commands need its database only.
        for command in ("sync-pools", "init-repository", "doctor"):
            self.airflow.command("azstack", command)
            self.screen.remark(f"airflow azstack {command}")
        self.airflow.sign_in(self.processes)
        self.screen.remark(f"{self.airflow.url}, everything below {home}")
        self.airflow.wait_for_dag(self.processes, DAG_ID)

    def back_up(self, what: str) -> None:
        """Run the DAG once; compare every restore point that it made."""
        truth = self.stack.keep_truth(self.directory / f"truth-{len(self._known)}")
        self.screen.step(f"{what}: DAG {DAG_ID}")
        began = time.monotonic()
        run_id = self.airflow.trigger(DAG_ID, {})
        with self.screen.waiting() as progress:
            state = self.airflow.wait_for_run(self.processes, DAG_ID, run_id, progress)
        self.screen.remark(f"run {state} after {time.monotonic() - began:.1f} s")
        if state != "success":
            logs = self.airflow.logs(DAG_ID, run_id)
            raise DemoFailed(f"the run has failed, its logs are in {logs}")
        for line in check_placement(list(self.airflow.tasks(DAG_ID, run_id)), CONFIG):
            self.screen.remark(line)
        self._read_back(truth)

    def _read_back(self, truth: dict[str, dict[str, Path]]) -> None:
        self.screen.step("Reading the disks back from the repository")
        began = time.monotonic()
        rows = self._compare(truth)
        self.screen.remark(
            f"{size(sum(row.disk_bytes for row in rows))} of disks compared in "
            f"{time.monotonic() - began:.1f} s"
        )
        protected = self.stack.tagged(*TAG)
        if {row.vm for row in rows} != protected:
            raise DemoFailed(f"restore points of {sorted(r.vm for r in rows)}, not of {protected}")
        self.rows += rows

    def change(self) -> None:
        """Write into the guests' file systems."""
        self.screen.step("A day passes: the guests write into their file systems")
        for line in self.stack.change_guests():
            self.screen.remark(line)

    def look_for_leftovers(self) -> None:
        """Refuse anything on the stack but one reference snapshot for each protected disk."""
        left = Counter(found["kind"] for found in self.stack.leftovers())
        disks = sum(row.disks for row in self.rows) // 2
        if left.pop("snapshot", 0) + left.pop("blob snapshot", 0) != disks or left:
            raise DemoFailed(f"left on the stack: {self.stack.leftovers()}")
        self.screen.step(f"Left on the stack: {disks} reference snapshots, one for each disk")

    def _compare(self, truths: dict[str, dict[str, Path]]) -> list[Row]:
        """Compare the restore points that were not there before."""
        repository = Repository.open(open_store(self.repository_url), Secret(self.passphrase))
        points = [point for point in repository.points() if point.id not in self._known]
        self._known |= {point.id for point in points}
        rows = []
        for point in sorted(points, key=lambda point: point.vm.name):
            found = differences(repository, point, truths.get(point.vm.name, {}))
            verdict = ", ".join(f"{d.disk} differs at {d.offset}" for d in found)
            rows.append(_row(point, verdict))
        repository.close()
        return rows

    def _connections(self) -> dict[str, Any]:
        return {
            "azure_stack_default": self.stack.connection,
            "azstack_repository_default": {
                "conn_type": "azstack_repository",
                "host": self.repository_url,
                "password": self.passphrase,
            },
        }


def _row(point: RestorePoint, verdict: str) -> Row:
    images = point.images
    known = sorted({image.changes_known for image in images})
    return Row(
        vm=point.vm.name,
        point=f"{point.taken_at:%m-%d %H:%M:%S}",
        disks=len(images),
        disk_bytes=sum(image.size_bytes for image in images),
        read_bytes=sum(image.read_bytes for image in images),
        stored_bytes=sum(image.stored_bytes for image in images),
        changes_known=", ".join(known),
        seconds=sum(image.seconds for image in images),
        verdict=verdict,
    )


def _leave_running(demo: Demo) -> None:
    demo.screen.step(f"{demo.airflow.url}  user {USER}  password {demo.airflow.password}")
    demo.screen.remark(f"in another terminal: . {demo.airflow.environment_file}; then")
    demo.screen.remark(f"{Path(sys.executable).parent}/airflow azstack points")
    demo.screen.remark("stack and Airflow run until you press Ctrl-C")
    while True:
        demo.processes.check()
        time.sleep(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit state."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--ui", action="store_true", help="leave it running and say where to look")
    parser.add_argument("--scale", type=int, default=1, help="multiplies the disks' sizes")
    options = parser.parse_args(arguments)
    directory = ROOT / ".demo"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700)
    screen = Screen()
    try:
        with Processes(directory) as processes:
            demo = Demo(directory, screen, processes, options.scale)
            demo.prepare()
            demo.back_up("First backup")
            demo.change()
            demo.back_up("Incremental backup")
            screen.table(demo.rows)
            demo.look_for_leftovers()
            if options.ui:
                _leave_running(demo)
    except DemoFailed as error:
        screen.failure(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    return 1 if any(row.verdict for row in demo.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
