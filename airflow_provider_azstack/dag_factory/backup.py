"""
The DAG of a compound backup.

Owns its shape, pools, queues and the form; knows nothing of what the tasks do.
Invariants: a snapshot or stream runs in its host's pool and queue, never in the default pool; and
``complete`` is the only leaf that is not a teardown, because leaves decide how a run ended.

::

    open_session (setup) -> discover
        -> for each host: accept_manifest -> mapped group [snapshot -> stream]
        -> complete (all_done) -> clean_up (plain teardown)
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import (
    DAG,
    TaskGroup,
    TriggerRule,
    get_parsing_context,
    task_group,
)

from airflow_provider_azstack.config import BackupHost, Config, load_config
from airflow_provider_azstack.dag_factory.placement import (
    CONTROL_RETRIES,
    STREAM_RETRIES,
    UNATTENDED,
    connection_ids,
    group_id,
    placement,
)
from airflow_provider_azstack.dag_factory.policies import policy_files
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.operators.backup import (
    AcceptManifest,
    CleanUp,
    Complete,
    Discover,
    OpenSession,
    Snapshot,
    Stream,
)
from airflow_provider_azstack.operators.refuse import Refuse
from airflow_provider_azstack.params import trigger_form
from airflow_provider_azstack.policy import Policy, load_policy

# A pool must first drain the VMs whose snapshots exist: an old snapshot costs space on the stack.
_SNAPSHOT_WEIGHT, _STREAM_WEIGHT = 1, 100
_LABEL = "{{ task.workload['label'] }}"
# Airflow 3.2 schedules the word, but refuses it in a DAG file.
_AS_CRON = {"@quarterly": "0 0 1 */3 *"}
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST_NAME = 200  # Airflow takes ids of 250 characters, and makes directories of them

_ABOUT = """\
Backs up the virtual machines of policy **{policy}** from {stack} to {repository}.

