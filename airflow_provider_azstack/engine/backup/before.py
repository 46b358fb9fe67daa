"""
Finding out by content what of a cell changed since the image before.

Owns the comparison with what the repository holds; stores nothing.
Invariant: a run is kept only where the bytes that it stands for were read back, authenticated, and
are the source's, and where its block is fit to be referred to. What cannot be compared is new.

Where a disk has no image before, that of a sibling does, a VM made of the same image. It may have
become quite another one, so a cell of it is read back only while others were found to be alike.
"""

import logging
from collections.abc import Callable, Collection, Sequence
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

# What a sibling is trusted with at first, and at most: a cell that has little in common costs two.
_CREDIT, _MOST_CREDIT = 4, 8


class Found(NamedTuple):
    """What of a cell is there already, and which of its pages are not."""

    kept: list[Run]
    changed: Sequence[Extent]


class Likeness:
    """Whether a sibling's disk is like this one, as far as was seen. Thread-safe."""

    def __init__(self) -> None:
        self._credit = _CREDIT

    def __bool__(self) -> bool:
        return self._credit > 0

    def saw(self, *, is_alike: bool) -> None:
        """Learn from a cell; a lost update between threads costs a comparison, or saves one."""
        self._credit = min(self._credit + 1, _MOST_CREDIT) if is_alike else self._credit - 2


class Before:
    """A region in the image before. Thread-safe."""

    def __init__(
        self,
        image: ImageReader,
        runs: Sequence[Run],
        unfit: Collection[int],
        find: Callable[[memoryview], bytes | None],
        keep: Callable[[int], None],
        *,
        likeness: Likeness | None = None,
    ) -> None:
        """
        Compare with ``runs`` of ``image``.

        :param unfit: offsets of cells that must not be referred to.
        :param find: returns the id of a whole cell that the repository has, from whatever disk.
        :param keep: is told how many bytes of a cell are kept.
        :param likeness: of a sibling's disk; None: it is the disk's own image.
        """
        self._image = image
        self._runs = runs
        self._unfit = unfit
        self._find = find
        self._keep = keep
        self._likeness = likeness

    def look(self, offset: int, data: memoryview) -> Found | None:
        """Return what of a cell is there already; None when it has to be stored whole."""
        runs = between(self._runs, offset, offset + len(data))
        block_id = self._find(data)
        if block_id is not None:
            if len(runs) == 1 and runs[0].block_id == block_id:
                self._saw(is_alike=True)
            return Found([Run(offset, len(data), block_id)], ())
        if self._likeness is not None and not self._likeness:
            return None
        if offset in self._unfit or not 0 < _held(runs) <= MAX_RUNS_PER_CELL:
            return None
        try:
            before = self._image.read(offset, len(data))
        except IntegrityError as error:  # the repository's damage: storing it anew heals it
            log.warning("stored as if new: %s", error)
            return None
        whole, pages = arrange(runs, changed_pages(offset, data, before))
        self._saw(is_alike=not whole)
        if whole:
            return None
        self._keep(len(data) - sum(page.length for page in pages))
        return Found(outside(runs, pages), pages)

    def _saw(self, *, is_alike: bool) -> None:
        if self._likeness is not None:
            self._likeness.saw(is_alike=is_alike)


def changed_pages(offset: int, now: memoryview, before: bytes) -> list[Extent]:
    """
    Return where two states of a cell differ, by whole pages.

    :param offset: of the cell.
    """
    return [Extent(offset + start, end - start) for start, end in unequal(now, before)]


def _held(runs: Sequence[Run]) -> int:
    """Return how many runs there are, 0 when all of them are zero."""
    return len(runs) if any(run.block_id for run in runs) else 0
