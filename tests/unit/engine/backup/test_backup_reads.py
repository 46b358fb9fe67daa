"""What is asked of a source: few questions, few reads, nothing twice and nothing left out."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.disks import PAGE, SparseDisk

from airflow_provider_azstack.engine.backup.changes import windows
from airflow_provider_azstack.engine.backup.reads import (
    NEIGHBOURHOOD_BYTES,
    READ_BYTES,
    READ_GAP_BYTES,
    Read,
    batches,
    cell_parts,
    coarse_reads,
    page_parts,
)
from airflow_provider_azstack.model import Extent
from airflow_provider_azstack.repo.blocks.packs import BLOCK_SIZE
from airflow_provider_azstack.repo.images.overlay import whole_pages

pytestmark = pytest.mark.tier1

MIB = 1024**2
DISK = 40 * MIB + 512


def pages_of(size: int) -> st.SearchStrategy[list[Extent]]:
    extent = st.builds(Extent, st.integers(0, size - 1), st.integers(1, size // 10))
    return st.lists(extent, max_size=10).map(lambda extents: whole_pages(extents, size))


def is_covered(extent: Extent, reads: list[tuple[int, int]]) -> bool:
    """Tell whether reads that touch each other or follow one another hold the whole extent."""
    position = extent.offset
    for offset, end in sorted(reads):
        if offset <= position < end:
            position = end
    return position >= extent.offset + extent.length


@given(pages_of(DISK))
def test_cells_are_read_once_and_completely(extents: list[Extent]) -> None:
    """Every byte that may hold data is inside a read, no read overlaps another or the buffer."""
    parts = list(cell_parts(extents, DISK))
    reads = [(read.offset, read.offset + read.length) for part in parts for read in part.reads]
    assert all(is_covered(extent, reads) for extent in extents)
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(reads))
    for part in parts:
        assert part.length <= READ_BYTES
        assert part.offset == part.cells[0]
        assert all(
            part.offset <= read.offset <= read.offset + read.length <= part.offset + part.length
            for read in part.reads
        )
    touched = {
        cell
        for extent in extents
        for cell in range(
            extent.offset // BLOCK_SIZE, (extent.offset + extent.length - 1) // BLOCK_SIZE + 1
        )
    }
    stored = [cell // BLOCK_SIZE for part in parts for cell in part.cells]
    assert stored == sorted(touched)


def test_near_pages_share_a_read_and_far_ones_do_not() -> None:
    """Bytes are read along only where that costs less than another request."""
    near = [Extent(0, PAGE), Extent(PAGE + READ_GAP_BYTES, PAGE)]
    far = [Extent(0, PAGE), Extent(2 * PAGE + READ_GAP_BYTES, PAGE)]
    assert [read.length for read in coarse_reads(near)] == [2 * PAGE + READ_GAP_BYTES]
    assert [read.length for read in coarse_reads(far)] == [PAGE, PAGE]


def test_pages_are_gathered_by_neighbourhood() -> None:
    """Pages far apart do not share a block: who restores one would read the other."""
    pages = [Extent(n * NEIGHBOURHOOD_BYTES // 2, PAGE) for n in range(6)]
    assert [len(reads) for reads in page_parts(pages)] == [2, 2, 2]
    assert [read.wanted for reads in page_parts(pages) for read in reads] == [(p,) for p in pages]


@given(st.lists(st.integers(PAGE, READ_BYTES), max_size=20))
def test_reads_that_share_a_buffer_fit_into_it(lengths: list[int]) -> None:
    """All reads, in their order, in as few buffers as that allows."""
    reads = [Read(n * READ_BYTES, length, ()) for n, length in enumerate(lengths)]
    found = list(batches(reads))
    assert [read for batch in found for read in batch] == reads
    filled = [sum(read.length for read in batch) for batch in found]
    assert all(total <= READ_BYTES for total in filled)
    for total, following in zip(filled, found[1:], strict=False):
        assert total + following[0].length > READ_BYTES


def asked(disk: SparseDisk, answer: Callable[[int, int], list[Extent]]) -> list[tuple[int, int]]:
    questions = []

    def allocated(offset: int, length: int) -> list[Extent]:
        questions.append((offset, length))
        return answer(offset, length)

    disk.allocated = allocated  # type: ignore[method-assign]
    covered = [
        (window.offset, window.length) for window in windows(disk, "allocated", 0, disk.size_bytes)
    ]
    assert covered == questions
    assert sum(length for _, length in covered) == disk.size_bytes
    return questions


def test_an_idle_terabyte_is_asked_for_in_few_questions() -> None:
    """Windows grow while answers are short."""
    assert len(asked(SparseDisk(1023 * 1024**3), lambda _offset, _length: [])) < 80


def test_fragmented_disks_are_asked_for_in_small_windows() -> None:
    """Windows shrink while answers are long, so an answer never fills the memory."""

    def fragmented(offset: int, length: int) -> list[Extent]:
        return [Extent(offset, PAGE)] * (length // (16 * 1024))

    questions = asked(SparseDisk(20 * 1024**3), fragmented)
    assert {length for _, length in questions[1:]} == {256 * MIB}
