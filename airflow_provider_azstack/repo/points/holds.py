"""
Legal holds: restore points that nobody may forget until the hold is lifted.

Owns the objects ``holds/<vm>/<point>``; knows no rules.
Invariant: the name alone holds. A hold whose object is damaged still holds.
"""

import logging
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_azstack.errors import IntegrityError, ObjectExists, ObjectNotFound, Refused
from airflow_provider_azstack.repo.points import census
from airflow_provider_azstack.repo.sealing.records import Hold

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository

log = logging.getLogger(__name__)

PREFIX = "holds/"


class HeldPoint(NamedTuple):
    """A point on hold; since when and why, if that can still be read."""

    vm_key: str
    point_id: str
    since: datetime | None = None
    reason: str = ""


def add_hold(repository: "Repository", vm_key: str, point_id: str, reason: str = "") -> None:
    """
    Hold a restore point; holding one that is held already changes nothing.

    :raises ObjectNotFound: there is no such point.
    :raises Refused: somebody else forgets it, and may not have seen the hold.
    """
    repository.point(vm_key, point_id)
    name = f"{PREFIX}{vm_key}/{point_id}"
    try:
        repository.records.put(name, Hold(reason=reason, since=repository.now()))
    except ObjectExists:
        log.info("%s is on hold already", name)
    if f"{vm_key}/{point_id}" in census.forgotten(repository, is_meant=True):
        raise Refused(
            f"restore point {point_id} of VM {vm_key} was being forgotten when it was put on hold: "
            "the hold stands; see by 'azstack points' whether the point does"
        )
    repository.point(vm_key, point_id)  # still there: whoever forgets looks for holds first


def remove_hold(repository: "Repository", vm_key: str, point_id: str) -> None:
    """
    Lift a hold.

    :raises ObjectNotFound: there is none.
    """
    repository.store.delete(f"{PREFIX}{vm_key}/{point_id}")


def held_points(repository: "Repository") -> frozenset[tuple[str, str]]:
    """Return VM key and id of every point on hold."""
    return frozenset(map(_key, _names(repository)))


def list_holds(repository: "Repository") -> list[HeldPoint]:
    """Return all holds with what is known of them."""
    return [_described(repository, held) for held in sorted(_names(repository), key=_key)]


def _names(repository: "Repository") -> list[HeldPoint]:
    names = (info.name.split("/") for info in repository.store.list(PREFIX))
    return [HeldPoint(parts[1], parts[2]) for parts in names if len(parts) == 3]


def _key(held: HeldPoint) -> tuple[str, str]:
    return held.vm_key, held.point_id


def _described(repository: "Repository", held: HeldPoint) -> HeldPoint:
    name = f"{PREFIX}{held.vm_key}/{held.point_id}"
    try:
        hold = repository.records.get(name, Hold)
    except (IntegrityError, ObjectNotFound) as error:
        return held._replace(reason=f"unreadable: {error}")
    return held._replace(since=hold.since, reason=hold.reason)
