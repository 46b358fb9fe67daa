"""A backup host as a process: streams one workload of a run from the emulated stack."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
from support.compound import Rig, Run

from airflow_provider_azstack.arm.client import Credentials, Stack
from airflow_provider_azstack.engine.backup.stream import stream_workload
from airflow_provider_azstack.model import Workload
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store.local import LocalStore

TESTS = Path(__file__).parents[1]


class Task(msgspec.Struct, frozen=True):
    """Where everything is, and what is to be done."""

    arm_url: str
    tenant_id: str
    client_id: str
    client_secret: str
    ca_file: str
    store: str
    workload: Workload


def start(rig: Rig, run: Run, workload: Workload) -> subprocess.Popen[bytes]:
    """Start a host; whoever does so waits for it, or kills it."""
    emulator = rig.emulator
    store = rig.repository.store
    assert isinstance(store, LocalStore)
    assert workload.job == run.job
    task = Task(
        emulator.arm_url,
        emulator.tenant_id,
        emulator.client_id,
        emulator.client_secret,
        str(emulator.ca_file),
        store.url.removeprefix("file://"),
        workload,
    )
    search = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    host = subprocess.Popen(
        [sys.executable, "-m", "support.split_host"],
        stdin=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, search))},
    )
    assert host.stdin
    host.stdin.write(msgspec.json.encode(task))
    host.stdin.close()
    return host


def main(task: Task) -> None:
    """Do it."""
    repository = Repository.open(LocalStore(task.store), Secret("passphrase"))
    session = repository.join_session(task.workload.job.session)
    credentials = Credentials(task.tenant_id, task.client_id, Secret(task.client_secret))
    with Stack(task.arm_url, credentials, ca_bundle=task.ca_file) as stack:
        stream_workload(stack, session, task.workload)


if __name__ == "__main__":
    main(msgspec.json.decode(sys.stdin.buffer.read(), type=Task))
