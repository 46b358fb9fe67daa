"""Bandwidth limits: never more than the limit, whoever asks, and nobody waits for the dead."""

import math
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.virtual_clock import VirtualClock

from airflow_provider_azstack.engine.pace import (
    BURST_SECONDS,
    Limit,
    Pace,
    host_limits,
    runtime_directory,
    shares,
)
from airflow_provider_azstack.errors import Cancelled, ConfigurationError

pytestmark = pytest.mark.tier1

MB = 1_000_000


def paced(place: Path, clock: VirtualClock, *limits: Limit) -> Pace:
    return Pace(limits, directory=place, clock=clock, sleep=clock.sleep)


def test_bytes_flow_at_the_limit_and_not_faster(tmp_path: Path) -> None:
    clock = VirtualClock()
    pace = paced(tmp_path, clock, Limit("a", 10 * MB))
    began = clock.now
    for _ in range(100):
        pace.take(4 * MB)
    assert clock.now - began == pytest.approx(40.0)


def test_what_was_not_used_is_kept_for_a_moment_only(tmp_path: Path) -> None:
    clock = VirtualClock()
    pace = paced(tmp_path, clock, Limit("a", 10 * MB))
    clock.now += 3600
    began = clock.now
    for _ in range(10):
        pace.take(MB)
    assert clock.now - began == pytest.approx(1.0 - BURST_SECONDS)


def test_time_spent_reading_is_not_lost(tmp_path: Path) -> None:
    """A stream whose reads take nearly as long as its share is hardly slowed down."""
    clock = VirtualClock()
    pace = paced(tmp_path, clock, Limit("a", 10 * MB))
    began = clock.now
    for _ in range(100):
        pace.take(MB)
        clock.now += 0.09
    assert clock.now - began == pytest.approx(10.0, rel=0.02)


def test_all_of_several_limits_hold_and_the_lowest_is_reached(tmp_path: Path) -> None:
    clock = VirtualClock()
    pace = paced(tmp_path, clock, Limit("host", 40 * MB), Limit("host/nightly", 10 * MB))
    began = clock.now
    for _ in range(50):
        pace.take(4 * MB)
    assert clock.now - began == pytest.approx(20.0, rel=0.03)


def test_processes_that_take_turns_share_alike(tmp_path: Path) -> None:
    """Two paces of one name are what two processes have; who asks for more gets no more."""
    clock = VirtualClock()
    greedy = paced(tmp_path, clock, Limit("a", 10 * MB))
    modest = paced(tmp_path, clock, Limit("a", 10 * MB))
    began = clock.now
    for _ in range(10):
        greedy.take(9 * MB)
        modest.take(MB)
    assert clock.now - began == pytest.approx(10.0)


def test_without_limits_nothing_waits_and_no_file_is_made(tmp_path: Path) -> None:
    Pace((), directory=tmp_path / "none").take(10**12)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "left",
    [
        b"",
        b"\0\0",
        struct.pack("<d", math.nan),
        struct.pack("<d", math.inf),
        struct.pack("<d", -1.0),
        struct.pack("<d", 10.0**9),
    ],
    ids=["empty", "torn", "nan", "infinite", "long ago", "of another boot"],
)
def test_what_was_left_in_the_file_delays_nobody(tmp_path: Path, left: bytes) -> None:
    """F-L2."""
    (tmp_path / "a.pace").write_bytes(left)
    clock = VirtualClock()
    began = clock.now
    paced(tmp_path, clock, Limit("a", 10 * MB)).take(10 * MB)
    assert clock.now - began <= 1.0 + 1e-6


def test_a_file_that_a_cleaner_removed_is_made_again(tmp_path: Path) -> None:
    """F-L2."""
    clock = VirtualClock()
    pace = paced(tmp_path, clock, Limit("a", 10 * MB))
    pace.take(MB)
    (tmp_path / "a.pace").unlink()
    pace.take(MB)
    assert (tmp_path / "a.pace").exists()


