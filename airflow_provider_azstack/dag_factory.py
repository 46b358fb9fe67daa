"""
Builds the DAGs: the compound backup of one policy, the janitor, copies, verification, restores.

Owns their shape, pools, queues, retries and the form; knows nothing of what the tasks do.
Invariants: a snapshot or stream runs in its host's pool and queue, never in the default pool; and
``complete`` is the only leaf that is not a teardown, because leaves decide how a run ended.

::

    open_session (setup) -> discover
        -> for each host: accept_manifest -> mapped group [snapshot -> stream]
        -> complete (all_done) -> clean_up (plain teardown)
"""

import os
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import DAG, Param, TaskGroup, TriggerRule, task_group

from airflow_provider_azstack.config import BackupHost, Config, config_path, load_config
from airflow_provider_azstack.operators.backup import (
    AcceptManifest,
    CleanUp,
    Complete,
    Discover,
    OpenSession,
    Snapshot,
    Stream,
)
from airflow_provider_azstack.operators.janitor import Janitor
from airflow_provider_azstack.operators.prune import CONFIRM, DEAD_SESSIONS, DRY_RUN, Forget, Prune
from airflow_provider_azstack.operators.restore import (
    AcceptDisks,
    ApproveRestore,
    CleanUpRestore,
    CreateVms,
    OpenRestore,
    PlanRestore,
    WriteDisk,
)
from airflow_provider_azstack.operators.sync import REPAIR, Sync
from airflow_provider_azstack.operators.verify import MODE, MODES, RequireSound, Verify
from airflow_provider_azstack.params import restore_form, trigger_form
from airflow_provider_azstack.policy import Policy, load_policy

# Streams outlive an outage of the stack, the store or the API server of about an hour.
_STREAM_RETRIES: dict[str, Any] = {
    "retries": 6,
    "retry_delay": timedelta(minutes=1),
    "retry_exponential_backoff": 2,
    "max_retry_delay": timedelta(minutes=20),
}
_CONTROL_RETRIES: dict[str, Any] = {"retries": 3, "retry_delay": timedelta(seconds=30)}
# A pool must first drain the VMs whose snapshots exist: an old snapshot costs space on the stack.
_SNAPSHOT_WEIGHT, _STREAM_WEIGHT = 1, 100
_LABEL = "{{ task.workload['label'] }}"

_ABOUT = """\
Backs up the virtual machines of policy **{policy}** from {stack} to {repository}.

Trigger it with a config to back up fewer of them, to read everything again, or to use fewer hosts.
A virtual machine is backed up when `complete` has published its restore point, and not before.
"""

_ABOUT_RESTORES = """\
Restores virtual machines, or disks only. The plan says everything that will be done and refuses,
before anything is written, whatever cannot be; a person is asked where something that exists would
be touched. docs/restore.md describes the request.
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
    policy = policy if isinstance(policy, Policy) else load_policy(policy)
    config = config if isinstance(config, Config) else load_config(config)
    hosts = config.backup_hosts(policy.hosts)
    connections = _connections(config, policy)
    about = _ABOUT.format(
        policy=policy.name,
        stack=f"`{connections['stack_conn_id']}`",
        repository=f"`{connections['repository_conn_id']}`",
    )
    defaults = {
        # The past of a schedule is not made up for; the date's zone is the schedule's.
        "start_date": pendulum.datetime(2025, 1, 1, tz=policy.timezone),
        "catchup": False,
        # Two jobs of one policy would wait for each other's claims.
        "max_active_runs": 1,
        # Airflow's default of 16 would hold back streams whose pool has room.
        "max_active_tasks": sum(host.streams for host in hosts) + len(hosts) + 4,
        "params": trigger_form(tuple(host.name for host in hosts)),
        "doc_md": about,
        "tags": ["azstack", "backup"],
    }
    if schedule is None:
        schedule = policy.schedule
    with DAG(dag_id, schedule=schedule, **{**defaults, **dag_arguments}) as dag:
        _backup(policy, config, hosts, connections)
    return dag


def policy_files(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Return the YAML files in ``AZSTACK_POLICIES``, else in ``policies`` beside the file."""
    named = environ.get("AZSTACK_POLICIES")
    directory = Path(named) if named else config_path(environ).parent / "policies"
    return sorted(directory.glob("*.yaml"))


def janitor_dag(
    dag_id: str,
    *,
    config: Config | str | Path | None = None,
    schedule: Any = None,
    dry_run: bool = False,
    **dag_arguments: Any,
) -> DAG:
    """
    Return the DAG that finds and removes what killed runs left on a stack.

    :param dry_run: only report.
    :raises ConfigurationError: the configuration is wrong.
    """
    config = config if isinstance(config, Config) else load_config(config)
    host = config.backup_hosts()[0]
    defaults = {"catchup": False, "max_active_runs": 1, "tags": ["azstack"]}
    with DAG(dag_id, schedule=schedule, **{**defaults, **dag_arguments}) as dag:
        Janitor(
            task_id="janitor",
            dry_run=dry_run,
            **_connections(config),
            **_placement(host),
            **_CONTROL_RETRIES,
        )
    return dag


