"""The example's backup hosts have what a real one has, and no more."""

from pathlib import Path
from typing import Any

import pytest

from demo.airflow import Airflow
from demo.hosts import Hosts, Mishap, config_of
from demo.processes import DemoFailed, Processes
from demo.site import Site
from demo.workers import Celery, Edge, Executor, Worker, home_of

pytestmark = pytest.mark.tier1


class Started:
    """Takes the place of processes: remembers what would be started."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.environments: list[dict[str, str]] = []

    def start(self, name: str, command: list[str], environment: dict[str, str]) -> Any:
        self.commands.append(command)
        self.environments.append(environment)
        return name


def start_worker(executor: Executor, directory: Path) -> tuple[Airflow, Started]:
    airflow = Airflow(directory / "airflow", Path("/bin"), directory, executor.options)
    (airflow.home / "azurestack.conf").write_text("{}")
    (airflow.home / "policies").mkdir()
    started: Any = Started()
    executor.start(started, airflow, Worker("host-b", "spare", 2))
    return airflow, started


@pytest.mark.parametrize("kind", ["edge", "celery"])
def test_a_host_has_neither_database_nor_connections_and_no_secret_on_its_command_line(
    kind: str, tmp_path: Path
) -> None:
    executor: Executor = Edge() if kind == "edge" else Celery(tmp_path)
    airflow, started = start_worker(executor, tmp_path)
    (command,), (environment,) = started.commands, started.environments
    for part in ("DATABASE__", "FERNET", "SECRETS__", "PASSWORDS", "API__SECRET_KEY"):
        assert not [key for key in environment if part in key], part
    assert environment["AIRFLOW_HOME"] == str(home_of(tmp_path, "spare")) != str(airflow.home)
    assert environment["AZSTACK_BACKUP_HOST"] == "host-b"
    assert "spare" in command
    assert command[command.index("--queues") + 1] == "host-b"
    assert command[command.index("--concurrency") + 1] == "4"
    secret = airflow.settings["AIRFLOW__API_AUTH__JWT_SECRET"]
    assert secret not in " ".join(command)
    assert (secret in environment.values()) == (kind == "edge")


def test_a_host_beside_others_knows_every_executor_that_a_dag_may_name(tmp_path: Path) -> None:
    _, started = start_worker(Edge(frozenset({"host-a"})), tmp_path)
    (environment,) = started.environments
    assert environment["AIRFLOW__CORE__EXECUTOR"].startswith(
        "LocalExecutor,airflow.providers.edge3"
    )
    assert config_of(2, mixed=True)["hosts"]["host-a"]["executor"] == "LocalExecutor"


def task(host: str, *, state: str = "success") -> dict[str, Any]:
    return {
        "dag_id": "nightly",
        "dag_run_id": "run",
        "task_id": f"{host}.workloads.stream",
        "map_index": 0,
        "try_number": 1,
        "state": state,
        "pool": f"azstack_{host}",
        "queue": host,
        "start_date": "2026-01-01T00:00:00Z",
        "end_date": "2026-01-01T00:00:09Z",
    }


class OneHost:
    """Starts nothing and has its hosts' directories."""

    options: dict[str, str] = {}  # noqa: RUF012 - it takes the place of a property

    def prepare(self, processes: Processes) -> None: ...

    def start(self, processes: Processes, airflow: Airflow, worker: Worker) -> Any:
        return worker


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    class Quiet:
        def remark(self, text: str) -> None: ...

    airflow = Airflow(tmp_path / "airflow", Path("/bin"), tmp_path)
    config = config_of(2, mixed=False)
    nothing: Any = Quiet()
    site = Site(tmp_path, nothing, nothing, stack=nothing, airflow=airflow, config=config)
    found = Hosts(site, OneHost())
    found.start()
    return found


def write_log(tmp_path: Path, host: str) -> None:
    parts = ("dag_id=nightly", "run_id=run", "task_id=host-a.workloads.stream", "map_index=0")
    log = home_of(tmp_path, host).joinpath("logs", *parts, "attempt=1.log")
    log.parent.mkdir(parents=True)
    log.touch()


def test_a_task_that_ran_elsewhere_or_nowhere_fails_the_example(
    hosts: Hosts, tmp_path: Path
) -> None:
    with pytest.raises(DemoFailed, match="did not run on host-a"):
        hosts.rows([task("host-a")])
    write_log(tmp_path, "host-a")
    (first, _) = hosts.rows([task("host-a")])
    assert (first.tasks, first.lost) == (1, 0)
    (first, _) = hosts.rows([task("host-a", state="failed")])
    assert first.lost == 1
    write_log(tmp_path, "host-b")
    with pytest.raises(DemoFailed, match="did not run on host-a"):
        hosts.rows([task("host-a")])


@pytest.mark.parametrize("kind", ["kill", "freeze", "outage"])
def test_a_mishap_that_never_came_is_no_proof(kind: str, hosts: Hosts) -> None:
    mishap = Mishap(hosts._site, hosts, "host-b", kind, 60)
    mishap.watch([task("host-b", state="running") | {"start_date": "2999-01-01T00:00:00+00:00"}])
    with pytest.raises(DemoFailed, match="long enough"):
        mishap.check()
    Mishap(hosts._site, hosts, "host-b", "", 0).check()
