"""
A reserve of room, so that what makes room can be written when there is none left.

Owns the objects ``reserve/<id>``, which hold nothing of meaning.
Invariant: the reserve is given up only for a write that the store had no room for.
"""

import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from airflow_provider_azstack.errors import AzStackError, ObjectNotFound, StoreFull
from airflow_provider_azstack.model import Record
from airflow_provider_azstack.repo.sealing.crypto import ID_BYTES

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository

log = logging.getLogger(__name__)

PREFIX = "reserve/"
RESERVE_BYTES = 4 * 2**20

T = TypeVar("T")


def put(repository: "Repository", name: str, record: Record) -> None:
    """Create a record, at the cost of the reserve when the store is full."""
    with_room(repository, lambda: repository.records.put(name, record))


def with_room(repository: "Repository", action: Callable[[], T]) -> T:
    """
    Do something small that writes; if the store is full, once more without the reserve.

    :raises StoreFull: there is no reserve, or it was not enough.
    """
    try:
        return action()
    except StoreFull:
        if not _give_up(repository):
            raise
        return action()


def keep_reserve(repository: "Repository") -> None:
    """See to it that there is a reserve; a store without room for one has to do without."""
    if any(repository.store.list(PREFIX)):
        return
    keys = repository.keys
    try:
        # Random, so that no file system makes it smaller than it looks.
        repository.store.put(PREFIX + keys.random(ID_BYTES).hex(), keys.random(RESERVE_BYTES))
    except AzStackError as error:
        log.warning("no reserve for the day the store is full: %s", error)


def _give_up(repository: "Repository") -> bool:
    names = [info.name for info in repository.store.list(PREFIX)]
    for name in names:
        log.warning("the store is full: giving up %s", name)
        with contextlib.suppress(ObjectNotFound):
            repository.store.delete(name)
    return bool(names)
