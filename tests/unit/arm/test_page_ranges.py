import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_azstack.arm.blob_http import Doubt
from airflow_provider_azstack.arm.page_ranges import extents, join, parse_page_list
from airflow_provider_azstack.model import Extent

pytestmark = pytest.mark.tier1

SPAN = st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda s: (s[0], s[0] + s[1]))
SPANS = st.lists(SPAN, max_size=12)


def units(found: list[Extent], *, zero: bool) -> set[int]:
    return {n for e in found if e.zero == zero for n in range(e.offset, e.offset + e.length)}


def covered(spans: list[tuple[int, int]]) -> set[int]:
    return {n for begin, stop in spans for n in range(begin, stop)}


def require_normal(found: list[Extent]) -> None:
    """Sorted, disjoint, not empty, and no two neighbours that could be one."""
    for one, two in itertools.pairwise(found):
        assert one.offset + one.length <= two.offset
        assert one.zero != two.zero or one.offset + one.length < two.offset
    assert all(e.length > 0 for e in found)


@given(data=SPANS, zeros=SPANS)
def test_extents_are_the_union_and_data_wins(
    data: list[tuple[int, int]], zeros: list[tuple[int, int]]
) -> None:
    """Compared with sets of single units: nothing lost, nothing added, no zero over data."""
    found = extents(data, zeros)
    require_normal(found)
    assert units(found, zero=False) == covered(data)
    assert units(found, zero=True) == covered(zeros) - covered(data)


@given(data=SPANS, zeros=SPANS, borders=st.lists(st.integers(1, 79), max_size=4))
def test_windows_joined_are_the_whole(
    data: list[tuple[int, int]], zeros: list[tuple[int, int]], borders: list[int]
) -> None:
    """However a disk is cut into windows, the joined lists are those of one window."""
    text = page_list(data, zeros)
    edges = [0, *sorted(set(borders)), 80]
    windows = itertools.pairwise(edges)
    parts = [e for start, end in windows for e in parse_page_list(text, start, end)]
    assert join(parts) == parse_page_list(text, 0, 80) == extents(data, zeros)


def page_list(data: list[tuple[int, int]], zeros: list[tuple[int, int]]) -> bytes:
    entries = [f"<PageRange><Start>{b}</Start><End>{s - 1}</End></PageRange>" for b, s in data]
    entries += [
        f"<ClearRange>\n <Start>{b}</Start>\n <End>{s - 1}</End>\n</ClearRange>" for b, s in zeros
    ]
    return f'\ufeff<?xml version="1.0"?><PageList>{"".join(entries)}</PageList>\r\n'.encode()


@given(data=SPANS, cut=st.integers(1, 400))
def test_a_text_cut_anywhere_is_no_list(data: list[tuple[int, int]], cut: int) -> None:
    """A list that ends early would lose pages without a sign."""
    text = page_list(data, []).strip()
    with pytest.raises(Doubt):
        parse_page_list(text[: -min(cut, len(text))], 0, 80)


def test_an_empty_list_is_a_list() -> None:
    assert parse_page_list(b"<?xml version='1.0'?><PageList />", 0, 80) == []
    assert parse_page_list(b"<PageList></PageList>", 0, 80) == []
