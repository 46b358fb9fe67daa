"""
One region of a disk on its way into the repository.

Owns what of it is read, kept, gathered into blocks and put together; knows no threads and no
windows.
Invariant: a region's runs come from its base and from bytes that were read, and its group is
stored only after its last part.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate

from airflow_provider_azstack.engine.backup.before import Before
from airflow_provider_azstack.engine.backup.fetch import Piece
from airflow_provider_azstack.engine.backup.reads import READ_BYTES, CellsPart, Read, batches
from airflow_provider_azstack.model import Extent
from airflow_provider_azstack.repo.blocks.packs import BLOCK_SIZE, lazy_buffer
from airflow_provider_azstack.repo.images.overlay import PAGE_BYTES, overlay
from airflow_provider_azstack.repo.images.runs import Run

# Single pages are gathered into blocks of this size. Larger ones compress no better, and live for
# as long as any of their pages does; smaller ones do not release the GIL for long enough.
GATHER_BYTES = 256 * 1024

_ZEROS = bytes(READ_BYTES)
_ZERO_CELL = bytearray(BLOCK_SIZE)  # a bytearray compares with a memoryview by memcmp
_ZERO_PAGE = bytearray(PAGE_BYTES)

AddBlock = Callable[[memoryview], bytes]
Fetch = Callable[[Iterable[Piece]], None]


class Scratch:
    """A thread's buffers, made once: fresh large buffers cost more than filling them."""

    def __init__(self) -> None:
        self.read = lazy_buffer(READ_BYTES)
        self.gather = lazy_buffer(GATHER_BYTES)


class Region:
    """A region that is being read: its base, what changed so far, and the parts still out."""

    def __init__(self, number: int, base: Sequence[Run], parts: int, work: int = 0) -> None:
        """
        Open it.

        :param work: how many of its bytes the source said to be allocated or changed.
        """
        length = base[-1].end - base[0].offset
        self.number = number
        self.share = length // parts if parts else 0  # of the region that one part stands for
        self.rest = length - parts * self.share
        self.work_share = work // parts if parts else 0
        self.work_rest = work - parts * self.work_share
        self._base = base
        self._changes: list[Run] = []
        self._parts = parts
        self._lock = threading.Lock()

    def take(self, changes: Iterable[Run]) -> bool:
        """Take the runs of one part; tell whether it was the last one."""
        with self._lock:
            self._changes.extend(changes)
            self._parts -= 1
            return self._parts == 0

    def runs(self) -> list[Run]:
        """Return the region's runs after all its parts."""
        return overlay(self._base, sorted(self._changes, key=lambda run: run.offset))


def is_zero(data: memoryview) -> bool:
    """Tell whether all bytes are zero."""
    if data[0] or data[-1]:
        return False
    if len(data) == PAGE_BYTES:
        zeros = _ZERO_PAGE
    else:
        zeros = _ZERO_CELL if len(data) == BLOCK_SIZE else _ZERO_CELL[: len(data)]
    return zeros == data


def read_cells(part: CellsPart, fetch: Fetch, add: AddBlock, scratch: Scratch) -> list[Run]:
    """Read a part and store each of its cells as a block of its own, or as zero."""
    return [
        Run(offset, len(data), None if is_zero(data) else add(data))
        for offset, data in _cells(part, fetch, scratch.read)
    ]


