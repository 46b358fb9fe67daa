"""A restore of what is left: zeros where the repository is damaged, each place listed."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.compound import Rig, rig
from support.restores import disk_at, execute, plan

from airflow_provider_azstack.emulator import DiskSpec, Emulator
from airflow_provider_azstack.engine.restore.records import RestorePlan
from airflow_provider_azstack.store.local import LocalStore

pytestmark = pytest.mark.tier2

MIB = 1 << 20
ASKED: dict[str, Any] = {"vms": ["web01"], "mode": "alternate", "resource_group": "dr"}
LATER = b"written later" * 1000


@pytest.fixture
def site(emulator: Emulator, tmp_path: Path) -> Iterator[Rig]:
    """A VM whose second backup refers to packs of the first, which are gone."""
    emulator.add_group("dr")
    with rig(emulator, tmp_path / "repository") as made:
        vm = emulator.add_vm("web01", "rg", [DiskSpec(size_bytes=600 * MIB)])
        for number in range(3):
            vm.disks[0].write(number * 256 * MIB + MIB, bytes([65 + number]) * MIB)
        made.backup()
        assert isinstance(made.repository.store, LocalStore)
        packs = list((tmp_path / "repository" / "packs").rglob("*"))
        vm.disks[0].write(8 * MIB, LATER)
        made.backup()
        for pack in packs:
            if pack.is_file():
                pack.chmod(0o600)
                pack.unlink()
        yield made


def test_damage_is_refused_or_salvaged_and_listed(site: Rig, emulator: Emulator) -> None:
    """F-R4: what cannot be read is zero, everything else is there, and each place is told."""
    refused = plan(site, **ASKED)
    assert len(refused.refusals) == 1
    assert "salvage" in refused.refusals[0]
    made = plan(site, **ASKED, salvage=True, verify=True)
    assert made.refusals == ()
    assert any("zeros" in remark for remark in made.remarks)
    (outcome,) = execute(site, made)
    assert outcome.status == "done"
    told = [line.split(" are lost")[0] for line in outcome.lost]
    assert told == [
        f"os: {MIB} bytes at {MIB}",
        f"os: {344 * MIB} bytes at {256 * MIB}",
    ]
    content = disk_at(emulator, made.vms[0].disks[0].id)
    expected = hashlib.sha256(bytes(8 * MIB) + LATER)
    for _ in range(7):
        expected.update(bytes(80 * MIB))
    expected.update(bytes(32 * MIB - len(LATER)))
    assert content.sha256() == expected.hexdigest()


def test_losses_are_told_by_the_try_that_ends_too(site: Rig, emulator: Emulator) -> None:
    """What the first try noted as lost is in the outcome of the second, which read none of it."""
    made: RestorePlan = plan(site, **ASKED, salvage=True)
    emulator.faults.answer("PUT", "virtualMachines/web01", 409, times=1)
    assert execute(site, made)[0].status == "failed"
    (outcome,) = execute(site, plan(site, **ASKED, salvage=True))
    assert outcome.status == "done"
    assert len(outcome.lost) == 2
