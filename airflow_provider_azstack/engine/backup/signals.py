"""
Signals of ransomware: a disk that suddenly changes much, or into what does not compress.

Owns what is compared with what; knows no disks and reads no data: a point's own record says how
much of each disk changed and how much of that was new and incompressible.
Invariant: a signal is a remark. It fails nothing, deletes nothing, and never makes an older point
go: retention counts flagged points in addition to those that it keeps.

Each disk is compared with its own history, by median and median absolute deviation, which a few
odd days (a patch, a new release) do not move. Flagged points are not part of the history, so an
attack that goes on for weeks does not become what is normal.
"""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from statistics import median
from typing import NamedTuple

from airflow_provider_azstack.errors import AzStackError
from airflow_provider_azstack.model import PointImage, RestorePoint
from airflow_provider_azstack.repo.points import flags
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.speed import amount

log = logging.getLogger(__name__)

HISTORY = 30  # points that are looked back at
MIN_HISTORY = 7  # with less, nothing is known of what is normal
# A change is only looked at from here on: small disks and quiet ones jump by large factors.
MIN_CHANGED_BYTES = 64 * 2**20
MIN_CHANGED_SHARE = 0.01  # of the disk
# Robust standard deviations above the median, of the logarithm of what changes: daily changes have
# long tails. Once in millions on a normal distribution.
DEVIATIONS = 5.0
# The least that counts as a deviation: on a disk that changes the same every day anything else
# would be many. So a disk is never suspicious with less than 15 times as much as usual (a large
# patch is 10 times), or less than a quarter more bytes stored of a byte.
LEAST_LOG = math.log(15) / DEVIATIONS
LEAST_RATIO = 0.25 / DEVIATIONS
INCOMPRESSIBLE = 0.9  # stored bytes of a changed byte; encrypted content has 1
_MAD_TO_SIGMA = 1.4826  # of a normal distribution


class _Day(NamedTuple):
    """One disk in one point."""

    moved: int  # bytes that changed; where only pages with data were known: bytes that were new
    ratio: float | None  # stored bytes of a changed byte, where changes were known


def check(
    repository: Repository,
    point: RestorePoint,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> tuple[str, ...]:
    """
    Flag a restore point if it looks suspicious, and return why; never fails.

    :param point: just published.
    """
    if not any(map(_is_worth_a_look, point.images)):
        return ()  # nearly always: nothing had to be read for that
    try:
        reasons = suspicions(point, _history(repository, point))
        if reasons:
            flags.put_flag(repository, point.vm.key, point.id, reasons, clock())
    except AzStackError as error:
        log.warning("%s: whether its changes are suspicious is not known: %s", point.id, error)
        return ()
    for reason in reasons:
        log.warning("suspicious restore point %s of %s: %s", point.id, point.vm.name, reason)
    return reasons


def suspicions(point: RestorePoint, history: Iterable[RestorePoint]) -> tuple[str, ...]:
    """Return why a point looks suspicious beside earlier ones of its VM; usually nothing."""
    before = list(history)
    found: list[str] = []
    for image in point.images:
        days = [
            _day(old)
            for earlier in before
            for old in earlier.images
            if _is_same_disk(old, image) and earlier.previous
        ]
        found += (f"{image.disk_key}: {reason}" for reason in _reasons(image, days))
    return tuple(found)


def _history(repository: Repository, point: RestorePoint) -> list[RestorePoint]:
    prefix = f"points/{point.vm.key}/"
    flagged = {name for vm, name in flags.flagged(repository) if vm == point.vm.key}
    listed = (info.name.removeprefix(prefix) for info in repository.store.list(prefix))
    earlier = sorted(name for name in listed if name < point.id and name not in flagged)
    return [repository.point(point.vm.key, name) for name in earlier[-HISTORY:]]


def _is_same_disk(one: PointImage, other: PointImage) -> bool:
    return (one.disk_key, one.snapshot.unique_id) == (other.disk_key, other.snapshot.unique_id)


def _day(image: PointImage) -> _Day:
    if image.changes_known != "difference":
        return _Day(image.stored_bytes, None)
    ratio = image.stored_bytes / image.changed_bytes if image.changed_bytes else None
    return _Day(image.changed_bytes, ratio)


def _is_worth_a_look(image: PointImage) -> bool:
    floor = max(MIN_CHANGED_BYTES, MIN_CHANGED_SHARE * image.size_bytes)
    return _day(image).moved >= floor


def _reasons(image: PointImage, days: Sequence[_Day]) -> Iterable[str]:
    today = _day(image)
    if len(days) < MIN_HISTORY or not _is_worth_a_look(image):
        return
    moved = [math.log1p(day.moved) for day in days]
    if _deviations(math.log1p(today.moved), moved, LEAST_LOG) > DEVIATIONS:
        usual = math.expm1(median(moved))
        yield (
            f"{amount(today.moved)} changed, {today.moved / max(usual, 1.0):.0f} times as much as "
            f"usual ({amount(usual)})"
        )
    ratios = [day.ratio for day in days if day.ratio is not None]
    if today.ratio is None or today.ratio < INCOMPRESSIBLE or len(ratios) < MIN_HISTORY:
        return
    if _deviations(today.ratio, ratios, LEAST_RATIO) > DEVIATIONS:
        yield (
            f"what changed does not compress: {today.ratio:.2f} bytes stored of a byte, usually "
            f"{median(ratios):.2f}"
        )


def _deviations(value: float, history: Sequence[float], least: float) -> float:
    """Return by how many robust standard deviations a value is above the median."""
    middle = median(history)
    spread = _MAD_TO_SIGMA * median(abs(one - middle) for one in history)
    return (value - middle) / max(spread, least)
