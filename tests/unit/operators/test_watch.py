"""Watching costs lines, never work: whatever the state store or the metrics do, it goes on."""

import json
import threading
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
import support.airflow_home
from airflow.providers.common.compat import sdk
from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_azstack.errors import Unreachable
from airflow_provider_azstack.operators.metrics import repository
from airflow_provider_azstack.operators.watch import Watch
from airflow_provider_azstack.speed import Told

pytestmark = pytest.mark.tier1

assert support.airflow_home.HOME
TAGS = {"policy": "nightly", "host": "one"}


class Store:
    """A task state store; ``problem`` is raised by every write, which takes ``seconds``."""

    def __init__(
        self, clock: "Clock", problem: Exception | None = None, seconds: float = 0
    ) -> None:
        self.clock, self.problem, self.seconds = clock, problem, seconds
        self.written: dict[str, Any] = {}
        self.tries = 0

    def set(self, key: str, value: Any) -> None:
        self.tries += 1
        self.clock.now += self.seconds
        if self.problem:
            raise self.problem
        self.written[key] = json.loads(json.dumps(value))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Metrics:
    """Stands where Airflow's emitters do."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def gauge(self, name: str, value: float, tags: dict[str, str]) -> None:
        self.told.append((name, value, tags))

    def incr(self, name: str, count: int, tags: dict[str, str]) -> None:
        self.told.append((name, count, tags))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Metrics:
    made = Metrics()
    monkeypatch.setattr(sdk, "Stats", made, raising=False)
    return made


def watch(clock: Clock, store: Store | None) -> Watch:
    context: Any = {"task_state_store": store} if store else {}
    return Watch(BaseOperator(task_id="stream"), context, "backup", TAGS, clock=clock)


def told(percent: float, *, key: str = "images/run/a.os/1") -> Told:
    eta = 0 if percent == 100 else 5
    facts = {"percent": percent, "read_bytes": int(percent * 10), "eta_seconds": eta, "seconds": 1}
    return Told(f"a os: {percent}%", key, facts)


def test_every_line_is_in_the_log(
    clock: Clock, metrics: Metrics, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there is no state store, as before Airflow 3.3, too."""
    take = watch(clock, None)
    take("a plain line, 100%")
    take(told(10))
    shown = capsys.readouterr().out
    assert "a plain line, 100%" in shown
    assert "a os: 10%" in shown
    assert metrics.told


def test_the_state_store_gets_the_attempt_every_few_seconds_and_its_end(
    clock: Clock, metrics: Metrics
) -> None:
    store = Store(clock)
    take = watch(clock, store)
    for second in range(30):
        clock.now = 100.0 + second
        take(told(second))
    assert store.tries == 4
    assert store.written["images/run/a.os/1"]["percent"] == 28
    take(told(100))
    assert store.written["images/run/a.os/1"]["percent"] == 100
    take(told(100, key="images/run/b.os/1"))
    assert list(store.written) == ["images/run/a.os/1"], "what was over at once is not kept"
    assert metrics.told


def test_a_failing_store_is_asked_less_and_less_and_harms_nothing(
    clock: Clock, metrics: Metrics
) -> None:
    store = Store(clock, problem=RuntimeError("the API server is away"))
    take = watch(clock, store)
    for second in range(7200):
        clock.now = 100.0 + second
        take(told(50))
    assert 5 < store.tries < 20
    assert metrics.told


def test_a_slow_store_costs_a_twentieth_of_the_time_at_most(clock: Clock, metrics: Metrics) -> None:
    store = Store(clock, seconds=30)
    take = watch(clock, store)
    while clock.now < 7300:
        clock.now += 3
        take(told(50))
    assert store.tries <= 7200 / 600 + 1
    assert metrics.told


def test_other_threads_do_not_touch_the_store(clock: Clock, metrics: Metrics) -> None:
    store = Store(clock)
    take = watch(clock, store)
    clock.now += 60
    thread = threading.Thread(target=take, args=(told(50),))
    thread.start()
    thread.join()
    assert store.tries == 0
    take(told(51))
    assert store.tries == 1
    assert metrics.told


def test_counters_add_up_over_the_lines_of_all_attempts(clock: Clock, metrics: Metrics) -> None:
    take = watch(clock, None)
    for line in (told(10), told(30), told(30), told(5, key="images/run/b.os/1")):
        take(line)
    read = [told[1] for told in metrics.told if told[0] == "azstack.backup.stream.read_bytes"]
    assert read == [100, 200, 50]
    busy = [told[1] for told in metrics.told if told[0].endswith("busy_milliseconds")]
    assert busy == [1000, 1000]
    assert {json.dumps(told[2]) for told in metrics.told} == {json.dumps(TAGS)}


def test_metrics_that_fail_harm_nothing(
    clock: Clock, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "incr", None)
    watch(clock, None)(told(10))


def test_ages_are_those_of_each_vms_newest_point(metrics: Metrics) -> None:
    """By names alone, in which anybody may write anything."""
    names = [
        "points/a/20260101t000000.000000z-x",
        "points/a/20260103t000000.000000z-x",
        "points/b/20260102t000000.000000z-x",
        "points/b/rubbish",
        "points/rubbish",
    ]
    store = SimpleNamespace(list=lambda _: [SimpleNamespace(name=name) for name in names])
    opened: Any = SimpleNamespace(id="r", store=store)
    repository(opened, datetime(2026, 1, 3, tzinfo=UTC))
    assert {name.removeprefix("azstack.points."): value for name, value, _ in metrics.told} == {
        "total": 3,
        "vms": 2,
        "newest_age_seconds.max": 86_400,
        "newest_age_seconds.median": 86_400,
    }


def test_a_repository_that_cannot_be_listed_costs_metrics_only(metrics: Metrics) -> None:
    def fail(_: str) -> None:
        raise Unreachable("the store is away")

    opened: Any = SimpleNamespace(id="r", store=SimpleNamespace(list=fail))
    repository(opened)
    assert metrics.told == []
