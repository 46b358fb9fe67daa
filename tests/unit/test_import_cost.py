"""
Airflow's DAG processor imports operators and DAG files all day: they load nothing heavy. Each task
is a process of its own, which loads what it uses and nothing else.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.compound import Rig

from airflow_provider_azstack.model import to_plain

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

# What a stream does of its own: Airflow is not needed for it.
STREAM = """
import json, sys
given = json.load(sys.stdin)
from airflow_provider_azstack.arm.client import Credentials, Stack
from airflow_provider_azstack.engine.backup.stream import stream_workload
from airflow_provider_azstack.model import Workload, from_plain
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store import open_store
repository = Repository.open(open_store(given["store"]), Secret("passphrase"))
workload = from_plain(Workload, given["workload"], "the workload")
session = repository.join_session(workload.job.session)
credentials = Credentials(given["tenant"], given["client"], Secret(given["secret"]))
with Stack(given["arm"], credentials) as stack:
    stream_workload(stack, session, workload)
print(json.dumps(sorted(sys.modules)))
"""
# Libraries that once were loaded, or easily are; and parts of ours that have other tasks.
NOT_FOR_STREAMS = {"airflow", "jinja2", "msal", "obstore", "rich"}
OTHER_PARTS = (
    *(f"engine.{part}." for part in ("export", "guest", "restore")),
    *(f"repo.{part}." for part in ("copies", "prune", "verify")),
    *(f"{part}." for part in ("commands", "console", "emulator", "hooks", "operators")),
)


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
        timeout=250,
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


def test_a_dag_file_loads_its_own_dag_only() -> None:
    """A backup's tasks do not load what approving a restore takes."""
    script = "import sys; from airflow_provider_azstack.dag_factory import policy_dag\n"
    ended = subprocess.run(
        [sys.executable, "-c", script + "print(*sys.modules)"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
        timeout=250,
    )
    loaded = set(ended.stdout.split())
    assert "airflow_provider_azstack.operators.backup" in loaded
    assert "airflow_provider_azstack.operators.restore" not in loaded
    assert "airflow_provider_azstack.operators.verify" not in loaded


def test_who_asks_the_stack_nothing_does_not_load_azure() -> None:
    """Opening a session needs the stack's name only."""
    script = (
        "import sys\n"
        "from airflow_provider_azstack.arm.client import Credentials, Stack\n"
        "from airflow_provider_azstack.secret import Secret\n"
        "with Stack('https://management.a.b', Credentials('t', 'c', Secret('s'))) as stack:\n"
        "    print(stack.name, 'azure.core' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert ended.stdout.split() == ["management.a.b", "False"]


@pytest.mark.tier2
def test_a_stream_loads_what_it_uses(it: Rig) -> None:
    """A whole stream, from the passphrase to its last block: no part of ours with another task."""
    disk = it.emulator.add_vm("vm", "group").disks[0]
    disk.write(0, b"x" * 2**20)
    run = it.begin()
    (workload,) = run.workloads
    given = {
        "store": it.repository.store.url,
        "workload": to_plain(workload),
        "arm": it.emulator.arm_url,
        "tenant": it.emulator.tenant_id,
        "client": it.emulator.client_id,
        "secret": it.emulator.client_secret,
    }
    ended = subprocess.run(
        [sys.executable, "-c", STREAM],
        input=json.dumps(given),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=250,
    )
    loaded = json.loads(ended.stdout)
    assert not NOT_FOR_STREAMS & {name.split(".")[0] for name in loaded}
    other = tuple(f"airflow_provider_azstack.{part}" for part in OTHER_PARTS)
    assert not [name for name in loaded if f"{name}.".startswith(other)]
    assert run.complete().status == "done"
    run.clean_up()
