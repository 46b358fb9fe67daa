"""The shape of the DAGs, each sentence of which keeps a backup from failing in silence."""

import importlib.util
import json
import os
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import pendulum
import pytest
import support.airflow_home
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, BaseOperator
from airflow.sdk.definitions._internal.dag_parsing_context import _airflow_parsing_context_manager
from airflow.sdk.exceptions import ParamValidationError
from airflow.sdk.execution_time.hitl import HITLUser
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables.base import TimeRestriction

from airflow_provider_azstack.arm.retry import CONTACT_SECONDS
from airflow_provider_azstack.config import Config, Host
from airflow_provider_azstack.dag_factory import (
    backup_dag,
    janitor_dag,
    policy_dag,
    policy_files,
    prune_dag,
    restore_dag,
)
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.policy import Policy, TriggerConf, trigger_params

pytestmark = pytest.mark.tier1

assert support.airflow_home.HOME
SHIPPED = sorted((Path(__file__).parents[2] / "dags").glob("*.py"))
CONFIG = Config(
    hosts={
        "alpha": Host(streams=3),
        "beta.example": Host(queue="b-queue", executor="EdgeExecutor"),
        "gamma_1": Host(),
    },
    streams=2,
)
POLICY = {"name": "nightly"}
SCHEDULES = [
    "0 1 * * *", "*/15 22-23 * * mon-fri", "30 2 29 2 *", "0 0 * * 5#3", "15 0 1 * * *",
    "@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@quarterly", "@yearly", "@annually",
    "@once", "@continuous",
]  # fmt: skip


@pytest.fixture
def dag() -> DAG:
    return backup_dag("nightly", policy=POLICY, config=CONFIG)


@pytest.fixture(params=SHIPPED, ids=lambda path: path.stem)
def shipped(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DAG:
    conf = tmp_path / "azurestack.conf"
    conf.write_text(
        json.dumps({"hosts": {"one": {}, "two": {}}, "replica_conn_ids": ["elsewhere"]})
    )
    monkeypatch.setenv("AZSTACK_CONF", str(conf))
    monkeypatch.delenv("AZSTACK_POLICIES", raising=False)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "nightly.yaml").write_text("name: nightly\nschedule: '0 1 * * *'\n")
    spec = importlib.util.spec_from_file_location(request.param.stem, request.param)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.dag


def host_of(task: BaseOperator) -> str:
    return {"alpha": "alpha", "beta_example": "beta.example", "gamma__1": "gamma_1"}[
        task.task_id.split(".")[0]
    ]


def mapped(dag: DAG) -> list[BaseOperator]:
    return [task for task in dag.tasks if ".workloads." in task.task_id]


def test_snapshots_and_streams_have_their_hosts_pool_and_queue(dag: DAG) -> None:
    """F-A10: pool and queue are the host's, never the default pool's."""
    queues = {"alpha": "alpha", "beta.example": "b-queue", "gamma_1": "gamma_1"}
    assert len(mapped(dag)) == 2 * len(queues)
    for task in mapped(dag):
        assert (task.pool, task.queue) == (f"azstack_{host_of(task)}", queues[host_of(task)])


def test_shipped_dags_keep_streams_out_of_the_default_pool(shipped: DAG) -> None:
    """F-A10: every shipped DAG: pool and queue of stream tasks are the host's."""
    for task in mapped(shipped):
        host = task.task_id.split(".")[0]
        assert (task.pool, task.queue) == (f"azstack_{host}", host)


def test_shipped_dags_have_one_deciding_leaf(shipped: DAG) -> None:
    """F-A10: the leaves that are not teardowns are exactly ``{complete}``."""
    deciding = {
        "azstack_nightly": {"complete"},
        "azstack_janitor": {"janitor"},
        "azstack_sync_elsewhere": {"sync"},
        "azstack_verify": {"require_sound"},
        "azstack_prune": {"prune"},
        "azstack_restore": {"complete"},
        "azstack_rehearsal": {"rehearse"},
    }
    assert leaves(shipped) == deciding[shipped.dag_id]


