"""What crosses from task to task is checked on arrival; what cannot be cured is not retried."""

import gc
import json
import sys
from typing import Any

import pytest
import support.airflow_home
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSkipException,
    BaseOperator,
)
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_azstack.config import BackupHost
from airflow_provider_azstack.errors import (
    Cancelled,
    ConfigurationError,
    SessionLost,
    StoreFull,
    Unreachable,
)
from airflow_provider_azstack.links import portal_url
from airflow_provider_azstack.model import Job, Manifest, Workload, WorkloadVm, from_plain, to_plain
from airflow_provider_azstack.operators.backup import (
    AcceptManifest,
    CleanUp,
    Complete,
    OpenSession,
    Snapshot,
    Stream,
)
from airflow_provider_azstack.operators.base import (
    check_this_host,
    numbered,
    run_name,
    stops_retries,
)
from airflow_provider_azstack.policy import Policy

pytestmark = pytest.mark.tier1

assert support.airflow_home.HOME
CONNECTIONS = {"stack_conn_id": "s", "repository_conn_id": "r"}
HOST = BackupHost(name="one", streams=2, queue="one", executor=None)
JOB = Job(run="run-1", session="session-1", policy="p", stack="management.local.example")
VM = WorkloadVm(id="/v", key="0" * 8 + "-0000-0000-0000-" + "0" * 12, name="{{ 1/0 }}", disks=())
WORKLOAD = Workload(job=JOB, host="one", number=0, label="one / vm", expected_bytes=1, vms=(VM,))
MANIFEST = Manifest(job=JOB, host="one", workloads=(WORKLOAD,))


class Ti:
    """Holds XComs as a run does: as JSON."""

    def __init__(self, **values: Any) -> None:
        self.values = {key: json.dumps(value) for key, value in values.items()}

    def xcom_pull(self, task_ids: str, key: str = "return_value") -> Any:
        return json.loads(self.values.get(key, "null"))

    def xcom_push(self, key: str, value: Any) -> None:
        self.values[key] = json.dumps(value)


class Run:
    dag_id = "nightly"
    run_id = "manual__2026"

    def __init__(self, conf: Any) -> None:
        self.conf = conf


def execute(operator: BaseOperator, **context: Any) -> Any:
    """Run an operator's own code; Airflow allows ``execute`` inside its task runner only."""
    return type(operator).execute.__wrapped__(operator, context)


def accept(discovered: Any, **xcoms: Any) -> Any:
    task = AcceptManifest(task_id="a", host=HOST, discovered=discovered, **CONNECTIONS)
    return execute(task, ti=Ti(**xcoms))


@pytest.mark.parametrize("error", [ConfigurationError("x"), StoreFull("x"), SessionLost("x")])
def test_what_cannot_be_cured_is_not_retried(error: Exception) -> None:
    @stops_retries
    def run(self: Any, context: Any) -> None:
        raise error

    with pytest.raises(AirflowFailException, match=f"{type(error).__name__}: x"):
        run(None, None)


def test_what_may_pass_is_left_to_the_retries() -> None:
    @stops_retries
    def run(self: Any, context: Any) -> None:
        raise Unreachable("x")

    with pytest.raises(Unreachable):
        run(None, None)


def test_each_of_several_reasons_is_on_a_line_of_its_own() -> None:
    """Airflow's page of a log breaks no line: of one long line the second would not be seen."""
    reasons = ["disk a exists: nothing is written over; delete it", "group (1) does not exist"]

    @stops_retries
    def run(self: Any, context: Any) -> None:
        raise ConfigurationError(f"2 refusals: {numbered(reasons)}")

    with pytest.raises(AirflowFailException) as caught:
        run(None, None)
    assert str(caught.value).splitlines() == [
        "ConfigurationError: 2 refusals:",
        "(1) disk a exists: nothing is written over; delete it;",
        "(2) group (1) does not exist",
    ]
    assert numbered(reasons[:1]) == reasons[0]


@given(st.text(min_size=1, max_size=250), st.text(min_size=1, max_size=250))
def test_every_run_has_a_name_fit_for_stack_and_repository(dag_id: str, run_id: str) -> None:
    name = run_name(dag_id, run_id)
    assert from_plain(Job, {**to_plain(JOB), "run": name}, "job").run == name
    assert name == run_name(dag_id, run_id)
    assert name != run_name(dag_id, run_id + "x")


def test_two_dags_that_started_at_once_have_different_runs() -> None:
    assert run_name("a", "scheduled__2026") != run_name("b", "scheduled__2026")


@pytest.mark.parametrize(
    "conf",
    [
        {"vmz": ["a"]},
        {"vms": ["../a"]},
        {"vms": ["a\n"]},
        {"vms": ["{{ conn.s.password }}"]},
        {"mode": "fast"},
        {"hosts": ["-one"]},
        {"hosts": ["three"]},
        ["vms"],
    ],
)
def test_the_first_task_refuses_a_wrong_trigger_by_name(conf: Any) -> None:
    """F-A13: rejected by name, before any connection is even looked up."""
    task = OpenSession(task_id="o", policy=Policy(name="p"), hosts=[HOST], **CONNECTIONS)
    with pytest.raises(AirflowFailException, match="the trigger's config"):
        execute(task, dag_run=Run(conf))


