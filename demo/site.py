"""
A site as a user has one: a stack, an Airflow that backs it up, a repository; and the proof.

Owns the steps that every demonstration takes, and what makes one fail; knows neither which
executor runs the tasks nor what happens to them meanwhile. Invariant: a restore point is good only
if every disk of it was read back and is the same, byte by byte.
"""

import json
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from airflow_provider_azstack.model import RestorePoint
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.speed import amount, counted
from airflow_provider_azstack.store import open_store
from demo.airflow import Airflow
from demo.comparison import differences
from demo.fleet import DemoStack
from demo.processes import DemoFailed, Processes
from demo.screen import Row, Screen

ROOT = Path(__file__).parents[1]
TAG = ("backup", "nightly")
POLICY = {"name": "nightly", "selection": {"tags": dict([TAG])}}
DAG_ID = "azstack_nightly"
# Gets a run's task instances, every half second while it runs.
Watcher = Callable[[list[dict[str, Any]]], None]


class Site:
    """
    The parts, and the steps that a demonstration takes with them.

    :param config: what ``azurestack.conf`` says.
    """

    def __init__(
        self,
        directory: Path,
        screen: Screen,
        processes: Processes,
        *,
        stack: DemoStack,
        airflow: Airflow,
        config: dict[str, Any],
    ) -> None:
        self.directory = directory
        self.screen = screen
        self.processes = processes
        self.stack = stack
        self.airflow = airflow
        self.config = config
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
        (home / "azurestack.conf").write_text(json.dumps(self.config, indent=2))
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

    def back_up(
        self,
        what: str,
        meanwhile: Watcher | None = None,
        conf: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """
        Run the DAG once; compare every restore point that it made; return its tasks' tries.

        :param meanwhile: is called with the task instances while the run goes on.
        :param conf: the trigger's config.
        """
        truth = self.stack.keep_truth(self.directory / f"truth-{len(self._known)}")
        self.screen.step(f"{what}: DAG {DAG_ID}")
        began = time.monotonic()
        run_id = self.airflow.trigger(DAG_ID, conf or {})
        with self.screen.waiting() as progress:

            def watch(tasks: list[dict[str, Any]]) -> None:
                progress(tasks)
                if meanwhile:
                    meanwhile(tasks)

            state = self.airflow.wait_for_run(self.processes, DAG_ID, run_id, watch)
        self.screen.remark(f"run {state} after {time.monotonic() - began:.1f} s")
        if state != "success":
            logs = self.airflow.logs(DAG_ID, run_id)
            raise DemoFailed(f"the run has failed, its logs are in {logs}")
        self._read_back(truth)
        return list(self.airflow.tries(DAG_ID, run_id))

    def _read_back(self, truth: dict[str, dict[str, Path]]) -> None:
        self.screen.step("Reading the disks back from the repository")
        began = time.monotonic()
        rows = self._compare(truth)
        self.screen.remark(
            f"{amount(sum(row.disk_bytes for row in rows))} of disks compared in "
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
        disks = sum({row.vm: row.disks for row in self.rows}.values())
        if left.pop("snapshot", 0) + left.pop("blob snapshot", 0) != disks or left:
            raise DemoFailed(f"left on the stack: {self.stack.leftovers()}")
        self.screen.step(
            f"Left on the stack: {counted(disks, 'reference snapshot')}, one for each disk"
        )

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


def demonstrate(directory: Path, steps: Callable[[Screen, Processes], list[Row]]) -> int:
    """
    Take ``steps`` in an empty directory and return the exit state.

    :param steps: returns the restore points that were read back.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700)
    screen = Screen()
    try:
        with Processes(directory) as processes:
            rows = steps(screen, processes)
    except DemoFailed as error:
        screen.failure(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    return 1 if any(row.verdict for row in rows) else 0


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
