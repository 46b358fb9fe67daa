"""
A real Airflow of the demo's own: SQLite, API server, scheduler, DAG processor.

Owns its settings and its REST API; knows nothing of backups and of no executor's workers.
Invariant: no secret is on a command line, and everything Airflow writes is below the demo's
directory.
"""

import base64
import json
import os
import secrets
import shlex
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from demo.processes import Child, DemoFailed, Processes, free_port, run

USER = "demo"
COMPONENTS = ("api-server", "scheduler", "dag-processor")
ENDED = {"success", "failed"}
_PAGE = 100  # the API gives no more at once


class Airflow:
    """
    One installation below ``home``.

    :param bin_directory: where the ``airflow`` command is.
    :param options: settings besides the demo's own, such as ``{"CORE__EXECUTOR": ...}``.
    """

    def __init__(
        self, home: Path, bin_directory: Path, dags: Path, options: Mapping[str, str] | None = None
    ) -> None:
        self.home = home
        self.password = secrets.token_urlsafe(9)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.executable = str(bin_directory / "airflow")
        self._connections = home / "connections.json"
        self._token = ""
        home.mkdir(parents=True)
        _private(home / "passwords.json", json.dumps({USER: self.password}))
        self.settings = {
            "AIRFLOW_HOME": str(home),
            **_variables(_options(home, dags, self._connections, port)),
            **_variables(options or {}),
        }
        exports = (f"export {key}={shlex.quote(value)}\n" for key, value in self.settings.items())
        self.environment_file = _private(home / "environment", "".join(exports))
        self._components: dict[str, Child] = {}

    def connect(self, connections: dict[str, Any]) -> None:
        """Let Airflow know connections, from a file that only its owner reads."""
        _private(self._connections, json.dumps(connections, indent=2))

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every process that belongs to this Airflow."""
        return {**_of_the_machine(), **self.settings}

    def environment_of_host(self, home: Path, variables: Mapping[str, str]) -> dict[str, str]:
        """
        Return the environment of a worker machine: with no database and no connections.

        :param home: its own ``AIRFLOW_HOME``.
        :param variables: what its executor needs.
        """
        shared = {f"AIRFLOW__{key}": self.settings[f"AIRFLOW__{key}"] for key in _OF_EVERY_HOST}
        own = {"AIRFLOW_HOME": str(home), "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs")}
        # Each worker has a server for its logs, on a port that is the same on all machines.
        own["AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT"] = str(free_port())
        return {**_of_the_machine(), **shared, **own, **variables}

    def command(self, *arguments: str) -> str:
        """Run ``airflow ...`` and return what it printed."""
        return run([self.executable, *arguments], self.environment, self.home / "commands.log")

    def start(self, processes: Processes) -> None:
        """Make the database and start all components."""
        self.command("db", "migrate")
        for component in COMPONENTS:
            self.start_component(processes, component)

    def start_component(self, processes: Processes, component: str) -> None:
        """Start one of the components, or start it again."""
        command = [self.executable, component]
        self._components[component] = processes.start(component, command, self.environment)

    def kill_component(self, processes: Processes, component: str) -> None:
        """End a component as a power cut does."""
        processes.kill(self._components.pop(component))

    def sign_in(self, processes: Processes) -> None:
        """Wait until all components are healthy, and get a token."""
        self.wait_until_healthy(processes)
        login = {"username": USER, "password": self.password}
        self._token = self._call("POST", "/auth/token", login)["access_token"]

    def wait_until_healthy(self, processes: Processes) -> None:
        """Wait until API server, scheduler and DAG processor say that they are well."""
        processes.wait("Airflow", self._healthy)

    def wait_for_dag(self, processes: Processes, dag_id: str) -> None:
        """Return when the DAG was parsed."""
        processes.wait(f"DAG {dag_id}", lambda: self._exists(f"/api/v2/dags/{dag_id}"))
        self._call("PATCH", f"/api/v2/dags/{dag_id}", {"is_paused": False})

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        """Start a DAG run and return its id."""
        body = {"logical_date": None, "conf": conf}
        return str(self._call("POST", f"/api/v2/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def wait_for_run(
        self,
        processes: Processes,
        dag_id: str,
        run_id: str,
        progress: Callable[[list[dict[str, Any]]], None],
    ) -> str:
        """Return the run's final state; ``progress`` gets its task instances meanwhile."""
        end = time.monotonic() + 1200
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}"
        while time.monotonic() < end:
            processes.check()
            state = str(self._call("GET", path)["state"])
            progress(list(self.tasks(dag_id, run_id)))
            if state in ENDED:
                return state
            time.sleep(0.5)
        raise DemoFailed(f"{dag_id}: run {run_id} has not ended after 1,200 seconds")

    def tasks(self, dag_id: str, run_id: str) -> Iterator[dict[str, Any]]:
        """Yield the run's task instances, mapped ones each; of each its last try."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit={_PAGE}"
        for offset in count(0, _PAGE):
            page = self._call("GET", f"{path}&offset={offset}")["task_instances"]
            yield from page
            if len(page) < _PAGE:
                return

    def tries(self, dag_id: str, run_id: str) -> Iterator[dict[str, Any]]:
        """Yield every try of the run's task instances."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        for task in self.tasks(dag_id, run_id):
            mapped = f"/{task['map_index']}" if task["map_index"] >= 0 else ""
            yield from self._call("GET", f"{path}/{task['task_id']}{mapped}/tries")[
                "task_instances"
            ]

    def logs(self, dag_id: str, run_id: str) -> Path:
        """Return the directory of a run's task logs."""
        return self.home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}"

    def _exists(self, path: str) -> bool:
        try:
            self._call("GET", path)
        except DemoFailed:
            return False
        return True

    def _healthy(self) -> bool:
        try:
            health = self._call("GET", "/api/v2/monitor/health")
        except (DemoFailed, OSError):
            return False
        parts = ("metadatabase", "scheduler", "dag_processor")
        return all(health[part]["status"] == "healthy" for part in parts)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method)  # noqa: S310 - ours
        request.add_header("Content-Type", "application/json")
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with _DIRECT.open(request, timeout=120) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            text = error.read(2000).decode(errors="replace")
            raise DemoFailed(f"Airflow: {method} {path}: {error.code} {text}") from None


