"""
A map from stretches of bytes to a flag: what a layer of a disk knows about each of its pages.

Owns splitting and joining of stretches; knows neither files nor disks.
Invariant: stretches are sorted, do not overlap, and neighbours with the same flag are joined.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import NamedTuple


class Stretch(NamedTuple):
    """Bytes ``start`` up to ``end``; ``written`` is False where they were cleared to zeros."""

    start: int
    end: int
    written: bool


class IntervalMap:
    """Sorted stretches in three parallel lists: bisection finds, slices replace."""

    __slots__ = ("_ends", "_flags", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._flags: list[bool] = []

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __iter__(self) -> Iterator[Stretch]:
        return map(Stretch, self._starts, self._ends, self._flags)

    def set(self, start: int, end: int, *, written: bool) -> None:
        """Flag ``start`` up to ``end``, whatever was there before."""
        if start >= end:
            return
        low = bisect_left(self._ends, start)  # touching neighbours take part, to be joined
        high = bisect_right(self._starts, end)
        pieces = [Stretch(start, end, written)]
        for index in {low, high - 1} if low < high else ():
            pieces += _remains(self._stretch(index), start, end)
        joined = _join(sorted(pieces))
        self._starts[low:high] = [piece.start for piece in joined]
        self._ends[low:high] = [piece.end for piece in joined]
        self._flags[low:high] = [piece.written for piece in joined]

    def within(self, start: int, end: int) -> Iterator[Stretch]:
        """Yield the stretches that overlap ``start`` up to ``end``, clipped to it."""
        index = bisect_right(self._ends, start)
        while start < end and index < len(self._starts) and self._starts[index] < end:
            found = self._stretch(index)
            yield Stretch(max(found.start, start), min(found.end, end), found.written)
            index += 1

    def _stretch(self, index: int) -> Stretch:
        return Stretch(self._starts[index], self._ends[index], self._flags[index])


def _remains(old: Stretch, start: int, end: int) -> Iterator[Stretch]:
    if old.start < start:
        yield Stretch(old.start, start, old.written)
    if old.end > end:
        yield Stretch(end, old.end, old.written)


def _join(pieces: list[Stretch]) -> list[Stretch]:
    joined = pieces[:1]
    for piece in pieces[1:]:
        last = joined[-1]
        if last.end == piece.start and last.written == piece.written:
            joined[-1] = Stretch(last.start, piece.end, piece.written)
        else:
            joined.append(piece)
    return joined
