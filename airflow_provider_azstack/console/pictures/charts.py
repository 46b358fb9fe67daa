"""
The drawings: what is where, and what is written beside it.

Owns sizes, labels and the bounds of how much is drawn; the template places what these return, as
it is. Knows no HTML. Invariant: all of a drawing lies inside its frame.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta, tzinfo
from itertools import accumulate, groupby
from typing import NamedTuple

from airflow_provider_azstack.console.pictures.facts import JobFact, expected_end
from airflow_provider_azstack.console.pictures.geometry import (
    Bar,
    Scale,
    bar,
    fitted,
    lanes,
    steps,
    thinned,
    ticks,
    time_ticks,
)
from airflow_provider_azstack.console.pictures.timeline import Stretch, Timeline, by_host
from airflow_provider_azstack.console.pictures.words import clean, clock
from airflow_provider_azstack.model import JobRecord
from airflow_provider_azstack.repo.reports import UsageRow
from airflow_provider_azstack.speed import amount, counted, duration

WIDTH = 960.0
SMALL = 100.0  # width of a bar in a table
BARS_SHOWN = 1000
LANES_SHOWN = 96
SLOWEST_SHOWN = 20
_GUTTER, _TOP, _BOTTOM, _MARKED, _EDGE = 132.0, 26.0, 8.0, 24.0, 12.0
_LANE, _BETWEEN_LANES, _BETWEEN_HOSTS = 18.0, 3.0, 12.0
_CHARACTER, _BOLD_CHARACTER = 6.2, 6.9  # width of one in a label
_SEEN = 1.5  # a bar is never narrower
_SLACK_SECONDS = 0.5  # within which one disk of a stream may seem to begin before the last ended
_MOST_AHEAD = 1.5  # times the job: what was expected or allowed beyond that is not in its drawing
_NAMED_DAYS = 3  # the name of a month is wider than so many
_GROWTH_HEIGHT, _GROWTH_POINTS = 230.0, 400


class Tick(NamedTuple):
    """A mark of an axis."""

    at: float
    label: str
    anchor: str = "middle"


class _End(NamedTuple):
    """A moment at which a job should be over."""

    at: datetime
    label: str


class SmallBar(NamedTuple):
    """A bar in a table, with marks across it."""

    length: float
    text: str
    expected: float | None = None
    stop: float | None = None


class JobBars(NamedTuple):
    """One job's line."""

    fact: JobFact
    time: SmallBar
    expected: str
    window: str
    read: SmallBar
    stored: SmallBar


class UsageBars(NamedTuple):
    """One policy's line: what only it needs, and behind that what it shares."""

    row: UsageRow
    unique: Bar
    shared: Bar


class Growth(NamedTuple):
    """How much was stored over time."""

    width: float
    height: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    line: str
    area: str
    left: float
    right: float
    top: float
    bottom: float
    months: tuple[tuple[str, int, int, int], ...]  # month, jobs, stored in it, stored until its end
    described: str


class Drawn(NamedTuple):
    """A bar of the timeline."""

    x: float
    y: float
    width: float
    height: float
    label: str
    title: str
    is_odd: bool


class Host(NamedTuple):
    """A host's band of the timeline, and what it did."""

    name: str
    label: str
    y: float
    height: float
    lanes: int
    images: int
    read_bytes: int
    stored_bytes: int
    busy_seconds: float
    span_seconds: float


class Gantt(NamedTuple):
    """Who did what when."""

    width: float
    height: float
    left: float
    right: float
    ticks: tuple[Tick, ...]
    hosts: tuple[Host, ...]
    bars: tuple[Drawn, ...]
    not_drawn: int
    marks: tuple[Tick, ...]
    slowest: tuple[Stretch, ...]
    described: str


def job_bars(jobs: Sequence[JobFact], zone: tzinfo) -> list[JobBars]:
    """Return a line for each job; bars of one kind have one scale."""
    longest = [max(fact.row.seconds, _until(fact, fact.expected_end) or 0) for fact in jobs]
    time = Scale(0, max(longest, default=0), 0, SMALL)
    read = Scale(0, max((fact.row.read_bytes for fact in jobs), default=0), 0, SMALL)
    stored = Scale(0, max((fact.row.stored_bytes for fact in jobs), default=0), 0, SMALL)
    return [_job_bars(fact, time, read, stored, zone) for fact in jobs]