def sync_dag(
    dag_id: str,
    replica_conn_id: str,
    *,
    config: Config | str | Path | None = None,
    schedule: Any = None,
    vms: tuple[str, ...] = (),
    newest: int = 0,
    repair: bool = False,
    **dag_arguments: Any,
) -> DAG:
    """
    Return the DAG that copies restore points to another repository.

    :param replica_conn_id: connection of that one.
    :param vms: names, keys or ids of VMs; none is all.
    :param newest: of each VM only so many; 0 is all.
    :param repair: first store again what either repository lost; the form of a trigger asks too.
    :raises ConfigurationError: the configuration is wrong.
    """
    config = config if isinstance(config, Config) else load_config(config)
    placed: dict[str, Any] = {**_connections(config), **_placement(config.backup_hosts()[0])}
    placed |= _CONTROL_RETRIES
    asks = Param(repair, type="boolean", description="Store again what either repository lost.")
    defaults = {
        "catchup": False,
        "max_active_runs": 1,
        "params": {REPAIR: asks},
        "tags": ["azstack", "sync"],
    }
    with DAG(dag_id, schedule=schedule, **{**defaults, **dag_arguments}) as dag:
        Sync(
            task_id="sync",
            replica_conn_id=replica_conn_id,
            vms=vms,
            newest=newest,
            repair=repair,
            **placed,
        )
    return dag


def prune_dag(
    dag_id: str,
    *,
    policies: Iterable[Policy | Mapping[str, Any] | str | Path] = (),
    config: Config | str | Path | None = None,
    schedule: Any = None,
    dry_run: bool = False,
    **dag_arguments: Any,
) -> DAG:
    """
    Return the DAG that forgets what policies do not keep, and then makes room.

    :param policies: those whose retention is applied, each to its own restore points.
    :param dry_run: only report; the form of a trigger asks too.
    :raises ConfigurationError: a policy or the configuration is wrong.
    """
    config = config if isinstance(config, Config) else load_config(config)
    loaded = [p if isinstance(p, Policy) else load_policy(p) for p in policies]
    placed: dict[str, Any] = {**_connections(config), **_placement(config.backup_hosts()[0])}
    placed |= _CONTROL_RETRIES
    dead = "Sessions whose runs are known to be dead, one a line: a waiting prune names them."
    about = {
        DRY_RUN: Param(dry_run, type="boolean", description="Only report."),
        DEAD_SESSIONS: Param([], type="array", items={"type": "string"}, description=dead),
        CONFIRM: Param("", type="string", description="The repository's id, if it was asked for."),
    }
    defaults = {"catchup": False, "max_active_runs": 1, "params": about, "tags": ["azstack"]}
    with DAG(dag_id, schedule=schedule, **{**defaults, **dag_arguments}) as dag:
        retentions = {policy.name: policy.retention for policy in loaded}
        forget = Forget(task_id="forget", retentions=retentions, **placed)
        forget >> Prune(task_id="prune", **placed)
    return dag


def verify_dag(
    dag_id: str,
    *,
    config: Config | str | Path | None = None,
    schedule: Any = None,
    mode: str = "cycle",
    budget_gib: int = 0,
    days: int = 30,
    **dag_arguments: Any,
) -> DAG:
    """
    Return the DAG that verifies the repository; a run that finds damage fails.

    :param mode: ``structure``, ``cycle`` or ``full``; the form of a trigger asks too.
    :param budget_gib: of a cycle: how much to read; 0 is what a daily run needs.
    :param days: in which daily cycles read everything.
    :raises ConfigurationError: the configuration is wrong.
    """
    config = config if isinstance(config, Config) else load_config(config)
    placed: dict[str, Any] = {**_connections(config), **_placement(config.backup_hosts()[0])}
    placed |= _CONTROL_RETRIES
    asks = Param(mode, enum=list(MODES), description="How much is read: nothing, a share, all.")
    defaults = {
        "catchup": False,
        "max_active_runs": 1,
        "params": {MODE: asks},
        "tags": ["azstack", "verify"],
    }
    with DAG(dag_id, schedule=schedule, **{**defaults, **dag_arguments}) as dag:
        verify = Verify(
            task_id="verify", mode=mode, budget_bytes=budget_gib * 1024**3, days=days, **placed
        )
        RequireSound(task_id="require_sound", verified=verify.output, **placed)
    return dag


