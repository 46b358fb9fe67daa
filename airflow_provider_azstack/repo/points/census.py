"""
The census: which restore points there were, and which of them were taken away on purpose.

Owns the objects ``census/<id>``, ``forgotten/<id>`` and ``forgotten/withdrawn-<id>``, and
``claims/forgotten/<id>/<session>``; reads no point.
Invariant: a point that a census names is in the listing, or its name was put under ``forgotten/``
before it was deleted. So a listing that is short or empty is never mistaken for fewer points. And a
point that came back is missed again when it is not there.
"""

import contextlib
from collections.abc import Collection, Iterable, Iterator
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
WORDS = "claims/forgotten/"  # to sessions, and gone with them
POINTS = "points/"
_FORGOTTEN_OBJECTS = 16  # so many are gathered into one
# Of one object: a record has its bounds, and what was forgotten in years has none.
_POINTS_OF_ONE = 250_000
_SHOWN = 3


def put_forgotten(
    repository: "Repository", points: Iterable[str], *, is_withdrawn: bool = False
) -> None:
    """
    Note, before they are deleted, that these points (``<vm>/<point>``) go on purpose.

    :param is_withdrawn: they were published in vain, and may come back.
    """
    prefix = _WITHDRAWN if is_withdrawn else FORGOTTEN
    for some in _parted(points):
        room.put(repository, _new_name(repository, prefix), ForgottenPoints(points=some))


def recall(repository: "Repository", points: Collection[str]) -> None:
    """
    Take back what notes say of points that stay, or came back: they shall be missed again.

    A note that is put meanwhile stands: somebody wants a point to be gone once more.
    """
    notes = {name: said for name, said in _notes(repository) if not said.isdisjoint(points)}
    for is_withdrawn in (False, True):
        of_kind = (said for name, said in notes.items() if _is_withdrawn(name) is is_withdrawn)
        if left := set[str]().union(*of_kind).difference(points):
            put_forgotten(repository, left, is_withdrawn=is_withdrawn)
    _delete(repository, notes)


def leave_word(repository: "Repository", points: Collection[str]) -> None:
    """
    Tell each living session that these points are forgotten from now on.

    A second copy of a task, or another sync, may be about to publish one of them again. Sessions
    are listed after a note was put, so whoever is not told finds that note when he begins.
    """
    for session in repository.sessions():
        for some in _parted(points):
            name = f"{_new_name(repository, WORDS)}/{session}"
            room.put(repository, name, ForgottenPoints(points=some))


def forgotten(repository: "Repository", *, is_meant: bool = False) -> set[str]:
    """
    Return the points that are not missed when they are not there.

    :param is_meant: only those that somebody wanted to be gone, not what was withdrawn.
    """
    meant, withdrawn = noted(repository)
    return meant if is_meant else meant | withdrawn


def noted(repository: "Repository") -> tuple[set[str], set[str]]:
    """Return the points that somebody wanted to be gone, and those that were withdrawn."""
    meant, withdrawn = set[str](), set[str]()
    for name, points in _notes(repository):
        (withdrawn if _is_withdrawn(name) else meant).update(points)
    return meant, withdrawn


def recorded(repository: "Repository") -> set[str]:
    """Return the points that collectors have seen."""
    records = repository.records
    found = records.gathered(CENSUS)
    return {p for name, data in found for p in records.parse(Census, data, name).points}


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
    before = {info.name: _said(repository, info.name) for info in repository.store.list(CENSUS)}
    kept = set()
    for some in _parted(listed):
        same = min((name for name, points in before.items() if points == some), default="")
        if not same:
            room.put(repository, _new_name(repository, CENSUS), Census(points=some))
        kept.add(same)
    _delete(repository, before.keys() - kept)


def gather_forgotten(repository: "Repository") -> None:
    """Keep the notes of what was forgotten in few objects."""
    names = {info.name for info in repository.store.list(FORGOTTEN)}
    if len(names) > _FORGOTTEN_OBJECTS:
        meant, withdrawn = noted(repository)
        if withdrawn := withdrawn - meant:
            put_forgotten(repository, withdrawn, is_withdrawn=True)
        put_forgotten(repository, meant)
        _delete(repository, names)


def _is_withdrawn(note: str) -> bool:
    return note.startswith(_WITHDRAWN)


def _notes(repository: "Repository") -> Iterator[tuple[str, frozenset[str]]]:
    records = repository.records
    for name, data in records.gathered(FORGOTTEN):
        yield name, frozenset(records.parse(ForgottenPoints, data, name).points)


def _said(repository: "Repository", name: str) -> tuple[str, ...] | None:
    try:
        return repository.records.get(name, Census).points
    except (IntegrityError, ObjectNotFound):
        return None


def _parted(points: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Yield points in order, so many at a time as one object may have; at least once."""
    whole = sorted(points)
    for start in range(0, max(len(whole), 1), _POINTS_OF_ONE):
        yield tuple(whole[start : start + _POINTS_OF_ONE])


def _new_name(repository: "Repository", prefix: str) -> str:
    return prefix + repository.keys.random(ID_BYTES).hex()


def _delete(repository: "Repository", names: Iterable[str]) -> None:
    for name in sorted(names):
        # One that a lock holds is harmless: it only says again what others say.
        with contextlib.suppress(ObjectNotFound, ObjectHeld):
            repository.store.delete(name)
