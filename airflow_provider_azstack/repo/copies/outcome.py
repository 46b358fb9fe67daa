"""
What became of a restore point that was to be copied or repaired.

Owns that form and its verdict; knows not how anything is copied.
Invariant: a point that failed has a reason.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from airflow_provider_azstack.errors import IncompleteJob
from airflow_provider_azstack.model import RestorePoint
from airflow_provider_azstack.repo.repository import Repository

_SHOWN = 10  # failures that an error names

Status = Literal["copied", "there", "forgotten", "repaired", "failed"]


class Outcome(NamedTuple):
    """What became of one restore point; ``repository`` is the id of the one that was written."""

    vm: str
    vm_key: str
    point: str
    repository: str
    status: Status
    read_bytes: int = 0
    stored_bytes: int = 0
    reason: str = ""


def outcome_of(
    point: RestorePoint,
    written: Repository,
    status: Status,
    numbers: tuple[int, int] = (0, 0),
    reason: str = "",
) -> Outcome:
    """
    Say what became of a restore point.

    :param numbers: the bytes that were read, and stored.
    """
    return Outcome(point.vm.name, point.vm.key, point.id, written.id, status, *numbers, reason)


def require_done(outcomes: Sequence[Outcome]) -> None:
    """
    Check that no restore point failed.

    :raises IncompleteJob: some did; names them.
    """
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if failed:
        shown = "; ".join(f"{o.vm or o.vm_key} {o.point}: {o.reason}" for o in failed[:_SHOWN])
        more = f"; and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
        raise IncompleteJob(
            f"{len(failed)} of {len(outcomes)} restore points could not be copied: {shown}{more}"
        )
