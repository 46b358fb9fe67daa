"""
Which bytes one GET fetches, and what of them is kept.

Owns the reading plan of a region, a pure function; reads nothing itself.
Invariant: every extent asked for is inside exactly one read, and neither a read nor a batch of them
is longer than a buffer.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from airflow_provider_azstack.model import Extent
from airflow_provider_azstack.repo.blocks.packs import BLOCK_SIZE
from airflow_provider_azstack.repo.images.overlay import split_at

READ_BYTES = 4 * 1024**2  # the stack computes an MD5 of a range up to this size
# Bytes between two extents are read along when that costs less than another GET. A GET costs this
# side about 0.25 ms of CPU, as much as 0.5 MiB more in a GET under way; the stack's standard disks
# give 60 MB/s or 500 operations a second, so there a GET is worth 0.12 MiB. Between the two:
READ_GAP_BYTES = 256 * 1024
# Single pages of one neighbourhood share blocks: those who restore it later find them together.
NEIGHBOURHOOD_BYTES = 64 * 1024**2


class Read(NamedTuple):
    """One GET and the extents in it that are wanted."""

    offset: int
    length: int
    wanted: tuple[Extent, ...]


class CellsPart(NamedTuple):
    """Cells close to each other, one buffer's worth; what no read covers in them is zero."""

    offset: int
    length: int
    reads: tuple[Read, ...]
    cells: tuple[int, ...]


def coarse_reads(extents: Iterable[Extent]) -> Iterator[Read]:
    """
    Yield the GETs for ``extents``.

    :param extents: sorted, without overlaps, none longer than ``READ_BYTES``.
    """
    wanted: list[Extent] = []
    for extent in extents:
        if wanted:
            last = wanted[-1].offset + wanted[-1].length
            far = extent.offset - last > READ_GAP_BYTES
            if far or extent.offset + extent.length - wanted[0].offset > READ_BYTES:
                yield _read(wanted)
                wanted = []
        wanted.append(extent)
    if wanted:
        yield _read(wanted)


def _read(wanted: list[Extent]) -> Read:
    offset = wanted[0].offset
    return Read(offset, wanted[-1].offset + wanted[-1].length - offset, tuple(wanted))


def batches(reads: Iterable[Read]) -> Iterator[list[Read]]:
    """Yield the reads in groups that fill one buffer together."""
    batch: list[Read] = []
    filled = 0
    for read in reads:
        if filled + read.length > READ_BYTES:
            yield batch
            batch, filled = [], 0
        batch.append(read)
        filled += read.length
    if batch:
        yield batch


def cell_parts(extents: Iterable[Extent], disk_bytes: int) -> Iterator[CellsPart]:
    """Yield what to read to store every cell that ``extents`` touch whole."""
    pieces = split_at(extents, READ_BYTES)
    for _, group in groupby(pieces, lambda piece: piece.offset // READ_BYTES):
        reads = tuple(coarse_reads(group))
        touched = {
            cell
            for read in reads
            for extent in read.wanted
            for cell in range(
                extent.offset // BLOCK_SIZE, (extent.offset + extent.length - 1) // BLOCK_SIZE + 1
            )
        }
        cells = tuple(cell * BLOCK_SIZE for cell in sorted(touched))
        end = min(cells[-1] + BLOCK_SIZE, disk_bytes)
        yield CellsPart(cells[0], end - cells[0], reads, cells)


def by_neighbourhood(parts: Iterable[CellsPart]) -> Iterator[tuple[CellsPart, ...]]:
    """Yield the parts whose single pages share blocks."""
    for _, group in groupby(parts, lambda part: part.offset // NEIGHBOURHOOD_BYTES):
        yield tuple(group)


def page_parts(pages: Iterable[Extent]) -> Iterator[tuple[Read, ...]]:
    """Yield the reads of ``pages``, neighbourhood by neighbourhood."""
    for _, group in groupby(pages, lambda page: page.offset // NEIGHBOURHOOD_BYTES):
        yield tuple(coarse_reads(group))
