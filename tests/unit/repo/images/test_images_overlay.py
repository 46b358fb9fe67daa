"""Overlay: changes laid over an image are the same as bytes written over bytes."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_azstack.model import Extent
from airflow_provider_azstack.repo.blocks.packs import BLOCK_SIZE
from airflow_provider_azstack.repo.images.overlay import (
    MAX_RUNS_PER_CELL,
    PAGE_BYTES,
    arrange,
    between,
    cleared,
    overlay,
    whole_pages,
)
from airflow_provider_azstack.repo.images.runs import Run, join

pytestmark = pytest.mark.tier1

SIZE = 200  # bytes of the model disk: small enough to compare byte by byte
BLOCKS = {number.to_bytes(32, "big"): bytes([number]) * 300 for number in range(1, 9)}
WITH_POSITIONS = {
    key: bytes((value[0] * 20 + position) % 251 + 1 for position in range(300))
    for key, value in BLOCKS.items()
}


def content(runs: list[Run]) -> bytes:
    return b"".join(
        WITH_POSITIONS[run.block_id][run.start : run.start + run.length]
        if run.block_id
        else bytes(run.length)
        for run in runs
    )


@st.composite
def stretches(draw: st.DrawFn, *, covering: bool) -> list[Run]:
    borders = sorted(draw(st.sets(st.integers(1, SIZE - 1), max_size=12)) | {0, SIZE})
    runs = []
    for start, end in itertools.pairwise(borders):
        if covering or draw(st.booleans()):
            block = draw(st.sampled_from([None, *WITH_POSITIONS]))
            first = draw(st.integers(0, 300 - (end - start))) if block else 0
            runs.append(Run(start, end - start, block, first))
    return runs


@given(stretches(covering=True), st.lists(stretches(covering=False), max_size=4))
def test_overlay_equals_writing_bytes(base: list[Run], days: list[list[Run]]) -> None:
    """After any number of days of changes the runs say what a byte array says."""
    model, runs = bytearray(content(base)), join(base)
    for changes in days:
        runs = overlay(runs, changes)
        for change in changes:
            model[change.offset : change.end] = content([change])
    assert content(runs) == model
    assert runs == join(runs)


@given(stretches(covering=True), st.integers(0, SIZE), st.integers(0, SIZE))
def test_between_cuts_exactly(base: list[Run], one: int, other: int) -> None:
    """Any stretch of runs has the bytes of that stretch."""
    start, end = sorted((one, other))
    assert content(list(between(base, start, end))) == content(base)[start:end]


def test_changes_that_overlap_are_refused() -> None:
    """F-H5: which of two changes is right cannot be known."""
    with pytest.raises(ValueError, match="two changes"):
        overlay([Run(0, 100)], [Run(0, 50), Run(40, 10)])


extents = st.lists(
    st.builds(Extent, st.integers(0, 50_000), st.integers(0, 20_000), st.booleans()), max_size=8
)


@given(extents, st.integers(1, 70_000))
def test_whole_pages_cover_what_changed_and_nothing_else(
    changed: list[Extent], disk_bytes: int
) -> None:
    """Whatever order and overlap the extents come in, each touched page is there once."""
    touched = {
        page
        for extent in changed
        for page in range(
            extent.offset // PAGE_BYTES, -(-(extent.offset + extent.length) // PAGE_BYTES)
        )
        if extent.length and page * PAGE_BYTES < disk_bytes
    }
    pages = whole_pages(changed, disk_bytes)
    found = [
        page
        for extent in pages
        for page in range(
            extent.offset // PAGE_BYTES, -(-(extent.offset + extent.length) // PAGE_BYTES)
        )
    ]
    assert sorted(touched) == found
    assert all(extent.offset + extent.length <= disk_bytes for extent in pages)


@given(extents)
def test_cleared_bytes_are_exactly_the_zero_extents(changed: list[Extent]) -> None:
    """A clear says nothing about the rest of its page."""
    model = {
        byte
        for e in changed
        if e.zero
        for byte in range(e.offset, min(e.offset + e.length, 60_000))
    }
    assert {
        byte for run in cleared(changed, 60_000) for byte in range(run.offset, run.end)
    } == model


def test_few_pages_are_stored_as_pages() -> None:
    """A database that dirties 4 KiB here and there costs 4 KiB."""
    base = [Run(0, 4 * BLOCK_SIZE)]
    pages = [Extent(BLOCK_SIZE * n + 8192, 4096) for n in range(4)]
    assert arrange(base, pages) == ((), tuple(pages))


def test_a_cell_that_mostly_changed_is_stored_whole() -> None:
    """Three quarters of a cell cost a whole one: at most a third more, and it deduplicates."""
    base = [Run(0, 4 * BLOCK_SIZE)]
    most = Extent(BLOCK_SIZE, BLOCK_SIZE * 3 // 4)
    assert arrange(base, [most]) == ((BLOCK_SIZE,), ())
    assert arrange(base, [Extent(BLOCK_SIZE, most.length - 4096)]).cells == ()


def test_the_last_cell_of_a_disk_may_be_short() -> None:
    """Most of a short cell is less than most of a block."""
    base = [Run(0, BLOCK_SIZE + 8192)]
    assert arrange(base, [Extent(BLOCK_SIZE, 8192)]).cells == (BLOCK_SIZE,)


def test_fragmentation_is_bounded() -> None:
    """Day after day of single pages: a cell is stored whole before its runs get too many."""
    runs: list[Run] = [Run(0, BLOCK_SIZE, b"a" * 32)]
    whole_on = []
    for day in range(200):
        page = Extent(day * 37 % 256 * PAGE_BYTES, PAGE_BYTES)
        cells, pages = arrange(runs, [page])
        if cells:
            whole_on.append(day)
            runs = [Run(0, BLOCK_SIZE, day.to_bytes(32, "big"))]
        else:
            runs = overlay(runs, [Run(*pages[0][:2], day.to_bytes(32, "little"))])
        assert len(runs) <= MAX_RUNS_PER_CELL
    assert 1 <= len(whole_on) <= 200 // 60


def test_cells_that_must_be_stored_anew_are() -> None:
    """A lost or condemned block is not referred to again, changed or not."""
    base = [Run(0, 4 * BLOCK_SIZE)]
    pages = [Extent(4096, 4096), Extent(BLOCK_SIZE, 4096)]
    assert arrange(base, pages, {BLOCK_SIZE, 2 * BLOCK_SIZE}) == (
        (BLOCK_SIZE, 2 * BLOCK_SIZE),
        (pages[0],),
    )