# What a worker machine shares with the scheduler's; the rest of the settings it never needs.
_OF_EVERY_HOST = (
    "CORE__DAGS_FOLDER",
    "CORE__LOAD_EXAMPLES",
    "CORE__EXECUTION_API_SERVER_URL",
    "CORE__EXECUTOR",  # DAGs are built where tasks run, and may name an executor of another host
)
# A proxy of the machine knows no 127.0.0.1 of ours.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _options(home: Path, dags: Path, connections: Path, port: int) -> dict[str, str]:
    return {
        "CORE__DAGS_FOLDER": str(dags),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": "8",
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "True",
        "CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "API__HOST": "127.0.0.1",
        "API__PORT": str(port),
        "API__WORKERS": "1",
        "API__SECRET_KEY": secrets.token_urlsafe(32),
        "API_AUTH__JWT_SECRET": secrets.token_urlsafe(48),
        "SECRETS__BACKEND": "airflow.secrets.local_filesystem.LocalFilesystemBackend",
        "SECRETS__BACKEND_KWARGS": json.dumps({"connections_file_path": str(connections)}),
        "LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),  # a LocalExecutor has one, too
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=120",
    }


def _variables(options: Mapping[str, str]) -> dict[str, str]:
    return {f"AIRFLOW__{key}": value for key, value in options.items()}


def _of_the_machine() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW_", "AZSTACK_"))}


def _private(path: Path, text: str) -> Path:
    """Write a file that only its owner reads."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    return path