def leaves(dag: DAG) -> set[str]:
    """Every task with nothing but teardowns after it: what Airflow takes a run's state from."""
    tearing = {task.task_id for task in dag.tasks if task.is_teardown}
    return {
        task.task_id
        for task in dag.tasks
        if not task.is_teardown and not task.downstream_task_ids - tearing
    }


def test_complete_is_the_only_leaf_that_is_no_teardown(dag: DAG) -> None:
    """Anything else at the end could turn a failed backup green."""
    assert leaves(dag) == {"complete"}


def test_clean_up_is_a_plain_teardown_of_the_session(dag: DAG) -> None:
    """A teardown that may fail the run is the only leaf, and turns a failed backup green."""
    clean_up = dag.get_task("clean_up")
    assert clean_up.is_teardown
    assert not clean_up.on_failure_fail_dagrun
    assert dag.get_task("open_session").is_setup
    assert "open_session" in clean_up.upstream_task_ids


def test_only_complete_and_streams_run_whatever_came_before(dag: DAG) -> None:
    """Any other ``all_done`` task after ``complete`` would turn a failed backup green."""
    anyway = {task.task_id for task in dag.tasks if task.trigger_rule == "all_done"}
    assert anyway == {"complete"} | {t.task_id for t in mapped(dag) if t.task_id.endswith("stream")}


def test_no_setup_is_directly_before_a_task_that_runs_whatever_came_before(dag: DAG) -> None:
    """Airflow does not run such a task as one would think; the session goes by the manifest."""
    for task in dag.tasks:
        if task.trigger_rule == "all_done":
            assert not any(dag.get_task(up).is_setup for up in task.upstream_task_ids)


def test_every_host_is_before_complete(dag: DAG) -> None:
    """A host that ``complete`` did not wait for would be missing from every run."""
    assert dag.get_task("complete").upstream_task_ids >= {
        "alpha.workloads.stream",
        "beta_example.workloads.stream",
        "gamma__1.workloads.stream",
    }


def test_streams_go_before_snapshots_in_a_pool(dag: DAG) -> None:
    """Weights are absolute, or the number of tasks downstream would count as well."""
    for task in mapped(dag):
        assert task.weight_rule == "absolute"
    stream, snapshot = (dag.get_task(f"alpha.workloads.{n}") for n in ("stream", "snapshot"))
    assert stream.priority_weight > snapshot.priority_weight


def test_streams_outlast_an_outage(dag: DAG) -> None:
    """Five retries or more, further and further apart."""
    stream = dag.get_task("alpha.workloads.stream")
    assert stream.retries >= 5
    assert stream.retry_delay >= timedelta(minutes=1)
    assert stream.retry_exponential_backoff > 1


def test_discovery_is_red_ten_minutes_after_a_wrong_address_was_asked(dag: DAG) -> None:
    """F-N18: all of its tries together, where nobody is there."""
    discover = dag.get_task("discover")
    waits = discover.retries * discover.retry_delay
    assert (discover.retries + 1) * timedelta(seconds=CONTACT_SECONDS) + waits < timedelta(
        minutes=10
    )


def test_airflows_own_limit_is_above_the_pools(dag: DAG) -> None:
    """The default of 16 tasks in a DAG would hold back streams whose pool has room."""
    assert dag.max_active_tasks >= 3 + 2 + 2 + 3


def test_two_runs_of_a_policy_do_not_overlap_and_none_is_caught_up(dag: DAG) -> None:
    assert (dag.max_active_runs, dag.catchup) == (1, False)


def test_the_grid_names_workloads(dag: DAG) -> None:
    """Numbers would say nothing of which VM failed."""
    for task in mapped(dag):
        assert "label" in task.map_index_template


