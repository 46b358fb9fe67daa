"""The simulation of streams: rates are shared, none is exceeded, and the sums are right."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_azstack.engine.backup.simulate import Given, Piece, Site, Task, simulate

pytestmark = pytest.mark.tier1


def reads(count: float, rate: float = 100.0, disk: str = "", seconds: float = 0.0) -> Task:
    return Task((Piece(disk, count, rate, seconds),))


def test_one_stream_takes_one_after_the_other() -> None:
    site = Site("a", 1, (reads(1000, seconds=2), reads(500), reads(0, seconds=3)))
    [ended] = simulate([site])
    assert ended.end_seconds == pytest.approx(2 + 10 + 5 + 3)
    assert ended.busy_seconds == pytest.approx(ended.end_seconds)
    assert ended.idle(ended.end_seconds) == pytest.approx(0.0)


def test_streams_drain_the_queue_as_they_come_free() -> None:
    site = Site("a", 2, (reads(1000), reads(400), reads(300), reads(300)))
    [ended] = simulate([site])
    assert ended.end_seconds == pytest.approx(10.0), "1000 beside 400 + 300 + 300"


def test_a_hosts_limit_is_shared_by_its_streams() -> None:
    tasks = tuple(reads(1000) for _ in range(4))
    [ended] = simulate([Site("a", 4, tasks, bytes_per_second=100.0)])
    assert ended.end_seconds == pytest.approx(40.0)


def test_what_a_slow_stream_leaves_of_a_limit_the_others_use() -> None:
    site = Site("a", 2, (reads(100, rate=10.0), reads(900, rate=1000.0)), bytes_per_second=100.0)
    assert simulate([site])[0].end_seconds == pytest.approx(10.0)


def test_parts_of_a_disk_share_its_rate_over_hosts() -> None:
    sites = [Site(name, 1, (reads(1000, rate=100.0, disk="d"),)) for name in "ab"]
    together = simulate(sites, Given(disk_rates={"d": 120.0}))
    assert [ended.end_seconds for ended in together] == pytest.approx([1000 / 60] * 2)


def test_the_stack_is_shared_by_all_hosts() -> None:
    sites = [Site(name, 2, (reads(1000), reads(1000))) for name in "ab"]
    ended = simulate(sites, Given(stack_rate=200.0))
    assert max(one.end_seconds for one in ended) == pytest.approx(20.0)


def test_waiting_takes_no_bandwidth_from_those_who_read() -> None:
    site = Site("a", 2, (reads(1000), reads(100, seconds=9)), bytes_per_second=100.0)
    assert simulate([site])[0].end_seconds == pytest.approx(11.0), "9 s alone, then 2 x 1 s"


def test_a_window_leaves_out_what_was_not_begun_and_lets_the_rest_finish() -> None:
    site = Site("a", 1, (reads(1000), reads(1000), Task(reads(1000).pieces, vms=tuple("abcdefg"))))
    [ended] = simulate([site], Given(stop_starting=15.0))
    assert (ended.end_seconds, ended.left_out) == (pytest.approx(20.0), tuple("abcdefg"))
    [ended] = simulate([site], Given(stop_starting=15.0, stop_running=17.0))
    assert (ended.end_seconds, len(ended.left_out)) == (pytest.approx(17.0), 8)
    [ended] = simulate([site], Given(stop_starting=0.0))
    assert (ended.end_seconds, len(ended.left_out)) == (0.0, 9)


def test_nothing_to_do_ends_at_once() -> None:
    [ended] = simulate([Site("a", 4, ())])
    assert (ended.end_seconds, ended.busy_seconds, ended.left_out) == (0.0, 0.0, ())
    assert ended.idle(0.0) == 0.0


sizes = st.lists(st.integers(0, 10**6), max_size=30)


@settings(max_examples=60)
@given(st.lists(sizes, min_size=1, max_size=4), st.integers(1, 5), st.integers(0, 2**32))
def test_the_end_lies_between_what_limits_forbid_and_what_laziness_would_need(
    work: list[list[int]], streams: int, seed: int
) -> None:
    rng = random.Random(seed)
    limit, stack, own = rng.uniform(10, 1e4), rng.uniform(10, 1e4), rng.uniform(10, 1e4)
    sites = [
        Site(str(n), streams, tuple(reads(size, own) for size in sizes), limit)
        for n, sizes in enumerate(work)
    ]
    ended = simulate(sites, Given(stack_rate=stack))
    end = max(one.end_seconds for one in ended)
    whole = sum(map(sum, work))
    busiest = max(map(sum, work))
    longest = max((size for sizes in work for size in sizes), default=0)
    least = max(whole / stack, busiest / limit, longest / own, busiest / (own * streams))
    assert end >= least * (1 - 1e-6)
    # Whenever somebody works, somebody is held up by the stack, a host's limit, or itself.
    assert end <= whole / min(stack, limit, own) + 1e-3
    assert ended == simulate(sites, Given(stack_rate=stack)), "the same again"