def _cells(part: CellsPart, fetch: Fetch, buffer: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Read a part; yield offset and content of its cells, which are in the buffer till the next."""
    filled = 0
    pieces = []
    for read in part.reads:
        start = read.offset - part.offset
        buffer[filled:start] = _ZEROS[: start - filled]
        filled = start + read.length
        pieces.append(Piece(read.offset, buffer[start:filled]))
    buffer[filled : part.length] = _ZEROS[: part.length - filled]
    fetch(pieces)
    for offset in part.cells:
        start = offset - part.offset
        yield offset, buffer[start : min(start + BLOCK_SIZE, part.length)]


def read_pages(reads: Iterable[Read], fetch: Fetch, add: AddBlock, scratch: Scratch) -> list[Run]:
    """Read coarse and store fine: only the pages that are wanted, gathered into blocks."""
    gathered = _Gathered(add, scratch.gather)
    for batch in batches(reads):
        pieces = _side_by_side(batch, scratch.read)
        fetch(pieces)
        for read, piece in zip(batch, pieces, strict=True):
            for extent in read.wanted:
                start = extent.offset - read.offset
                gathered.take(extent.offset, piece.buffer[start : start + extent.length])
    return gathered.finish()


class Neighbourhood:
    """
    Cells near each other that are compared with an image, by several threads.

    They go through it together, not each through one of its own: what the image has of it lies in
    the same blocks, which then are read once.
    """

    def __init__(self, before: Before, add: AddBlock, parts: int) -> None:
        self._before = before
        self._add = add
        self._gathered = _Gathered(add, lazy_buffer(GATHER_BYTES))
        self._parts = parts
        self._lock = threading.Lock()

    def read(self, part: CellsPart, fetch: Fetch, scratch: Scratch) -> list[Run]:
        """Read a part; the last one returns the runs of all pages that are not as before."""
        runs: list[Run] = []
        for offset, data in _cells(part, fetch, scratch.read):
            if is_zero(data):
                runs.append(Run(offset, len(data)))
            elif (found := self._before.look(offset, data)) is None:
                runs.append(Run(offset, len(data), self._add(data)))
            else:
                runs.extend(found.kept)
                self._gather(found.changed, offset, data)
        with self._lock:
            self._parts -= 1
            return runs if self._parts else runs + self._gathered.finish()

    def _gather(self, pages: Iterable[Extent], offset: int, data: memoryview) -> None:
        with self._lock:
            for page in pages:
                start = page.offset - offset
                self._gathered.take(page.offset, data[start : start + page.length])


def _side_by_side(reads: Sequence[Read], buffer: memoryview) -> list[Piece]:
    ends = accumulate(read.length for read in reads)
    return [
        Piece(read.offset, buffer[end - read.length : end])
        for read, end in zip(reads, ends, strict=True)
    ]


class _Gathered:
    """Pages of a neighbourhood on their way into shared blocks."""

    def __init__(self, add: AddBlock, buffer: memoryview) -> None:
        self._add = add
        self._buffer = buffer
        self._filled = 0
        self._waiting: list[Extent] = []  # what the buffer holds, in its order
        self._runs: list[Run] = []

    def take(self, offset: int, data: memoryview) -> None:
        """Gather the pages that hold data; the others become zero."""
        first = -1  # of the pages with data that are not gathered yet
        for start in range(0, len(data), PAGE_BYTES):
            page = data[start : start + PAGE_BYTES]
            if not is_zero(page):
                first = start if first < 0 else first
                continue
            if first >= 0:
                self._put(offset + first, data[first:start])
                first = -1
            self._runs.append(Run(offset + start, len(page)))
        if first >= 0:
            self._put(offset + first, data[first:])

    def finish(self) -> list[Run]:
        """Store what is still waiting and return the runs of everything taken."""
        if self._waiting:
            self._store()
        return self._runs

    def _put(self, offset: int, data: memoryview) -> None:
        while data:
            if self._filled == len(self._buffer):
                self._store()
            piece = data[: len(self._buffer) - self._filled]
            end = self._filled + len(piece)
            self._buffer[self._filled : end] = piece
            self._filled = end
            self._wait(offset, len(piece))
            offset, data = offset + len(piece), data[len(piece) :]

    def _wait(self, offset: int, length: int) -> None:
        if self._waiting:
            first, before, _ = self._waiting[-1]
            if first + before == offset:
                self._waiting[-1] = Extent(first, before + length)
                return
        self._waiting.append(Extent(offset, length))

    def _store(self) -> None:
        block_id = self._add(self._buffer[: self._filled])
        start = 0
        for offset, length, _ in self._waiting:
            self._runs.append(Run(offset, length, block_id, start))
            start += length
        self._waiting.clear()
        self._filled = 0