def test_everything_but_streams_runs_on_the_first_host(dag: DAG) -> None:
    """Every host can reach stack and repository; the scheduler's machine may not."""
    for name in ("open_session", "discover", "complete", "clean_up"):
        assert dag.get_task(name).queue == "alpha"


def test_a_hosts_executor_is_its_tasks(dag: DAG) -> None:
    executors = {task.executor for task in dag.tasks if task.queue == "b-queue"}
    assert executors == {"EdgeExecutor"}


def test_a_policy_may_name_a_part_of_the_hosts() -> None:
    dag = backup_dag("part", policy={"name": "p", "hosts": ["gamma_1"]}, config=CONFIG)
    assert {task.queue for task in dag.tasks} == {"gamma_1"}


def test_a_host_of_a_policy_that_is_not_configured_is_refused() -> None:
    """F-W8: a host that was removed is missed when the DAG is built, by name."""
    with pytest.raises(ConfigurationError, match="'delta'"):
        backup_dag("lost", policy={"name": "p", "hosts": ["delta"]}, config=CONFIG)


def test_connections_of_the_policy_go_before_those_of_the_configuration() -> None:
    dag = backup_dag("own", policy={"name": "p", "stack_conn_id": "mine"}, config=CONFIG)
    stream = dag.get_task("alpha.workloads.stream")
    assert stream.stack_conn_id == "mine"
    assert stream.repository_conn_id == CONFIG.repository_conn_id


def test_a_policys_schedule_is_its_dags_unless_the_dag_file_has_one() -> None:
    policy = {"name": "p", "schedule": "0 1 * * *"}
    assert backup_dag("a", policy=policy, config=CONFIG).timetable.expression == "0 1 * * *"
    own = backup_dag("b", policy=policy, config=CONFIG, schedule="5 5 * * *")
    assert own.timetable.expression == "5 5 * * *"


def test_a_policy_made_in_a_dag_file_is_checked_as_well() -> None:
    """Airflow would say only that some schedule of the file is wrong."""
    with pytest.raises(ConfigurationError, match=r"policy p: schedule: '0 1 \* \*'"):
        backup_dag("a", policy=Policy(name="p", schedule="0 1 * *"), config=CONFIG)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_airflow_takes_every_schedule_that_a_policy_may_have(schedule: str) -> None:
    dag = backup_dag("a", policy={"name": "p", "schedule": schedule}, config=CONFIG)
    dag.timetable.validate()
    DagSerialization.from_dict(DagSerialization.to_dict(dag))


def test_a_schedule_is_of_the_policys_time_zone() -> None:
    """One o'clock is the operator's: summer time moves it in UTC."""
    policy = {"name": "p", "schedule": "0 1 * * *", "timezone": "Europe/Berlin"}
    dag = DagSerialization.from_dict(
        DagSerialization.to_dict(backup_dag("zoned", policy=policy, config=CONFIG))
    )
    for month, hour in ((1, 0), (7, 23)):
        span = TimeRestriction(pendulum.datetime(2026, month, 15, 12), None, catchup=True)
        info = dag.timetable.next_dagrun_info(last_automated_data_interval=None, restriction=span)
        assert info.run_after.in_timezone("UTC").hour == hour


def test_the_users_arguments_go_before_ours() -> None:
    dag = backup_dag("mine", policy=POLICY, config=CONFIG, max_active_runs=3, tags=["own"])
    assert (dag.max_active_runs, set(dag.tags)) == (3, {"own"})


def test_the_form_has_exactly_the_keys_of_a_trigger(dag: DAG) -> None:
    """One source: what the form asks is what the first task accepts, with text for each."""
    assert set(dag.params) == set(TriggerConf.__struct_fields__) == set(trigger_params())
    for key in dag.params:
        schema = dag.params.get_param(key).schema
        assert schema["description_md"]
        assert schema["section"]
        assert schema["title"]


def test_the_form_takes_blank_lines_and_emptied_fields(dag: DAG) -> None:
    """What a browser sends for "web-*" and Enter, and for a list chosen from and emptied."""
    for key, sent in {"vms": ["web-*", ""], "hosts": None, "tags": None}.items():
        assert dag.params.get_param(key).resolve(sent) == sent


