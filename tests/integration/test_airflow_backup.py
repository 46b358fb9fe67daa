"""The whole compound backup as a DAG run: what is published, and how the run ends."""

from pathlib import Path

import pytest
from support.airflow_run import Site

from airflow_provider_azstack.emulator import DiskSpec, Emulator

pytestmark = pytest.mark.tier2
MIB = 1 << 20


@pytest.fixture
def site(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(emulator, tmp_path, monkeypatch)


def test_every_vm_gets_a_restore_point(site: Site) -> None:
    for number in range(3):
        vm = site.emulator.add_vm(f"vm{number}", "web", [DiskSpec(size_bytes=4 * MIB)] * 2)
        vm.disks[0].write(MIB, bytes([number + 1]) * 70_000)
    run = site.run(site.dag("whole"))
    assert run.state == "success"
    assert sorted(p.vm.name for p in site.reopen().points()) == ["vm0", "vm1", "vm2"]
