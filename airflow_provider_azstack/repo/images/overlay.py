"""
Laying changes over the runs of the image before.

Owns which runs survive a change and when a cell of the disk is stored whole again; reads and
writes nothing.
Invariant: the result says for every byte what the change says where there is one, and what the
image before said everywhere else.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from airflow_provider_azstack.model import Extent
from airflow_provider_azstack.repo.blocks.packs import BLOCK_SIZE
from airflow_provider_azstack.repo.images.runs import Run, join

PAGE_BYTES = 4096  # what the stack tells changes in, and the least that is stored of one

# A cell is a block-sized, block-aligned piece of the disk. Once most of it changed, storing it
# whole costs at most a third more, and gives a block that equal cells of other disks share.
_WHOLE_NUMERATOR, _WHOLE_DENOMINATOR = 3, 4
# Single pages in a cell are bounded: 128 runs are about 64 pages, a quarter of the cell, kept
# twice for as long as both images live. Fewer would store cells again too soon (at 1% of scattered
# pages a day a cell comes due after three weeks); more would slow restores and swell the groups.
MAX_RUNS_PER_CELL = 128


class Changes(NamedTuple):
    """How a region's changes are to be stored: offsets of cells stored whole, and single pages."""

    cells: tuple[int, ...]
    pages: tuple[Extent, ...]


def between(runs: Sequence[Run], offset: int, end: int) -> list[Run]:
    """Return the runs from ``offset`` to ``end``, the outer ones cut to fit."""
    kept: list[Run] = []
    _keep(runs, bisect_right(runs, offset, key=attrgetter("offset")) - 1, offset, end, kept)
    return kept


def outside(runs: Sequence[Run], extents: Iterable[Extent]) -> list[Run]:
    """Return what of ``runs`` lies between ``extents``, which are sorted and inside them."""
    kept: list[Run] = []
    position, at = runs[0].offset, 0
    for extent in extents:
        at = _keep(runs, at, position, extent.offset, kept)
        position = extent.offset + extent.length
    _keep(runs, at, position, runs[-1].end, kept)
    return kept


def overlay(previous: Sequence[Run], changes: Iterable[Run]) -> list[Run]:
    """
    Return the runs of a region after ``changes``.

    :param changes: sorted, without overlaps, inside the region.
    """
    result: list[Run] = []
    position, at = previous[0].offset, 0
    for change in changes:
        if change.offset < position:
            raise ValueError(f"two changes cover offset {change.offset}")
        at = _keep(previous, at, position, change.offset, result)
        result.append(change)
        position = change.end
    _keep(previous, at, position, previous[-1].end, result)
    return join(result)


def _keep(runs: Sequence[Run], at: int, offset: int, end: int, kept: list[Run]) -> int:
    """Append what ``runs`` say from ``offset`` to ``end``; look from ``at`` on, return where."""
    while offset < end:
        run = runs[at]
        stop = run.offset + run.length
        if stop <= offset:
            at += 1
            continue
        cut = min(stop, end)
        kept.append(run if (offset, cut) == (run.offset, stop) else run.cut(offset, cut))
        offset = cut
    return at


def whole_pages(
    extents: Iterable[Extent], disk_bytes: int, page_bytes: int = PAGE_BYTES
) -> list[Extent]:
    """Return the whole pages that ``extents`` touch, sorted, joined, cut off at the disk's end."""
    joined: list[Extent] = []
    for extent in sorted(extent for extent in extents if extent.length):
        offset = extent.offset - extent.offset % page_bytes
        end = extent.offset + extent.length
        end = min(end + -end % page_bytes, disk_bytes)
        if joined and offset <= joined[-1].offset + joined[-1].length:
            first, length = joined[-1].offset, joined[-1].length
            joined[-1] = Extent(first, max(end - first, length))
        elif end > offset:
            joined.append(Extent(offset, end - offset))
    return joined


def cleared(extents: Iterable[Extent], disk_bytes: int) -> list[Run]:
    """Return zero runs, to the byte, for those of ``extents`` that hold zeros now."""
    zeros = whole_pages((extent for extent in extents if extent.zero), disk_bytes, 1)
    return [Run(extent.offset, extent.length) for extent in zeros]


def split_at(extents: Iterable[Extent], step: int) -> Iterator[Extent]:
    """Yield ``extents`` cut at every multiple of ``step``."""
    for extent in extents:
        offset, end = extent.offset, extent.offset + extent.length
        while offset < end:
            stop = min(offset + step - offset % step, end)
            yield Extent(offset, stop - offset, extent.zero)
            offset = stop


def arrange(
    previous: Sequence[Run], changed: Iterable[Extent], anew: Collection[int] = ()
) -> Changes:
    """
    Decide for each cell that changed whether it is stored whole or by its pages.

    :param changed: from ``whole_pages``.
    :param anew: offsets of cells that are stored whole in any case.
    """
    cells = set(anew)
    pages: list[Extent] = []
    end = previous[-1].end
    pieces_of_cells = groupby(split_at(changed, BLOCK_SIZE), lambda e: e.offset // BLOCK_SIZE)
    for number, group in pieces_of_cells:
        pieces, offset = list(group), number * BLOCK_SIZE
        length = min(BLOCK_SIZE, end - offset)
        changed_bytes = sum(piece.length for piece in pieces)
        runs = _count_between(previous, offset, offset + length) + 2 * len(pieces)
        mostly = changed_bytes * _WHOLE_DENOMINATOR >= length * _WHOLE_NUMERATOR
        if mostly or runs > MAX_RUNS_PER_CELL:
            cells.add(offset)
        elif offset not in cells:
            pages.extend(pieces)
    return Changes(tuple(sorted(cells)), tuple(pages))


def _count_between(runs: Sequence[Run], offset: int, end: int) -> int:
    key = attrgetter("offset")
    return bisect_right(runs, end - 1, key=key) - bisect_right(runs, offset, key=key) + 1
