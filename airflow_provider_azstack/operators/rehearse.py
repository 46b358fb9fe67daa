"""
The task that restores on trial.

Owns its place in Airflow; what is tried and how, ``engine.rehearse`` decides.
Invariant: the evidence is in the repository before a bad verdict fails the run.
"""

from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import Context

from airflow_provider_azstack.errors import DamageFound
from airflow_provider_azstack.operators.base import AzStackOperator, stops_retries


class Rehearse(AzStackOperator):
    """
    Restore the newest points of the VMs that are due into a scratch directory, and check them.

    :param scratch: a directory of the host that runs this, with room for the largest disk's data.
    :param vms: how many VMs one run tries.
    """

    def __init__(self, *, scratch: str, vms: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scratch = scratch
        self.vms = vms

    @stops_retries
    def execute(self, context: Context) -> dict[str, bool]:  # noqa: ARG002 - Airflow's signature
        """Return which restore points came back whole; one that did not fails the run."""
        from airflow_provider_azstack.engine.rehearse import due, rehearse  # noqa: PLC0415

        repository, verdicts = self.open_repository(), {}
        with self.stoppable():
            for point in due(repository)[: self.vms]:
                one = rehearse(repository, point, Path(self.scratch))
                verdicts[f"{one.vm} {one.point}"] = one.is_good
                for disk in one.disks:
                    for text in (*disk.file_systems, *disk.problems):
                        self.log.info("%s %s: %s", one.vm, disk.disk_key, text)
        bad = [name for name, is_good in verdicts.items() if not is_good]
        if bad:
            raise DamageFound(f"did not come back whole: {', '.join(bad)}; see the log for why")
        return verdicts
