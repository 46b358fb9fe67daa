"""
The DAG of a restore.

Owns its shape, pools, queues and the form; knows nothing of what the tasks do.
Invariants: what a host writes is written in its pool and queue; nothing is written before the plan,
and nothing that exists is touched before somebody approved. Disks that several hosts write are
there before any of them begins, and are finished when all of them have ended.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG, TaskGroup, TriggerRule

from airflow_provider_azstack.config import BackupHost, Config, load_config
from airflow_provider_azstack.dag_factory.placement import (
    CONTROL_RETRIES,
    STREAM_RETRIES,
    connection_ids,
    group_id,
    placement,
)
from airflow_provider_azstack.operators.base import about
from airflow_provider_azstack.operators.restore import (
    AcceptDisks,
    ApproveRestore,
    CleanUpRestore,
    CreateVms,
    FinishDisks,
    OpenRestore,
    PlanRestore,
    PrepareRestore,
    WriteDisk,
)
from airflow_provider_azstack.params import restore_form

_ABOUT = """\
Restores virtual machines, or disks only. The plan says everything that will be done and refuses,
before anything is written, whatever cannot be; a person is asked where something that exists would
be touched. docs/restore.md describes the request.
"""


def restore_dag(
    dag_id: str,
    *,
    config: Config | str | Path | None = None,
    approval: Mapping[str, Any] | None = None,
    **dag_arguments: Any,
) -> DAG:
    """
    Return the DAG that restores what its trigger's config asks for.

    ::

        open_restore (setup) -> plan -> approve (only if something existing is touched) -> prepare
            -> for each host: accept_disks -> mapped write_disk
            -> finish_disks (all_done; those that several hosts wrote)
            -> complete (all_done) -> clean_up (plain teardown)

    :param approval: what else ``ApprovalOperator`` takes: ``assigned_users``, ``notifiers``,
        ``response_timeout``.
    :param dag_arguments: anything else that ``DAG`` takes: ``tags``, callbacks...
    :raises ConfigurationError: the configuration is wrong.
    """
    config = load_config(config)
    hosts = config.backup_hosts()
    defaults = {
        "catchup": False,
        "is_paused_upon_creation": False,  # it runs only when asked, and then must not wait
        "max_active_tasks": sum(host.streams for host in hosts) + len(hosts) + 4,
        "params": restore_form(),
        "doc_md": _ABOUT,
        "tags": ["azstack", "restore"],
    }
    connections = connection_ids(config)
    control = {**connections, **placement(hosts[0]), **CONTROL_RETRIES}
    with DAG(dag_id, schedule=None, **{**defaults, **dag_arguments}) as dag:
        begin = OpenRestore(task_id="open_restore", **control)
        plan = PlanRestore(task_id="plan", opened=begin.output, config=config, **control)
        # Airflow fails a task that is answered before its scheduler heard that it waits: ask again.
        approve = ApproveRestore(
            task_id="approve",
            planned=plan.output,
            doc_md=about(ApproveRestore),
            **{**CONTROL_RETRIES, **(approval or {})},
        )
        prepare = PrepareRestore(
            task_id="prepare", planned=plan.output, config=config, approval="approve", **control
        )
        finish = FinishDisks(
            task_id="finish_disks",
            host=hosts[0].name,
            prepared=prepare.output,
            limit_bytes=hosts[0].limit_bytes,
            pool=hosts[0].pool,
            trigger_rule=TriggerRule.ALL_DONE,
            **{**connections, **placement(hosts[0]), **STREAM_RETRIES},
        )
        complete = CreateVms(
            task_id="complete",
            planned=plan.output,
            approval="approve",
            trigger_rule=TriggerRule.ALL_DONE,
            **control,
        )
        clean_up = CleanUpRestore(task_id="clean_up", opened=begin.output, **control)
        begin.as_setup()  # type: ignore[no-untyped-call]
        approve >> prepare
        for host in hosts:
            _writers(host, prepare, connections) >> finish
        finish >> complete >> clean_up.as_teardown(setups=begin)
    return dag


def _writers(host: BackupHost, prepare: PrepareRestore, connections: dict[str, str]) -> TaskGroup:
    """Build one host's part of a restore: its pool and queue cannot be mapped."""
    placed = {**connections, **placement(host)}
    with TaskGroup(group_id=group_id(host.name), tooltip=f"Backup host {host.name}") as group:
        accept = AcceptDisks(
            task_id="accept_disks", host=host, prepared=prepare.output, **placed, **CONTROL_RETRIES
        )
        WriteDisk.partial(
            task_id="write_disk",
            host=host.name,
            limit_bytes=host.limit_bytes,
            planned=prepare.output,
            doc_md=about(WriteDisk),  # a mapped task is described before it is one
            pool=host.pool,
            map_index_template="{{ task.disk['label'] }}",
            **placed,
            **STREAM_RETRIES,
        ).expand(disk=accept.output)
    return group
