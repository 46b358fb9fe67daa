"""
Retention: which restore points of a VM are kept, and why.

Owns the decision as a pure function of points, a rule and the time; knows no store and deletes
nothing. Times are those of the stack's snapshots, in UTC.
Invariant: a point is kept when any reason holds, and more points never take a reason away from
one that is inside ``keep_within``. Points dated in the future, and doubtful ones, are never
counted, so they push nothing out; the newest good point of a VM is always kept.
"""

import calendar
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from airflow_provider_azstack.model import RestorePoint, Retention

# Clocks of a stack and of a worker differ; a point that is further ahead than this is not real.
TOLERANCE = timedelta(days=1)
_PART = re.compile(r"([0-9]+)([hdwmy])")

PointKey = tuple[str, str]  # VM key, point id


class Decision(NamedTuple):
    """What becomes of a restore point, and why."""

    point: RestorePoint
    is_kept: bool
    reasons: tuple[str, ...]

    @property
    def key(self) -> PointKey:
        """VM and id: what names the point."""
        return self.point.vm.key, self.point.id


def decide(
    points: Iterable[RestorePoint],
    rule: Retention,
    *,
    now: datetime,
    held: Collection[PointKey] = (),
    doubtful: Mapping[PointKey, str] | None = None,
) -> list[Decision]:
    """
    Decide about all points, each VM by itself, oldest first.

    :param held: points on legal hold.
    :param doubtful: suspicious or damaged points, and why. They are kept as if they were good,
        but for the others it is as if they were not there.
    """
    doubtful = doubtful or {}
    by_vm: dict[str, list[RestorePoint]] = defaultdict(list)
    for point in points:
        by_vm[point.vm.key].append(point)
    decisions: list[Decision] = []
    for vm in sorted(by_vm):
        ordered = sorted(by_vm[vm], key=lambda point: (point.taken_at, point.id))
        reasons = _reasons(ordered, rule, now, doubtful)
        for point in ordered:
            why = reasons[point.id]
            if (vm, point.id) in held:
                why = ["legal hold", *why]
            decisions.append(Decision(point, bool(why), tuple(why or ["no rule keeps it"])))
    return decisions


def keeps_nothing(rule: Retention) -> bool:
    """Tell whether every number in the rule is 0, so that only the newest points would stay."""
    given = [value for value in _numbers(rule).values() if value is not None]
    return not rule.keep_within and bool(given) and not any(given)


def is_empty(rule: Retention) -> bool:
    """Tell whether the rule says nothing: then nothing is ever forgotten."""
    return rule.keep_within is None and all(value is None for value in _numbers(rule).values())


def _numbers(rule: Retention) -> dict[str, int | None]:
    return {
        "last": rule.keep_last,
        "daily": rule.keep_daily,
        "weekly": rule.keep_weekly,
        "monthly": rule.keep_monthly,
        "yearly": rule.keep_yearly,
    }


def _reasons(
    points: Sequence[RestorePoint],
    rule: Retention,
    now: datetime,
    doubtful: Mapping[PointKey, str],
) -> dict[str, list[str]]:
    """Return for every point of one VM why it is kept; no reasons: it is not."""
    found: dict[str, list[str]] = {point.id: [] for point in points}
    real = [point for point in points if point.taken_at <= now + TOLERANCE]
    for point in points[len(real) :]:
        found[point.id].append("dated in the future")
    if is_empty(rule):
        for point in real:
            found[point.id].append("there is no rule")
        return found
    good = [point for point in real if (point.vm.key, point.id) not in doubtful]
    _apply(good, rule, now, found)
    if len(good) < len(real):
        # Again with the doubtful ones, for their sake alone.
        also: dict[str, list[str]] = {point.id: [] for point in real}
        _apply(real, rule, now, also)
        for point in real:
            key = (point.vm.key, point.id)
            if key in doubtful:
                found[point.id] += [f"{why} ({doubtful[key]})" for why in also[point.id]]
    return found


def _apply(
    points: Sequence[RestorePoint], rule: Retention, now: datetime, found: dict[str, list[str]]
) -> None:
    newest_first = points[::-1]
    if not newest_first:
        return
    found[newest_first[0].id].append("newest good point")
    for point in newest_first[1 : rule.keep_minimum]:
        found[point.id].append(f"one of {rule.keep_minimum} at least")
    if rule.keep_within:
        since = _before(min(newest_first[0].taken_at, now), rule.keep_within)
        for point in newest_first:
            if point.taken_at >= since:
                found[point.id].append(f"within {rule.keep_within}")
    for name, count in _numbers(rule).items():
        _keep_newest_of_each(newest_first, name, count or 0, found)


def _keep_newest_of_each(
    newest_first: Sequence[RestorePoint], name: str, count: int, found: dict[str, list[str]]
) -> None:
    """Keep the newest point of each of the last ``count`` periods that have one."""
    seen: set[str] = set()
    for point in newest_first:
        if len(seen) == count:
            return
        period = _PERIODS[name](point)
        if period not in seen:
            seen.add(period)
            found[point.id].append(f"{name} {period}" if name != "last" else f"last {len(seen)}")


def _utc(point: RestorePoint) -> datetime:
    return point.taken_at.astimezone(UTC)


_PERIODS: dict[str, Callable[[RestorePoint], str]] = {
    "last": lambda point: point.id,
    "daily": lambda point: f"{_utc(point):%Y-%m-%d}",
    "weekly": lambda point: f"{_utc(point):%G-W%V}",
    "monthly": lambda point: f"{_utc(point):%Y-%m}",
    "yearly": lambda point: f"{_utc(point):%Y}",
}


def _before(moment: datetime, duration: str) -> datetime:
    """Return the moment that is ``duration`` (such as ``1y6m``) earlier, in UTC."""
    amounts: dict[str, int] = defaultdict(int)
    for number, unit in _PART.findall(duration):
        amounts[unit] += int(number)
    months = 12 * amounts["y"] + amounts["m"]
    moment = moment.astimezone(UTC)
    number = moment.year * 12 + moment.month - 1 - months
    if number < 12:
        return datetime.min.replace(tzinfo=UTC)
    year, month = divmod(number, 12)
    day = min(moment.day, calendar.monthrange(year, month + 1)[1])
    try:
        return moment.replace(year=year, month=month + 1, day=day) - timedelta(
            hours=amounts["h"], days=amounts["d"], weeks=amounts["w"]
        )
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)
