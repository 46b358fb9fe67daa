"""Two backup hosts, each a process, that write the same content at the same time."""

import hashlib
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
from oracle import assert_repository_sound
from support.points import vm_key
from support.repositories import new_repository, reopen
from support.stream_host import PURPOSE, Host, Result, Task, publish

from airflow_provider_azstack.repo.points.forget import forget
from airflow_provider_azstack.repo.prune.collector import prune
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.store.local import LocalStore

pytestmark = pytest.mark.tier2

MIB = 1024**2
VMS = (1, 2)
PAUSE = 0.03


def disk_of(number: int) -> bytes:
    """All VMs have the same operating system; a part in the middle and the end are their own."""
    system, own = Random(0).randbytes(10 * MIB), Random(number)
    return system[: 4 * MIB] + own.randbytes(MIB) + system[4 * MIB :] + own.randbytes(MIB)


def stream_at_once(tasks: list[Task]) -> list[Result]:
    """Start all hosts, and give the word when the last one is ready."""
    with ExitStack() as stack:
        hosts = [stack.enter_context(Host(task)) for task in tasks]
        for host in hosts:
            host.await_ready()
        for host in hosts:
            host.begin()
        results = [host.result() for host in hosts]
        assert [host.process.returncode for host in hosts] == [0] * len(hosts)
    return [result for result in results if result]


@pytest.mark.parametrize("runs", [("run-1", "run-1"), ("run-1", "run-2")], ids=["one", "two"])
def test_two_hosts_write_the_same_content_at_once(runs: tuple[str, str], tmp_path: Path) -> None:
    """
    F-K3: both points restore, whether the hosts work for one run or for two; what both stored may
    be there twice, and neither point needs the other to stay.
    """
    (tmp_path / "repository").mkdir()
    repository = new_repository(LocalStore(tmp_path / "repository"))
    sessions = {run: repository.open_session(PURPOSE, run=run) for run in set(runs)}
    tasks, digests = [], {}
    for number, run in zip(VMS, runs, strict=True):
        disk = tmp_path / f"disk-{number}"
        disk.write_bytes(disk_of(number))
        digests[number] = hashlib.sha256(disk.read_bytes()).hexdigest()
        task = Task(
            store=str(tmp_path / "repository"),
            disk=str(disk),
            run=run,
            number=number,
            session=sessions[run].id,
            pause=PAUSE,
        )
        tasks.append(task)

    results = stream_at_once(tasks)

    assert max(one.begun for one in results) < min(one.ended for one in results), "not at once"
    expected = {}
    for task, result in zip(tasks, results, strict=True):
        session = sessions[task.run]
        point = publish(session, repository.image(result.image), task)
        expected[vm_key(task.number), point.id] = {"os": digests[task.number]}
    for session in sessions.values():
        session.close()
    assert len(expected) == len(VMS)
    assert_repository_sound(repository, expected)
    collect(repository)
    assert_repository_sound(repository, expected)

    first = next(iter(expected))
    forget(repository, [first], confirm=repository.id)
    del expected[first]
    collect(repository)
    assert_repository_sound(repository, expected)
    repository.close()


def collect(repository: Repository) -> None:
    """Condemn, and then delete."""
    for _ in range(2):
        prune(reopen(repository))
