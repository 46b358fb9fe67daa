"""
Finding out by content what of a cell changed since the image before.

Owns the comparison with what the repository holds; stores nothing.
Invariant: a run is kept only where the bytes that it stands for were read back, authenticated, and
are the source's, and where its block is fit to be referred to. What cannot be compared is new.

Where a disk has no image before, that of a sibling does, a VM made of the same image. It may have
become quite another one, so a few stretches of each region say whether the others are compared.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from airflow_provider_azstack.engine.pages import unequal
from airflow_provider_azstack.errors import IntegrityError
from airflow_provider_azstack.model import Extent
from airflow_provider_azstack.repo.images.overlay import (
    MAX_RUNS_PER_CELL,
    arrange,
    between,
    outside,
)
from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.images.runs import Run

log = logging.getLogger(__name__)


class Cell(NamedTuple):
    """A cell of the disk as it is now."""

    offset: int
    data: memoryview


class Found(NamedTuple):
    """A cell's id, what of the cell is there already, and what is not; None: nothing is there."""

    block_id: bytes
    kept: Sequence[Run] = ()
    changed: Sequence[Extent] | None = None


class Before:
    """A region in the image before. Thread-safe, but for ``judge``."""

    def __init__(
        self,
        image: ImageReader,
        runs: Sequence[Run],
        unfit: Collection[int],
        id_of: Callable[[memoryview], bytes],
        known_of: Callable[[Iterable[bytes]], set[bytes]],
    ) -> None:
        """
        Compare with ``runs`` of ``image``.

        :param unfit: offsets of cells that must not be referred to.
        :param id_of: returns the id of a cell's content.
        :param known_of: returns which of such ids the repository has, from whatever disk.
        """
        self._image = image
        self._runs = runs
        self._unfit = unfit
        self._id_of = id_of
        self._known_of = known_of
        self._alike = self._different = 0
        self._is_worth_it = True

    def judge(self) -> None:
        """Compare no more unless most of what was looked at so far is alike."""
        self._is_worth_it = self._alike >= self._different

    def look(self, cells: Iterable[Cell]) -> Iterator[Found]:
        """Yield, for cells near each other, what of each is there already."""
        seen = [(cell, self._id_of(cell.data), self._runs_of(cell)) for cell in cells]
        same = {block_id for cell, block_id, runs in seen if self._is_same(cell, block_id, runs)}
        # Only what the index lists counts. What is on its way as well depends on which thread was
        # faster, and what is stored must not.
        known = same | self._known_of(block_id for _, block_id, _ in seen if block_id not in same)
        for cell, block_id, runs in seen:
            if block_id in known:
                self._alike += block_id in same
                yield Found(block_id, [Run(cell.offset, len(cell.data), block_id)], ())
            else:
                yield self._compared(cell, block_id, runs)

    def _runs_of(self, cell: Cell) -> list[Run]:
        return between(self._runs, cell.offset, cell.offset + len(cell.data))

    def _is_same(self, cell: Cell, block_id: bytes, runs: Sequence[Run]) -> bool:
        is_fit = cell.offset not in self._unfit
        return is_fit and len(runs) == 1 and runs[0].block_id == block_id

    def _compared(self, cell: Cell, block_id: bytes, runs: Sequence[Run]) -> Found:
        offset, data = cell
        is_fit = offset not in self._unfit and 0 < _held(runs) <= MAX_RUNS_PER_CELL
        if not is_fit or not self._is_worth_it:
            return Found(block_id)
        try:
            before = self._image.read(offset, len(data))
        except IntegrityError as error:  # the repository's damage: storing it anew heals it
            log.warning("stored as if new: %s", error)
            return Found(block_id)
        whole, pages = arrange(runs, changed_pages(offset, data, before))
        if whole:
            self._different += 1
            return Found(block_id)
        self._alike += 1
        return Found(block_id, outside(runs, pages), pages)


def changed_pages(offset: int, now: memoryview, before: bytes) -> list[Extent]:
    """
    Return where two states of a cell differ, by whole pages.

    :param offset: of the cell.
    """
    return [Extent(offset + start, end - start) for start, end in unequal(now, before)]


def _held(runs: Sequence[Run]) -> int:
    """Return how many runs there are, 0 when all of them are zero."""
    return len(runs) if any(run.block_id for run in runs) else 0
