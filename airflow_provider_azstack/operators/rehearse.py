"""
The task that restores on trial.

Owns its place in Airflow; what is tried and how, the engine decides.
Invariant: the evidence is in the repository before a bad verdict fails the run.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import Context

from airflow_provider_azstack.errors import ConfigurationError, DamageFound
from airflow_provider_azstack.operators import metrics
from airflow_provider_azstack.operators.base import AzStackOperator, stops_retries
from airflow_provider_azstack.operators.watch import Watch

if TYPE_CHECKING:
    from airflow_provider_azstack.model import RestorePoint
    from airflow_provider_azstack.repo.repository import Repository
    from airflow_provider_azstack.repo.verify.rehearsals import Rehearsal

VM, VMS = "vm", "vms"  # of the run's params, if it has such


class Rehearse(AzStackOperator):
    """
    Restore the newest points of the VMs that are due on trial, and check them.

    :param scratch: a directory of the host that runs this, with room for the largest disk's data.
    :param group: instead: a resource group of the stack, empty, for these trials only.
    :param subnet: of the group's VMs, from which they reach nothing; without one no VM is started.
    :param storage_account: stages uploads, where the stack takes no direct ones.
    :param vms: how many VMs one run tries; a run's param of that name wins.
    """

    def __init__(
        self,
        *,
        vms: int,
        scratch: str = "",
        group: str = "",
        subnet: str = "",
        storage_account: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.scratch = scratch
        self.group = group
        self.subnet = subnet
        self.storage_account = storage_account
        self.vms = vms

    @stops_retries
    def execute(self, context: Context) -> dict[str, bool]:
        """Return which restore points came back whole; one that did not fails the run."""
        repository, verdicts = self.open_repository(), {}
        self.fence_left_over(repository, _purpose(context))
        chosen = self._chosen(repository, context)
        for one in self._tried(repository, chosen, context):
            verdicts[f"{one.vm} {one.point}"] = one.is_good
            for disk in one.disks:
                for text in (*disk.file_systems, *disk.problems):
                    self.log.info("%s %s: %s", one.vm, disk.disk_key, text)
            for text in one.problems:
                self.log.info("%s: %s", one.vm, text)
            _tell(one, {"repository": repository.id})
        bad = [name for name, is_good in verdicts.items() if not is_good]
        if bad:
            raise DamageFound(f"did not come back whole: {', '.join(bad)}; see the log for why")
        return verdicts

    def _chosen(self, repository: "Repository", context: Context) -> "list[RestorePoint]":
        from airflow_provider_azstack.engine.rehearse import due  # noqa: PLC0415 - zstandard

        vm, count = context["params"].get(VM, ""), context["params"].get(VMS, self.vms)
        points = due(repository)
        if not points:
            raise ConfigurationError("the repository has no restore point: nothing can be tried")
        if not vm:
            return points[:count]
        named = [p for p in points if vm.lower() in {p.vm.name.lower(), p.vm.key, p.vm.id.lower()}]
        if not named:
            raise ConfigurationError(f"there is no restore point of a VM {vm[:80]!r}")
        return named

    def _tried(
        self, repository: "Repository", points: "list[RestorePoint]", context: Context
    ) -> "list[Rehearsal]":
        from airflow_provider_azstack.engine.rehearse import rehearse  # noqa: PLC0415 - zstandard
        from airflow_provider_azstack.engine.rehearse_stack import (  # noqa: PLC0415 - heavy
            Scratch,
            rehearse_on_stack,
        )

        purpose = _purpose(context)
        if not self.group:
            with self.stoppable():
                return [
                    rehearse(repository, point, Path(self.scratch), purpose=purpose)
                    for point in points
                ]
        scratch = Scratch(self.group, subnet=self.subnet, storage_account=self.storage_account)
        watch = Watch(self, context, "rehearsal", {"repository": repository.id})
        with self.open_stack() as stack, self.stoppable() as cancel:
            return [
                rehearse_on_stack(
                    stack, repository, point, scratch, purpose=purpose, tell=watch, cancel=cancel
                )
                for point in points
            ]


def _purpose(context: Context) -> str:
    return f"rehearsal by {context['dag_run'].dag_id}"[:256]


def _tell(rehearsal: "Rehearsal", tags: dict[str, str]) -> None:
    metrics.count(f"rehearsal.{'good' if rehearsal.is_good else 'bad'}", 1, tags)
    metrics.timing("rehearsal.duration", rehearsal.seconds, tags)
