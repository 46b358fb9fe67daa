"""
The tasks of retention: forget what the policies do not keep, then make room.

Owns their place in Airflow; what goes, and in which order, the repository decides.
Invariant: only sessions that cannot be alive are fenced: those that earlier runs of this DAG left
while it has one active run at a time, and those that a trigger's config names.
"""

import time
from collections.abc import Mapping
from typing import Any

from airflow.providers.common.compat.sdk import Context

from airflow_provider_azstack.engine.summary import prune_table
from airflow_provider_azstack.errors import SessionLost, TransientError
from airflow_provider_azstack.model import Retention
from airflow_provider_azstack.operators import metrics
from airflow_provider_azstack.operators.base import (
    DRY_RUN,
    AzStackOperator,
    run_name,
    stops_retries,
)
from airflow_provider_azstack.operators.watch import summarise

DEAD_SESSIONS, CONFIRM = "dead_sessions", "confirm"  # of the run's params, if it has such


class Forget(AzStackOperator):
    """
    Forget the restore points that policies do not keep.

    :param retentions: policy name -> its rule.
    """

    def __init__(self, *, retentions: Mapping[str, Retention], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.retentions = dict(retentions)

    @stops_retries
    def execute(self, context: Context) -> dict[str, int]:
        """Return how many points of each policy were, or would be, forgotten."""
        from airflow_provider_azstack.repo.points import forget  # noqa: PLC0415 - loads cryptography

        params = context["params"]
        repository = self.open_repository()
        forgotten = {}
        for policy, rule in self.retentions.items():
            decisions, gone = forget.forget_by_rule(
                repository,
                rule,
                policy=policy,
                dry_run=params.get(DRY_RUN, False),
                confirm=params.get(CONFIRM, ""),
            )
            for decision in decisions:
                action = "keep" if decision.is_kept else "forget"
                point = decision.point
                because = ", ".join(decision.reasons)
                self.log.info("%s %s of %s: %s", action, point.id, point.vm.name, because)
            for (vm, point_id), why in gone.held.items():
                self.log.warning("%s of VM %s is held by the store: %s", point_id, vm, why)
            forgotten[policy] = sum(not decision.is_kept for decision in decisions)
        return forgotten


class Prune(AzStackOperator):
    """Delete what no restore point needs, as far as no living session holds it back."""

    @stops_retries
    def execute(self, context: Context) -> dict[str, int]:
        """Return how many things were done of each kind, and how many bytes were freed."""
        from airflow_provider_azstack.repo.prune.collector import prune  # noqa: PLC0415 - loads cryptography

        params, run = context["params"], context["dag_run"]
        repository = self.open_repository()
        purpose = f"prune by {run.dag_id}"[:256]
        dead, began = set(params.get(DEAD_SESSIONS, ())), time.monotonic()
        if getattr(self.get_dag(), "max_active_runs", 0) == 1:
            sessions = repository.sessions().items()
            dead |= {left for left, info in sessions if info and info.purpose == purpose}
        try:
            report = prune(
                repository,
                dry_run=params.get(DRY_RUN, False),
                dead_sessions=dead,
                confirm=params.get(CONFIRM, ""),
                purpose=purpose,
                run=run_name(run.dag_id, run.run_id),
            )
        except SessionLost as lost:
            # Unlike a backup's, this session is the task's own: another try opens another one.
            raise TransientError(str(lost)) from None
        tags = {"repository": repository.id}
        table = prune_table(report, time.monotonic() - began)
        summarise(self, context, "prune", table, tags)
        metrics.gauge("repository.bytes", report.pack_bytes, tags)
        metrics.gauge("repository.packs", report.packs, tags)
        metrics.repository(repository)
        counts: dict[str, int] = {}
        for row in report.rows:
            counts[row.action] = counts.get(row.action, 0) + 1
            if row.action in ("held", "keep", "ignore", "wait"):
                self.log.warning("%s %s: %s", row.action, row.name, row.because)
        return {**counts, "freed_bytes": report.freed_bytes}
