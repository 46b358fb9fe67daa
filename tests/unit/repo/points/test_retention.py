"""Retention as a pure function: what any rule keeps, whatever points there are."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.points import vm_key
from support.repositories import bare_point

from airflow_provider_azstack.model import RestorePoint, Retention
from airflow_provider_azstack.repo.points.retention import Decision, decide, is_empty, keeps_nothing

pytestmark = pytest.mark.tier1

NOW = datetime(2026, 11, 22, 15, 0, tzinfo=UTC)
KEY = vm_key(1)


def points_at(*moments: datetime, start: int = 0) -> list[RestorePoint]:
    return [bare_point(KEY, moment, f"p-{number}") for number, moment in enumerate(moments, start)]


def days_ago(*days: float) -> list[RestorePoint]:
    return points_at(*(NOW - timedelta(days=day) for day in days))


def kept(decisions: Sequence[Decision]) -> set[str]:
    return {decision.point.id for decision in decisions if decision.is_kept}


def reasons(decisions: Sequence[Decision]) -> dict[str, tuple[str, ...]]:
    return {decision.point.id: decision.reasons for decision in decisions}


NUMBERS = st.none() | st.integers(0, 5)
RULES = st.builds(
    Retention,
    keep_within=st.none() | st.sampled_from(["1d", "36h", "2w", "1m", "1y6m"]),
    keep_last=NUMBERS,
    keep_daily=NUMBERS,
    keep_weekly=NUMBERS,
    keep_monthly=NUMBERS,
    keep_yearly=NUMBERS,
    keep_minimum=st.integers(1, 4),
)
MOMENTS = st.integers(0, 900 * 24 * 60).map(lambda minutes: NOW - timedelta(minutes=minutes))
POINTS = st.lists(MOMENTS, min_size=1, max_size=40).map(lambda moments: points_at(*moments))


@given(POINTS, RULES)
def test_the_newest_point_and_the_minimum_are_kept_by_any_rule(
    points: list[RestorePoint], rule: Retention
) -> None:
    ordered = sorted(points, key=lambda point: (point.taken_at, point.id))
    assert {point.id for point in ordered[-rule.keep_minimum :]} <= kept(
        decide(points, rule, now=NOW)
    )


@given(POINTS, RULES)
def test_forgetting_twice_forgets_nothing_more(points: list[RestorePoint], rule: Retention) -> None:
    first = decide(points, rule, now=NOW)
    left = [decision.point for decision in first if decision.is_kept]
    assert kept(decide(left, rule, now=NOW)) == kept(first)


@given(POINTS, RULES, st.randoms(use_true_random=False))
def test_the_order_of_the_list_does_not_matter(
    points: list[RestorePoint], rule: Retention, random: object
) -> None:
    shuffled = list(points)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert decide(shuffled, rule, now=NOW) == decide(points, rule, now=NOW)


@given(POINTS, RULES, st.lists(st.integers(25, 9000), min_size=1, max_size=20))
def test_points_dated_in_the_future_change_nothing(
    points: list[RestorePoint], rule: Retention, hours: list[int]
) -> None:
    """F-N11: they are kept, and push no real point out."""
    bogus = points_at(*(NOW + timedelta(hours=hour) for hour in hours), start=1000)
    with_bogus = decide(points + bogus, rule, now=NOW)
    assert kept(with_bogus) == kept(decide(points, rule, now=NOW)) | {p.id for p in bogus}


@given(POINTS, RULES, st.sets(st.integers(0, 39)))
def test_doubtful_points_change_nothing_for_the_others(
    points: list[RestorePoint], rule: Retention, chosen: set[int]
) -> None:
    """A suspicious or damaged point is counted in addition to the good ones, never instead."""
    doubtful = {(KEY, p.id): "suspicious" for n, p in enumerate(points) if n in chosen}
    good = [point for point in points if (KEY, point.id) not in doubtful]
    decisions = decide(points, rule, now=NOW, doubtful=doubtful)
    assert kept(decisions) >= kept(decide(good, rule, now=NOW))
    assert kept(decisions) >= kept(decide(points, rule, now=NOW)) & {p for _, p in doubtful}


@given(POINTS, RULES, st.sets(st.integers(0, 39)))
def test_a_legal_hold_keeps_its_point_and_changes_no_other(
    points: list[RestorePoint], rule: Retention, chosen: set[int]
) -> None:
    held = {(KEY, p.id) for n, p in enumerate(points) if n in chosen}
    expected = kept(decide(points, rule, now=NOW)) | {name for _, name in held}
    assert kept(decide(points, rule, now=NOW, held=held)) == expected


@given(POINTS, st.lists(MOMENTS, max_size=100))
def test_a_hundred_bogus_points_push_none_out_of_the_window(
    points: list[RestorePoint], crafted: list[datetime]
) -> None:
    """F-H8: crafted times, past or future; all real points inside the window stay."""
    rule = Retention(keep_within="30d", keep_last=3, keep_minimum=3)
    bogus = points_at(*crafted, *(NOW + timedelta(hours=h) for h in range(50)), start=1000)
    inside = {p.id for p in points if p.taken_at >= NOW - timedelta(days=30)}
    assert inside <= kept(decide(points + bogus, rule, now=NOW))


def test_bogus_points_that_are_old_or_in_the_future_do_not_count_as_the_minimum() -> None:
    """F-H8: the minimum count is that of the newest points which are not in the future."""
    real = days_ago(100, 200, 300)
    crafted = [NOW + timedelta(days=n + 2) for n in range(50)]
    crafted += [NOW - timedelta(days=400 + n) for n in range(50)]
    rule = Retention(keep_within="1d", keep_minimum=3)
    bogus = points_at(*crafted, start=1000)
    assert kept(decide(real + bogus, rule, now=NOW)) >= {p.id for p in real}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Retention(keep_last=2), {0, 1}),
        (Retention(keep_within="3d"), {0, 1, 2, 3}),
        (Retention(keep_daily=2), {0, 2}),
        (Retention(keep_weekly=2), {0, 4}),
        (Retention(keep_monthly=3), {0, 6, 7}),
        (Retention(keep_yearly=5), {0, 8}),
        (Retention(keep_last=0, keep_yearly=2), {0, 8}),
        (Retention(keep_last=0), {0}),
        (Retention(keep_last=0, keep_minimum=3), {0, 1, 2}),
        (Retention(), set(range(9))),
    ],
)
def test_what_each_rule_keeps(rule: Retention, expected: set[int]) -> None:
    """The newest of each of the last periods that have a point. Now is a Sunday."""
    points = days_ago(0.2, 0.4, 1, 3, 7, 9, 30, 60, 400)
    assert kept(decide(points, rule, now=NOW)) == {f"p-{n}" for n in expected}


def test_every_decision_says_why() -> None:
    points = days_ago(0, 1, 2, 3)
    rule = Retention(keep_within="1d", keep_last=2, keep_monthly=1, keep_minimum=2)
    assert reasons(decide(points, rule, now=NOW, held={(KEY, "p-2")})) == {
        "p-0": ("newest good point", "within 1d", "last 1", "monthly 2026-11"),
        "p-1": ("one of 2 at least", "within 1d", "last 2"),
        "p-2": ("legal hold",),
        "p-3": ("no rule keeps it",),
    }


def test_each_vm_is_decided_by_itself() -> None:
    points = days_ago(0, 1)
    other = [bare_point(vm_key(2), NOW - timedelta(days=900), "p-9")]
    assert kept(decide(points + other, Retention(keep_last=1), now=NOW)) == {"p-0", "p-9"}


def test_days_are_those_of_utc() -> None:
    """A zone in the record is another spelling of the same moment."""
    east = timezone(timedelta(hours=9))
    moment = datetime(2026, 11, 21, 23, 30, tzinfo=UTC)
    points = points_at(moment, moment.astimezone(east) + timedelta(minutes=20), NOW)
    assert kept(decide(points, Retention(keep_daily=2), now=NOW)) == {"p-1", "p-2"}


@pytest.mark.parametrize(
    ("within", "first"), [("1m", "2026-10-22"), ("1y", "2025-11-22"), ("9999y", "0001-01-01")]
)
def test_months_and_years_are_those_of_the_calendar(within: str, first: str) -> None:
    edge = datetime.fromisoformat(f"{first}T15:00:00+00:00")
    points = points_at(NOW, edge, edge.replace(hour=14))
    rule = Retention(keep_within=within)
    assert "p-1" in kept(decide(points, rule, now=NOW))
    assert ("p-2" in kept(decide(points, rule, now=NOW))) == within.startswith("9999")


def test_what_says_nothing_and_what_keeps_nothing() -> None:
    assert is_empty(Retention(keep_minimum=3))
    assert not keeps_nothing(Retention())
    assert keeps_nothing(Retention(keep_last=0, keep_daily=0))
    assert not keeps_nothing(Retention(keep_last=0, keep_daily=1))
    assert not keeps_nothing(Retention(keep_last=0, keep_within="1d"))


@pytest.mark.parametrize("bad", ["", "1", "d", "0d", "1d\n", "99999d", "1d" * 30])
def test_a_window_that_is_none_is_refused(bad: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"keep_within": bad}, Retention)
