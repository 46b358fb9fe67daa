"""
Flags: restore points that look suspicious, and why.

Owns the objects ``flags/<vm>/<point>``; knows not what makes a point suspicious.
Invariant: the name alone flags. A flag is a remark: it takes nothing away, from anybody.
"""

import contextlib
from datetime import datetime
from typing import TYPE_CHECKING

from airflow_provider_azstack.errors import IntegrityError, ObjectExists, ObjectNotFound
from airflow_provider_azstack.model import Moment, Record

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository

PREFIX = "flags/"


class Flag(Record, frozen=True, kw_only=True):
    """``flags/<vm>/<point>``: why a restore point looks suspicious."""

    reasons: tuple[str, ...]
    since: Moment


def put_flag(
    repository: "Repository", vm_key: str, point_id: str, reasons: tuple[str, ...], now: datetime
) -> None:
    """Flag a restore point; one that is flagged already stays as it is."""
    with contextlib.suppress(ObjectExists):
        repository.records.put(f"{PREFIX}{vm_key}/{point_id}", Flag(reasons=reasons, since=now))


def flagged(repository: "Repository") -> set[tuple[str, str]]:
    """Return VM key and id of every flagged point."""
    names = (info.name.split("/") for info in repository.store.list(PREFIX))
    return {(parts[1], parts[2]) for parts in names if len(parts) == 3}


def remove_flag(repository: "Repository", vm_key: str, point_id: str) -> None:
    """
    Take a flag away: the point was looked at, and is what shall count as normal.

    :raises ObjectNotFound: it is not flagged.
    """
    repository.store.delete(f"{PREFIX}{vm_key}/{point_id}")


def reasons(repository: "Repository", vm_key: str, point_id: str) -> tuple[str, ...]:
    """Return why a point is flagged; nothing if it is not."""
    try:
        return repository.records.get(f"{PREFIX}{vm_key}/{point_id}", Flag).reasons
    except ObjectNotFound:
        return ()
    except IntegrityError as error:
        return (f"unreadable: {error}",)