def test_the_forms_defaults_ask_for_nothing(dag: DAG) -> None:
    """A trigger without a word backs up what the policy says."""
    assert dag.params.validate() == {
        "vms": [],
        "resource_groups": [],
        "tags": {},
        "mode": None,
        "compression": None,
        "hosts": [],
    }


@pytest.mark.parametrize(
    "conf",
    [
        {"vms": ["../etc"]},
        {"vms": ["vm1\n"]},
        {"mode": "fast"},
        {"hosts": ["{{ x }}"]},
        {"resource_groups": "all"},
    ],
)
def test_the_form_refuses_what_the_first_task_refuses(dag: DAG, conf: dict[str, object]) -> None:
    """F-A13: Airflow says no before there is a run; a newline at the end is no way round."""
    with pytest.raises(ParamValidationError, match=r"Invalid input for param"):
        dag.params.update(conf)


def test_a_dag_survives_serialisation(dag: DAG) -> None:
    """The scheduler knows only the serialised form: pools, queues and mapping must be in it."""
    again = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
    stream = again.get_task("beta_example.workloads.stream")
    assert (stream.pool, stream.queue) == ("azstack_beta.example", "b-queue")
    assert stream.get_closest_mapped_task_group() is not None


@pytest.mark.parametrize("dry_run", [True, False])
def test_the_janitor_reports_only_when_asked(*, dry_run: bool) -> None:
    """By the DAG file; and its form begins with what that says."""
    dag = janitor_dag("j", config=CONFIG, dry_run=dry_run)
    assert dag.get_task("janitor").only_report is dry_run
    assert dag.params["dry_run"] is dry_run


def test_shipped_dags_say_what_they_are_and_so_do_their_tasks(shipped: DAG) -> None:
    """Where somebody looks who is called at night: on the DAG's page, and on that of a red task."""
    assert shipped.doc_md
    assert {"azstack"} < shipped.tags
    for task in shipped.tasks:
        assert task.doc_md, task.task_id
    for name in shipped.params:
        param = shipped.params.get_param(name)
        assert param.schema.get("title"), name
        assert param.description or param.schema.get("description_md"), name


@pytest.fixture
def pausing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MAX_CONSECUTIVE_FAILED_DAG_RUNS_PER_DAG", "3")


@pytest.mark.usefixtures("pausing")
def test_airflow_pauses_no_dag_because_it_failed(shipped: DAG) -> None:
    """A site may have Airflow do so after some failures in a row; nothing would be backed up."""
    expected = 3 if shipped.schedule is None else 0
    assert shipped.max_consecutive_failed_dag_runs == expected


def test_what_runs_only_when_asked_is_not_paused_at_first() -> None:
    """A paused DAG's run waits in the queue and says nothing; schedules are the site's to begin."""
    assert restore_dag("r", config=CONFIG).is_paused_upon_creation is False
    assert backup_dag("a", policy=POLICY, config=CONFIG).is_paused_upon_creation is False
    nightly = backup_dag("b", policy={"name": "p", "schedule": "@daily"}, config=CONFIG)
    assert nightly.is_paused_upon_creation is None


def test_who_may_approve_and_who_is_told_is_the_dag_files() -> None:
    """Else whoever triggers a restore may also approve it."""
    users = [HITLUser(id="7", name="dana")]
    asks = {"assigned_users": users, "response_timeout": timedelta(hours=4)}
    task = restore_dag("r", config=CONFIG, approval=asks).get_task("approve")
    assert (task.assigned_users, task.response_timeout) == (users, timedelta(hours=4))
    assert task.retries == restore_dag("s", config=CONFIG).get_task("approve").retries


