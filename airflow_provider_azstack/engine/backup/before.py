"""
Finding out by content what of a cell changed since the image before.

Owns the comparison with what the repository holds; stores nothing.
Invariant: a run is kept only where the bytes that it stands for were read back, authenticated, and
are the source's, and where its block is fit to be referred to. What cannot be compared is new.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from airflow_provider_azstack.errors import IntegrityError
from airflow_provider_azstack.model import Extent
from airflow_provider_azstack.repo.images.overlay import (
    MAX_RUNS_PER_CELL,
    PAGE_BYTES,
    arrange,
    between,
    outside,
)
from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.images.runs import Run

log = logging.getLogger(__name__)

# Most of a cell that changed is as it was: pieces of this size are compared before their pages.
_PIECE_BYTES = 16 * PAGE_BYTES


class Found(NamedTuple):
    """What of a cell is there already, and which of its pages are not."""

    kept: list[Run]
    changed: Sequence[Extent]


class Before:
    """A region in the image before. Thread-safe."""

    def __init__(
        self,
        image: ImageReader,
        runs: Sequence[Run],
        unfit: Collection[int],
        find: Callable[[memoryview], bytes | None],
        keep: Callable[[int], None],
    ) -> None:
        """
        Compare with ``runs`` of ``image``.

        :param unfit: offsets of cells that must not be referred to.
        :param find: returns the id of a whole cell that the repository has, from whatever disk.
        :param keep: is told how many bytes of a cell are kept.
        """
        self._image = image
        self._runs = runs
        self._unfit = unfit
        self._find = find
        self._keep = keep

    def look(self, offset: int, data: memoryview) -> Found | None:
        """Return what of a cell is there already; None when it has to be stored whole."""
        block_id = self._find(data)
        if block_id is not None:
            return Found([Run(offset, len(data), block_id)], ())
        runs = list(between(self._runs, offset, offset + len(data)))
        if offset in self._unfit or not 0 < _held(runs) <= MAX_RUNS_PER_CELL:
            return None
        try:
            before = self._image.read(offset, len(data))
        except IntegrityError as error:  # the repository's damage: storing it anew heals it
            log.warning("stored as if new: %s", error)
            return None
        whole, pages = arrange(runs, changed_pages(offset, data, before))
        if whole:
            return None
        self._keep(len(data) - sum(page.length for page in pages))
        return Found(list(outside(runs, pages)), pages)


def changed_pages(offset: int, now: memoryview, before: bytes) -> list[Extent]:
    """
    Return where two states of a cell differ, by whole pages.

    :param offset: of the cell.
    """
    found: list[Extent] = []
    end = -1
    for piece in range(0, len(now), _PIECE_BYTES):
        stop = min(piece + _PIECE_BYTES, len(now))
        if bytes(now[piece:stop]) == before[piece:stop]:
            continue
        for start in range(piece, stop, PAGE_BYTES):
            page = bytes(now[start : min(start + PAGE_BYTES, stop)])
            if page == before[start : start + len(page)]:
                continue
            if start == end:
                found[-1] = found[-1]._replace(length=found[-1].length + len(page))
            else:
                found.append(Extent(offset + start, len(page)))
            end = start + len(page)
    return found


def _held(runs: Sequence[Run]) -> int:
    """Return how many runs there are, 0 when all of them are zero."""
    return len(runs) if any(run.block_id for run in runs) else 0
