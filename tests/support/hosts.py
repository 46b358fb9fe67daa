"""Backup hosts that work at once, each with its own stack and repository, as processes do."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from support.compound import Rig, Run, connect

from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.engine.backup.stream import snapshot_workload, stream_workload
from airflow_provider_azstack.model import Workload
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sessions import Session
from airflow_provider_azstack.secret import Secret

Step = Callable[[Stack, Session, Workload], None]


def hurried(seconds: float) -> None:
    """Wait a little: who waits for others must really wait, and long enough for a busy machine."""
    time.sleep(seconds / 20)


def at_once(rig: Rig, run: Run, workloads: Iterable[Workload], step: Step) -> list[Exception]:
    """Do a step of every workload at the same time; return what went wrong."""
    workloads = list(workloads)
    together = Barrier(len(workloads))

    def host(workload: Workload) -> Exception | None:
        repository = Repository.open(rig.repository.store, Secret("passphrase"))
        try:
            with connect(rig.emulator, sleep=hurried) as stack:
                session = repository.join_session(run.job.session)
                together.wait(timeout=240)
                step(stack, session, workload)
        except Exception as error:  # noqa: BLE001 - for the test to look at
            return error
        finally:
            repository.close()
        return None

    with ThreadPoolExecutor(len(workloads)) as pool:
        return [error for error in pool.map(host, workloads) if error]


def snapshot_at_once(rig: Rig, run: Run) -> list[Exception]:
    return at_once(rig, run, run.workloads, snapshot_workload)


def stream_at_once(rig: Rig, run: Run) -> list[Exception]:
    return at_once(rig, run, run.workloads, stream_workload)
