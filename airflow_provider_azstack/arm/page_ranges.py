"""
Page lists: their text, and the arithmetic of extents.

Owns parsing and set operations; sends nothing.
Invariant: what comes out is sorted, joined, disjoint and inside the window that was asked for, and
nothing that the text lists is overlooked: a list that is not understood to the last entry is none.
"""

import re
from collections.abc import Iterable, Iterator

from airflow_provider_azstack.arm.blob_http import Doubt
from airflow_provider_azstack.model import Extent

# A regular expression, because the text is the output of one serialiser, millions of entries long
# at worst, and expat with its handlers costs ten times as much. The counts below make it safe.
_ENTRY = re.compile(
    rb"<(Page|Clear)Range>\s*<Start>(\d{1,16})</Start>\s*<End>(\d{1,16})</End>\s*</\1Range>"
)


def parse_page_list(text: bytes, start: int, end: int) -> list[Extent]:
    """
    Read a page list; clip it to ``start`` (included) and ``end`` (excluded).

    :raises Doubt: the text is not entirely a page list.
    """
    body = text.strip()
    is_whole = body.endswith((b"</PageList>", b"<PageList/>", b"<PageList />"))
    data: list[tuple[int, int]] = []
    zeros: list[tuple[int, int]] = []
    entries = _ENTRY.findall(body)
    for kind, first, last in entries:
        begin, stop = max(int(first), start), min(int(last) + 1, end)
        if int(first) > int(last):
            raise Doubt("a page list with an entry that ends before it starts")
        if begin < stop:
            (data if kind == b"Page" else zeros).append((begin, stop))
    understood = 2 * len(entries) == body.count(b"Range>") and b"<NextMarker>" not in body
    if not (is_whole and understood):
        raise Doubt("a page list that is cut short or not understood")
    return extents(data, zeros)


def extents(data: Iterable[tuple[int, int]], zeros: Iterable[tuple[int, int]]) -> list[Extent]:
    """Return sorted, joined, disjoint extents. Where both kinds are claimed, data is read."""
    spans = list(_joined(sorted(data)))
    cleared = _minus(_joined(sorted(zeros)), spans)
    found = [Extent(begin, stop - begin) for begin, stop in spans]
    found += [Extent(begin, stop - begin, zero=True) for begin, stop in cleared]
    found.sort()
    return found


def join(parts: Iterable[Extent]) -> list[Extent]:
    """Join neighbours of one kind across the borders of windows. ``parts`` is sorted."""
    joined: list[Extent] = []
    for part in parts:
        last = joined[-1] if joined else None
        if last and last.zero == part.zero and last.offset + last.length == part.offset:
            joined[-1] = Extent(last.offset, last.length + part.length, last.zero)
        else:
            joined.append(part)
    return joined


def _joined(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    current: tuple[int, int] | None = None
    for begin, stop in spans:
        if current is None:
            current = (begin, stop)
        elif begin <= current[1]:
            current = (current[0], max(current[1], stop))
        else:
            yield current
            current = (begin, stop)
    if current is not None:
        yield current


def _minus(
    spans: Iterable[tuple[int, int]], taken: list[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """Yield what is left of ``spans`` without ``taken``; both sorted and disjoint."""
    at = 0
    for begin, stop in spans:
        start = begin
        while at < len(taken) and taken[at][1] <= start:
            at += 1
        here = at
        while here < len(taken) and taken[here][0] < stop:
            if start < taken[here][0]:
                yield start, taken[here][0]
            start = max(start, taken[here][1])
            here += 1
        if start < stop:
            yield start, stop
