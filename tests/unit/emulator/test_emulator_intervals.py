"""Stretches of bytes against the plainest model: one flag per byte."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_azstack.emulator.intervals import IntervalMap, Stretch

pytestmark = pytest.mark.tier1

SIZE = 40
_edits = st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, SIZE), st.booleans()), max_size=20)


@given(_edits, st.integers(0, SIZE), st.integers(0, SIZE))
def test_a_map_knows_what_a_list_of_flags_knows(
    edits: list[tuple[int, int, bool]], low: int, high: int
) -> None:
    """Sorted, disjoint, joined, and equal to one flag per byte, for any order of edits."""
    flags: list[bool | None] = [None] * SIZE
    intervals = IntervalMap()
    for start, end, written in edits:
        intervals.set(start, end, written=written)
        flags[start:end] = [written] * max(0, end - start)
    seen: list[bool | None] = [None] * SIZE
    for start, end, written in intervals:
        assert start < end
        seen[start:end] = [written] * (end - start)
    assert seen == flags
    stretches = list(intervals)
    for before, after in pairwise(stretches):
        assert before.end < after.start or before.written != after.written
    clipped: list[bool | None] = [None] * SIZE
    for start, end, written in intervals.within(low, high):
        assert low <= start < end <= high
        clipped[start:end] = [written] * (end - start)
    assert clipped[low : max(low, high)] == flags[low : max(low, high)]


def test_neighbours_of_one_kind_are_joined() -> None:
    """Three touching writes are one stretch; a cleared neighbour stays apart."""
    intervals = IntervalMap()
    for start in (0, 8, 4):
        intervals.set(start, start + 4, written=True)
    intervals.set(12, 16, written=False)
    assert list(intervals) == [Stretch(0, 12, written=True), Stretch(12, 16, written=False)]
