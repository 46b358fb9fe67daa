"""
The tasks of a restore, each a sentence over the engine.

Owns what crosses from task to task: names and sizes; the plan itself is in the repository.
Invariants: nothing is written before the whole plan was made without a refusal, and agreed to by a
person where something that exists would be touched. ``CreateVms`` decides from the repository and
the stack, never from task states.
"""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSkipException,
    Context,
)
from airflow.providers.standard.exceptions import HITLRejectException
from airflow.providers.standard.operators.hitl import ApprovalOperator

from airflow_provider_azstack.config import BackupHost, Config
from airflow_provider_azstack.engine.pace import Pace, host_limits
from airflow_provider_azstack.engine.restore.request import read_request
from airflow_provider_azstack.engine.summary import restore_table
from airflow_provider_azstack.errors import ConfigurationError, IncompleteJob, Refused
from airflow_provider_azstack.hooks.pools import check_pool
from airflow_provider_azstack.operators.base import (
    AzStackOperator,
    check_this_host,
    numbered,
    run_name,
    stops_retries,
)
from airflow_provider_azstack.operators.watch import Watch, summarise
from airflow_provider_azstack.speed import counted

if TYPE_CHECKING:
    from airflow_provider_azstack.engine.restore.records import RestorePlan
    from airflow_provider_azstack.engine.restore.writing import Restore
    from airflow_provider_azstack.repo.sessions import Session


SHOWN = 20  # reasons that an error names; more are in the log
MAX_LINES = 500  # of what a VM lost, that go from task to task; all are in the log


class OpenRestore(AzStackOperator):
    """Check what the trigger asks for, and keep what it needs from being collected."""

    @stops_retries
    def execute(self, context: Context) -> dict[str, Any]:
        """Return the run's name and session."""
        run = context["dag_run"]
        read_request(run.conf or {}, "the trigger's config")
        name = run_name(run.dag_id, run.run_id)
        repository = self.open_repository()
        for left, info in repository.sessions().items():
            if info and info.run == name:  # of a try that was killed: nobody knows its id
                repository.fence(left)
        session = repository.open_session("restore", run=name, host=socket.gethostname())
        self.log.info("run %s, session %s", name, session.id)
        return {"run": name, "session": session.id}


