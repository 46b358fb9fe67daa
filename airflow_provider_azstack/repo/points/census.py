"""
The census: which restore points there were, and which of them were taken away on purpose.

Owns the objects ``census/<id>``, ``forgotten/<id>`` and ``forgotten/withdrawn-<id>``; reads no
point.
Invariant: a point that a census names is in the listing, or its name was put under ``forgotten/``
before it was deleted. So a listing that is short or empty is never mistaken for fewer points.
"""

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from airflow_provider_azstack.errors import IntegrityError, ObjectHeld, ObjectNotFound, Refused
from airflow_provider_azstack.repo import room
from airflow_provider_azstack.repo.sealing.crypto import ID_BYTES
from airflow_provider_azstack.repo.sealing.records import Census, ForgottenPoints

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository

CENSUS = "census/"
FORGOTTEN = "forgotten/"
# So begin the names of notes about points that nobody wanted to lose: a run took them back because
# it had lost its session.
_WITHDRAWN = FORGOTTEN + "withdrawn-"
POINTS = "points/"
_FORGOTTEN_OBJECTS = 16  # so many are gathered into one
_SHOWN = 3


def put_forgotten(
    repository: "Repository", points: Iterable[str], *, is_withdrawn: bool = False
) -> str:
    """
    Note, before they are deleted, that these points (``<vm>/<point>``) go on purpose.

    :param is_withdrawn: they were published in vain, and may come back.
    :returns: the note's object name.
    """
    record = ForgottenPoints(points=tuple(sorted(points)))
    name = _new_name(repository, _WITHDRAWN if is_withdrawn else FORGOTTEN)
    room.put(repository, name, record)
    return name


def forgotten(repository: "Repository", *, is_meant: bool = False) -> set[str]:
    """
    Return the points that are not missed when they are not there.

    :param is_meant: only those that somebody wanted to be gone, not what was withdrawn.
    """
    meant, withdrawn = _noted(repository)
    return meant if is_meant else meant | withdrawn


def recorded(repository: "Repository") -> set[str]:
    """Return the points that collectors have seen."""
    return {p for record in repository.records.all(CENSUS, Census) for p in record.points}


def listed_points(repository: "Repository") -> set[str]:
    """Return the points that are listed now, after checking that none is missing."""
    seen = recorded(repository)
    listed = {info.name.removeprefix(POINTS) for info in repository.store.list(POINTS)}
    # Read last: who forgets puts the note before he deletes.
    missing = seen - listed
    if missing:
        missing -= forgotten(repository)
    if missing:
        shown = ", ".join(sorted(missing)[:_SHOWN])
        raise Refused(
            f"{len(missing)} restore points that were there are not listed: {shown}. Either the "
            "listing lies, then try again later; or they were deleted, then 'azstack forget' them"
        )
    return listed


def put_census(repository: "Repository", listed: Iterable[str]) -> None:
    """Record which points there are; earlier censuses are replaced, once this one is there."""
    points = tuple(sorted(listed))
    before = {info.name for info in repository.store.list(CENSUS)}
    same = {name for name in before if _says(repository, name, points)}
    if not same:
        room.put(repository, _new_name(repository, CENSUS), Census(points=points))
    _delete(repository, before - set(sorted(same)[:1]))


def gather_forgotten(repository: "Repository") -> None:
    """Keep the notes of what was forgotten in few objects."""
    names = {info.name for info in repository.store.list(FORGOTTEN)}
    if len(names) > _FORGOTTEN_OBJECTS:
        meant, withdrawn = _noted(repository)
        if withdrawn := withdrawn - meant:
            put_forgotten(repository, withdrawn, is_withdrawn=True)
        put_forgotten(repository, meant)
        _delete(repository, names)


def _noted(repository: "Repository") -> tuple[set[str], set[str]]:
    """Return the points that somebody wanted to be gone, and those that were withdrawn."""
    records = repository.records
    meant, withdrawn = set[str](), set[str]()
    for name, data in records.under(FORGOTTEN):
        points = withdrawn if name.startswith(_WITHDRAWN) else meant
        points.update(records.parse(ForgottenPoints, data, name).points)
    return meant, withdrawn


def _says(repository: "Repository", name: str, points: tuple[str, ...]) -> bool:
    try:
        return repository.records.get(name, Census).points == points
    except (IntegrityError, ObjectNotFound):
        return False


def _new_name(repository: "Repository", prefix: str) -> str:
    return prefix + repository.keys.random(ID_BYTES).hex()


def _delete(repository: "Repository", names: Iterable[str]) -> None:
    for name in sorted(names):
        # One that a lock holds is harmless: it only says again what others say.
        with contextlib.suppress(ObjectNotFound, ObjectHeld):
            repository.store.delete(name)
