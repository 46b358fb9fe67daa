"""
The task that copies restore points to another repository.

Owns its place in Airflow; what is copied, and in which order, ``repo.copies`` decides.
Invariant: the task succeeds only if every restore point that was meant is in the other repository.
"""

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import Context

from airflow_provider_azstack.engine.summary import sync_table
from airflow_provider_azstack.errors import ConfigurationError, SessionLost, TransientError
from airflow_provider_azstack.hooks.repository import RepositoryHook
from airflow_provider_azstack.operators.base import AzStackOperator, run_name, stops_retries
from airflow_provider_azstack.operators.watch import Watch, summarise

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.copies.outcome import Outcome

REPAIR = "repair"  # of the run's params, if it has such a one


class Sync(AzStackOperator):
    """
    Copy restore points to another repository, and repair from it if asked to.

    :param replica_conn_id: connection of type ``azstack_repository`` of the other one.
    :param vms: names, keys or ids; none is all.
    :param newest: of each VM only so many; 0 is all.
    :param repair: first store again what either of them lost; a run's param of that name wins.
    :param threads: blocks in hand at once.
    """

    def __init__(
        self,
        *,
        replica_conn_id: str,
        vms: tuple[str, ...] = (),
        newest: int = 0,
        repair: bool = False,
        threads: int = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.replica_conn_id = replica_conn_id
        self.vms = vms
        self.newest = newest
        self.repair = repair
        self.threads = threads

    @stops_retries
    def execute(self, context: Context) -> dict[str, int]:
        """Return how many restore points were copied, there already, and repaired."""
        from airflow_provider_azstack.repo.copies.outcome import require_done  # noqa: PLC0415 - heavy

        try:
            began = time.monotonic()
            outcomes = self._sync(context)
        except SessionLost as lost:
            # Unlike a backup's, this session is the task's own: another try opens another one.
            raise TransientError(str(lost)) from None
        table = sync_table(outcomes, time.monotonic() - began)
        summarise(self, context, "sync", table, {"replica": self.replica_conn_id})
        require_done(outcomes)
        self._require_known()
        return dict(Counter(outcome.status for outcome in outcomes))

    def _require_known(self) -> None:
        """Refuse to be green for a VM of which nothing could be copied, as a misspelt one."""
        if not self.vms:
            return
        vms = [point.vm for point in self.open_repository().points()]
        known = {text for vm in vms for text in (vm.name, vm.key, vm.id)}
        if unknown := sorted(set(self.vms) - known):
            raise ConfigurationError(
                f"there is no restore point of a VM {unknown[0]!r}: all others were copied"
            )

    def _sync(self, context: Context) -> "list[Outcome]":
        from airflow_provider_azstack.repo.copies.sync import (  # noqa: PLC0415 - loads cryptography
            Selection,
            repair,
            sync,
        )

        here, replica = self.open_repository(), RepositoryHook(self.replica_conn_id).get_conn()
        dag_run = context["dag_run"]
        # Two sites may copy to each other, by DAGs of one name.
        purpose = f"sync to {replica.id} by {dag_run.dag_id}"[:256]
        for repository in (here, replica):
            self.fence_left_over(repository, purpose)
        work: dict[str, Any] = {
            "selection": Selection(self.vms, (), self.newest),
            "threads": self.threads,
            "run": run_name(dag_run.dag_id, dag_run.run_id),
            "purpose": purpose,
            "report": lambda outcome: self.log.info("%s", outcome),
            "progress": Watch(self, context, "sync", {"replica": self.replica_conn_id}),
        }
        outcomes: list[Outcome] = []
        with self.stoppable() as cancel:
            if context["params"].get(REPAIR, self.repair):
                outcomes += repair(replica, here, cancel=cancel, **work)
                outcomes += repair(here, replica, cancel=cancel, **work)
            outcomes += sync(here, replica, cancel=cancel, **work)
        return outcomes
