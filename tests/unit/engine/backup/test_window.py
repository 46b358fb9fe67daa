"""The backup window: the clock on the wall, through changes of that clock."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pendulum
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_azstack.engine.backup.window import (
    check_may_begin,
    check_may_run,
    left_out,
    window,
)
from airflow_provider_azstack.errors import ConfigurationError, WindowEnded
from airflow_provider_azstack.model import Job

pytestmark = pytest.mark.tier1

BERLIN = "Europe/Berlin"  # clocks: 2026-03-29 02:00 -> 03:00, 2026-10-25 03:00 -> 02:00
START = datetime(2026, 5, 4, 20, 0, tzinfo=UTC)  # 22:00 in Berlin


def berlin(*parts: int) -> datetime:
    return pendulum.datetime(*parts, tz=BERLIN)


@pytest.mark.parametrize(
    ("start", "after", "ends"),
    [
        (berlin(2026, 5, 4, 22, 0), "06:00", berlin(2026, 5, 5, 6, 0)),
        (berlin(2026, 5, 4, 5, 59), "06:00", berlin(2026, 5, 4, 6, 0)),
        (berlin(2026, 5, 4, 6, 0), "06:00", berlin(2026, 5, 5, 6, 0)),
        (berlin(2026, 5, 4, 22, 0), "22:30", berlin(2026, 5, 4, 22, 30)),
        (berlin(2026, 5, 4, 22, 0), "00:00", berlin(2026, 5, 5, 0, 0)),
        (berlin(2026, 12, 31, 22, 0), "06:00", berlin(2027, 1, 1, 6, 0)),
        # The night is an hour shorter, then an hour longer: the clock on the wall counts.
        (berlin(2026, 3, 28, 22, 0), "06:00", datetime(2026, 3, 29, 4, 0, tzinfo=UTC)),
        (berlin(2026, 10, 24, 22, 0), "06:00", datetime(2026, 10, 25, 5, 0, tzinfo=UTC)),
        # 02:30 is not shown on that night: half an hour after the clock jumped.
        (berlin(2026, 3, 28, 22, 0), "02:30", datetime(2026, 3, 29, 1, 30, tzinfo=UTC)),
        # 02:30 is shown twice: the first time counts, or the second for who starts between them.
        (berlin(2026, 10, 24, 22, 0), "02:30", datetime(2026, 10, 25, 0, 30, tzinfo=UTC)),
        (
            datetime(2026, 10, 25, 0, 45, tzinfo=UTC),
            "02:30",
            datetime(2026, 10, 25, 1, 30, tzinfo=UTC),
        ),
        (berlin(2026, 5, 4, 22, 0), "8h", berlin(2026, 5, 5, 6, 0)),
        (berlin(2026, 5, 4, 22, 0), "7h30m", berlin(2026, 5, 5, 5, 30)),
        (berlin(2026, 5, 4, 22, 0), "90m", berlin(2026, 5, 4, 23, 30)),
        # A span is so many hours, whatever clocks show.
        (berlin(2026, 3, 28, 22, 0), "8h", berlin(2026, 3, 29, 7, 0)),
        (berlin(2026, 10, 24, 22, 0), "8h", berlin(2026, 10, 25, 5, 0)),
    ],
)
def test_when_a_window_ends(start: datetime, after: str, ends: datetime) -> None:
    """F-L5."""
    assert window(start, BERLIN, after).stop_starting_at == ends


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The host's own clock is 14 hours ahead."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Pacific/Kiritimati")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_east")
@pytest.mark.parametrize("after", ["06:00", "8h"])
@pytest.mark.parametrize("start", [berlin(2026, 5, 4, 22, 0), START])
def test_the_clock_of_the_host_does_not_matter(start: datetime, after: str) -> None:
    """The moment that a job was due may be one of pendulum's, which adds in a way of its own."""
    assert window(start, BERLIN, after).stop_starting_at == berlin(2026, 5, 5, 6, 0)


def test_the_end_is_shown_as_the_policys_clock_shows_it() -> None:
    ends = window(datetime(2026, 7, 1, 20, 0, tzinfo=UTC), BERLIN, "06:00").stop_starting_at
    assert ends
    assert f"{ends:%H:%M}" == "06:00"


@given(
    st.integers(1_577_836_800, 1_893_456_000),
    st.sampled_from([BERLIN, "UTC", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    st.times(),
)
def test_the_next_end_is_ahead_and_within_a_day_and_two_hours(
    seconds: int, zone: str, clock: object
) -> None:
    start = datetime.fromtimestamp(seconds, UTC)
    ends = window(start, zone, f"{clock:%H:%M}").stop_starting_at
    assert ends
    assert start < ends <= start + timedelta(hours=26)


def test_the_second_end_comes_after_the_first() -> None:
    ends = window(START, BERLIN, "06:00", "05:30")
    assert ends.stop_starting_at == berlin(2026, 5, 5, 6, 0)
    assert ends.stop_running_at == berlin(2026, 5, 6, 5, 30)
    assert window(START, BERLIN, "06:00", "07:00").stop_running_at == berlin(2026, 5, 5, 7, 0)


def test_what_may_not_run_may_not_begin() -> None:
    alone = window(START, BERLIN, "", "07:00")
    assert alone.stop_starting_at == alone.stop_running_at == berlin(2026, 5, 5, 7, 0)
    early = window(START, BERLIN, "06:00", "2h")
    assert early.stop_starting_at == early.stop_running_at == berlin(2026, 5, 5, 0, 0)


def test_without_a_window_nothing_ends() -> None:
    assert window(START, BERLIN) == (None, None)
    job = Job(run="r", session="s", policy="p", stack="x")
    check_may_begin(job, datetime.max.replace(tzinfo=UTC))
    check_may_run(job, datetime.max.replace(tzinfo=UTC))
    assert left_out(job, START, "") == ""


@pytest.mark.parametrize("text", ["6 o'clock", "h", "25 h", "-1h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="06:00"):
        window(START, BERLIN, text)


def windowed() -> Job:
    ends = window(START, BERLIN, "06:00", "07:00")
    return Job(
        run="r",
        session="s",
        policy="p",
        stack="x",
        stop_starting_at=ends.stop_starting_at,
        stop_running_at=ends.stop_running_at,
    )


def test_nothing_begins_from_that_moment_on_and_what_runs_goes_on_until_the_other() -> None:
    job = windowed()
    check_may_begin(job, berlin(2026, 5, 5, 5, 59))
    with pytest.raises(WindowEnded, match=r"^not begun: the backup window ended at 06:00$"):
        check_may_begin(job, berlin(2026, 5, 5, 6, 0))
    check_may_run(job, berlin(2026, 5, 5, 6, 59))
    with pytest.raises(WindowEnded, match=r"^stopped: the backup window ended at 07:00$"):
        check_may_run(job, berlin(2026, 5, 5, 7, 0))


def test_only_the_window_makes_a_vm_one_that_was_left_out() -> None:
    job, late = windowed(), berlin(2026, 5, 5, 6, 30)
    assert left_out(job, late, "Unreachable: no answer") == ""
    assert left_out(job, late, "WindowEnded: stopped: the backup window ended at 07:00") == (
        "stopped: the backup window ended at 07:00"
    )
    assert left_out(job, late, "") == "not begun: the backup window ended at 06:00"
    assert left_out(job, berlin(2026, 5, 5, 5, 0), "") == "", "its host never came, in time"
