"""
The DAGs that keep a stack and a repository in order: janitor, copies, retention, verification.

Owns their shape and forms; knows nothing of what the tasks do. Invariant: each runs on the first
backup host, one run at a time.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG, Param

from airflow_provider_azstack.config import Config, load_config
from airflow_provider_azstack.dag_factory.placement import (
    CONTROL_RETRIES,
    UNATTENDED,
    connection_ids,
    placement,
)
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.model import Retention
from airflow_provider_azstack.operators.base import DRY_RUN
from airflow_provider_azstack.operators.janitor import Janitor
from airflow_provider_azstack.operators.prune import CONFIRM, DEAD_SESSIONS, Forget, Prune
from airflow_provider_azstack.operators.refuse import Refuse
from airflow_provider_azstack.operators.rehearse import VM, VMS, Rehearse
from airflow_provider_azstack.operators.sync import REPAIR, Sync
from airflow_provider_azstack.operators.verify import MODE, MODES, RequireSound, Verify
from airflow_provider_azstack.policy import Policy, load_policy

_ABOUT = {
    "janitor": """\
Finds what killed runs left on the stack (snapshots, half-written disks, VMs that were stopped for a
backup) and removes or mends it. Touches nothing that lacks this package's tags and this
repository's id, and nothing of a run that may be alive.
""",
    "sync": """\
Copies the restore points that another repository lacks to it. The copies can be read with that
repository's own passphrase, whatever becomes of this one. docs/copies.md says more.
""",
    "prune": """\
Forgets the restore points that no policy keeps, and then deletes what no restore point needs.
Restore points of policies that are not among its own are kept. Trigger it with *Only report* to see
what would go. docs/retention.md says more.
""",
    "verify": """\
Reads the repository and says what of it is whole. A run that finds damage fails, and names the VMs
and restore points that it concerns. docs/verification.md says more.
""",
    "rehearsal": """\
