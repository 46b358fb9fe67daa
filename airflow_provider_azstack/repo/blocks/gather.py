"""
Many blocks at once: few, large reads of packs, decoded by several threads.

Owns which records are read together, and what is ahead of the one who asked; knows no disks.
Invariant: each block comes authenticated from ``BlockReader``. A read for many that fails is done
again block by block, so what one of them lost costs no other, and other copies get their chance.
"""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from airflow_provider_azstack.errors import IntegrityError, ObjectNotFound, ShortRead, Tampered
from airflow_provider_azstack.repo.blocks.heap import keep_freed_memory
from airflow_provider_azstack.repo.blocks.index import Location
from airflow_provider_azstack.repo.blocks.reader import BlockReader

# Compressed bytes of one read. Larger ones save nothing more, and share the work less evenly.
_READ_BYTES = 4 * 1024**2
_FAR = 12  # threads, each of which may have a read and what it becomes in memory
# Reading so much for nothing is cheaper than another request.
_GAP_BYTES = 256 * 1024

Found = dict[bytes, bytes | IntegrityError]


class Gathered:
    """Blocks that are on their way."""

    def __init__(self, reader: BlockReader, futures: Mapping[bytes, Future[Found]]) -> None:
        self._reader = reader
        self._futures = futures

    def block(self, block_id: bytes) -> bytes:
        """
        Wait for one of the blocks and return it; one that was not asked for is read now.

        :raises IntegrityError: no copy of it is there and whole.
        """
        future = self._futures.get(block_id)
        found = future.result()[block_id] if future else self._reader.read(block_id)
        if isinstance(found, IntegrityError):
            raise found
        return found


class Gatherer:
    """Reads blocks ahead with threads of its own; ends them when it is left."""

    def __init__(self, reader: BlockReader, threads: int) -> None:
        keep_freed_memory()
        self._reader = reader
        # Those that wait for a store that is far away take no processor from the others.
        threads = threads if reader.is_near else max(threads, _FAR)
        self._pool = ThreadPoolExecutor(threads, "image-reader")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def gather(self, block_ids: Iterable[bytes]) -> Gathered:
        """Begin to read blocks, those that are asked for first in front; returns at once."""
        futures: dict[bytes, Future[Found]] = {}
        located = [(block_id, self._reader.locate(block_id)) for block_id in block_ids]
        for together in _neighbours(place for _, place in located if place):
            future = self._pool.submit(self._read, together)
            futures.update(dict.fromkeys((place.entry.block_id for place in together), future))
        for block_id, place in located:
            if place is None:
                futures[block_id] = self._pool.submit(self._read_each, [block_id])
        return Gathered(self._reader, futures)

    def _read(self, together: list[Location]) -> Found:
        ids = [place.entry.block_id for place in together]
        try:
            return dict(zip(ids, self._reader.read_together(together), strict=True))
        except (ObjectNotFound, ShortRead, Tampered):
            return self._read_each(ids)

    def _read_each(self, block_ids: list[bytes]) -> Found:
        found: Found = {}
        for block_id in block_ids:
            try:
                found[block_id] = self._reader.read(block_id)
            except IntegrityError as error:
                found[block_id] = error
        return found


def _neighbours(places: Iterable[Location]) -> list[list[Location]]:
    """Return records in the groups that one read each serves, by when they are first needed."""
    order = {place: number for number, place in enumerate(places)}
    groups = list(_by_distance(sorted(order, key=lambda place: (place.pack, place.entry.offset))))
    return sorted(groups, key=lambda group: min(order[place] for place in group))


def _by_distance(places: Iterable[Location]) -> Iterator[list[Location]]:
    group: list[Location] = []
    for place in places:
        if group and not _fits(group, place):
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def _fits(group: list[Location], place: Location) -> bool:
    first, last = group[0], group[-1]
    return (
        place.pack == first.pack
        and place.entry.offset - last.entry.end <= _GAP_BYTES
        and place.entry.end - first.entry.offset <= _READ_BYTES
    )
