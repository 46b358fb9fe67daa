"""
The tasks of a restore, each a sentence over the engine.

Owns what crosses from task to task: names and sizes; the plan itself is in the repository.
Invariants: nothing is written before the whole plan was made without a refusal, and agreed to by a
person where something that exists would be touched. ``CreateVms`` decides from the repository and
the stack, never from task states.
"""

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSkipException, Context
from airflow.providers.standard.operators.hitl import ApprovalOperator

from airflow_provider_azstack.config import BackupHost
from airflow_provider_azstack.engine.pace import Pace, host_limits
from airflow_provider_azstack.engine.restore.request import read_request
from airflow_provider_azstack.errors import ConfigurationError, IncompleteJob, Refused
from airflow_provider_azstack.hooks.pools import check_pool
from airflow_provider_azstack.operators.base import (
    AzStackOperator,
    check_this_host,
    run_name,
    stops_retries,
)

if TYPE_CHECKING:
    from airflow_provider_azstack.engine.restore.records import RestorePlan
    from airflow_provider_azstack.repo.sessions import Session


class OpenRestore(AzStackOperator):
    """Check what the trigger asks for, and keep what it needs from being collected."""

    @stops_retries
    def execute(self, context: Context) -> dict[str, Any]:
        """Return the run's name and session."""
        run = context["dag_run"]
        read_request(run.conf or {}, "the trigger's config")
        name = run_name(run.dag_id, run.run_id)
        session = self.open_repository().open_session(
            "restore", run=name, host=socket.gethostname()
        )
        self.log.info("run %s, session %s", name, session.id)
        return {"run": name, "session": session.id}


