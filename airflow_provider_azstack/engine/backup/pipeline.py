"""
The regions of a disk, planned, read, stored and put together by a few threads.

Owns the state that the threads of one disk's backup share; knows neither sessions nor images'
names.
Invariant: a region without changes keeps the group it had, unread; every other region is laid over
a base whose blocks are fit to be referred to.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from random import Random

from airflow_provider_azstack.engine.backup import audit
from airflow_provider_azstack.engine.backup.before import Before
from airflow_provider_azstack.engine.backup.changes import SOURCES, DiskSource, Window, ask, windows
from airflow_provider_azstack.engine.backup.fetch import Fetcher
from airflow_provider_azstack.engine.backup.reads import (
    CellsPart,
    Read,
    by_neighbourhood,
    cell_parts,
    page_parts,
)
from airflow_provider_azstack.engine.backup.regions import (
    Neighbourhood,
    Region,
    Scratch,
    read_cells,
    read_pages,
)
from airflow_provider_azstack.engine.crew import Crew
from airflow_provider_azstack.engine.pace import Pace
from airflow_provider_azstack.engine.progress import Tally
from airflow_provider_azstack.errors import IntegrityError
from airflow_provider_azstack.model import ChangesKnown, DiskPart, Extent, Image
from airflow_provider_azstack.repo.blocks.heap import keep_freed_memory
from airflow_provider_azstack.repo.blocks.packs import BLOCK_SIZE
from airflow_provider_azstack.repo.blocks.reader import BlockReader
from airflow_provider_azstack.repo.blocks.writer import BlockWriter
from airflow_provider_azstack.repo.images.overlay import (
    arrange,
    cleared,
    overlay,
    split_at,
    whole_pages,
)
from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.images.runs import REGION_BYTES, Run, store_runs

log = logging.getLogger(__name__)

# Threads for each reader that wait for small ranges: those cost their latency and little else, so
# several share the reader's buffer. With eight readers, 30 ms of latency cost a third of the time.
HELPERS = 3

# A sibling's region is tried at one part in four, spread over it, and at no more than four of them.
_TRIED_ONE_IN, _MOST_TRIED = 4, 4

Task = Callable[[Scratch], None]
Part = Callable[[Region, Scratch], None]


class Pipeline:
    """The backup of a disk, or of a part of one, from its source to the groups of its regions."""

    def __init__(
        self,
        source: DiskSource,
        writer: BlockWriter,
        reader: BlockReader,
        previous: Image | None,
        *,
        trust: ChangesKnown,
        rng: Random,
        pace: Pace | None = None,
        part: DiskPart | None = None,
        sibling: Image | None = None,
    ) -> None:
        like = previous or sibling
        self._like = ImageReader(like, reader) if like and like.part is None else None
        self._is_siblings = previous is None  # a resized disk's own image is no sibling's
        if self._like:
            keep_freed_memory()  # of the cells that are read back
        if previous and not _fits(previous, source):
            previous = None
        self._source = source
        self._stretch = _stretch(part, source.size_bytes)
        self._writer = writer
        self._reader = reader
        self._previous = self._like if previous else None
        self._before = previous.regions if previous else ()
        self._previous_name = previous.name if previous else ""
        self._samples = audit.sample_offsets(previous, rng, *self._stretch) if previous else []
        self._has_losses = writer.has_losses()
        self._pace = pace
        self._cancel: threading.Event | None = None
        self._crew: Crew[Task] = Crew(self._plan())
        self._fetcher = Fetcher(self._read_into)
        self.known: ChangesKnown = "allocated" if trust == "difference" and not previous else trust
        self.based_on = ""
        self.changed_bytes = 0
        self.regions: list[bytes | None] = [None] * -(-source.size_bytes // REGION_BYTES)
        self.tally = Tally(self._stretch[1] - self._stretch[0])

    def run(self, readers: int, cancel: threading.Event | None, glance: Callable[[], None]) -> None:
        """Work through all of it; afterwards ``regions`` and the counts are those of it."""
        self._cancel = cancel
        with self._fetcher.helped(HELPERS * readers):
            self._crew.run(self._work, readers, cancel=cancel, glance=glance)

    def _work(self, tasks: Iterator[Task]) -> None:
        scratch = Scratch()
        for task in tasks:
            task(scratch)

    # Planning: in one thread at a time, in the disk's order.

    def _plan(self) -> Iterator[Task]:
        for window in windows(self._source, self.known, *self._stretch):
            self._note(window)
            pieces = split_at(sorted(window.extents), REGION_BYTES)
            changed = {n: list(group) for n, group in groupby(pieces, _region_of)}
            first = window.offset // REGION_BYTES
            for number in range(first, -(-(window.offset + window.length) // REGION_BYTES)):
                yield from self._plan_region(number, changed.get(number, []), window.known)
            yield from self._plan_audit(window)

    def _note(self, window: Window) -> None:
        self.known = max(self.known, window.known, key=SOURCES.index)
        work = sum(extent.length for extent in window.extents)
        self.changed_bytes += work
        self.tally.plan(window.length, work)
        if window.known == "difference":
            self.based_on = self._previous_name

    def _plan_region(
        self, number: int, extents: list[Extent], known: ChangesKnown
    ) -> Iterator[Task]:
        if known == "difference":
            group = self._before[number]
            # Without losses in the repository an idle region is fit when its group is: it is not
            # even loaded. With losses its blocks are looked at one by one, so that it heals.
            is_doubtful = group is not None and self._has_losses
            if extents or is_doubtful or not self._fit_to_refer_to(group):
                yield partial(self._overlay_region, number, extents)
                return
            self.regions[number] = group
        elif extents:
            yield partial(self._store_region, number, extents)
            return
        self.tally.add(done=self._bounds(number)[1])

    def _plan_audit(self, window: Window) -> Iterator[Task]:
        size, end = self._source.size_bytes, window.offset + window.length
        inside = (offset for offset in self._samples if window.offset <= offset < end)
        read = whole_pages((extent for extent in window.extents if not extent.zero), size)
        if window.known == "difference":
            empty = cleared(window.extents, size)
        else:
            empty = [Run(window.offset, window.length)]
        for sample in audit.unread_ranges(inside, read, end):
            yield partial(self._audit, sample, audit.within(empty, sample))

    # Regions: opened by one thread, read by all.

    def _store_region(self, number: int, extents: list[Extent], scratch: Scratch) -> None:
        """Read what may hold data, and store what of it is not there yet; the rest is zero."""
        self._store(number, extents, self._runs_of(self._like, number), scratch)

    def _overlay_region(self, number: int, extents: list[Extent], scratch: Scratch) -> None:
        """Lay the changes over the region as it was before."""
        offset, length = self._bounds(number)
        before = self._runs_of(self._previous, number)
        if before is None:
            self._store(number, ask(self._source, "allocated", offset, length)[1], None, scratch)
            return
        size = self._source.size_bytes
        base = overlay(before, cleared(extents, size))
        changed = whole_pages((extent for extent in extents if not extent.zero), size)
        cells, pages = arrange(base, changed, self._unfit_cells(base))
        wholes = (Extent(cell, min(BLOCK_SIZE, offset + length - cell)) for cell in cells)
        parts: list[Part] = [partial(self._read_cells, p) for p in cell_parts(wholes, size)]
        parts += [partial(self._read_pages, reads) for reads in page_parts(pages)]
        self._open(number, base, extents, parts)

    def _store(
        self, number: int, extents: list[Extent], like: list[Run] | None, scratch: Scratch
    ) -> None:
        size = self._source.size_bytes
        cells = cell_parts(whole_pages(extents, size), size)
        bare = [Run(*self._bounds(number))]
        if self._like is None or like is None:
            self._open(number, bare, extents, [partial(self._read_cells, part) for part in cells])
            return
        unfit, writer = self._unfit_cells(like), self._writer
        before = Before(self._like, like, unfit, writer.id_of, writer.known_of)
        parts: list[Part] = []
        for group in by_neighbourhood(cells):
            near = Neighbourhood(before, self._add, self._keep, len(group))
            parts += [partial(self._compare_cells, near, part) for part in group]
        region = self._opened(number, bare, extents, parts)
        if self._is_siblings:
            # A sibling's disk may be quite another one. That is found out by one thread, and in
            # order: what is stored depends on the disks, not on which thread is faster.
            step = max(_TRIED_ONE_IN, -(-len(parts) // _MOST_TRIED))
            for part in parts[::step]:
                part(region, scratch)
            before.judge()
            del parts[::step]
        self._crew.add(partial(part, region) for part in parts)

    def _runs_of(self, image: ImageReader | None, number: int) -> list[Run] | None:
        """Return a region's runs in an earlier image, None where they cannot be had."""
        offset, length = self._bounds(number)
        if image is None or offset + length > image.size_bytes:
            return None
        try:
            return image.runs(offset, length)
        except IntegrityError as error:
            log.warning("read as if new: %s", error)
            return None

    def _unfit_cells(self, runs: Iterable[Run]) -> set[int]:
        """Return the cells that refer to a lost, bad or condemned block: they are stored anew."""
        ids = {run.block_id for run in runs if run.block_id is not None}
        unfit = ids - self._writer.known_of(ids)
        cells: set[int] = set()
        for run in runs if unfit else ():
            if run.block_id in unfit:
                first = run.offset - run.offset % BLOCK_SIZE
                cells.update(range(first, run.end, BLOCK_SIZE))
        return cells

    def _fit_to_refer_to(self, block_id: bytes | None) -> bool:
        return block_id is None or self._writer.knows(block_id)

    def _open(
        self, number: int, base: list[Run], extents: list[Extent], parts: Sequence[Part]
    ) -> None:
        region = self._opened(number, base, extents, parts)
        self._crew.add(partial(part, region) for part in parts)

    def _opened(
        self, number: int, base: list[Run], extents: list[Extent], parts: Sequence[Part]
    ) -> Region:
        work = sum(extent.length for extent in extents)
        region = Region(number, base, len(parts), work)
        if not parts:
            self._close(region)
        return region

    def _read_cells(self, part: CellsPart, region: Region, scratch: Scratch) -> None:
        self._took(region, read_cells(part, self._fetcher.fetch, self._add, scratch))

    def _compare_cells(
        self, near: Neighbourhood, part: CellsPart, region: Region, scratch: Scratch
    ) -> None:
        self._took(region, near.read(part, self._fetcher.fetch, scratch))

    def _read_pages(self, reads: tuple[Read, ...], region: Region, scratch: Scratch) -> None:
        self._took(region, read_pages(reads, self._fetcher.fetch, self._add, scratch))

    def _took(self, region: Region, runs: list[Run]) -> None:
        last = region.take(runs)
        self.tally.add(done=region.share, worked=region.work_share)
        if last:
            self._close(region)

    def _close(self, region: Region) -> None:
        group, new_bytes = store_runs(self._writer, region.runs())
        self.regions[region.number] = group
        self.tally.add(done=region.rest, stored=new_bytes, worked=region.work_rest)

    def _audit(self, sample: Extent, empty: Sequence[Run], scratch: Scratch) -> None:
        """Read what would not be: it must be as before, and zero where it is said to be empty."""
        if self._previous is None:
            return
        try:
            before = self._previous.read(sample.offset, sample.length)
        except IntegrityError as error:  # the repository's damage is not the source's lie
            log.debug("cannot compare with the image before: %s", error)
            return
        now = scratch.read[: sample.length]
        self._read_into(sample.offset, now)
        expected = audit.cleared(sample, before, empty)
        audit.compare(sample, now, expected, self._previous_name)

    # The two ends.

    def _read_into(self, offset: int, buffer: memoryview) -> None:
        if self._pace:
            self._pace.take(len(buffer), self._cancel)
        self._source.read_into(offset, buffer)
        self.tally.add(read=len(buffer))

    def _add(self, data: memoryview, block_id: bytes | None = None) -> bytes:
        stored = self._writer.add(data, block_id=block_id)
        known = 0 if stored.new_bytes else len(data)
        self.tally.add(stored=stored.new_bytes, deduplicated=known)
        return stored.block_id

    def _keep(self, kept: int) -> None:
        self.tally.add(deduplicated=kept)

    def _bounds(self, number: int) -> tuple[int, int]:
        offset = number * REGION_BYTES
        return offset, min(REGION_BYTES, self._source.size_bytes - offset)


def _fits(previous: Image, source: DiskSource) -> bool:
    """Tell whether unchanged regions of ``previous`` can be taken over as they are."""
    sizes = (previous.size_bytes, previous.region_bytes)
    return sizes == (source.size_bytes, REGION_BYTES) and previous.part is None


def _stretch(part: DiskPart | None, size_bytes: int) -> tuple[int, int]:
    """Return where to begin and to end; the regions of two parts never overlap."""
    if part is None:
        return 0, size_bytes
    is_whole = part.end == size_bytes or part.end % REGION_BYTES == 0
    if part.first % REGION_BYTES or not is_whole or not part.first < part.end <= size_bytes:
        raise ValueError(f"{part} is not made of whole regions of a disk of {size_bytes} bytes")
    return part.first, part.end


def _region_of(extent: Extent) -> int:
    return extent.offset // REGION_BYTES
