"""Wrappers: patience with a budget, and permissions that are not there."""

import itertools
from collections.abc import Callable, Sequence

import pytest
from support.stores import FullStore, ListingFault, MemoryStore

from airflow_provider_azstack.errors import (
    AccessDenied,
    ObjectExists,
    ObjectNotFound,
    StoreFull,
    Throttled,
    Unreachable,
)
from airflow_provider_azstack.store.base import MOST_BYTES, Buffer
from airflow_provider_azstack.store.guard import (
    AppendOnlyStore,
    ReadOnlyStore,
    RetryingStore,
    StoreWrapper,
)

pytestmark = pytest.mark.tier1


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Flaky(StoreWrapper):
    """Raises the next of ``errors`` at every call; an error that ``loses`` is raised afterwards."""

    def __init__(self, errors: Sequence[Exception], *, loses: bool = False) -> None:
        super().__init__(MemoryStore())
        self.errors = iter(errors)
        self.loses = loses
        self.calls = 0

    def _call(self, effect: Callable[[], None]) -> None:
        self.calls += 1
        error = next(self.errors, None)
        if error is None or self.loses:
            effect()
        if error:
            raise error

    def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
        self._call(lambda: self.inner.put(name, data))

    def delete(self, name: str) -> None:
        self._call(lambda: self.inner.delete(name))

    def get(self, name: str, most_bytes: int = MOST_BYTES) -> bytes:
        self._call(lambda: None)
        return self.inner.get(name, most_bytes)


def patient(store: StoreWrapper, time: Time, budget_seconds: float = 300.0) -> RetryingStore:
    return RetryingStore(
        store,
        budget_seconds=budget_seconds,
        clock=time.clock,
        sleep=time.sleep,
        uniform=lambda low, high: high,
    )


def test_passing_troubles_are_waited_out_with_growing_waits() -> None:
    store = Flaky([Unreachable("1"), Unreachable("2"), Throttled("3"), Unreachable("4")])
    time = Time()
    patient(store, time).put("one", b"x")
    assert time.slept == [0.5, 1.0, 2.0, 4.0]
    assert store.inner.get("one") == b"x"


def test_the_budget_is_kept_and_no_busy_loop_runs() -> None:
    """After it the store's own error is raised; a storm costs a dozen calls, not a thousand."""
    store = Flaky([Throttled("slow down")] * 1000)
    time = Time()
    with pytest.raises(Throttled, match="slow down"):
        patient(store, time).get("one")
    assert sum(time.slept) <= 300
    assert sum(time.slept) > 200
    assert store.calls < 20
    assert max(time.slept) == 60


def test_the_stores_own_wish_is_obeyed_or_given_up_at_once() -> None:
    time = Time()
    patient(Flaky([Throttled("x", retry_after_seconds=42)]), time).put("one", b"")
    assert time.slept == [42]
    with pytest.raises(Throttled):
        patient(Flaky([Throttled("x", retry_after_seconds=3600)]), time).put("one", b"")
    assert time.slept == [42]


def test_waits_are_spread() -> None:
    time = Time()
    asked: list[tuple[float, float]] = []
    store = RetryingStore(
        Flaky([Unreachable("x")] * 3),
        clock=time.clock,
        sleep=time.sleep,
        uniform=lambda low, high: asked.append((low, high)) or low,  # type: ignore[func-returns-value]
    )
    store.put("one", b"")
    assert asked == [(0.25, 0.5), (0.5, 1.0), (1.0, 2.0)]
    assert time.slept == [0.25, 0.5, 1.0]


@pytest.mark.parametrize(
    "error", [StoreFull("x"), AccessDenied("x"), ObjectExists("x"), ObjectNotFound("x")]
)
def test_what_waiting_does_not_cure_is_not_waited_for(error: Exception) -> None:
    """F-S2: a full store is told at once."""
    store = Flaky([error])
    time = Time()
    with pytest.raises(type(error)):
        patient(store, time).put("one", b"")
    assert store.calls == 1
    assert time.slept == []


def test_a_put_whose_answer_was_lost_is_a_success() -> None:
    store = Flaky([Unreachable("cut")], loses=True)
    patient(store, Time()).put("claims/vm", [b"our ", b"session"])
    assert store.inner.get("claims/vm") == b"our session"


@pytest.mark.parametrize("theirs", [b"their session", b"our sessio_", b""])
def test_a_put_that_another_one_won_meanwhile_is_not(theirs: bytes) -> None:
    store = Flaky([Unreachable("cut")])
    store.inner.put("claims/vm", theirs)
    with pytest.raises(ObjectExists):
        patient(store, Time()).put("claims/vm", b"our session")
    assert store.inner.get("claims/vm") == theirs


def test_equal_bytes_at_the_first_try_are_somebody_elses() -> None:
    """Only a lost answer explains finding our own bytes."""
    store = Flaky([])
    store.inner.put("claims/vm", b"same")
    with pytest.raises(ObjectExists):
        patient(store, Time()).put("claims/vm", b"same")


def test_a_delete_whose_answer_was_lost_is_a_success() -> None:
    store = Flaky([Unreachable("cut")], loses=True)
    store.inner.put("sessions/s", b"")
    patient(store, Time()).delete("sessions/s")
    assert not store.inner.exists("sessions/s")
    with pytest.raises(ObjectNotFound):
        patient(Flaky([]), Time()).delete("sessions/s")


def test_a_listing_that_breaks_off_is_read_again_or_fails_whole() -> None:
    """F-S11: nobody is handed the first page of a listing whose second one failed."""
    inner = MemoryStore()
    for number in range(25):
        inner.put(f"points/{number}", b"")
    broken = ListingFault(inner, "second page", page=10)
    seen: list[str] = []
    with pytest.raises(Unreachable, match="page 2"):
        seen.extend(info.name for info in patient(broken, Time()).list("points/"))
    assert seen == []

    tries = itertools.count()

    class BreaksOnce(ListingFault):
        @property
        def fault(self) -> str | None:
            return None if next(tries) else "second page"

        @fault.setter
        def fault(self, value: str | None) -> None: ...

    healed = patient(BreaksOnce(inner, None, page=10), Time())
    assert sorted(healed.list("points/")) == sorted(inner.list("points/"))


def test_append_only_credentials_write_and_read_and_end_their_sessions() -> None:
    """F-S18: what a backup host needs is allowed, what destroys is refused before it is tried."""
    inner = MemoryStore()
    store = AppendOnlyStore(inner)
    for name in ("packs/00/a", "points/vm/p", "sessions/s", "claims/vm"):
        store.put(name, b"x")
        assert store.get(name) == b"x"
    store.delete("sessions/s")
    store.delete("claims/vm")
    for name in ("packs/00/a", "points/vm/p", "sessionsx", "sessions-old/a"):
        with pytest.raises(AccessDenied, match=name):
            store.delete(name)
    assert sorted(inner.objects) == ["packs/00/a", "points/vm/p"]


def test_read_only_reads() -> None:
    inner = MemoryStore()
    inner.put("one", b"x")
    store = ReadOnlyStore(inner)
    assert store.get("one") == b"x"
    assert list(store.list("")) == [("one", 1)]
    with pytest.raises(AccessDenied, match="two was not created"):
        store.put("two", b"x")
    with pytest.raises(AccessDenied, match="one was not deleted"):
        store.delete("one")
    assert inner.objects == {"one": b"x"}


def test_wrappers_say_where_the_wrapped_store_is() -> None:
    assert FullStore(MemoryStore(), 1).url == "memory://"
    assert repr(ReadOnlyStore(MemoryStore())) == "<ReadOnlyStore memory://>"