@pytest.mark.parametrize(
    "manifest",
    [
        None,
        "manifest",
        [],
        {**to_plain(MANIFEST), "version": 2},
        {**to_plain(MANIFEST), "extra": 1},
        {"__classname__": "this.Module", "__version__": 1, "__data__": {}},
        {**to_plain(MANIFEST), "workloads": [{"__classname__": "antigravity.x", "__data__": 1}]},
        {**to_plain(MANIFEST), "host": "x" * 5_000_000},
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_foreign_manifest_is_refused_and_nothing_is_imported(manifest: Any) -> None:
    """F-A12: foreign class, wrong version, huge text: one clear error, no import."""
    before = set(sys.modules)
    with pytest.raises(AirflowFailException, match="manifest of backup host 'one'") as caught:
        accept({"hosts": ["one"]}, manifest_one=manifest)
    assert len(str(caught.value)) < 1000
    assert not {"this", "antigravity"} & (set(sys.modules) - before)


def test_a_host_without_a_part_is_skipped_and_one_without_work_is_not() -> None:
    with pytest.raises(AirflowSkipException):
        accept({"hosts": ["two"]})
    nothing = Manifest(job=JOB, host="one", workloads=())
    assert accept({"hosts": ["one"]}, manifest_one=to_plain(nothing)) == []


@pytest.mark.parametrize(
    ("pools", "said"),
    [
        (None, "never created"),
        ("{}", "has no pool 'azstack_one'"),
        ('{"azstack_one": 3}', "has 3 slots"),
        ("no json", "not what was written"),
    ],
)
def test_a_missing_pool_is_an_error_and_not_a_silent_wait(
    pools: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pools is None:  # other tests of this process may have written the variable
        monkeypatch.setattr("airflow_provider_azstack.hooks.pools.POOLS_VARIABLE", "never_written")
    else:
        monkeypatch.setenv("AIRFLOW_VAR_AZSTACK_POOLS", pools)
    with pytest.raises(AirflowFailException, match=said) as caught:
        accept({"hosts": ["one"]}, manifest_one=to_plain(MANIFEST))
    assert "airflow azstack sync-pools" in str(caught.value)


def test_a_host_refuses_the_work_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZSTACK_BACKUP_HOST", "two")
    with pytest.raises(AirflowFailException, match="'one' reached 'two'"):
        accept({"hosts": ["one"]}, manifest_one=to_plain(MANIFEST))
    monkeypatch.setenv("AZSTACK_BACKUP_HOST", "one")
    check_this_host("one")


@pytest.mark.parametrize("kind", [Snapshot, Stream])
def test_a_workload_of_another_host_is_refused(kind: type[BaseOperator]) -> None:
    """F-W8: work that reached the wrong host is an error, never skipped."""
    task = kind(task_id="t", host="two", workload=to_plain(WORKLOAD), **CONNECTIONS)
    with pytest.raises(AirflowFailException, match="a workload of backup host 'one'"):
        execute(task, ti=Ti())


@pytest.mark.parametrize("kind", [Snapshot, Stream])
def test_a_foreign_workload_is_refused(kind: type[BaseOperator]) -> None:
    """F-A12: what is mapped over is checked again where it is used."""
    task = kind(task_id="t", host="one", workload={"job": 1}, **CONNECTIONS)
    with pytest.raises(AirflowFailException, match="ConfigurationError"):
        execute(task, ti=Ti())


def test_a_run_without_discovery_is_not_complete() -> None:
    with pytest.raises(AirflowFailException, match="IncompleteJob"):
        execute(Complete(task_id="c", discovered=None, **CONNECTIONS), ti=Ti())


def test_clean_up_of_a_foreign_job_is_refused() -> None:
    with pytest.raises(AirflowFailException, match="the job from open_session"):
        execute(CleanUp(task_id="c", job={"run": "../x"}, **CONNECTIONS), ti=Ti())


def test_a_signal_stops_what_runs_and_nothing_else() -> None:
    """The event stops the threads, the exception the task; later signals find nothing to stop."""
    task = Stream(task_id="t", host="one", workload={}, **CONNECTIONS)
    task.on_kill()
    with task.stoppable() as cancel, pytest.raises(Cancelled):
        task.on_kill()
    assert cancel.is_set()
    task.on_kill()


def test_links_lead_to_the_vm_in_the_portal_and_hold_ids_only() -> None:
    vm = WorkloadVm(id="/subscriptions/s/vm 1", key=VM.key, name="vm", disks=())
    home = "https://portal.local.example/"
    assert (
        portal_url("management.local.example", (vm,)) == home + "#resource/subscriptions/s/vm%201"
    )
    assert portal_url("management.local.example", (vm, vm)) == home
    assert portal_url("adminmanagement.x.y", ()) == "https://adminportal.x.y/"
    assert portal_url("127.0.0.1", (vm,)) == ""


def test_the_collector_passes_over_what_airflow_has_loaded() -> None:
    """To look through it took 0.1 s of CPU time whenever much of ours had been loaded."""
    operator = CleanUp(task_id="clean_up", job={}, **CONNECTIONS)
    operator.pre_execute({})
    try:
        assert gc.get_freeze_count() > 0.9 * (gc.get_freeze_count() + len(gc.get_objects()))
    finally:
        gc.unfreeze()
