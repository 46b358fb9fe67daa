"""Airflow's DAG processor imports operators and DAG files all day: they load nothing heavy."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.tier1

ROOT = Path(__file__).parents[2]
HEAVY = {"azure", "blake3", "cryptography", "msal", "obstore", "requests", "urllib3", "zstandard"}
# What a DAG file needs of Airflow itself, used as ours use it: names load when asked for.
BARE = """
from airflow.providers.common.compat.sdk import DAG, BaseHook, BaseOperator, TaskGroup, task_group
from airflow.providers.common.compat.sdk import Asset, AssetAlias, BaseOperatorLink, Param, XCom
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from airflow.providers.common.compat.sdk import Connection, Context, Variable, mask_secret
with DAG("bare", params={"a": Param("b", type="string")}) as dag:
    BaseOperator(task_id="a")
"""
OURS = """
import runpy
for name in NAMES:
    runpy.run_path(name)
import airflow_provider_azstack.hooks.stack, airflow_provider_azstack.hooks.repository
import airflow_provider_azstack.operators.backup, airflow_provider_azstack.operators.janitor
from airflow.providers.common.compat.sdk import DAG
"""
REPORT = """
import json, sys, time
exec(BARE)
before, started = set(sys.modules), time.process_time()
exec(OURS)
seconds = time.process_time() - started
print(json.dumps({"seconds": seconds, "modules": sorted(set(sys.modules) - before)}))
"""


def above_bare_airflow(home: Path) -> dict[str, Any]:
    """Run both in a Python of its own; tell what ours loaded, and how long that took."""
    environ = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AZSTACK_CONF": str(home / "azurestack.conf"),
        "PYTHONPATH": str(ROOT),
    }
    names = [str(path) for path in sorted((ROOT / "dags").glob("*.py"))]
    script = f"NAMES = {names!r}\nBARE = {BARE!r}\nOURS = {OURS!r}\n{REPORT}"
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env=environ,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return dict(json.loads(ended.stdout.splitlines()[-1]))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "azurestack.conf").write_text('{"hosts": {"one": {}, "two": {}}}')
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "nightly.yaml").write_text("name: nightly\n")
    return tmp_path


def test_dag_files_load_nothing_heavy(home: Path) -> None:
    """F-A15: parsing the shipped DAGs loads no heavy module that bare Airflow has not loaded."""
    above = above_bare_airflow(home)
    assert "airflow_provider_azstack.operators.backup" in above["modules"]
    assert not {name for name in above["modules"] if name.split(".")[0] in HEAVY}
    # The time is printed, not asserted: the list of modules is what decides it.
    print(f"{1000 * above['seconds']:.0f} ms of CPU above bare Airflow")  # noqa: T201