class PlanRestore(AzStackOperator):
    """Say everything that will be done, and share the disks among the backup hosts."""

    template_fields = ("opened",)

    def __init__(self, *, opened: Any, hosts: Sequence[BackupHost], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.opened = opened
        self.hosts = tuple(hosts)

    @stops_retries
    def execute(self, context: Context) -> dict[str, Any]:
        """Return the plan's name in the repository, and each host's disks."""
        # The engine loads azure and cryptography: not while DAG files are parsed.
        from airflow_provider_azstack.engine.restore import plan as restore_plan  # noqa: PLC0415
        from airflow_provider_azstack.engine.restore import share as restore_share  # noqa: PLC0415

        session = self.open_repository().join_session(_text(self.opened, "session"))
        request = read_request(context["dag_run"].conf or {}, "the trigger's config")
        with self.open_stack() as stack:
            plan = restore_plan.plan_restore(stack, session.repository, request)
        for remark in plan.remarks:
            self.log.warning("%s", remark)
        for refusal in plan.refusals:
            self.log.error("refused: %s", refusal)
        if plan.refusals:
            raise Refused(f"{len(plan.refusals)} refusals: {'; '.join(plan.refusals[:20])}")
        return {
            **self.opened,
            "plan": restore_share.keep(session, plan, _text(self.opened, "run")),
            "touched": list(plan.touched),
            "write_bytes": plan.write_bytes,
            "disks": restore_share.shared(plan, {host.name: host.streams for host in self.hosts}),
        }


class ApproveRestore(ApprovalOperator):
    """Ask a person, but only when something that exists would be touched."""

    template_fields = ("planned", *ApprovalOperator.template_fields)

    def __init__(self, *, planned: Any, **kwargs: Any) -> None:
        super().__init__(subject="A restore changes what exists", fail_on_reject=True, **kwargs)
        self.planned = planned

    def execute(self, context: Context) -> Any:
        """Wait for the answer, if there is something to ask."""
        touched = self.planned.get("touched")
        if not touched:
            self.log.info("nothing that exists is touched: no approval is needed")
            return None
        self.body = "\n".join(["These will be changed:", "", *(f"- `{one}`" for one in touched)])
        return super().execute(context)


class AcceptDisks(AzStackOperator):
    """On a backup host: check that it can work at all, then hand out its disks."""

    template_fields = ("planned",)

    def __init__(self, *, host: BackupHost, planned: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.host = host
        self.planned = planned

    @stops_retries
    def execute(self, context: Context) -> list[dict[str, Any]]:  # noqa: ARG002 - Airflow's
        """Return the host's disks; the writing tasks are mapped over them."""
        disks = self.planned["disks"].get(self.host.name)
        if not disks:
            raise AirflowSkipException(f"backup host {self.host.name!r} has no part in this run")
        check_this_host(self.host.name)
        check_pool(self.host)
        self.open_repository().join_session(_text(self.planned, "session"))
        return [{**disk, "host": self.host.name} for disk in disks]


class WriteDisk(AzStackOperator):
    """Write one disk, until all of it is on the stack."""

    template_fields = ("planned", "disk")

    def __init__(
        self,
        *,
        host: str,
        planned: Any,
        disk: Any,
        limit_bytes: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.host = host
        self.limit_bytes = limit_bytes
        self.planned = planned
        self.disk = disk

    @stops_retries
    def execute(self, context: Context) -> None:  # noqa: ARG002 - Airflow's signature
        """Write what an earlier try has not."""
        from airflow_provider_azstack.engine.restore import share as restore_share  # noqa: PLC0415 - heavy

        if _text(self.disk, "host") != self.host:
            raise ConfigurationError(f"a disk of another host reached {self.host!r}: run again")
        check_this_host(self.host)
        session, plan = _plan(self, self.planned)
        with self.open_stack() as stack, self.stoppable() as cancel:
            restore_share.write_one(
                stack,
                session,
                plan,
                _text(self.disk, "vm"),
                _text(self.disk, "key"),
                tell=self.log.info,
                cancel=cancel,
                pace=Pace(host_limits(self.host, self.limit_bytes)),
            )


class CreateVms(AzStackOperator):
    """Create each VM whose disks are whole; fail if one is missing."""

    template_fields = ("planned",)

    def __init__(self, *, planned: Any, approval: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.planned = planned
        self.approval = approval

    @stops_retries
    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Return how each VM fared."""
        from airflow_provider_azstack.engine.restore import execute as restore  # noqa: PLC0415 - loads cryptography

        if not self.planned:
            raise IncompleteJob("the plan did not end well: nothing was restored; see its log")
        self._require_approval(context)
        session, plan = _plan(self, self.planned)
        with (
            self.open_stack() as stack,
            restore.opened(stack, session, plan, self.log.info) as work,
        ):
            outcomes = restore.create_vms(work)
        failed = [outcome for outcome in outcomes if outcome.status == "failed"]
        for outcome in outcomes:
            self.log.info("%s: %s %s", outcome.vm, outcome.status, outcome.reason)
        if failed:
            reasons = "; ".join(f"{outcome.vm}: {outcome.reason}" for outcome in failed)
            raise IncompleteJob(f"{len(failed)} of {len(outcomes)} VMs not restored: {reasons}")
        return [outcome._asdict() for outcome in outcomes]

    def _require_approval(self, context: Context) -> None:
        """Refuse without a yes: this task runs whatever became of those before it."""
        if not self.planned["touched"]:
            return
        answer = context["ti"].xcom_pull(task_ids=self.approval) or {}
        if list(answer.get("chosen_options") or ()) != [ApprovalOperator.APPROVE]:
            raise Refused("the restore was not approved: nothing that exists was touched")


class CleanUpRestore(AzStackOperator):
    """Delete what is half-written, and close the session."""

    template_fields = ("opened",)

    def __init__(self, *, opened: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.opened = opened

    @stops_retries
    def execute(self, context: Context) -> list[str]:
        """Return what was deleted."""
        from airflow_provider_azstack.engine.restore import execute as restore  # noqa: PLC0415 - loads cryptography

        session = self.open_repository().join_session(_text(self.opened, "session"))
        planned = context["ti"].xcom_pull(task_ids="plan")
        gone: list[str] = []
        try:
            if planned:
                session, plan = _plan(self, planned)
                with self.open_stack() as stack:
                    gone = restore.discard(stack, session, plan)
        finally:
            session.close()
        return gone


def _plan(operator: AzStackOperator, planned: Any) -> "tuple[Session, RestorePlan]":
    """Return the run's session in this process, and the plan that was agreed to."""
    from airflow_provider_azstack.engine.restore import share as restore_share  # noqa: PLC0415 - heavy

    session = operator.open_repository().join_session(_text(planned, "session"))
    return session, restore_share.kept(session.repository, _text(planned, "plan"))


def _text(value: Any, key: str) -> str:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, str):
        raise ConfigurationError(f"{key} is missing in what an earlier task left: run again")
    return found
