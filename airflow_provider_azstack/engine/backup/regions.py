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
from typing import NamedTuple, Protocol

from airflow_provider_azstack.engine.backup.before import Before, Cell
from airflow_provider_azstack.engine.backup.fetch import Piece
from airflow_provider_azstack.engine.backup.reads import READ_BYTES, CellsPart, Read, batches
from airflow_provider_azstack.model import Extent
from airflow_provider_azstack.repo.blocks.packs import BLOCK_SIZE, lazy_buffer
from airflow_provider_azstack.repo.images.overlay import PAGE_BYTES, overlay
from airflow_provider_azstack.repo.images.runs import Run

# Single pages are gathered into blocks of this size. Larger ones compress no better, and live for
# as long as any of their pages does; smaller ones do not release the GIL for long enough.
GATHER_BYTES = 256 * 1024

_ZEROS = memoryview(bytes(READ_BYTES))  # slices of a view are no copies
_ZERO_CELL = bytearray(BLOCK_SIZE)  # a bytearray compares with a memoryview by memcmp
_ZERO_PAGE = bytearray(PAGE_BYTES)

Fetch = Callable[[Iterable[Piece]], None]


class AddBlock(Protocol):
    """What stores a block and returns its id, which may be known already."""

    def __call__(self, data: memoryview, block_id: bytes | None = None, /) -> bytes:
        """Store it unless it is there."""


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


def _cells(part: CellsPart, fetch: Fetch, buffer: memoryview) -> Iterator[Cell]:
    """Read a part; yield its cells, which are in the buffer till the next part is."""
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
        yield Cell(offset, buffer[start : min(start + BLOCK_SIZE, part.length)])


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
    the same blocks, which then are read once. What is stored of it is the same for the same bytes,
    whichever thread is faster.
    """

    def __init__(
        self, before: Before, add: AddBlock, keep: Callable[[int], None], parts: int
    ) -> None:
        """
        Prepare it.

        :param keep: is told how many bytes were there already.
        :param parts: so many times ``read`` is called.
        """
        self._before = before
        self._add = add
        self._keep = keep
        self._parts = parts
        self._rests: list[_Pages] = []
        self._lock = threading.Lock()

    def read(self, part: CellsPart, fetch: Fetch, scratch: Scratch) -> list[Run]:
        """Read a part; the last one returns the runs of what the parts left for shared blocks."""
        gathered = _Gathered(self._add, scratch.gather)
        runs = self._compared(list(_cells(part, fetch, scratch.read)), gathered)
        rest = gathered.hand_over()
        with self._lock:
            self._rests.extend(rest)
            self._parts -= 1
            is_last = not self._parts
        for pages in sorted(self._rests) if is_last else ():
            gathered.put(pages.offset, memoryview(pages.data))
        return runs + gathered.finish()

    def _compared(self, cells: Sequence[Cell], gathered: "_Gathered") -> list[Run]:
        """Return the runs of cells, without those of the pages that are gathered."""
        runs: list[Run] = []
        held: list[Cell] = []
        for cell in cells:
            if is_zero(cell.data):
                runs.append(Run(cell.offset, len(cell.data)))
            else:
                held.append(cell)
        kept = 0
        for (offset, data), found in zip(held, self._before.look(held), strict=True):
            if found.changed is None:
                runs.append(Run(offset, len(data), self._add(data, found.block_id)))
                continue
            for page in found.changed:
                start = page.offset - offset
                gathered.take(page.offset, data[start : start + page.length])
            runs.extend(found.kept)
            kept += sum(run.length for run in found.kept)
        self._keep(kept)
        return runs


def _side_by_side(reads: Sequence[Read], buffer: memoryview) -> list[Piece]:
    ends = accumulate(read.length for read in reads)
    return [
        Piece(read.offset, buffer[end - read.length : end])
        for read, end in zip(reads, ends, strict=True)
    ]


class _Pages(NamedTuple):
    """Pages side by side that fill no block."""

    offset: int
    data: bytes


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
            if data[start] or not is_zero(page := data[start : start + PAGE_BYTES]):
                first = start if first < 0 else first
                continue
            if first >= 0:
                self.put(offset + first, data[first:start])
                first = -1
            self._runs.append(Run(offset + start, len(page)))
        if first >= 0:
            self.put(offset + first, data[first:])

    def hand_over(self) -> list[_Pages]:
        """Return what waits for a block to be full; it waits no more."""
        starts = accumulate((extent.length for extent in self._waiting), initial=0)
        pages = [
            _Pages(extent.offset, bytes(self._buffer[start : start + extent.length]))
            for extent, start in zip(self._waiting, starts, strict=False)
        ]
        self._waiting.clear()
        self._filled = 0
        return pages

    def finish(self) -> list[Run]:
        """Store what is still waiting and return the runs of everything taken."""
        if self._waiting:
            self._store()
        return self._runs

    def put(self, offset: int, data: memoryview) -> None:
        """Gather all of some pages."""
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
