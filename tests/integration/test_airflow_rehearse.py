"""Restores on trial as DAG runs: green with evidence, red when a disk does not come back."""

from pathlib import Path

import pytest
from support.airflow_run import Site
from support.damage import flip_files, packs_of
from support.disks import SparseDisk
from support.points import back_up_vm
from support.repositories import noise

from airflow_provider_azstack.emulator import DiskSpec, Emulator
from airflow_provider_azstack.repo.verify.rehearsals import rehearsals

pytestmark = pytest.mark.tier2

SOURCE = """\
from airflow_provider_azstack.dag_factory import rehearsal_dag

dag = rehearsal_dag({dag_id!r}, config={conf!r}, WHERE)
for task in dag.tasks:
    task.retries = 0
"""


def test_each_run_tries_the_vm_that_is_due(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-R5, F-A16: two VMs in two runs; then damage: red, with evidence; scratch is empty."""
    site = Site(emulator, tmp_path, monkeypatch)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    nothing = site.dag("nothing", SOURCE.replace("WHERE", f"scratch={str(scratch)!r}"))
    assert site.run(nothing).state == "failed"  # nothing was tried
    for number in (1, 2):
        disk = SparseDisk(2 << 20)
        disk.write(1 << 20, noise(number, 5000))
        back_up_vm(site.reopen(), {"os": disk}, number=number)
    dag = site.dag("rehearsal", SOURCE.replace("WHERE", f"scratch={str(scratch)!r}"))
    site.reopen().open_session("rehearsal by rehearsal")  # a killed one's: a prune would wait
    assert [site.run(dag).state for _ in range(2)] == ["success", "success"]
    assert sorted(one.vm for one in rehearsals(site.reopen().records)) == ["vm-1", "vm-2"]
    flip_files(packs_of(tmp_path / "repository"), 100)
    assert site.run(dag).state == "failed"
    verdicts = [one.is_good for one in rehearsals(site.reopen().records)]
    assert sorted(verdicts) == [False, True, True]
    assert list(scratch.iterdir()) == []
    assert not site.reopen().sessions()


def test_a_restore_is_tried_in_a_scratch_group_of_the_stack(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-R5: the VM that the form asks for; a group that is not empty is refused, untouched."""
    site = Site(emulator, tmp_path, monkeypatch)
    for name in ("one", "two"):
        vm = emulator.add_vm(name, "web", [DiskSpec(size_bytes=2 << 20)])
        vm.disks[0].write(1 << 20, noise(len(name), 5000))
    assert site.run(site.dag("rehearsed")).state == "success"
    emulator.add_group("scratch")
    dag = site.dag("on_stack", SOURCE.replace("WHERE", 'scratch_group="scratch"'))
    before = set(emulator.world.resources)
    assert site.run(dag, {"vm": "two"}).state == "success"
    assert [one.vm for one in rehearsals(site.reopen().records)] == ["two"]
    assert set(emulator.world.resources) == before
    emulator.add_vm("innocent", "scratch", [DiskSpec(size_bytes=2 << 20)])
    before = set(emulator.world.resources)
    assert site.run(dag).state == "failed"
    assert set(emulator.world.resources) == before
