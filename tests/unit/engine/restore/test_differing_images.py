"""Where two images differ, from their runs alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_azstack.engine.pages import unequal
from airflow_provider_azstack.engine.restore.difference import _different
from airflow_provider_azstack.repo.images.runs import Run

pytestmark = pytest.mark.tier1

PAGE = 4096
PAGES = 12


def runs_of(pages: list[tuple[bytes | None, int]]) -> list[Run]:
    """Return runs of one page each: block and where in it, or zeros."""
    return [
        Run(number * PAGE, PAGE, block, start if block else 0)
        for number, (block, start) in enumerate(pages)
    ]


def joined(runs: list[Run]) -> list[Run]:
    """Join neighbours that go on in the same block, or are both zero."""
    found: list[Run] = []
    for run in runs:
        last = found[-1] if found else None
        goes_on = last and last.block_id == run.block_id and (
            run.block_id is None or last.start + last.length == run.start)  # fmt: skip
        if last and goes_on:
            found[-1] = Run(last.offset, last.length + run.length, last.block_id, last.start)
        else:
            found.append(run)
    return found


PAGE_OF = st.tuples(st.sampled_from([None, b"a" * 32, b"b" * 32]), st.sampled_from([0, PAGE]))
IMAGE = st.lists(PAGE_OF, min_size=PAGES, max_size=PAGES)


@given(IMAGE, IMAGE)
def test_every_page_that_differs_is_told_and_no_other(
    one: list[tuple[bytes | None, int]], other: list[tuple[bytes | None, int]]
) -> None:
    """However the runs are cut: what is the same piece of the same block is the same."""
    left, right = runs_of(one), runs_of(other)
    told = set()
    for extent in _different(joined(left), joined(right)):
        told |= set(range(extent.offset // PAGE, (extent.offset + extent.length) // PAGE))
    expected = {
        number
        for number in range(PAGES)
        if (left[number].block_id, left[number].start)
        != (right[number].block_id, right[number].start)
    }
    assert told == expected


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.integers(0, 100))
def test_pages_that_are_equal_are_not_written(changed: list[bool], short: int) -> None:
    """Neighbours in one piece; the last page may be shorter."""
    now = bytearray(len(changed) * PAGE - short)
    wanted = bytearray(now)
    for number, is_changed in enumerate(changed):
        if is_changed:
            wanted[number * PAGE + 7] = 1
    for start, end in unequal(now, bytes(wanted)):
        now[start:end] = wanted[start:end]
        assert start % PAGE == 0
    assert now == wanted
    pieces = list(unequal(bytearray(len(wanted)), bytes(wanted)))
    assert sum(-(-(end - start) // PAGE) for start, end in pieces) == sum(changed)