Trigger it with a config to back up fewer of them, to read everything again, or to use fewer hosts.
A virtual machine is backed up when `complete` has published its restore point, and not before.
"""


def backup_dag(
    dag_id: str,
    *,
    policy: Policy | Mapping[str, Any] | str | Path,
    config: Config | str | Path | None = None,
    schedule: Any = None,
    **dag_arguments: Any,
) -> DAG:
    """
    Return the DAG that backs up what ``policy`` selects.

    :param policy: the policy, its YAML file, or the same as a mapping.
    :param schedule: anything that ``DAG`` takes; default: the policy's.
    :param config: the configuration or its file; default: ``AZSTACK_CONF``, then ``AIRFLOW_HOME``.
    :param dag_arguments: anything else that ``DAG`` takes: ``start_date``, ``tags``, callbacks...
    :raises ConfigurationError: the policy or the configuration is wrong.
    """
    policy = load_policy(policy)
    config = load_config(config)
    hosts = config.backup_hosts(policy.hosts)
    connections = connection_ids(config, policy)
    about = _ABOUT.format(
        policy=policy.name,
        stack=f"`{connections['stack_conn_id']}`",
        repository=f"`{connections['repository_conn_id']}`",
    )
    defaults = {
        **UNATTENDED,
        # The date's zone is the schedule's.
        "start_date": pendulum.datetime(2025, 1, 1, tz=policy.timezone),
        # Two jobs of one policy would wait for each other's claims.
        "max_active_runs": 1,
        # Airflow's default of 16 would hold back streams whose pool has room.
        "max_active_tasks": sum(host.streams for host in hosts) + len(hosts) + 4,
        "params": trigger_form(tuple(host.name for host in hosts)),
        "doc_md": about,
        "tags": ["azstack", "backup"],
    }
    if schedule is None and policy.schedule is not None:
        schedule = _AS_CRON.get(policy.schedule, policy.schedule)
    if schedule is None:  # it runs only when asked; paused, it would wait without a word
        defaults["is_paused_upon_creation"] = False
    with DAG(dag_id, schedule=schedule, **{**defaults, **dag_arguments}) as dag:
        _backup(policy, config, hosts, connections)
    return dag


def policy_dags(
    *, config: Config | str | Path | None = None, **dag_arguments: Any
) -> Iterator[DAG]:
    """
    Yield the DAG of each policy file; in a task's process, that of the task alone.

    Each task loads its DAG file again: to build all of its DAGs, 0.02 CPU-s for each policy with
    eight hosts, would cost every task.

    :param dag_arguments: as for ``policy_dag``.
    :raises ConfigurationError: the configuration is wrong, or where policies are.
    """
    config = load_config(config)
    asked = get_parsing_context().dag_id
    for file in policy_files():
        if asked in (None, _dag_id(file)):
            yield policy_dag(file, config=config, **dag_arguments)


def policy_dag(
    file: Path,
    *,
    config: Config | str | Path | None = None,
    schedule: Any = None,
    **dag_arguments: Any,
) -> DAG:
    """
    Return the DAG of a policy file, or one whose runs fail with the mistake that is in the file.

    Airflow schedules nothing of a DAG file that cannot be loaded: a mistake in one policy must not
    keep the others from being backed up, and must be red where people look.

    :param schedule: as for ``backup_dag``.
    :param dag_arguments: anything else that ``DAG`` takes, for either of them.
    :raises ConfigurationError: the configuration is wrong, which all policies share.
    """
    config = load_config(config)
    dag_id = _dag_id(file)
    try:
        _require_name(file)
        return backup_dag(dag_id, policy=file, config=config, schedule=schedule, **dag_arguments)
    except ConfigurationError as error:
        mistake = f"nothing is backed up by this policy: {error}"
    first, *_ = config.backup_hosts()
    defaults = {
        **UNATTENDED,
        "start_date": pendulum.datetime(2025, 1, 1, tz="UTC"),
        "max_active_runs": 1,
        "doc_md": mistake,
        "tags": ["azstack", "backup"],
    }
    # The policy's own schedule may be the mistake.
    with DAG(dag_id, schedule=schedule or "@daily", **{**defaults, **dag_arguments}) as dag:
        Refuse(task_id="policy", mistake=mistake, **placement(first))
    return dag


def _dag_id(file: Path) -> str:
    return f"azstack_{_NOT_IN_IDS.sub('_', file.stem)[:_LONGEST_NAME]}"


def _require_name(file: Path) -> None:
    """Refuse a file whose name is not fit for a DAG, such as a copy that was left lying about."""
    if _NOT_IN_IDS.search(file.stem):
        raise ConfigurationError(
            f"{file}: its name is its DAG's: letters, digits, '.', '_' and '-': rename or move it"
        )
    if len(file.stem) > _LONGEST_NAME:
        raise ConfigurationError(
            f"{file}: its name is its DAG's: at most {_LONGEST_NAME} characters: rename it"
        )


def _backup(
    policy: Policy, config: Config, hosts: tuple[BackupHost, ...], connections: dict[str, str]
) -> None:
    # The first host does what concerns all of them: every host can reach stack and repository.
    control = {**connections, **placement(hosts[0]), **CONTROL_RETRIES}
    open_session = OpenSession(task_id="open_session", policy=policy, hosts=hosts, **control)
    discover = Discover(
        task_id="discover",
        job=open_session.output,
        policy=policy,
        hosts=hosts,
        caps=config.caps,
        split_bytes=config.split_bytes,
        **control,
    )
    complete = Complete(
        task_id="complete",
        discovered=discover.output,
        trigger_rule=TriggerRule.ALL_DONE,
        **control,
    )
    clean_up = CleanUp(task_id="clean_up", job=open_session.output, **control)
    open_session.as_setup()  # type: ignore[no-untyped-call]
    for host in hosts:
        streams = _host(host, discover, connections)
        streams >> complete
    # Plain: with on_failure_fail_dagrun it would be the only leaf and turn a failed backup green.
    complete >> clean_up.as_teardown(setups=open_session)


def _host(host: BackupHost, discover: Discover, connections: dict[str, str]) -> TaskGroup:
    """Build one host's part. Pool and queue cannot be mapped: hence one group for each host."""
    placed = {**connections, **placement(host)}
    in_pool = {**placed, "pool": host.pool, "weight_rule": "absolute", "map_index_template": _LABEL}
    with TaskGroup(group_id=group_id(host.name), tooltip=f"Backup host {host.name}") as group:
        accept = AcceptManifest(
            task_id="accept_manifest",
            host=host,
            discovered=discover.output,
            **placed,
            **CONTROL_RETRIES,
        )

        @task_group(group_id="workloads")
        def workloads(workload: Any) -> None:
            snapshot = Snapshot(
                task_id="snapshot",
                host=host.name,
                workload=workload,
                priority_weight=_SNAPSHOT_WEIGHT,
                **in_pool,
                **CONTROL_RETRIES,
            )
            stream = Stream(
                task_id="stream",
                host=host.name,
                limit_bytes=host.limit_bytes,
                workload=workload,
                priority_weight=_STREAM_WEIGHT,
                # A stream takes the set itself where one is missing: one VM whose snapshot failed
                # must not hold back the others of its batch.
                trigger_rule=TriggerRule.ALL_DONE,
                **in_pool,
                **STREAM_RETRIES,
            )
            snapshot >> stream

        workloads.expand(workload=accept.output)
    return group
