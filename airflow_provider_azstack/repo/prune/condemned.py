"""
Condemned records: what may go, and which sessions have to end before.

Owns the objects ``condemned/<id>/packs`` and ``.../alive``; knows not why anything is condemned.
Invariants: ``alive`` is listed after ``packs`` was published, so every session that may not have
seen the list is named in it. A pack that was condemned never comes back: its record is deleted
after the pack. A record that no key holder wrote condemns nothing.
"""

import contextlib
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_azstack.errors import (
    ObjectExists,
    ObjectHeld,
    ObjectNotFound,
    Refused,
    Tampered,
)
from airflow_provider_azstack.repo import room
from airflow_provider_azstack.repo.blocks.packs import pack_name
from airflow_provider_azstack.repo.sealing.crypto import ID_BYTES
from airflow_provider_azstack.repo.sealing.records import AliveSessions, CondemnedPacks
from airflow_provider_azstack.repo.sessions import CONDEMNED

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository
    from airflow_provider_azstack.repo.sessions import Session

log = logging.getLogger(__name__)


class Condemned(NamedTuple):
    """One record."""

    id: str
    packs: frozenset[str]  # object names
    objects: tuple[str, ...]  # images and notes of runs that are over
    alive: frozenset[str] | None  # None: a collector died before it could list them


class Found(NamedTuple):
    """All records."""

    records: tuple[Condemned, ...]
    ignored: dict[str, str]  # objects that no key holder wrote, or that are damaged, and why

    @property
    def packs(self) -> frozenset[str]:
        """Object names of all packs that may go."""
        return frozenset(name for record in self.records for name in record.packs)

    @property
    def objects(self) -> frozenset[str]:
        """Names of all other objects that may go."""
        return frozenset(name for record in self.records for name in record.objects)


def read(repository: "Repository") -> Found:
    """Return all condemned records."""
    parts: dict[str, set[str]] = defaultdict(set)
    ignored: dict[str, str] = {}
    for info in repository.store.list(CONDEMNED):
        record, _, part = info.name.removeprefix(CONDEMNED).rpartition("/")
        if part in {"packs", "alive"} and "/" not in record:
            parts[record].add(part)
        else:
            ignored[info.name] = "it has no name of ours"
    found = []
    for record, present in sorted(parts.items()):
        if "packs" not in present:
            continue  # only its end is left
        try:
            found.append(_read(repository, record, present))
        except Tampered as error:
            ignored[f"{CONDEMNED}{record}"] = str(error)
        except ObjectNotFound:
            continue  # another collector finished it
    return Found(tuple(found), ignored)


def publish(session: "Session", packs: Collection[str], objects: Collection[str]) -> Condemned:
    """
    C3: publish what may go, then list sessions, then publish those.

    :raises Refused: the store does not list what was just written: nothing here would be safe.
    :raises SessionLost: another collector has finished that record already, and fenced us before.
    """
    repository = session.repository
    record = repository.keys.random(ID_BYTES).hex()
    name = f"{CONDEMNED}{record}/packs"
    ids = tuple(sorted(pack.rpartition("/")[2] for pack in packs))
    room.put(repository, name, CondemnedPacks(packs=ids, objects=tuple(sorted(objects))))
    listed = {info.name for info in repository.store.list(f"{CONDEMNED}{record}/")}
    if name not in listed:
        session.check()
        raise Refused(f"{repository.store.url} does not list {name}, which was just written")
    return stamp(repository, Condemned(record, frozenset(packs), tuple(objects), None))


def stamp(repository: "Repository", condemned: Condemned) -> Condemned:
    """Publish which sessions live now, unless that was done; return the record as it is then."""
    name = f"{CONDEMNED}{condemned.id}/alive"
    alive = frozenset(repository.sessions())
    try:
        room.put(repository, name, AliveSessions(sessions=tuple(sorted(alive))))
    except ObjectExists:  # another collector was faster
        alive = frozenset(repository.records.get(name, AliveSessions).sessions)
    return condemned._replace(alive=alive)


def finish(repository: "Repository", records: Iterable[Condemned]) -> None:
    """C7: delete records of which nothing is left, and the ends of such."""
    for record in records:
        if _delete(repository, f"{CONDEMNED}{record.id}/packs"):
            _delete(repository, f"{CONDEMNED}{record.id}/alive")


def remove_ends(repository: "Repository") -> None:
    """Delete each ``alive`` without ``packs``: a collector died while it finished a record."""
    names = {info.name for info in repository.store.list(CONDEMNED)}
    for name in sorted(names):
        record, _, part = name.rpartition("/")
        if part == "alive" and f"{record}/packs" not in names:
            _delete(repository, name)


def _read(repository: "Repository", record: str, present: Collection[str]) -> Condemned:
    name = f"{CONDEMNED}{record}/packs"
    packs = repository.records.get(name, CondemnedPacks)
    alive = None
    if "alive" in present:
        stamped = repository.records.get(f"{CONDEMNED}{record}/alive", AliveSessions)
        alive = frozenset(stamped.sessions)
    names = frozenset(pack_name(bytes.fromhex(pack)) for pack in packs.packs)
    return Condemned(record, names, packs.objects, alive)


def _delete(repository: "Repository", name: str) -> bool:
    """Delete an object if no lock holds it; tell whether it is gone."""
    try:
        with contextlib.suppress(ObjectNotFound):
            repository.store.delete(name)
    except ObjectHeld as error:
        log.info("%s stays for now: %s", name, error)
        return False
    return True
