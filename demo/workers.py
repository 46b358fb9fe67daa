"""
The workers of backup hosts, as each of Airflow's executors has them.

Owns what an executor needs: settings, a broker, one worker for each host; knows nothing of
backups. Invariant: a host has a directory, a queue and a name of its own, and neither the metadata
database nor a connection.
"""

import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from demo.airflow import Airflow
from demo.processes import Child, DemoFailed, Processes, free_port

# A task that has nothing to stream (accepting a manifest, say) must not wait for streams to end.
SPARE = 2
LOCAL = "LocalExecutor"
EDGE = "EdgeExecutor"
_EDGE_CLASS = "airflow.providers.edge3.executors.EdgeExecutor"
# An edge worker's request that waited longer for the API server is refused, and ends the worker.
_LEEWAY = "60"
# What docs/hosts.md says of hosts whose streams are to outlive an outage of the API server.
PATIENCE = {
    "AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS": "10",
    "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "60",
    "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "10",
    "AIRFLOW__EDGE__API_RETRIES": "60",
    "AIRFLOW__EDGE__API_RETRY_WAIT_MAX": "10",
}


class Worker(NamedTuple):
    """What is to be started: ``name`` is its machine's, a host can have several."""

    host: str
    name: str
    streams: int


class Executor(Protocol):
    """How tasks reach the hosts."""

    @property
    def options(self) -> Mapping[str, str]:
        """Settings of the scheduler and the API server."""
        ...

    def prepare(self, processes: Processes) -> None:
        """Start what the executor needs besides Airflow."""
        ...

    def start(self, processes: Processes, airflow: Airflow, worker: Worker) -> Child | None:
        """Start a worker of a backup host; None if the host needs none."""
        ...


class Edge:
    """
    EdgeExecutor: workers ask the API server for work.

    :param local: these hosts are served by LocalExecutor, beside it.
    """

    def __init__(self, local: frozenset[str] = frozenset()) -> None:
        self._local = local

    @property
    def options(self) -> Mapping[str, str]:
        executors = f"{LOCAL},{_EDGE_CLASS}" if self._local else _EDGE_CLASS
        return {
            "CORE__EXECUTOR": executors,
            "EDGE__API_ENABLED": "True",
            "API_AUTH__JWT_LEEWAY": _LEEWAY,
            # A worker that was silent for five heartbeats is gone, and its name is free again.
            "EDGE__HEARTBEAT_INTERVAL": "2",
        }

    def prepare(self, processes: Processes) -> None:
        """Nothing is needed besides Airflow."""

    def start(self, processes: Processes, airflow: Airflow, worker: Worker) -> Child | None:
        if worker.host in self._local:
            return None
        secret = airflow.settings["AIRFLOW__API_AUTH__JWT_SECRET"]
        variables = {
            "AIRFLOW__EDGE__API_URL": f"{airflow.url}/edge_worker/v1/rpcapi",
            "AIRFLOW__EDGE__HEARTBEAT_INTERVAL": "2",
            "AIRFLOW__EDGE__JOB_POLL_INTERVAL": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": secret,
            "AIRFLOW__API_AUTH__JWT_LEEWAY": _LEEWAY,
        }
        command = [airflow.executable, "edge", "worker", "--queues", worker.host]
        command += ["--concurrency", str(worker.streams + SPARE), "--edge-hostname", worker.name]
        return _start(processes, airflow, worker, command, variables)


class Celery:
    """CeleryExecutor: a broker, here Redis, hands the work out."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_port()
        self._password = secrets.token_urlsafe(24)

    @property
    def options(self) -> Mapping[str, str]:
        return {"CORE__EXECUTOR": "CeleryExecutor", **self._broker()}

    def _broker(self) -> dict[str, str]:
        url = f"redis://:{self._password}@127.0.0.1:{self._port}"
        return {"CELERY__BROKER_URL": f"{url}/0", "CELERY__RESULT_BACKEND": f"{url}/1"}

    def prepare(self, processes: Processes) -> None:
        server = shutil.which("redis-server")
        if not server:
            raise DemoFailed("redis-server is missing: CeleryExecutor needs a broker; install it")
        lines = ["bind 127.0.0.1", f"port {self._port}", f"requirepass {self._password}"]
        lines += ['save ""', f"dir {self._directory}"]
        settings = self._directory / "redis.conf"
        settings.touch(mode=0o600)
        settings.write_text("\n".join(lines) + "\n")
        processes.start("redis", [server, str(settings)], {})

    def start(self, processes: Processes, airflow: Airflow, worker: Worker) -> Child | None:
        broker = {f"AIRFLOW__{key}": value for key, value in self._broker().items()}
        command = [
            airflow.executable,
            "celery",
            "worker",
            "--queues",
            worker.host,
            "--skip-serve-logs",
        ]
        command += ["--concurrency", str(worker.streams + SPARE), "--celery-hostname", worker.name]
        return _start(processes, airflow, worker, command, broker)


def home_of(directory: Path, name: str) -> Path:
    """Return the ``AIRFLOW_HOME`` of a worker."""
    return directory / "hosts" / name


def _start(
    processes: Processes,
    airflow: Airflow,
    worker: Worker,
    command: list[str],
    variables: Mapping[str, str],
) -> Child:
    home = home_of(airflow.home.parent, worker.name)
    home.mkdir(parents=True, exist_ok=True)
    # Each machine has a copy of these files: DAGs are built from them where a task runs, too.
    for shared in ("azurestack.conf", "policies"):
        source, copy = airflow.home / shared, home / shared
        if source.is_dir():
            shutil.copytree(source, copy, dirs_exist_ok=True)
        else:
            shutil.copy(source, copy)
    # Files by which streams of one machine keep its limits: these machines are one in truth.
    own = {"AZSTACK_BACKUP_HOST": worker.host, "AZSTACK_RUNTIME_DIR": str(home / "runtime")}
    variables = {**variables, **PATIENCE, **own}
    return processes.start(worker.name, command, airflow.environment_of_host(home, variables))
