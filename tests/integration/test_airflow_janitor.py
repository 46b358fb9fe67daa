"""The janitor as DAG runs: told first what would go, then done."""

from pathlib import Path

import pytest
from support.airflow_run import Site
from support.compound import SNAPSHOTS, Rig, connect

from airflow_provider_azstack.emulator import Emulator

pytestmark = pytest.mark.tier2

SOURCE = """\
from airflow_provider_azstack.dag_factory import janitor_dag

dag = janitor_dag({dag_id!r}, config={conf!r})
for task in dag.tasks:
    task.retries = 0
"""


def test_a_trigger_may_ask_to_be_told_only(
    emulator: Emulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By the form; each finding is in the log once, and says whether it was done."""
    site = Site(emulator, tmp_path, monkeypatch)
    emulator.add_group(SNAPSHOTS)
    emulator.add_vm("vm", "prod")
    with connect(emulator) as stack:
        killed = Rig(emulator, stack, site.reopen()).begin()
        killed.snapshot()
    site.reopen().fence(killed.session.id)
    (left,) = emulator.leftovers()
    dag = site.dag("janitor", SOURCE)
    caplog.set_level("INFO")
    for dry_run, says in ((True, "would delete"), (False, "delete")):
        assert emulator.leftovers() == [left]
        caplog.clear()
        assert site.run(dag, {"dry_run": dry_run}).state == "success"
        told = [line for line in caplog.messages if f"{left.id}, left by run" in line]
        assert [line.partition(" /")[0] for line in told] == [says]
    assert emulator.leftovers() == []
