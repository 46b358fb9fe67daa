"""
One image from one repository into another: the same disk under other keys.

Owns which blocks have to be read and stored again; knows no points and no order of publication.
Invariant: a copied image refers only to blocks that a writer of its repository may count on (W4).
A block whose id the other repository is known to give it is not read at all: that is known from an
image that both have, run by run. What is stored again stays compressed as it was.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from msgspec.structs import replace

from airflow_provider_azstack.errors import Cancelled, IntegrityError, Tampered
from airflow_provider_azstack.model import Image
from airflow_provider_azstack.repo.blocks.packs import Block
from airflow_provider_azstack.repo.blocks.reader import BlockReader
from airflow_provider_azstack.repo.blocks.writer import BlockWriter
from airflow_provider_azstack.repo.images.runs import (
    Run,
    block_ids,
    load_group,
    load_runs,
    store_runs,
)
from airflow_provider_azstack.repo.sessions import Session
from airflow_provider_azstack.speed import Course

THREADS = 4
_FAR = 8  # each has a block, as it is stored as well


class Pair(NamedTuple):
    """The same image, as each repository has it."""

    source: Image
    destination: Image

    @property
    def is_same(self) -> bool:
        """Whether they differ in their keys only."""
        one, other = (replace(image, regions=()) for image in self)
        return one == other and len(self.source.regions) == len(self.destination.regions)


class Copied(NamedTuple):
    """An image as its new repository has it, and what it took."""

    image: Image
    read_bytes: int
    stored_bytes: int


class ImageCopier:
    """Copies images between two open sessions, a block in each of ``threads`` hands."""

    def __init__(
        self,
        source: Session,
        destination: Session,
        *,
        threads: int = THREADS,
        cancel: threading.Event | None = None,
        progress: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = source.reader()
        self._writer = destination.writer()
        self._destination_reader = destination.reader()
        # Those that wait for a store that is far away take no processor from the others.
        self._threads = threads if self._reader.is_near else max(threads, _FAR)
        self._cancel = cancel or threading.Event()
        self._progress = progress
        self._clock = clock

    def copy(
        self, image: Image, known: Pair | None, *, label: str = "", is_thorough: bool = False
    ) -> Copied:
        """
        Store what the destination lacks of an image, and return it as it is there (W5).

        :param known: an earlier image of the disk, or this one, that both have.
        :param label: what lines about it begin with; without one there are none.
        :param is_thorough: ask for each block whether it can be counted on, also where the disk
            has not changed since ``known``.
        :raises MissingBlock: the source lost a block; names image, offset and pack.
        :raises Tampered: the source's is damaged, or ``known`` is not the same in both.
        """
        is_thorough = is_thorough or self._writer.has_losses()
        pool = ThreadPoolExecutor(self._threads, "copy")
        try:
            work = _Work(self, self._writer, pool.map, image, known)
            regions = tuple(self._regions(work, image, label, is_thorough=is_thorough))
            self._writer.flush()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return Copied(replace(image, regions=regions), work.read_bytes, work.stored_bytes)

    def _regions(
        self, work: "_Work", image: Image, label: str, *, is_thorough: bool
    ) -> Iterator[bytes | None]:
        numbers = range(len(image.regions))
        total = sum(work.is_to_do(number, is_thorough=is_thorough) for number in numbers)
        course = Course(image.name, label, total, verb="read", began=self._clock())
        done = 0
        for number in numbers:
            yield work.region(number, is_thorough=is_thorough)
            done += work.is_to_do(number, is_thorough=is_thorough)
            now = self._clock()
            if label and (course.is_due(now) or (work.read_bytes and done == total)):
                self._progress(course.at(now, done, work.read_bytes))

    def is_whole(self, image: Image) -> bool:
        """Tell whether every block of the destination's image can be counted on."""
        try:
            return all(map(self._writer.knows, image_blocks(self._destination_reader, image)))
        except IntegrityError:
            return False

    def read(self, block_id: bytes) -> Block:
        """Return a block of the source as it is stored, unless we were told to stop."""
        if self._cancel.is_set():
            raise Cancelled("copying was told to stop; what is stored is used by the next run")
        return self._reader.read_packed(block_id)

    def source_runs(self, image: Image, number: int) -> list[Run]:
        """Return a region's runs at the source."""
        return _runs(self._reader, image, number)

    def destination_runs(self, image: Image, number: int) -> list[Run]:
        """Return a region's runs at the destination."""
        return _runs(self._destination_reader, image, number)