class PlanRestore(AzStackOperator):
    """Say everything that will be done."""

    template_fields = ("opened",)

    def __init__(self, *, opened: Any, config: Config, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.opened = opened
        self.config = config

    @stops_retries
    def execute(self, context: Context) -> dict[str, Any]:
        """Return the plan's name in the repository."""
        # The engine loads azure and cryptography: not while DAG files are parsed.
        from airflow_provider_azstack.engine.restore import outline  # noqa: PLC0415
        from airflow_provider_azstack.engine.restore import plan as restore_plan  # noqa: PLC0415
        from airflow_provider_azstack.engine.restore import prepare as restore_prepare  # noqa: PLC0415
        from airflow_provider_azstack.engine.restore import share as restore_share  # noqa: PLC0415

        session = self.open_repository().join_session(_text(self.opened, "session"))
        request = read_request(context["dag_run"].conf or {}, "the trigger's config")
        with self.open_stack(mid_work=False) as stack:
            plan = restore_plan.plan_restore(stack, session.repository, request)
        plan = restore_prepare.remarked(plan, restore_prepare.Splitting.of(self.config))
        vms, changes = outline.vm_lines(plan), outline.change_lines(plan)
        for line in (*vms, *changes):
            self.log.info("%s", line)
        for remark in plan.remarks:
            self.log.warning("%s", remark)
        if plan.refusals:
            refused = counted(len(plan.refusals), "refusal")
            raise Refused(f"{refused}: {_shown(self, plan.refusals)}")
        return {
            **self.opened,
            "plan": restore_share.keep(session, plan, _text(self.opened, "run")),
            "vms": _bounded(vms, SHOWN),
            "touched": changes,
            "write_bytes": plan.write_bytes,
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
        parts = {
            "Restored:": self.planned.get("vms", []),
            "What exists and will be changed:": touched,
        }
        self.body = "\n\n".join(
            line for title, lines in parts.items() for line in (title, _listed(lines))
        )
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Take the answer; who said no is not asked again, however many retries there are."""
        try:
            return super().execute_complete(context, event)
        except HITLRejectException:
            raise AirflowFailException("rejected: nothing that exists is touched") from None


class PrepareRestore(AzStackOperator):
    """Make ready what exists, and the disks that several hosts write; say who writes what."""

    template_fields = ("planned",)

    def __init__(self, *, planned: Any, config: Config, approval: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.planned = planned
        self.config = config
        self.approval = approval

    @stops_retries
    def execute(self, context: Context) -> dict[str, Any]:
        """Return each host's tasks, and the disks that several of them share."""
        from airflow_provider_azstack.engine.restore import prepare as restore_prepare  # noqa: PLC0415 - heavy
        from airflow_provider_azstack.engine.restore import share as restore_share  # noqa: PLC0415 - heavy

        _require_approval(self.planned, self.approval, context)
        host = self.config.backup_hosts()[0]  # where this runs
        with _at_work(self, context, self.planned, host.name, host.limit_bytes) as work:
            prepared = restore_share.prepare(work, restore_prepare.Splitting.of(self.config))
        return {**self.planned, **prepared}


class AcceptDisks(AzStackOperator):
    """On a backup host: check that it can work at all, then hand out its disks."""

    template_fields = ("prepared",)

    def __init__(self, *, host: BackupHost, prepared: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.host = host
        self.prepared = prepared

    @stops_retries
    def execute(self, context: Context) -> list[dict[str, Any]]:  # noqa: ARG002 - Airflow's
        """Return the host's disks; the writing tasks are mapped over them."""
        disks = self.prepared["disks"].get(self.host.name)
        if not disks:
            raise AirflowSkipException(f"backup host {self.host.name!r} has no part in this run")
        check_this_host(self.host.name)
        check_pool(self.host)
        self.open_repository().join_session(_text(self.prepared, "session"))
        return [{**disk, "host": self.host.name} for disk in disks]


class WriteDisk(AzStackOperator):
    """Write one disk, or a host's share of one, until all of it is on the stack."""

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
    def execute(self, context: Context) -> None:
        """Write what an earlier try has not."""
        from airflow_provider_azstack.engine.restore import share as restore_share  # noqa: PLC0415 - heavy

        if _text(self.disk, "host") != self.host:
            raise ConfigurationError(f"a disk of another host reached {self.host!r}: run again")
        with _at_work(self, context, self.planned, self.host, self.limit_bytes) as work:
            restore_share.write(work, self.disk)


class FinishDisks(AzStackOperator):
    """When all hosts have ended: write what they left of the disks they share, and finish those."""

    template_fields = ("prepared",)

    def __init__(
        self, *, host: str, prepared: Any, limit_bytes: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.host = host
        self.prepared = prepared
        self.limit_bytes = limit_bytes

    @stops_retries
    def execute(self, context: Context) -> None:
        """Skip where there is none: most restores are of small disks."""
        from airflow_provider_azstack.engine.restore import share as restore_share  # noqa: PLC0415 - heavy

        if not self.prepared or not self.prepared["split"]:
            raise AirflowSkipException("no disk is written by several hosts")
        with _at_work(self, context, self.prepared, self.host, self.limit_bytes) as work:
            restore_share.finish(work, self.prepared["split"])


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
        _require_approval(self.planned, self.approval, context)
        session, plan = _plan(self, self.planned)
        with (
            self.open_stack() as stack,
            restore.opened(stack, session, plan, self.log.info) as work,
        ):
            outcomes = restore.create_vms(work)
        for outcome in outcomes:
            for line in outcome.lost:
                self.log.warning("%s %s", outcome.vm, line)
        failed = [f"{one.vm}: {one.reason}" for one in outcomes if one.status == "failed"]
        summarise(self, context, "restore", restore_table(plan, outcomes), {"stack": plan.stack})
        if failed:
            shown = _shown(self, failed)
            raise IncompleteJob(f"{len(failed)} of {len(outcomes)} VMs not restored: {shown}")
        return [{**outcome._asdict(), "lost": _bounded(outcome.lost)} for outcome in outcomes]


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


def _shown(operator: AzStackOperator, reasons: Sequence[str]) -> str:
    """Return what an error says of reasons, and log those that it has no room for."""
    for reason in reasons[SHOWN:]:
        operator.log.error("%s", reason)
    return numbered(reasons[:SHOWN])


def _bounded(lines: list[str], most: int = MAX_LINES) -> list[str]:
    more = len(lines) - most
    return lines[:most] + ([f"and {more} more: see the log"] if more > 0 else [])


def _listed(lines: list[str]) -> str:
    """Return a list in Markdown, in which names are shown as they are."""
    return "\n".join("- `" + line.replace("`", "'") + "`" for line in lines)


def _require_approval(planned: Any, approval: str, context: Context) -> None:
    """Refuse without a yes, whatever Airflow says about the task that asks for it."""
    if not planned["touched"]:
        return
    answer = context["ti"].xcom_pull(task_ids=approval) or {}
    if list(answer.get("chosen_options") or ()) != [ApprovalOperator.APPROVE]:
        raise Refused("the restore was not approved: nothing that exists was touched")


@contextmanager
def _at_work(
    operator: AzStackOperator, context: Context, planned: Any, host: str, limit_bytes: int | None
) -> "Iterator[Restore]":
    """Give what a host carries its part of the plan out with."""
    from airflow_provider_azstack.engine.restore import share as restore_share  # noqa: PLC0415 - heavy

    check_this_host(host)
    session, plan = _plan(operator, planned)
    with (
        operator.open_stack() as stack,
        operator.stoppable() as cancel,
        restore_share.at_work(
            stack,
            session,
            plan,
            tell=Watch(operator, context, "restore", {"stack": plan.stack, "host": host}),
            host=host,
            cancel=cancel,
            pace=Pace(host_limits(host, limit_bytes)),
        ) as work,
    ):
        yield work


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