def test_hosts_write_between_prepare_and_the_end_of_shared_disks() -> None:
    """Each in its pool and queue; disks are made before any host begins, and ended after all."""
    dag = restore_dag("restore", config=CONFIG)
    writers = [task for task in dag.tasks if task.task_id.endswith(".write_disk")]
    assert {(host_of(t), t.pool, t.queue) for t in writers} == {
        ("alpha", "azstack_alpha", "alpha"),
        ("beta.example", "azstack_beta.example", "b-queue"),
        ("gamma_1", "azstack_gamma_1", "gamma_1"),
    }
    for task in writers:
        assert {"approve", "prepare"} <= task.get_flat_relative_ids(upstream=True)
        assert "finish_disks" in task.downstream_task_ids
    finish = dag.get_task("finish_disks")
    assert (finish.pool, finish.trigger_rule) == ("azstack_alpha", "all_done")
    assert finish.downstream_task_ids == {"complete"}


@pytest.fixture
def policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of policies, and a configuration beside it."""
    (tmp_path / "azurestack.conf").write_text('{"hosts": {"one": {}, "two": {}}}')
    monkeypatch.setenv("AZSTACK_CONF", str(tmp_path / "azurestack.conf"))
    monkeypatch.delenv("AZSTACK_POLICIES", raising=False)
    (tmp_path / "policies").mkdir()
    return tmp_path / "policies"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: bad\nschedul: '0 1 * * *'\n", "schedule"),
        ("name: bad\nschedule: 'at night'\n", "at night"),
        ("name: bad\nhosts: [three]\n", "three"),
        ("name: [\n", "bad.yaml"),
    ],
)
def test_a_mistake_in_one_policy_stops_no_other(policies: Path, text: str, said: str) -> None:
    """The shipped DAG file loads; the DAG of that policy is there, and its only task fails."""
    (policies / "bad.yaml").write_text(text)
    (policies / "good.yaml").write_text("name: good\nschedule: '0 1 * * *'\n")
    [shipped] = [path for path in SHIPPED if path.stem == "azstack_backup"]
    bag = BundleDagBag(dag_folder=shipped, bundle_path=shipped.parent, bundle_name="shipped")
    assert bag.import_errors == {}
    assert set(bag.dags) == {"azstack_bad", "azstack_good"}
    assert "discover" in bag.dags["azstack_good"].task_dict
    refused = bag.dags["azstack_bad"]
    [task] = refused.tasks
    assert (task.queue, refused.schedule) == ("one", "@daily")
    with pytest.raises(AirflowFailException, match=said):
        task.execute(context={})  # by name, as a worker does


def test_a_policys_name_that_is_too_long_for_a_dag_is_refused(policies: Path) -> None:
    """Ids of DAGs end at 250 characters, and names of files, which they are part of, at 255."""
    (policies / f"{'long' * 62}.yaml").write_text("name: long\n")
    (policies / f"{'good' * 50}.yaml").write_text("name: good\n")
    [shipped] = [path for path in SHIPPED if path.stem == "azstack_backup"]
    bag = BundleDagBag(dag_folder=shipped, bundle_path=shipped.parent, bundle_name="shipped")
    assert bag.import_errors == {}
    assert "discover" in bag.dags[f"azstack_{'good' * 50}"].task_dict
    [task] = bag.dags[f"azstack_{'long' * 50}"].tasks
    with pytest.raises(AirflowFailException, match="at most 200 characters: rename it"):
        task.execute(context={})


def test_what_the_dag_file_adds_is_added_to_a_refused_policy_too(policies: Path) -> None:
    """Whoever is called when a backup fails is called when there can be none."""
    (policies / "bad.yaml").write_text("nam: bad\n")
    (policies / "good.yaml").write_text("name: good\n")
    calls: list[object] = []
    for name in ("good", "bad"):
        dag = policy_dag(
            policies / f"{name}.yaml",
            schedule="@hourly",
            on_failure_callback=calls.append,
            default_args={"owner": "night-shift"},
        )
        assert (dag.schedule, dag.on_failure_callback) == ("@hourly", calls.append)
        assert {task.owner for task in dag.tasks} == {"night-shift"}


def test_a_task_builds_its_own_dag_only(policies: Path) -> None:
    """Its process loads the DAG file again, and would build all DAGs for nothing."""
    for name in ("one", "two", "three"):
        (policies / f"{name}.yaml").write_text(f"name: {name}\n")
    [shipped] = [path for path in SHIPPED if path.stem == "azstack_backup"]

    def found() -> set[str]:
        bag = BundleDagBag(dag_folder=shipped, bundle_path=shipped.parent, bundle_name="shipped")
        assert bag.import_errors == {}
        return set(bag.dags)

    assert found() == {"azstack_one", "azstack_two", "azstack_three"}
    with (
        patch.dict(os.environ),  # Airflow's own leaves there what was not there before
        _airflow_parsing_context_manager(dag_id="azstack_two", task_id="discover"),
    ):
        assert found() == {"azstack_two"}


def test_a_file_whose_name_is_no_dags_stops_no_other(policies: Path) -> None:
    """A copy that was left lying about; Airflow would load nothing of the DAG file."""
    (policies / "good (copy).yaml").write_text("name: good\n")
    dag = policy_dag(policies / "good (copy).yaml")
    assert dag.dag_id == "azstack_good__copy_"
    [task] = dag.tasks
    with pytest.raises(AirflowFailException, match=r"good \(copy\).yaml: .* rename or move it"):
        task.execute({})


def test_prune_fails_with_every_mistake_in_any_policy(policies: Path) -> None:
    """It is there, at its own time and with its form, and forgets nothing."""
    (policies / "bad.yaml").write_text("nam: bad\n")
    (policies / "good.yaml").write_text("name: good\nretention: {keep_last: 3}\n")
    (policies / "twin.yml").write_text("name: good\nretention: {keep_last: 9}\n")
    [shipped] = [path for path in SHIPPED if path.stem == "azstack_prune"]
    bag = BundleDagBag(dag_folder=shipped, bundle_path=shipped.parent, bundle_name="shipped")
    assert bag.import_errors == {}
    dag = bag.dags["azstack_prune"]
    [task] = dag.tasks
    assert (task.queue, dag.schedule) == ("one", "0 14 * * 0")
    said = r"nothing is forgotten: .*bad\.yaml: .*nam.*; two policies are called 'good'"
    with pytest.raises(AirflowFailException, match=said):
        task.execute({})
    for file in ("bad.yaml", "twin.yml"):
        (policies / file).unlink()
    mended = prune_dag("azstack_prune", policies=policy_files())
    assert set(mended.task_dict) == {"forget", "prune"}
    assert mended.get_task("forget").retentions["good"].keep_last == 3


def test_policy_files_are_found_or_refused_and_never_passed_over(policies: Path) -> None:
    """Both ways of writing YAML's ending; not what begins with a dot; no two of one DAG."""
    for name in ("a.yaml", "b.yml", ".b.yml", "._a.yaml", "notes.txt"):
        (policies / name).write_text("name: p\n")
    assert [file.name for file in policy_files()] == ["a.yaml", "b.yml"]
    (policies / "b.yaml").write_text("name: p\n")
    with pytest.raises(ConfigurationError, match=r"b\.yaml and b\.yml would make one DAG"):
        policy_files()
    with pytest.raises(ConfigurationError, match=r"AZSTACK_POLICIES: .*nowhere is no dir"):
        policy_files({"AZSTACK_POLICIES": str(policies / "nowhere")})
    assert policy_files({"AIRFLOW_HOME": str(policies)}) == [], "none was put there yet"


def test_a_mistake_in_the_configuration_is_all_policies(policies: Path) -> None:
    """There is no host then on which a task could fail."""
    (policies / "good.yaml").write_text("name: good\n")
    (policies.parent / "azurestack.conf").write_text('{"hosts": {}}')
    with pytest.raises(ConfigurationError):
        policy_dag(policies / "good.yaml")
