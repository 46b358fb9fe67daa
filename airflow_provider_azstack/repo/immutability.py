"""
Keeping what restore points need from being deleted by anybody, by the store's own lock.

Owns which objects that are and the report of lapses; knows no service.
Invariant: only lengthens. What it reports as held was asked for after every restore point of the
listing was followed to its last pack.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Literal, NamedTuple

from airflow_provider_azstack.errors import ConfigurationError, MissingBlock
from airflow_provider_azstack.repo.blocks.index import Index
from airflow_provider_azstack.repo.blocks.reader import BlockReader
from airflow_provider_azstack.repo.prune.condemned import read as read_condemned
from airflow_provider_azstack.repo.prune.liveness import Liveness
from airflow_provider_azstack.repo.prune.marking import Marker
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sealing import keyring
from airflow_provider_azstack.repo.sessions import bad_blocks
from airflow_provider_azstack.store.object_lock import ObjectLock

THREADS = 16
_CONFIG = "config"

Found = Literal["held", "ends early", "never held", "lapsed"]


class Held(NamedTuple):
    """One object that a restore point needs, as it was found."""

    name: str
    found: Found
    until: datetime | None

    @property
    def is_lapse(self) -> bool:
        """Whether it could have been deleted: it is not known to be what was written."""
        return self.found in {"never held", "lapsed"}


class Report(NamedTuple):
    """What was found, and lengthened unless that was a dry run."""

    points: int
    until: datetime
    objects: tuple[Held, ...]

    @property
    def lapses(self) -> list[Held]:
        """Return the objects that were not held when we came."""
        return [held for held in self.objects if held.is_lapse]

    @property
    def short(self) -> list[Held]:
        """Return the objects whose retention was too short, lapses included."""
        return [held for held in self.objects if held.found != "held"]


def protect(
    repository: Repository,
    lock: ObjectLock,
    until: datetime,
    *,
    dry_run: bool = False,
    threads: int = THREADS,
) -> Report:
    """
    Hold everything that the restore points need until then.

    :param dry_run: only report.
    :raises Refused: a restore point cannot be followed; nothing was lengthened.
    :raises MissingBlock: a needed block is in no pack; nothing was lengthened.
    """
    now = repository.now()
    if until <= now:
        raise ConfigurationError(f"objects cannot be held until {until}: that is past")
    session = repository.open_session("lock objects")  # no collector takes them meanwhile
    try:
        points, names = _needed(repository, threads)

        def look(name: str) -> Held:
            held = _judged(name, lock.held_until(name), until, now)
            if held.found != "held" and not dry_run:
                lock.hold(name, until)
            return held

        with ThreadPoolExecutor(threads, "lock") as pool:
            return Report(points, until, tuple(pool.map(look, names)))
    finally:
        session.close()


def _judged(name: str, held_until: datetime | None, until: datetime, now: datetime) -> Held:
    if held_until is None:
        return Held(name, "never held", None)
    if held_until < now:
        return Held(name, "lapsed", held_until)
    return Held(name, "held" if held_until >= until else "ends early", held_until)


def _needed(repository: Repository, threads: int) -> tuple[int, list[str]]:
    """Return the number of points, and the names of config, keys, points, images and packs."""
    # Without the cache: no bit that flipped on this host may say what need not be held.
    index = Index(repository.records)
    try:
        going = read_condemned(repository).packs
        packs = list(repository.store.list("packs/"))
        index.refresh()
        liveness = Liveness(index)
        marker = Marker(repository, BlockReader(repository.records, index), liveness, threads)
        marker.mark(frozenset())
        liveness.settle(packs, going, bad_blocks(repository.records))
        if lost := liveness.lost():
            raise MissingBlock(f"block {lost.hex()} of a restore point is in no pack: verify first")
        names = [_CONFIG, *_keys(repository), *marker.images, *liveness.usage()]
        names += [f"points/{point}" for point in marker.points]
        return len(marker.points), sorted(names)
    finally:
        index.close()


def _keys(repository: Repository) -> Iterator[str]:
    for key in keyring.list_keys(repository):
        if not key.problem:
            yield keyring.PREFIX + key.id
