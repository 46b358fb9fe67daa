"""Backup hosts as a user has them: a worker of EdgeExecutor, and LocalExecutor beside it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.real_airflow import ROOT, describe_distribution

pytestmark = [pytest.mark.tier2, pytest.mark.timeout(1800)]


def test_the_work_of_a_killed_worker_goes_on_on_another_machine(tmp_path: Path) -> None:
    """
    F-A2: the worker dies with all it started; its queue's next worker does the rest.

    This is ``make hosts KILL=1 EXECUTOR=local,edge`` with one backup. The example itself refuses a
    task outside its host, pool or queue, a stream beyond the slots, a red run, one byte that is not
    what the guest's disk held, and anything left on the stack but reference snapshots.
    """
    metadata = describe_distribution(tmp_path / "metadata")
    command = [sys.executable, "-m", "demo.hosts", "--executor", "local,edge", "--kill", "--once"]
    with subprocess.Popen(
        [*command, "--directory", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(metadata)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as example:
        try:
            shown, _ = example.communicate(timeout=1500)
        finally:
            example.terminate()  # it stops whatever it started
    assert example.returncode == 0, shown
    (killed,) = [line for line in shown.splitlines() if "azstack_host-b" in line]
    *_, lost = (cell.strip() for cell in killed.strip("│ ").split("│"))
    assert int(lost) >= 1  # a machine under load may lose a heartbeat as well
    assert "host-b-spare" in shown
    assert shown.count("identical") == 5
    logs = tmp_path / "site" / "hosts"
    assert list((logs / "host-b").rglob("task_id=host-b.workloads.stream/**/attempt=1.log"))
    assert list((logs / "host-b-spare").rglob("task_id=host-b.workloads.stream/**/attempt=2.log"))
    assert not list(logs.rglob("task_id=host-a.*"))  # LocalExecutor has its tasks in its own home
