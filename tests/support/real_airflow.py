"""A real Airflow in a directory of its own: scheduler, DAG processor, API server, SQLite."""

import importlib.metadata
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from demo.processes import free_port

ROOT = Path(__file__).parents[2]
AIRFLOW = [sys.executable, "-m", "airflow"]
# Nothing here takes a tenth of this on a machine with nothing else to do; CI's has.
PATIENCE_SECONDS = 900


def describe_distribution(directory: Path) -> Path:
    """Write the package's metadata, entry points included, unless it is installed."""
    directory.mkdir(parents=True)
    try:
        importlib.metadata.distribution("airflow-provider-azstack")
    except importlib.metadata.PackageNotFoundError:
        pass
    else:
        return directory
    setup = "from setuptools import setup; setup()"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", setup, "-q", "egg_info", "--egg-base", directory],
        cwd=ROOT,
        check=True,
        timeout=PATIENCE_SECONDS,
        capture_output=True,
    )
    return directory


def showing(places: Mapping[str, str], secrets: Iterable[str]) -> set[tuple[str, str]]:
    """Return where a secret is to be read, raw or percent-encoded, and how it begins."""
    forms = {form for one in secrets for form in (one, quote(one, safe=""), quote(one))}
    return {(place, form[:6]) for place, text in places.items() for form in forms if form in text}


class RealAirflow:
    """
    One Airflow installation.

    :param home: its AIRFLOW_HOME; everything it writes is there.
    """

    def __init__(self, home: Path, **environ: str) -> None:
        self.home = home
        self.dags = home / "dags"
        self.logs = home / "logs"
        self.dags.mkdir(parents=True)
        self.port = free_port()
        api = f"http://127.0.0.1:{self.port}"
        self._api = api
        self._token = ""
        self._processes: list[subprocess.Popen[bytes]] = []
        metadata = describe_distribution(home / "metadata")
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "AZSTACK"))},
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            # Who writes waits for who writes: not for 5 s, and then the whole run is red.
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=120",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{api}/execution/",
            "AIRFLOW__API__BASE_URL": api,
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of this test only, long enough for HS512..",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            # The log server is for other machines, and its port is fixed.
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(metadata)]),
            **environ,
        }

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one ``airflow`` command to its end."""
        ended = subprocess.run(
            [*AIRFLOW, *command],
            # Airflow's own commands would log to where their result is expected.
            env={**self.environ, "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        if check:
            assert ended.returncode == 0, (
                f"{command}: {ended.stdout[-2000:]} {ended.stderr[-4000:]}"
            )
        return ended

    def start(self) -> None:
        """Start the three servers and wait until they are well."""
        for name in ("api-server", "scheduler", "dag-processor"):
            with (self.home / f"{name}.log").open("wb") as log:
                self._processes.append(
                    subprocess.Popen(
                        [*AIRFLOW, name],
                        env=self.environ,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
        self.until(self._is_well, "Airflow to be well")

    def stop(self) -> None:
        """Stop the servers, and whatever they started."""
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Call the REST API as the user in front of the UI does."""
        headers = {"Content-Type": "application/json"}
        if not self._token and path.startswith("/api"):
            self._token = self.call("GET", "/auth/token")["access_token"]
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - the server is ours
            self._api + path, data=data, headers=headers, method=method
        )
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
            return json.loads(answer.read() or b"null")

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Unpause and trigger a DAG once it is known; return the run's id."""
        self.until(lambda: self._knows(dag_id), f"DAG {dag_id}")
        self.call("PATCH", f"/api/v2/dags/{dag_id}", {"is_paused": False})
        body = {"logical_date": None, "conf": conf or {}}
        return str(self.call("POST", f"/api/v2/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def state(self, dag_id: str, run_id: str) -> str:
        """Return a run's state; asked of the database, since the API costs CPU time."""
        sql = "select state from dag_run where dag_id = ? and run_id = ?"
        return str(self.query(sql, dag_id, run_id)[0][0])

    def wait(self, dag_id: str, run_id: str) -> str:
        """Wait for a run's end and return its state."""
        done = {"success", "failed"}
        self.until(lambda: self.state(dag_id, run_id) in done, f"the end of {dag_id}")
        return self.state(dag_id, run_id)

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the metadata database itself."""
        with self._database() as database:
            return database.execute(sql, values).fetchall()

    def dump(self) -> str:
        """Return the whole metadata database as text."""
        with self._database() as database:
            return "\n".join(database.iterdump())

    def written(self) -> dict[str, str]:
        """Return what it keeps and what it printed: place -> text."""
        logs = [*self.logs.rglob("*.log"), *self.home.glob("*.log")]
        texts = {str(log): log.read_text(errors="replace") for log in logs}
        return {"database": self.dump(), **texts}

    def _database(self) -> closing[sqlite3.Connection]:
        return closing(
            sqlite3.connect(f"file:{self.home}/airflow.db?mode=ro", uri=True, timeout=120)
        )

    def until(
        self, holds: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS
    ) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            for process in self._processes:
                assert process.poll() is None, f"{process.args} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
            time.sleep(0.3)

    def _is_well(self) -> bool:
        try:
            health = self.call("GET", "/api/v2/monitor/health")
        except OSError:
            return False
        return all(
            health[part]["status"] == "healthy"
            for part in ("metadatabase", "scheduler", "dag_processor")
        )

    def _knows(self, dag_id: str) -> bool:
        try:
            self.call("GET", f"/api/v2/dags/{dag_id}")
        except OSError:
            return False
        return True
