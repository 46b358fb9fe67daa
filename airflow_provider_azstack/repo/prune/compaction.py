"""
Replacing index segments: without packs that are gone, and few large ones instead of many small.

Owns the choice of segments and the order of their replacement; knows not why packs went.
Invariant: what a segment says of packs that are there is in another durable segment before it is
deleted. So index and packs never disagree about what is there, whoever dies or works beside us.
"""

import contextlib
import logging
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from airflow_provider_azstack.errors import ObjectHeld, ObjectNotFound
from airflow_provider_azstack.repo.blocks import segments
from airflow_provider_azstack.repo.blocks.index import Index
from airflow_provider_azstack.repo.blocks.packs import PackContents, pack_id, pack_name

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository

log = logging.getLogger(__name__)

SMALL_BLOCKS = segments.BLOCKS_PER_SEGMENT // 8
MANY_SMALL = 64  # so many small segments are worth a merge

_SIZES = """
SELECT s.name, SUM(h.blocks),
    MAX(h.pack IN (SELECT p.number FROM packs p JOIN gc_gone g ON g.id = p.id))
FROM holdings h JOIN segments s ON s.number = h.segment JOIN seen n ON n.segment = h.segment
GROUP BY h.segment
"""
_PACKS = """
SELECT id FROM packs WHERE number IN
    (SELECT h.pack FROM holdings h JOIN seen n ON n.segment = h.segment)
"""


def compact(
    repository: "Repository", index: Index, gone: Collection[str], listed: Collection[str]
) -> int:
    """
    C6: publish the index without packs that are gone; return how many segments were replaced.

    :param index: refreshed.
    :param gone: object names of packs that were deleted.
    :param listed: all packs that were there before that.
    """
    gone = {*gone, *_vanished(repository, index, {*gone, *listed})}
    old = _chosen(index, gone)
    new, gathered, count = [], list[PackContents](), 0
    for contents in _contents(repository, old):
        if pack_name(contents.pack) in gone:
            continue
        gathered.append(contents)
        count += len(contents.entries)
        if count >= segments.BLOCKS_PER_SEGMENT:
            new.append(segments.put(repository.records, gathered))
            gathered, count = [], 0
    if gathered:
        new.append(segments.put(repository.records, gathered))
    for name in new:
        if not repository.store.exists(name):
            log.warning("%s was acknowledged and is not there: what it replaces stays", name)
            return 0
    for name in old:
        try:
            with contextlib.suppress(ObjectNotFound):
                repository.store.delete(name)
        except ObjectHeld as error:
            log.info("%s stays, which is harmless: %s", name, error)
    return len(old)


def _vanished(repository: "Repository", index: Index, known: Collection[str]) -> Iterator[str]:
    """
    Yield packs that segments name and the store does not have.

    A fenced writer that resumes leaves a segment of packs that were collected. Each is asked for by
    name: a listing that is short must not make us forget what a pack holds.
    """
    with index.database() as database:
        packs = [pack_name(pack) for (pack,) in database.execute(_PACKS)]
    for name in packs:
        if name not in known and not repository.store.exists(name):
            yield name


def _chosen(index: Index, gone: Collection[str]) -> list[str]:
    with index.database() as database:
        database.execute("CREATE TEMP TABLE IF NOT EXISTS gc_gone (id BLOB PRIMARY KEY)")
        database.execute("DELETE FROM gc_gone")
        ids = ((pack_id(name),) for name in gone)
        database.executemany("INSERT OR IGNORE INTO gc_gone VALUES (?)", ids)
        rows = database.execute(_SIZES).fetchall()
    small = [name for name, blocks, _ in rows if blocks < SMALL_BLOCKS]
    chosen = {name for name, _, names_gone in rows if names_gone}
    return sorted(chosen | set(small if len(small) >= MANY_SMALL else ()))


def _contents(repository: "Repository", names: Iterable[str]) -> Iterator[PackContents]:
    for name in names:
        with contextlib.suppress(ObjectNotFound):  # another collector replaced it
            yield from segments.get(repository.records, name)
