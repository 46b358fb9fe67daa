"""Verification as DAG runs: red means damage, and every result is an asset event."""

from pathlib import Path

import pytest
from support.airflow_run import Site, asset_events
from support.damage import flip_files, packs_of
from support.disks import SparseDisk
from support.points import back_up_vm
from support.repositories import noise

from airflow_provider_azstack.emulator import Emulator

pytestmark = pytest.mark.tier2

SOURCE = """\
from airflow_provider_azstack.dag_factory import verify_dag

dag = verify_dag({dag_id!r}, config={conf!r})
for task in dag.tasks:
    task.retries = 0
"""


def test_a_sound_repository_is_green_and_a_damaged_one_is_red(
    emulator: Emulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Three runs: a daily share, damage that it sees, and all of it once the guest brought it."""
    site = Site(emulator, tmp_path, monkeypatch)
    disk = SparseDisk(2 * 2**20)
    disk.write(2**20, noise(1, 5000))
    point = back_up_vm(site.reopen(), {"os": disk})
    disk.freeze()
    dag = site.dag("verification", SOURCE)
    repository = site.reopen()
    repository.open_session("verify by verification")  # what a try that was killed leaves
    other = repository.open_session("verify by hand")
    assert site.run(dag).state == "success"
    flip_files(packs_of(tmp_path / "repository"), 100)
    run = site.run(dag, {"mode": "full"})
    assert run.state == "failed"
    assert (run.of("verify"), run.of("require_sound")) == (["success"], ["failed"])
    assert f"vm-1: 1.0 MB of os in point {point.id}" in capsys.readouterr().out
    back_up_vm(site.reopen(), {"os": disk}, day=1)
    assert site.run(dag, {"mode": "full"}).state == "success"
    repository = site.reopen()
    events = asset_events(f"azstack://repositories/{repository.id}")
    assert [(event["mode"], event["is_sound"]) for event in events] == [
        ("cycle", True),
        ("full", False),
        ("full", True),
    ]
    assert [event["damaged_points"] for event in events] == [0, 1, 0]
    assert list(repository.sessions()) == [other.id]
    assert point.id in {one.id for one in repository.points()}