def usage_bars(rows: Sequence[UsageRow]) -> list[UsageBars]:
    """Return a line for each policy, all on one scale."""
    scale = Scale(0, max((row.needed_bytes for row in rows), default=0), 0, SMALL)
    return [
        UsageBars(
            row=row._replace(name=clean(row.name)),
            unique=bar(scale, 0, row.unique_bytes),
            shared=bar(scale, row.unique_bytes, row.needed_bytes),
        )
        for row in rows
    ]


def growth(grown: Sequence[tuple[datetime, int]], zone: tzinfo) -> Growth | None:
    """Return how what jobs stored adds up; None where there was none."""
    if not grown:
        return None
    totals = list(accumulate(stored for _, stored in grown))
    first, last = grown[0][0], max(grown[-1][0], grown[0][0] + timedelta(hours=1))
    left, right = 74.0, WIDTH - _EDGE
    top, bottom = 14.0, _GROWTH_HEIGHT - 28
    marks = ticks(totals[-1])
    x = Scale(first.timestamp(), last.timestamp(), left, right)
    y = Scale(0, max(totals[-1] * 1.05, 1), bottom, top)
    whole = thinned(list(zip(grown, totals, strict=True)), _GROWTH_POINTS)
    points = [(x.at(at.timestamp()), y.at(total)) for (at, _), total in whole]
    line = steps([(left, bottom), *points])
    days = last - first > timedelta(days=2)
    return Growth(
        width=WIDTH,
        height=_GROWTH_HEIGHT,
        x_ticks=tuple(
            _tick(x, at, f"{at:%Y-%m-%d}" if days else f"{at:%H:%M}")
            for at in time_ticks(first, last, zone, 7)
        ),
        y_ticks=tuple(Tick(y.at(mark), amount(mark) if mark else "0") for mark in marks),
        line=line,
        area=f"{line}V{bottom:g}H{left:g}Z",
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        months=tuple(_months(grown, zone)),
        described=f"{amount(totals[-1])} were stored by {counted(len(grown), 'job')}.",
    )


def months(dates: Sequence[date]) -> list[tuple[str, int]]:
    """Return the months of successive days, and how many days of each; short ones without name."""
    whole = [(f"{day:%b %Y}", len(list(days))) for day, days in groupby(dates, _first)]
    return [(name if count > _NAMED_DAYS else "", count) for name, count in whole]


def gantt(told: Timeline, zone: tzinfo) -> Gantt | None:
    """Return who did what when; None where no image says when it was made."""
    if not told.stretches:
        return None
    first = min(told.record.started_at, *(one.began for one in told.stretches))
    last = max(told.record.ended_at, *(one.ended for one in told.stretches))
    ends = [end for end in _ends(told.record) if end.at - first <= _MOST_AHEAD * (last - first)]
    last = max(last, *(end.at for end in ends)) if ends else last
    x = Scale(first.timestamp(), last.timestamp(), _GUTTER, WIDTH - _EDGE)
    hosts, bars = list[Host](), list[tuple[Stretch, float]]()
    y, lanes_left = _TOP + 8, LANES_SHOWN
    for name, stretches in by_host(told.stretches).items():
        spans = [(one.began.timestamp(), one.ended.timestamp()) for one in stretches]
        of_host = lanes(spans, _SLACK_SECONDS)
        count = max(of_host) + 1
        drawn = min(count, lanes_left)
        height = drawn * (_LANE + _BETWEEN_LANES) - _BETWEEN_LANES * (drawn > 0)
        hosts.append(_host(name, y, height, count, stretches))
        for one, lane in zip(stretches, of_host, strict=True):
            if lane < drawn:
                bars.append((one, y + lane * (_LANE + _BETWEEN_LANES)))
        lanes_left -= drawn
        y += height + _BETWEEN_HOSTS * (drawn > 0)
    longest = sorted(bars, key=lambda one: one[0].seconds, reverse=True)[:BARS_SHOWN]
    marks = _clocks(time_ticks(first, last, zone), x, last - first)
    return Gantt(
        width=WIDTH,
        height=y - _BETWEEN_HOSTS + (_MARKED if ends else _BOTTOM),
        left=_GUTTER,
        right=WIDTH - _EDGE,
        ticks=tuple(marks),
        hosts=tuple(hosts),
        bars=tuple(_drawn(longest, x, zone)),
        not_drawn=len(told.stretches) - len(longest),
        marks=tuple(Tick(x.at(end.at.timestamp()), end.label, "end") for end in ends),
        slowest=tuple(sorted(told.stretches, key=lambda one: -one.seconds)[:SLOWEST_SHOWN]),
        described=(
            f"{counted(len(told.stretches), 'image')} by {counted(len(hosts), 'host')}, from "
            f"{clock(first, zone)} to {clock(last, zone)}."
        ),
    )


