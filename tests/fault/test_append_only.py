"""Credentials that may delete nothing but sessions and claims: everything but pruning works."""

from pathlib import Path

import pytest
from oracle import assert_repository_sound
from support.compound import keyed, new_repository, rig

from airflow_provider_azstack.emulator import DiskSpec, Emulator
from airflow_provider_azstack.errors import AccessDenied
from airflow_provider_azstack.repo.copies.sync import sync
from airflow_provider_azstack.repo.points.forget import forget
from airflow_provider_azstack.repo.prune.collector import prune
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.verify.verification import verify
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store.guard import AppendOnlyStore
from airflow_provider_azstack.store.local import LocalStore

pytestmark = pytest.mark.tier2

MIB = 1 << 20
PASSPHRASE = Secret("passphrase")  # of support.compound


def test_writers_need_no_right_to_delete(emulator: Emulator, tmp_path: Path) -> None:
    """F-S18: backups, restores, verification, copies pass; forgetting and pruning fail cleanly."""
    for name in ("store", "copy"):
        (tmp_path / name).mkdir()
    full = LocalStore(tmp_path / "store")
    vm = emulator.add_vm("web", "g", [DiskSpec(size_bytes=4 * MIB)] * 2)
    with rig(emulator, AppendOnlyStore(full)) as site:
        expected = {}
        for day in range(3):
            for disk in vm.disks:
                disk.write(day * MIB, f"day {day}".encode() * 9000)
            record = site.backup()["web"]
            assert record.status == "done"
            expected[record.key, record.point] = {
                key: disk.sha256() for key, disk in keyed(vm.disks).items()
            }
        assert not list(full.list("sessions/"))
        assert not list(full.list("claims/"))
        repository = site.repository
        assert_repository_sound(repository, expected)
        copy = new_repository(AppendOnlyStore(LocalStore(tmp_path / "copy")))
        assert [outcome.status for outcome in sync(repository, copy)] == ["copied"] * 3
        verify(repository, "cycle", budget_bytes=MIB)
        oldest = min(expected, key=lambda which: which[1])
        with pytest.raises(AccessDenied):
            forget(repository, [oldest])
        assert_repository_sound(repository, expected)
    whole = Repository.open(full, PASSPHRASE)  # the pruning principal's credentials
    forget(whole, [oldest])
    del expected[oldest]
    with pytest.raises(AccessDenied):
        prune(Repository.open(AppendOnlyStore(full), PASSPHRASE))
    assert_repository_sound(whole, expected)
    prune(whole)
    assert_repository_sound(whole, expected)
