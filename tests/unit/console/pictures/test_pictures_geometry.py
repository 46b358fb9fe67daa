"""Where things are drawn: inside of their frames, in order, without overlaps."""

from datetime import UTC, datetime, timedelta
from itertools import combinations
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_azstack.console.pictures.geometry import (
    Scale,
    bar,
    fitted,
    lanes,
    steps,
    thinned,
    ticks,
    time_ticks,
)

pytestmark = pytest.mark.tier1

numbers = st.floats(-1e15, 1e15)
spans = st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e5)), max_size=60).map(
    lambda found: sorted((begin, begin + length) for begin, length in found)
)
moments = st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(low=numbers, high=numbers, value=numbers, flipped=st.booleans())
def test_nothing_is_placed_outside_of_its_scale(
    low: float, high: float, value: float, *, flipped: bool
) -> None:
    start, end = (200.0, 10.0) if flipped else (10.0, 200.0)
    assert 10.0 <= Scale(low, high, start, end).at(value) <= 200.0


@given(first=numbers, last=numbers, shortest=st.floats(0, 500))
def test_a_bar_lies_inside_and_is_long_enough_to_be_seen(
    first: float, last: float, shortest: float
) -> None:
    drawn = bar(Scale(0, 1000, 10, 200), first, last, shortest)
    assert drawn.at >= 10
    assert drawn.at + drawn.length <= 200.02
    assert drawn.length >= round(min(shortest, 190), 2)


@given(high=st.floats(1, 1e18), most=st.integers(3, 10))
def test_ticks_are_few_round_and_rising(high: float, most: int) -> None:
    found = ticks(high, most)
    assert found[0] == 0
    assert len(found) <= most + 1
    assert found == sorted(set(found))
    assert all(tick <= high for tick in found)
    assert len(found) > 1


def test_ticks_are_such_as_people_count_in() -> None:
    assert ticks(42) == [0, 20, 40]
    assert ticks(100) == [0, 50, 100]
    assert ticks(7) == [0, 2, 4, 6]
    assert ticks(0) == [0]


@given(first=moments, span=st.timedeltas(timedelta(seconds=1), timedelta(days=4000)))
def test_times_of_an_axis_are_within_it_and_rising(first: datetime, span: timedelta) -> None:
    found = time_ticks(first, first + span, ZoneInfo("Europe/Berlin"))
    stamps = [at.timestamp() for at in found]
    assert stamps == sorted(set(stamps))
    assert len(found) <= 9
    assert all(first.timestamp() <= at <= (first + span).timestamp() for at in stamps)


def test_times_of_an_axis_are_round_by_the_clock_on_the_wall() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    night = datetime(2026, 11, 22, 1, 7, tzinfo=UTC)
    found = time_ticks(night, night + timedelta(hours=3), berlin)
    assert f"{found[0]:%H:%M}" == "02:30"
    assert {at.minute % 30 for at in found} == {0}
    # Days have 23 to 25 hours; their ticks are at midnight all the same.
    days = time_ticks(
        datetime(2026, 10, 20, tzinfo=UTC), datetime(2026, 10, 29, tzinfo=UTC), berlin
    )
    assert {f"{at:%H:%M}" for at in days} == {"00:00"}


@given(spans)
def test_lanes_are_as_few_as_possible_and_without_overlaps(
    found: list[tuple[float, float]],
) -> None:
    of_span = lanes(found)
    placed = list(zip(of_span, found, strict=True))
    for (lane, one), (other_lane, other) in combinations(placed, 2):
        assert lane != other_lane or one[1] <= other[0]
    at_once = [sum(b <= begin < max(e, b) for b, e in found) for begin, _ in found]
    assert max(of_span, default=-1) + 1 <= max(at_once, default=0) + sum(b == e for b, e in found)


def test_an_overlap_within_the_slack_is_none() -> None:
    assert lanes([(0, 10.2), (10, 20)]) == [0, 1]
    assert lanes([(0, 10.2), (10, 20)], 0.5) == [0, 0]


def test_a_line_of_steps_stays_level_until_it_jumps() -> None:
    assert steps([(0, 9), (4, 7), (8, 2.5)]) == "M0 9H4V7H8V2.5"
    assert steps([]) == ""


@given(count=st.integers(0, 2000), most=st.integers(2, 100))
def test_thinning_keeps_the_ends_and_the_order(count: int, most: int) -> None:
    found = thinned(range(count), most)
    assert len(found) == min(count, most)
    assert found == sorted(set(found))
    assert not count or (found[0], found[-1]) == (0, count - 1)


@given(text=st.text(max_size=40), width=st.floats(0, 300))
def test_a_label_is_no_wider_than_its_bar(text: str, width: float) -> None:
    assert len(fitted(text, width, 6.0)) * 6.0 <= width
