"""
Where things are drawn: scales, ticks, lanes, steps.

Owns arithmetic alone; knows neither jobs nor SVG elements.
Invariant: nothing that is placed by a scale lies outside of it, whatever value it has.
"""

import heapq
import math
from collections.abc import Sequence
from datetime import datetime, time, timedelta, tzinfo
from typing import NamedTuple, TypeVar

_TIME_STEPS = [
    *(timedelta(seconds=n) for n in (1, 2, 5, 10, 15, 30)),
    *(timedelta(minutes=n) for n in (1, 2, 5, 10, 15, 30)),
    *(timedelta(hours=n) for n in (1, 2, 3, 6, 12)),
    *(timedelta(days=n) for n in (1, 2, 7, 14, 30, 90, 180, 365, 730, 1825)),
]
_TELLING = 7  # letters of a label that is cut
T = TypeVar("T")


class Scale(NamedTuple):
    """From values to a stretch of a drawing; ``start`` may be the greater end of it."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the place of a value; of one beyond an end, that end."""
        if self.high <= self.low:
            return self.start
        share = min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)
        return round(self.start + share * (self.end - self.start), 2)


class Bar(NamedTuple):
    """A stretch of a scale."""

    at: float
    length: float


def bar(scale: Scale, first: float, last: float, shortest: float = 0.0) -> Bar:
    """
    Return the stretch between two values, which is inside of the scale.

    :param shortest: a bar has at least this length, so that it is seen; it ends inside all the
        same.
    """
    low, high = sorted((scale.start, scale.end))
    begin, end = sorted((scale.at(first), scale.at(last)))
    length = min(max(end - begin, shortest), high - low)
    return Bar(round(min(begin, high - length), 2), round(length, 2))


def ticks(high: float, most: int = 4) -> list[float]:
    """Return round numbers from 0 up to ``high``, at most ``most`` beside the 0."""
    if high <= 0:
        return [0.0]
    power = 10.0 ** math.floor(math.log10(high / most))
    step = next(factor * power for factor in (1, 2, 5, 10) if high / (factor * power) <= most)
    return [min(n * step, high) for n in range(int(high / step) + 1)]


def time_ticks(first: datetime, last: datetime, zone: tzinfo, most: int = 8) -> list[datetime]:
    """Return round times by a clock, within two moments; about ``most`` of them, or fewer."""
    span = last - first
    step = next((step for step in _TIME_STEPS if span <= step * most), _TIME_STEPS[-1])
    midnight = datetime.combine(first.astimezone(zone).date(), time(), tzinfo=zone)
    count = int(span / step) + 1
    if step >= timedelta(days=1):  # by the calendar: days have 23 to 25 hours
        found = [midnight + n * step for n in range(count + 1)]
    else:
        skipped = math.floor((first.timestamp() - midnight.timestamp()) / step.total_seconds())
        begin = midnight.timestamp() + skipped * step.total_seconds()
        seconds = [begin + n * step.total_seconds() for n in range(count + 2)]
        found = [datetime.fromtimestamp(at, zone) for at in seconds]
    return [at for at in found if first.timestamp() <= at.timestamp() <= last.timestamp()]


def lanes(spans: Sequence[tuple[float, float]], slack: float = 0.0) -> list[int]:
    """
    Return for each span, by its place, the lane in which it overlaps no other of that lane.

    As few lanes as there are spans at once, the lowest free one first.

    :param spans: begin and end, in the order of their begin.
    :param slack: an overlap of no more than this is none: clocks are not that exact.
    """
    busy: list[tuple[float, int]] = []
    free: list[int] = []
    found = []
    for begin, end in spans:
        while busy and busy[0][0] <= begin + slack:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (end, lane))
        found.append(lane)
    return found


def steps(points: Sequence[tuple[float, float]]) -> str:
    """Return the path of a line that stays level until it jumps."""
    if not points:
        return ""
    (x, y), *rest = points
    return f"M{x:g} {y:g}" + "".join(f"H{x:g}V{y:g}" for x, y in rest)


def thinned(items: Sequence[T], most: int) -> list[T]:
    """Return at most so many items, evenly chosen, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(n * (len(items) - 1) / (most - 1))] for n in range(most)]


def fitted(text: str, width: float, per_character: float) -> str:
    """Return as much of a text as fits a width; nothing where only a few letters would."""
    most = int(width / per_character)
    if len(text) <= most:
        return text
    return f"{text[: most - 1]}…" if most >= _TELLING else ""