def test_waiting_ends_when_told_to_stop(tmp_path: Path) -> None:
    cancel = threading.Event()
    clock = VirtualClock()

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now > 1010:
            cancel.set()

    pace = Pace([Limit("a", MB)], directory=tmp_path, clock=clock, sleep=sleep)
    with pytest.raises(Cancelled, match="bandwidth"):
        pace.take(1000 * MB, cancel)
    assert clock.now < 1011


def test_a_thread_behind_another_sees_that_it_shall_stop(tmp_path: Path) -> None:
    pace = Pace([Limit("a", MB)], directory=tmp_path)
    stop_first, stop_second = threading.Event(), threading.Event()

    def first() -> None:
        with pytest.raises(Cancelled):
            pace.take(1000 * MB, stop_first)

    thread = threading.Thread(target=first)
    thread.start()
    stop_second.set()
    with pytest.raises(Cancelled):
        pace.take(MB, stop_second)
    stop_first.set()
    thread.join(10)
    assert not thread.is_alive()


def test_a_directory_that_cannot_be_used_is_said_before_anything_is_read(tmp_path: Path) -> None:
    """F-L2."""
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "a.pace").mkdir()
    for place in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "link", tmp_path):
        with pytest.raises(ConfigurationError, match="AZSTACK_RUNTIME_DIR") as caught:
            Pace([Limit("a", MB)], directory=place)
        assert str(place) in str(caught.value)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigurationError, match="AZSTACK_RUNTIME_DIR"):
        Pace([Limit("a", MB)], directory=tmp_path)


def test_where_processes_meet() -> None:
    assert runtime_directory({"AZSTACK_RUNTIME_DIR": "/run/azstack"}) == Path("/run/azstack")
    assert str(os.getuid()) in runtime_directory({}).name


def test_which_limits_hold_for_a_stream() -> None:
    assert host_limits("a", None) == ()
    assert host_limits("a", 5.0, "nightly", 2.0) == (Limit("a", 5.0), Limit("a/nightly", 2.0))
    assert host_limits("a", None, "nightly", 2.0) == (Limit("a/nightly", 2.0),)


def test_a_limit_over_all_hosts_is_shared_out_by_streams() -> None:
    assert shares(90.0, {"a": 4, "b": 2, "c": 0}) == {"a": 60.0, "b": 30.0}
    assert shares(90.0, {}) == {}


_TAKER = """
import sys, time
from pathlib import Path
from airflow_provider_azstack.engine.pace import Limit, Pace

pace = Pace([Limit("a", float(sys.argv[2]))], directory=Path(sys.argv[1]))
taken = 0
end = time.monotonic() + float(sys.argv[3])
print("ready", flush=True)
while not taken or time.monotonic() < end:
    pace.take(100_000)
    taken += 100_000
print(taken, flush=True)
"""


def _taker(place: Path, rate: int, seconds: float) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", _TAKER, str(place), str(rate), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )


@pytest.mark.tier2
def test_two_processes_together_never_exceed_the_limit(tmp_path: Path) -> None:
    """A machine that is busy makes them slower, never faster: the bound cannot fail by chance."""
    began = time.monotonic()
    takers = [_taker(tmp_path, 20 * MB, 2.0) for _ in range(2)]
    taken = [int(taker.communicate(timeout=250)[0].split()[-1]) for taker in takers]
    seconds = time.monotonic() - began
    assert sum(taken) <= 20 * MB * (seconds + BURST_SECONDS)
    assert all(taken), "each of them got something"


@pytest.mark.tier2
def test_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    """F-L1."""
    with _taker(tmp_path, MB, 60.0) as taker:
        assert taker.stdout
        taker.stdout.readline()
        time.sleep(0.3)
        taker.send_signal(signal.SIGKILL)
    asleep: list[float] = []

    def sleep(seconds: float) -> None:
        asleep.append(seconds)
        time.sleep(seconds)

    Pace([Limit("a", MB)], directory=tmp_path, sleep=sleep).take(100_000)
    assert sum(asleep) < 1, "its own piece and the killed one's at most: 0.1 s each"