Restores VMs on trial, those first that were not tried for longest, checks what came back, and keeps
the evidence. A run in which a disk does not come back whole fails. docs/verification.md says more.
""",
}


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

    :param dry_run: only report; the form of a trigger asks too.
    :raises ConfigurationError: the configuration is wrong.
    """
    asks = Param(dry_run, type="boolean", title="Only report", description="Change nothing.")
    with _one_at_a_time("janitor", dag_id, schedule, {DRY_RUN: asks}, dag_arguments) as dag:
        Janitor(task_id="janitor", dry_run=dry_run, **_placed(config))
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
    placed = _placed(config)
    what = "First store again what either repository lost, from the other one."
    asks = Param(repair, type="boolean", title="Repair", description=what)
    with _one_at_a_time("sync", dag_id, schedule, {REPAIR: asks}, dag_arguments) as dag:
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

    Its runs fail while there is a mistake in any policy: what is to be kept must be known of all.

    :param policies: those whose retention is applied, each to its own restore points.
    :param dry_run: only report; the form of a trigger asks too.
    :raises ConfigurationError: the configuration is wrong.
    """
    config = load_config(config)
    retentions, mistakes = _retentions(policies)
    asks = {
        DRY_RUN: Param(dry_run, type="boolean", title="Only report", description="Change nothing."),
        DEAD_SESSIONS: Param(
            [],
            type="array",
            items={"type": "string"},
            title="Dead sessions",
            description="Those whose runs are known to be dead, one a line: a prune that waits for "
            "one names it.",
        ),
        CONFIRM: Param(
            "",
            type="string",
            title="Confirmation",
            description="The repository's id, where an earlier run asked for it.",
        ),
    }
    with _one_at_a_time("prune", dag_id, schedule, asks, dag_arguments) as dag:
        if mistakes:
            said = "; ".join(mistakes)
            mistake = f"nothing is forgotten: what to keep must be known of all policies: {said}"
            Refuse(task_id="policies", mistake=mistake, **placement(config.backup_hosts()[0]))
        else:
            forget = Forget(task_id="forget", retentions=retentions, **_placed(config))
            forget >> Prune(task_id="prune", **_placed(config))
    return dag


def _retentions(
    policies: Iterable[Policy | Mapping[str, Any] | str | Path],
) -> tuple[dict[str, Retention], list[str]]:
    """Return the rule of each policy by its name, and what is wrong with policies."""
    retentions: dict[str, Retention] = {}
    mistakes = []
    for source in policies:
        try:
            policy = load_policy(source)
        except ConfigurationError as error:
            mistakes.append(str(error))
            continue
        if policy.name in retentions:
            mistakes.append(f"two policies are called {policy.name!r}, by whose rule? rename one")
        retentions[policy.name] = policy.retention
    return retentions, mistakes


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
    placed = _placed(config)
    what = "How much is read: nothing but records, a share, everything."
    asks = Param(mode, enum=list(MODES), title="Mode", description=what)
    with _one_at_a_time("verify", dag_id, schedule, {MODE: asks}, dag_arguments) as dag:
        verify = Verify(
            task_id="verify", mode=mode, budget_bytes=budget_gib * 1024**3, days=days, **placed
        )
        RequireSound(task_id="require_sound", verified=verify.output, **placed)
    return dag


def rehearsal_dag(
    dag_id: str,
    *,
    scratch: str = "",
    scratch_group: str = "",
    subnet: str = "",
    storage_account: str = "",
    vms: int = 1,
    config: Config | str | Path | None = None,
    schedule: Any = None,
    **dag_arguments: Any,
) -> DAG:
    """
    Return the DAG that restores on trial; a run in which a disk does not come back whole fails.

    :param scratch: a directory of the first backup host, with room for the largest disk's data.
    :param scratch_group: instead: a resource group of the stack, empty, for these trials only.
    :param subnet: with a group: where VMs are made and started, and reach nothing from there:
        ``group/network/subnet``. Without one, only disks are made.
    :param storage_account: with a group: stages uploads, where the stack takes no direct ones.
    :param vms: how many VMs a run tries, those first that were not tried for longest; the form of a
        trigger asks too.
    :raises ConfigurationError: the configuration is wrong.
    """
    if bool(scratch) == bool(scratch_group):
        raise ConfigurationError("rehearsal_dag: give either scratch or scratch_group")
    if (subnet or storage_account) and not scratch_group:
        raise ConfigurationError("rehearsal_dag: subnet and storage_account go with scratch_group")
    placed = _placed(config)
    asks = {
        VMS: Param(
            vms,
            type="integer",
            minimum=1,
            maximum=1000,
            title="How many VMs",
            description="Those first that were not tried for longest.",
        ),
        VM: Param(
            "",
            type="string",
            title="Virtual machine",
            description="Instead: this one, by name, key or id.",
        ),
    }
    with _one_at_a_time("rehearsal", dag_id, schedule, asks, dag_arguments) as dag:
        Rehearse(
            task_id="rehearse",
            scratch=scratch,
            group=scratch_group,
            subnet=subnet,
            storage_account=storage_account,
            vms=vms,
            **placed,
        )
    return dag


def _placed(config: Config | str | Path | None) -> dict[str, Any]:
    """Return what makes a task run on the first host, which concerns all of them."""
    config = load_config(config)
    return {**connection_ids(config), **placement(config.backup_hosts()[0]), **CONTROL_RETRIES}


def _one_at_a_time(
    kind: str, dag_id: str, schedule: Any, form: dict[str, Param], arguments: dict[str, Any]
) -> DAG:
    """:param arguments: of the DAG; they go before what is usual here."""
    usual = {
        **UNATTENDED,
        "max_active_runs": 1,
        "params": form,
        "doc_md": _ABOUT[kind],
        "tags": ["azstack", kind],
    }
    return DAG(dag_id, schedule=schedule, **{**usual, **arguments})
