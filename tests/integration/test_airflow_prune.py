"""Retention as DAG runs: policies' rules applied to their own points, then room made."""

import random
from pathlib import Path

import pytest
from oracle import assert_repository_sound
from support.airflow_run import Site
from support.disks import SparseDisk
from support.points import back_up_vm, digest_of
from support.pruning import CELLS, fill

from airflow_provider_azstack.emulator import Emulator
from airflow_provider_azstack.repo.repository import Repository

pytestmark = pytest.mark.tier2

SOURCE = """\
from airflow_provider_azstack.dag_factory import prune_dag

policy = {{"name": "nightly", "retention": {{"keep_last": 1}}}}
dag = prune_dag({dag_id!r}, policies=[policy], config={conf!r})
for task in dag.tasks:
    task.retries = 0
"""


def runs(repository: Repository) -> list[str]:
    return [point.run for point in repository.points()]


def packs(repository: Repository) -> int:
    return len(list(repository.store.list("packs/")))


def test_what_the_policies_do_not_keep_is_forgotten_and_room_made(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run, a run, and one that finds the session of a killed earlier run of the same DAG."""
    site = Site(emulator, tmp_path, monkeypatch)
    repository, rng = site.reopen(), random.Random(1)
    disk = SparseDisk(CELLS * 2**20)
    for day, policy in enumerate(("nightly", "other", "nightly", "nightly")):
        fill(disk, range(CELLS), rng)
        back_up_vm(repository, {"os": disk}, day=day, policy=policy, incremental=False)
    kept = ["other-1-1", "nightly-1-3"]
    dag = site.dag("pruning", SOURCE)
    run = site.run(dag, {"dry_run": True})
    assert run.state == "success"
    assert (len(runs(repository)), packs(repository)) == (4, 4)
    # A run that was killed in the middle: it holds back what later ones condemn until it is fenced.
    killed = repository.open_session("prune by pruning", run="killed")
    restore = repository.open_session("restore")
    assert site.run(dag, {"dry_run": False}).state == "success"
    assert runs(repository) == kept
    assert packs(repository) == 4, "a restore holds it back"
    assert set(repository.sessions()) == {restore.id}, f"{killed.id} was fenced"
    run = site.run(dag, {"dry_run": False, "dead_sessions": [restore.id]})
    assert run.state == "success"
    assert packs(repository) == 2
    assert repository.sessions() == {}
    [newest] = [point for point in repository.points() if point.run == "nightly-1-3"]
    expected = {(newest.vm.key, newest.id): {"os": digest_of(disk)}}
    assert_repository_sound(repository, expected)


def test_a_prune_that_refuses_is_red_and_says_why(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-H11, as a run: no restore point, and packs; then with the repository's id."""
    site = Site(emulator, tmp_path, monkeypatch)
    repository = site.reopen()
    session = repository.open_session("backup")
    with session.writer() as writer:
        writer.add(b"stored by a run that died")
        writer.flush()
    session.close()
    dag = site.dag("emptying", SOURCE)
    run = site.run(dag)
    assert (run.state, run.of("prune")) == ("failed", ["failed"])
    assert packs(repository) == 1
    assert site.run(dag, {"confirm": repository.id}).state == "success"
    assert packs(repository) == 0
