"""
What VMs and policies cost: which bytes of packs only they need, and which they share.

Owns the counting; knows no prices and no output.
Invariant: each block is counted once for everybody who needs it, and belongs to one only when
nobody else needs it. Memory is bounded; the tables are temporary ones beside the index.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_azstack.model import RestorePoint
from airflow_provider_azstack.repo.blocks.index import Index
from airflow_provider_azstack.repo.blocks.packs import RECORD_BYTES
from airflow_provider_azstack.repo.blocks.reader import BlockReader
from airflow_provider_azstack.repo.images.runs import block_ids, load_group
from airflow_provider_azstack.repo.parallel import at_once, in_parallel

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository

THREADS = 4
_SHARED = -1

_SCHEMA = """
CREATE TEMP TABLE owned (id BLOB PRIMARY KEY, owner INTEGER) WITHOUT ROWID;
CREATE TEMP TABLE mine (id BLOB PRIMARY KEY) WITHOUT ROWID;
"""
_SIZE = f"""
SELECT COALESCE(SUM(size), 0) FROM (SELECT MIN(b.sealed) + {RECORD_BYTES} AS size
FROM {{}} JOIN blocks b ON b.id = o.id JOIN seen s ON s.segment = b.segment GROUP BY o.id)
"""  # noqa: S608 - a constant of ours


class Usage(NamedTuple):
    """What one VM, or one policy, costs."""

    owner: str
    points: int
    needed_bytes: int  # of packs, for all of its points
    unique_bytes: int  # of those, what nobody else needs: what forgetting all of them would free

    @property
    def shared_bytes(self) -> int:
        """Return what others need as well."""
        return self.needed_bytes - self.unique_bytes


def usage(
    repository: "Repository", owner_of: Callable[[RestorePoint], str], *, threads: int = THREADS
) -> list[Usage]:
    """
    Return what each owner of restore points costs.

    :param owner_of: gives every point to somebody: its VM, its policy.
    :raises MissingBlock: what a point consists of is gone; verify the repository.
    """
    images = defaultdict[str, list[str]](list)
    points = defaultdict[str, int](int)
    for point in repository.points():
        owner = owner_of(point)
        points[owner] += 1
        images[owner] += [image.image for image in point.images]
    index = Index(repository.records, repository.cache_directory)
    try:
        index.refresh()
        with index.database() as database:
            database.executescript(_SCHEMA)
        counter = _Counter(repository, index, at_once(repository.store, threads))
        owners = sorted(points)
        needed = [counter.take(number, images[owner]) for number, owner in enumerate(owners)]
        return [
            Usage(owner, points[owner], needed[number], counter.unique_bytes(number))
            for number, owner in enumerate(owners)
        ]
    finally:
        index.close()


class _Counter:
    """Counts one owner after the other."""

    def __init__(self, repository: "Repository", index: Index, threads: int) -> None:
        self._repository = repository
        self._index = index
        self._reader = BlockReader(repository.records, index)
        self._threads = threads

    def take(self, owner: int, images: list[str]) -> int:
        """Count what an owner needs, and return its bytes."""
        with self._index.database() as database:
            database.execute("DELETE FROM mine")
        for ids in in_parallel(self._blocks, self._groups(images), self._threads):
            with self._index.database() as database:
                rows = sorted((block,) for block in ids)
                database.executemany("INSERT OR IGNORE INTO mine VALUES (?)", rows)
        with self._index.database() as database:
            database.execute(
                "INSERT INTO owned SELECT id, ? FROM mine WHERE true "
                "ON CONFLICT (id) DO UPDATE SET owner = ?",
                (owner, _SHARED),
            )
            [(size,)] = database.execute(_SIZE.format("mine o"))
        return int(size)

    def unique_bytes(self, owner: int) -> int:
        """Return the bytes that only this owner needs; after all of them were counted."""
        with self._index.database() as database:
            [(size,)] = database.execute(
                _SIZE.format("(SELECT id FROM owned WHERE owner = ?) o"), (owner,)
            )
        return int(size)

    def _groups(self, images: list[str]) -> Iterator[bytes]:
        """Yield the groups of an owner's images; neighbours in time share nearly all of them."""
        known = set[bytes]()
        for image in in_parallel(self._repository.image, images, self._threads, ahead_of_each=2):
            new = {group for group in image.regions if group is not None} - known
            known |= new
            yield from sorted(new)

    def _blocks(self, group: bytes) -> list[bytes]:
        data, parts = load_group(self._reader, group)
        return [group, *parts, *block_ids(data)]