def _job_bars(fact: JobFact, time: Scale, read: Scale, stored: Scale, zone: tzinfo) -> JobBars:
    row = fact.row
    expected, stop = (_until(fact, at) for at in (fact.expected_end, fact.stop_starting_at))
    is_near = stop is not None and stop <= time.high
    ends = fact.stop_starting_at or fact.stop_running_at
    return JobBars(
        fact=fact,
        time=SmallBar(
            length=time.at(row.seconds),
            text=duration(row.seconds),
            expected=None if expected is None else time.at(expected),
            stop=time.at(stop) if stop is not None and is_near else None,
        ),
        expected="" if expected is None else duration(max(expected, 0)),
        window="" if ends is None else f"{ends.astimezone(zone):%H:%M}",
        read=SmallBar(read.at(row.read_bytes), amount(row.read_bytes)),
        stored=SmallBar(stored.at(row.stored_bytes), amount(row.stored_bytes)),
    )


def _first(day: date) -> date:
    return day.replace(day=1)


def _until(fact: JobFact, at: datetime | None) -> float | None:
    return None if at is None else (at - fact.row.started_at).total_seconds()


def _months(
    grown: Iterable[tuple[datetime, int]], zone: tzinfo
) -> Iterator[tuple[str, int, int, int]]:
    """Yield month by month, the newest first, how much was stored."""
    months: dict[str, tuple[int, int]] = {}
    for at, stored in grown:
        month = f"{at.astimezone(zone):%Y-%m}"
        count, size = months.get(month, (0, 0))
        months[month] = (count + 1, size + stored)
    ends = list(accumulate(size for _, size in months.values()))
    rows = [(m, n, size, end) for (m, (n, size)), end in zip(months.items(), ends, strict=True)]
    yield from reversed(rows)


def _host(name: str, y: float, height: float, count: int, stretches: Sequence[Stretch]) -> Host:
    span = max(one.ended for one in stretches) - min(one.began for one in stretches)
    return Host(
        name=name,
        label=fitted(name, _GUTTER - 8, _BOLD_CHARACTER),
        y=y,
        height=height,
        lanes=count,
        images=len(stretches),
        read_bytes=sum(one.read_bytes for one in stretches),
        stored_bytes=sum(one.stored_bytes for one in stretches),
        busy_seconds=sum(one.seconds for one in stretches),
        span_seconds=span.total_seconds(),
    )


def _drawn(bars: Iterable[tuple[Stretch, float]], x: Scale, zone: tzinfo) -> Iterator[Drawn]:
    """Yield the bars from left to right; neighbours of one lane differ."""
    of_lane: dict[float, int] = {}
    for one, y in sorted(bars, key=lambda one: (one[1], one[0].began)):
        at = bar(x, one.began.timestamp(), one.ended.timestamp(), _SEEN)
        number = of_lane[y] = of_lane.get(y, -1) + 1
        title = (
            f"{one.vm} {one.disk}, {one.host}: {clock(one.began, zone)} to "
            f"{clock(one.ended, zone)}, {duration(one.seconds)}, {amount(one.read_bytes)} read at "
            f"{amount(one.bytes_per_second)}/s, {amount(one.stored_bytes)} stored"
        )
        yield Drawn(
            x=at.at,
            y=y,
            width=max(at.length - 1, _SEEN - 0.5),  # a gap between neighbours
            height=_LANE,
            label=fitted(f"{one.vm} {one.disk}", at.length - 8, _CHARACTER),
            title=title if not one.workload else f"{title} (workload {one.workload})",
            is_odd=bool(number % 2),
        )


def _clocks(at: Iterable[datetime], x: Scale, span: timedelta) -> Iterator[Tick]:
    form = "%H:%M:%S" if span < timedelta(minutes=10) else "%H:%M"
    for moment in at:
        yield _tick(x, moment, f"{moment:{form}}")


def _tick(x: Scale, at: datetime, label: str) -> Tick:
    """Return a mark whose label stays within the drawing."""
    place, half = x.at(at.timestamp()), len(label) * _CHARACTER / 2
    return Tick(place, label, "end" if place + half > x.end else "middle")


def _ends(record: JobRecord) -> Iterator[_End]:
    """Yield the expected end, and those of the window."""
    job = record.job
    for at, label in (
        (expected_end(record), "expected end"),
        (job.stop_starting_at, "no VM begun any more"),
        (job.stop_running_at, "window ends"),
    ):
        if at is not None:
            yield _End(at, label)