def restore_dag(
    dag_id: str, *, config: Config | str | Path | None = None, **dag_arguments: Any
) -> DAG:
    """
    Return the DAG that restores what its trigger's config asks for.

    ::

        open_restore (setup) -> plan -> approve (only if something existing is touched)
            -> for each host: accept_disks -> mapped write_disk
            -> complete (all_done) -> clean_up (plain teardown)

    :raises ConfigurationError: the configuration is wrong.
    """
    config = config if isinstance(config, Config) else load_config(config)
    hosts = config.backup_hosts()
    defaults = {
        "catchup": False,
        "max_active_tasks": sum(host.streams for host in hosts) + len(hosts) + 4,
        "params": restore_form(),
        "doc_md": _ABOUT_RESTORES,
        "tags": ["azstack", "restore"],
    }
    connections = _connections(config)
    control = {**connections, **_placement(hosts[0]), **_CONTROL_RETRIES}
    with DAG(dag_id, schedule=None, **{**defaults, **dag_arguments}) as dag:
        begin = OpenRestore(task_id="open_restore", **control)
        plan = PlanRestore(task_id="plan", opened=begin.output, hosts=hosts, **control)
        approve = ApproveRestore(task_id="approve", planned=plan.output)
        complete = CreateVms(
            task_id="complete",
            planned=plan.output,
            approval="approve",
            trigger_rule=TriggerRule.ALL_DONE,
            **control,
        )
        clean_up = CleanUpRestore(task_id="clean_up", opened=begin.output, **control)
        begin.as_setup()  # type: ignore[no-untyped-call]
        for host in hosts:
            approve >> _writers(host, plan, connections) >> complete
        complete >> clean_up.as_teardown(setups=begin)
    return dag


def _writers(host: BackupHost, plan: PlanRestore, connections: dict[str, str]) -> TaskGroup:
    """Build one host's part of a restore: its pool and queue cannot be mapped."""
    placed = {**connections, **_placement(host)}
    with TaskGroup(group_id=_group_id(host.name), tooltip=f"Backup host {host.name}") as group:
        accept = AcceptDisks(
            task_id="accept_disks", host=host, planned=plan.output, **placed, **_CONTROL_RETRIES
        )
        WriteDisk.partial(
            task_id="write_disk",
            host=host.name,
            planned=plan.output,
            pool=host.pool,
            map_index_template="{{ task.disk['label'] }}",
            **placed,
            **_STREAM_RETRIES,
        ).expand(disk=accept.output)
    return group


def _backup(
    policy: Policy, config: Config, hosts: tuple[BackupHost, ...], connections: dict[str, str]
) -> None:
    # The first host does what concerns all of them: every host can reach stack and repository.
    control = {**connections, **_placement(hosts[0]), **_CONTROL_RETRIES}
    open_session = OpenSession(task_id="open_session", policy=policy, hosts=hosts, **control)
    discover = Discover(
        task_id="discover",
        job=open_session.output,
        policy=policy,
        hosts=hosts,
        caps=config.caps,
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
    placed = {**connections, **_placement(host)}
    in_pool = {**placed, "pool": host.pool, "weight_rule": "absolute", "map_index_template": _LABEL}
    with TaskGroup(group_id=_group_id(host.name), tooltip=f"Backup host {host.name}") as group:
        accept = AcceptManifest(
            task_id="accept_manifest",
            host=host,
            discovered=discover.output,
            **placed,
            **_CONTROL_RETRIES,
        )

        @task_group(group_id="workloads")
        def workloads(workload: Any) -> None:
            snapshot = Snapshot(
                task_id="snapshot",
                host=host.name,
                workload=workload,
                priority_weight=_SNAPSHOT_WEIGHT,
                **in_pool,
                **_CONTROL_RETRIES,
            )
            stream = Stream(
                task_id="stream",
                host=host.name,
                workload=workload,
                priority_weight=_STREAM_WEIGHT,
                # A stream takes the set itself where one is missing: one VM whose snapshot failed
                # must not hold back the others of its batch.
                trigger_rule=TriggerRule.ALL_DONE,
                **in_pool,
                **_STREAM_RETRIES,
            )
            snapshot >> stream

        workloads.expand(workload=accept.output)
    return group


def _connections(config: Config, policy: Policy | None = None) -> dict[str, str]:
    return {
        "stack_conn_id": (policy and policy.stack_conn_id) or config.stack_conn_id,
        "repository_conn_id": (policy and policy.repository_conn_id) or config.repository_conn_id,
    }


def _placement(host: BackupHost) -> dict[str, Any]:
    placement: dict[str, Any] = {"queue": host.queue}
    if host.executor:
        placement["executor"] = host.executor
    return placement


def _group_id(host: str) -> str:
    """Return the host's name as a group id, where a dot would separate group and task."""
    return host.replace("_", "__").replace(".", "_")
