"""Copies as DAG runs: green means that every restore point is in the other repository."""

import json
from pathlib import Path
from typing import Any

import pytest
from oracle import assert_repository_sound
from support.airflow_run import PASSPHRASE, Site
from support.disks import SparseDisk
from support.points import back_up_vm, digest_of

from airflow_provider_azstack.emulator import Emulator
from airflow_provider_azstack.model import RestorePoint
from airflow_provider_azstack.repo.points.forget import forget
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sealing.crypto import Cost
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store import open_store

pytestmark = pytest.mark.tier2

OTHER = "canary-of-the-replica"
SOURCE = """\
from airflow_provider_azstack.dag_factory import sync_dag

dag = sync_dag({dag_id!r}, "azstack_replica", config={conf!r})
for task in dag.tasks:
    task.retries = 0
"""


@pytest.fixture
def site(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    site = Site(emulator, tmp_path, monkeypatch)
    store = open_store(f"file://{tmp_path}/replica", create=True)
    Repository.create(store, Secret(OTHER), kdf=Cost(2**10))
    connection: dict[str, Any] = {
        "conn_type": "azstack_repository",
        "host": store.url,
        "password": OTHER,
    }
    monkeypatch.setenv("AIRFLOW_CONN_AZSTACK_REPLICA", json.dumps(connection))
    return site


def replica(site: Site) -> Repository:
    return Repository.open(open_store(f"file://{site.path}/replica"), Secret(OTHER))


def lose_packs(directory: Path) -> None:
    for pack in (directory / "packs").rglob("*"):
        if pack.is_file():
            pack.unlink()


def test_restore_points_are_copied_and_what_is_lost_is_repaired(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    """Three runs: a copy; a failure that names what is lost; a repair that the form asks for."""
    disk = SparseDisk(2 * 1024**2)
    expected = {}

    def back_up(day: int) -> RestorePoint:
        disk.write(day * 300_000, f"day {day}".encode() * 5000)
        point = back_up_vm(site.reopen(), {"os": disk}, day=day)
        expected[point.vm.key, point.id] = {"os": digest_of(disk)}
        return point

    back_up(0)
    dag = site.dag("copies", SOURCE)
    assert site.run(dag).state == "success"
    assert_repository_sound(replica(site), expected)
    lost = back_up(1)
    lose_packs(site.path / "repository")
    assert site.run(dag).state == "failed"
    assert f"{lost.vm.name} {lost.id}" in capfd.readouterr().out
    del expected[lost.vm.key, lost.id]
    assert_repository_sound(replica(site), expected)
    assert site.run(dag, {"repair": True}).state == "failed"  # the lost one is nowhere else
    repository = site.reopen()
    forget(repository, [(lost.vm.key, lost.id)])
    assert_repository_sound(repository, expected)
    assert site.run(dag).state == "success"
    printed = capfd.readouterr()
    assert OTHER not in printed.out + printed.err
    assert PASSPHRASE not in printed.out + printed.err


def test_a_killed_copy_does_not_hold_up_pruning_for_ever(site: Site) -> None:
    """F-A16: its sessions are over when the next run begins; another site's copy lives on."""
    disk = SparseDisk(2 * 1024**2)
    disk.write(0, b"x" * 5000)
    here, there = site.reopen(), replica(site)
    back_up_vm(here, {"os": disk})
    other = {
        repository: repository.open_session(f"sync to {here.id} by copies", run="other").id
        for repository in (here, there)
    }
    for repository in (here, there):
        repository.open_session(f"sync to {there.id} by copies", run="killed")
    assert site.run(site.dag("copies", SOURCE)).state == "success"
    for repository, session in other.items():
        assert list(repository.sessions()) == [session]


def test_a_vm_that_has_no_restore_point_is_not_green(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    """The others are copied; a name that is misspelt is said."""
    disk = SparseDisk(2 * 1024**2)
    disk.write(0, b"x" * 5000)
    point = back_up_vm(site.reopen(), {"os": disk})
    vms = f'vms=("{point.vm.name}", "wbe-01")'
    dag = site.dag("some", SOURCE.replace("config={conf!r}", "config={conf!r}, " + vms))
    assert site.run(dag).state == "failed"
    assert "'wbe-01'" in capfd.readouterr().out
    assert [one.id for one in replica(site).points()] == [point.id]