class _Work:
    """The copying of one image."""

    def __init__(
        self,
        copier: ImageCopier,
        writer: BlockWriter,
        in_parallel: Callable[..., Iterator[tuple[bytes, bytes]]],
        image: Image,
        known: Pair | None,
    ) -> None:
        self._copier = copier
        self._writer = writer
        self._in_parallel = in_parallel
        self._image = image
        self._known = known
        self._lock = threading.Lock()
        self.read_bytes = 0
        self.stored_bytes = 0

    def region(self, number: int, *, is_thorough: bool) -> bytes | None:
        """Return the id of a region's group at the destination."""
        if not self.is_to_do(number, is_thorough=is_thorough):
            is_empty = self._image.regions[number] is None
            return None if is_empty or not self._known else self._known.destination.regions[number]
        same = self._known_ids(number)
        try:
            runs = self._copier.source_runs(self._image, number)
            wanted = {run.block_id for run in runs if run.block_id is not None}
            lacking = [i for i in wanted if i not in same or not self._writer.knows(same[i])]
            stored = dict(self._in_parallel(self._copy_block, lacking))
        except IntegrityError as error:
            offset = number * self._image.region_bytes
            raise type(error)(f"{self._image.name}, region at {offset}: {error}") from None
        if any(same.get(source, stored[source]) != stored[source] for source in stored):
            raise Tampered(f"{self._image.name} is not the same disk in both repositories")
        ids = {**same, **stored}
        translated = [run._replace(block_id=run.block_id and ids[run.block_id]) for run in runs]
        new_group, new_bytes = store_runs(self._writer, translated)
        self.stored_bytes += new_bytes
        return new_group

    def is_to_do(self, number: int, *, is_thorough: bool) -> bool:
        """Tell whether a region holds something, and not just what both are known to have."""
        group, known = self._image.regions[number], self._known
        is_same = known is not None and known.source.regions[number : number + 1] == (group,)
        return group is not None and (is_thorough or not is_same)

    def _known_ids(self, number: int) -> dict[bytes, bytes]:
        """Return source id -> destination id of the blocks of a region that both have."""
        known = self._known
        if known is None or number >= len(known.source.regions):
            return {}
        try:
            ours = self._copier.source_runs(known.source, number)
            theirs = self._copier.destination_runs(known.destination, number)
        except IntegrityError:
            return {}  # then blocks are read, and what is damaged is stored again
        if [_shape(run) for run in ours] != [_shape(run) for run in theirs]:
            raise Tampered(f"{known.source.name} is not the same disk in both repositories")
        return {
            one.block_id: other.block_id
            for one, other in zip(ours, theirs, strict=True)
            if one.block_id is not None and other.block_id is not None
        }

    def _copy_block(self, block_id: bytes) -> tuple[bytes, bytes]:
        data, packed = self._copier.read(block_id)
        stored = self._writer.add(data, packed)
        with self._lock:
            self.read_bytes += len(data)
            self.stored_bytes += stored.new_bytes
        return block_id, stored.block_id


def image_blocks(
    reader: BlockReader, image: Image, without: tuple[bytes | None, ...] = ()
) -> Iterator[bytes]:
    """
    Yield the ids of all blocks that an image needs, those of its groups included.

    :param without: regions of an earlier image: where they are the same, nothing is yielded.
    """
    for number, group in enumerate(image.regions):
        if group is None or (number < len(without) and without[number] == group):
            continue
        data, parts = load_group(reader, group)
        yield from (group, *parts, *block_ids(data))


def _runs(reader: BlockReader, image: Image, number: int) -> list[Run]:
    return load_runs(reader, image.regions[number], *_bounds(image, number))


def _bounds(image: Image, number: int) -> tuple[int, int]:
    offset = number * image.region_bytes
    return offset, min(image.region_bytes, image.size_bytes - offset)


def _shape(run: Run) -> tuple[int, int, bool, int]:
    return run.offset, run.length, run.block_id is None, run.start
