"""Runs DAGs in this process, by ``dag.test()``, against a real stack emulator and repository."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import support.airflow_home
from airflow.dag_processing.dagbag import BundleDagBag

from airflow_provider_azstack.commands.pools import _apply, plan
from airflow_provider_azstack.config import load_config
from airflow_provider_azstack.emulator import Emulator
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sealing.crypto import Cost
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store import open_store

DAGS = Path(support.airflow_home.HOME) / "dags"
PASSPHRASE = "canary-passphrase/with+signs=&more"
HOSTS: dict[str, Any] = {"one": {}, "two": {}}
SOURCE = """\
from airflow_provider_azstack.dag_factory import backup_dag

dag = backup_dag({dag_id!r}, policy={policy!r}, config={conf!r})
for task in dag.tasks:
    task.retries = 0
"""


@functools.cache
def database() -> None:
    """Create this process's metadata database, once: it takes seconds."""
    from airflow.utils import db

    DAGS.mkdir(exist_ok=True)
    db.initdb()


@dataclass
class Run:
    """How a DAG run ended."""

    state: str
    run_id: str
    tasks: dict[str, list[str]]  # task id -> states by map index

    def of(self, task_id: str) -> list[str]:
        return self.tasks.get(task_id, [])


class Site:
    """A stack, a repository and a configuration, as an operator would have set them up."""

    def __init__(self, emulator: Emulator, path: Path, patch: pytest.MonkeyPatch) -> None:
        for left in DAGS.glob("*.py"):
            left.unlink()  # each run loads them all again, with whatever an earlier test's do
        self.emulator = emulator
        self.path = path
        self.conf = path / "azurestack.conf"
        self.store_url = f"file://{path}/repository"
        store = open_store(self.store_url, create=True)
        self.repository, _ = Repository.create(store, Secret(PASSPHRASE), kdf=Cost(2**10))
        for conn_id, fields in connections(emulator, self.store_url, self.repository.id).items():
            patch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))
        self.configure(HOSTS)

    def configure(self, hosts: dict[str, Any], **more: Any) -> None:
        """Write azurestack.conf and make the pools match it."""
        database()
        self.conf.write_text(json.dumps({"hosts": hosts, **more}))
        _apply(plan({}, load_config(self.conf).backup_hosts()), prune=False)

    def reopen(self) -> Repository:
        """Open the repository as another process would."""
        return Repository.open(open_store(self.store_url), Secret(PASSPHRASE))

    def dag(self, dag_id: str, source: str = SOURCE, **policy: Any) -> Any:
        """Write a DAG file and load it as the DAG processor does."""
        policy = {"name": "all", "batch_gib": 1, **policy}
        file = DAGS / f"{dag_id}.py"
        file.write_text(source.format(dag_id=dag_id, policy=policy, conf=str(self.conf)))
        bag = BundleDagBag(dag_folder=file, bundle_path=DAGS, bundle_name="dags-folder")
        assert not bag.import_errors
        return bag.dags[dag_id]

    def run(self, dag: Any, conf: dict[str, Any] | None = None) -> Run:
        """Run ``dag`` to its end in this process."""
        run = dag.test(run_conf=conf)
        tasks: dict[str, list[str]] = {}
        for instance in sorted(run.get_task_instances(), key=lambda ti: ti.map_index):
            tasks.setdefault(instance.task_id, []).append(str(instance.state))
        return Run(str(run.state), run.run_id, tasks)


def connections(emulator: Emulator, store_url: str, repository_id: str) -> dict[str, Any]:
    """Return the connections of a site."""
    return {
        "azure_stack_default": emulator.airflow_connection,
        "azstack_repository_default": {
            "conn_type": "azstack_repository",
            "host": store_url,
            "password": PASSPHRASE,
            "extra": {"expected_repository_id": repository_id},
        },
    }


def xcoms(run_id: str, key: str) -> list[Any]:
    """Return what the tasks of a run left under a key."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        query = select(XComModel.value).where(XComModel.run_id == run_id, XComModel.key == key)
        return list(session.scalars(query))


def asset_events(uri: str) -> list[dict[str, Any]]:
    """Return what the events of an asset say."""
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        query = select(AssetEvent.extra).join(AssetModel, AssetModel.id == AssetEvent.asset_id)
        return list(session.scalars(query.where(AssetModel.uri == uri)))
