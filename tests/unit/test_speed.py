"""Speeds and times to go: honest when work changes its pace, silent when nobody knows."""

import pytest

from airflow_provider_azstack.engine.progress import Tally
from airflow_provider_azstack.speed import Course, Speed, amount, counted, duration

pytestmark = pytest.mark.tier1

MB = 1_000_000


def test_a_speed_is_that_of_late() -> None:
    """A minute at 100 MB/s, then 10 MB/s: after the window it says 10."""
    speed, done = Speed(), 0.0
    for second in range(1, 61):
        done += 100 * MB
        speed.per_second(second, done)
    for second in range(61, 95):
        done += 10 * MB
        rate = speed.per_second(second, done)
    assert rate == pytest.approx(10 * MB)


def test_a_stall_is_told_as_no_time_rather_than_as_a_wrong_one() -> None:
    course = Course("k", "disk", 1000 * MB, verb="written", began=0.0)
    for second in range(5, 100, 5):
        told = course.at(second, 200 * MB, 200 * MB)
    assert "time to go unknown" in told
    assert told.facts["eta_seconds"] is None
    assert told.facts["bytes_per_second"] == 0


def test_the_time_to_go_of_a_steady_course_is_right() -> None:
    course = Course("k", "vm os", 1000 * MB, verb="written", began=0.0)
    assert not course.is_due(4.9)
    assert course.is_due(5.0)
    told = course.at(10.0, 100 * MB, 100 * MB)
    assert told == "vm os: 10.0%, 100.0 MB written, 10.0 MB/s, 1 min 30 s to go"
    assert (told.key, told.facts["eta_seconds"]) == ("k", 90)
    assert course.at(100.0, 1000 * MB, 1000 * MB).endswith("in 1 min 40 s, 10.0 MB/s")


def test_a_mostly_empty_disk_is_not_promised_for_the_next_century() -> None:
    """A first backup: 1 GB of the 100 GB that were asked about, half of it read in 5 s."""
    tally = Tally(1_000_000 * MB)
    tally.plan(1_000_000 * MB, 1000 * MB)
    tally.add(done=500 * MB, read=500 * MB, worked=500 * MB)
    look = tally.look(5.0)
    assert look.percent < 0.1
    assert look.eta_seconds == pytest.approx(5.0)


def test_what_was_not_asked_yet_is_expected_to_be_like_the_rest() -> None:
    tally = Tally(100 * MB)
    assert tally.look(1.0).eta_seconds is None
    tally.plan(50 * MB, 10 * MB)
    tally.add(done=10 * MB, read=12 * MB, worked=10 * MB)
    assert tally.look(2.0).eta_seconds == pytest.approx(2.0)
    tally.plan(50 * MB, 0)
    tally.add(done=90 * MB)
    assert tally.look(3.0).eta_seconds == 0.0


def test_a_disk_without_changes_has_no_wrong_time_while_it_is_asked_about() -> None:
    """An incremental of which nothing is read: no division, no time out of thin air."""
    tally = Tally(100 * MB)
    tally.plan(50 * MB, 0)
    tally.add(done=50 * MB)
    assert tally.look(1.0).eta_seconds is None
    tally.plan(50 * MB, 0)
    tally.add(done=50 * MB)
    assert "100.0% of 100.0 MB, 0 bytes read, in 1 s" in str(tally.look(1.0))


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2_500_000, "2.5 MB"), (3e12, "3.0 TB")],
)
def test_amounts(size_bytes: float, text: str) -> None:
    assert amount(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (250, "4 min 10 s"), (7800, "2 h 10 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_one_of_a_thing_is_no_plural() -> None:
    assert [counted(n, "VM") for n in (0, 1, 2, 5000)] == ["0 VMs", "1 VM", "2 VMs", "5,000 VMs"]
    assert counted(2, "entry", "entries") == "2 entries"
