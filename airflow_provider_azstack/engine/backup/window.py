"""
The backup window: when a job stops starting VMs, and when it stops those that run.

Owns the moments, counted by the clock on the policy's wall; pure, knows no requests.
Invariant: a window ends at one moment, fixed when the job begins, whatever clocks are put forward
or back after that.
"""

import re
from datetime import UTC, datetime, time, timedelta, timezone, tzinfo
from typing import NamedTuple

import pendulum

from airflow_provider_azstack.errors import ConfigurationError, WindowEnded
from airflow_provider_azstack.model import Job

_CLOCK = re.compile(r"(\d\d):(\d\d)")
_SPAN = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?")


class Window(NamedTuple):
    """The two ends of a window; None where there is none."""

    stop_starting_at: datetime | None = None
    stop_running_at: datetime | None = None


def window(
    start: datetime, zone_name: str, stop_starting_after: str = "", stop_running_after: str = ""
) -> Window:
    """
    Return the window of a job.

    :param start: when the job was due.
    :param stop_starting_after: ``06:00``, by the clock of ``zone_name``, or a time span (``8h30m``)
        that is counted from ``start``.
    :param stop_running_after: the same; a clock is looked at after the first end.
    """
    zone = pendulum.timezone(zone_name)
    starting = _moment(stop_starting_after, start, start, zone) if stop_starting_after else None
    if not stop_running_after:
        return Window(starting)
    running = _moment(stop_running_after, starting or start, start, zone)
    return Window(min(starting or running, running), running)


def check_may_begin(job: Job, now: datetime) -> None:
    """
    Check that a VM may be begun.

    :raises WindowEnded: the job's window does not allow it any more.
    """
    if job.stop_starting_at and now >= job.stop_starting_at:
        raise WindowEnded(f"not begun: the backup window ended at {job.stop_starting_at:%H:%M}")


def check_may_run(job: Job, now: datetime) -> None:
    """
    Check that a VM that was begun may go on.

    :raises WindowEnded: the job's window does not allow it any more.
    """
    if job.stop_running_at and now >= job.stop_running_at:
        raise WindowEnded(f"stopped: the backup window ended at {job.stop_running_at:%H:%M}")


def left_out(job: Job, now: datetime, told: str) -> str:
    """
    Return why a VM without any image was left out; ``""`` when the window is not why.

    :param told: what its stream said of it, if one ever ran.
    """
    if told and not told.startswith(WindowEnded.__name__):
        return ""
    if told:
        return told.partition(": ")[2]
    try:
        check_may_begin(job, now)
    except WindowEnded as ended:
        return str(ended)
    return ""


def _moment(text: str, after: datetime, start: datetime, zone: tzinfo) -> datetime:
    if clock := _CLOCK.fullmatch(text):
        return _next(time(int(clock[1]), int(clock[2])), after, zone)
    span = _SPAN.fullmatch(text)
    if not text or span is None:
        raise ConfigurationError(f"{text!r} is neither a clock time (06:00) nor a span (8h30m)")
    length = timedelta(hours=int(span[1] or 0), minutes=int(span[2] or 0))
    # A pendulum moment whose zone is datetime's UTC loses it where something is added.
    return _shown(datetime.fromtimestamp(start.timestamp(), UTC) + length, zone)


def _next(clock: time, after: datetime, zone: tzinfo) -> datetime:
    """
    Return when a clock on the wall shows a time next.

    A time that a clock put forward never shows counts as it would have been without that; one that
    is shown twice counts the first time.
    """
    today = after.astimezone(zone).date()
    moments = []
    for day in (today, today + timedelta(days=1), today + timedelta(days=2)):
        first = datetime.combine(day, clock, tzinfo=zone)
        second = first.replace(fold=1)
        moments.append(first.astimezone(UTC))
        if second.utcoffset() < first.utcoffset():  # type: ignore[operator]  # aware
            moments.append(second.astimezone(UTC))
    return _shown(min(moment for moment in moments if moment > after), zone)


def _shown(moment: datetime, zone: tzinfo) -> datetime:
    """Return the moment as the clock shows it then; with a fixed offset, as JSON will have it."""
    shown = moment.astimezone(zone)
    return shown.replace(tzinfo=timezone(shown.utcoffset() or timedelta()))
