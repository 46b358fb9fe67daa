"""Which pages matter: zeros, and what differs, by whole pages and in order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_azstack.engine.pages import nonzero, unequal
from airflow_provider_azstack.repo.images.overlay import PAGE_BYTES

pytestmark = pytest.mark.tier1

SIZES = st.sampled_from((1, 512, PAGE_BYTES, PAGE_BYTES + 1, 17 * PAGE_BYTES, 40 * PAGE_BYTES - 7))


def by_the_page(size: int, pages: set[int]) -> list[tuple[int, int]]:
    """What is told of some pages: neighbours joined, the last one cut at the end."""
    found: list[tuple[int, int]] = []
    for page in sorted(pages):
        start, end = page * PAGE_BYTES, min((page + 1) * PAGE_BYTES, size)
        if found and found[-1][1] == start:
            start = found.pop()[0]
        found.append((start, end))
    return found


@given(SIZES, st.lists(st.floats(0, 1, exclude_max=True), max_size=6))
def test_bytes_that_differ_are_found_with_their_pages(size: int, places: list[float]) -> None:
    """Wherever one byte was written, in a view as well as in bytes."""
    wanted, now = bytes(size), bytearray(size)
    changed = {int(place * size) for place in places}
    for at in changed:
        now[at] = 1
    expected = by_the_page(size, {at // PAGE_BYTES for at in changed})
    assert list(unequal(memoryview(now), wanted)) == expected
    assert list(nonzero(bytes(now))) == expected


@pytest.mark.parametrize("size", [0, PAGE_BYTES - 1, PAGE_BYTES + 1])
def test_what_is_not_of_one_length_is_not_compared(size: int) -> None:
    """A piece that is missing would look like one that is the same."""
    with pytest.raises(ValueError, match="cannot be compared"):
        unequal(bytes(size), bytes(PAGE_BYTES))
