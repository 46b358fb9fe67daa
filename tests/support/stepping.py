"""Callers of one store that run in turns: so many calls the one, so many the other."""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from airflow_provider_azstack.store.base import Buffer, ObjectInfo, Store
from airflow_provider_azstack.store.guard import StoreWrapper

Work = Callable[[Store], object]
ALL = 10**6
SHARED = ("sessions/", "condemned/", "packs/", "index/", "images/", "points/")


class Stepped(StoreWrapper):
    """
    A store whose caller waits for his turn before each call that can matter to another.

    Those are listings, puts and deletes of what others look at, and looking whether a session is
    there. Other objects never change, so that reading them is free.
    """

    def __init__(
        self, inner: Store, turns: "Turns", who: int, shared: tuple[str, ...] = SHARED
    ) -> None:
        super().__init__(inner)
        self._turns = turns
        self._who = who
        self._shared = shared
        self.calls: list[str] = []

    def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
        self._take("put", name, lambda: self.inner.put(name, data))

    def delete(self, name: str) -> None:
        self._take("delete", name, lambda: self.inner.delete(name))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return iter(self._take("list", prefix, lambda: list(self.inner.list(prefix))))

    def info(self, name: str) -> ObjectInfo:
        if not name.startswith("sessions/"):
            return self.inner.info(name)
        found: ObjectInfo = self._take("look at", name, lambda: self.inner.info(name))
        return found

    def _take(self, verb: str, name: str, call: Callable[[], Any]) -> Any:
        if not name.startswith(self._shared):
            return call()
        self.calls.append(f"{verb} {name.partition('/')[0]}")
        return self._turns.take(self._who, call)


class Turns:
    """Whose turn it is, by stretches of calls; who has nothing more to do is passed over."""

    def __init__(self, stretches: Sequence[tuple[int, int]]) -> None:
        self._stretches = [list(stretch) for stretch in stretches if stretch[1] > 0]
        self._changed = threading.Condition()

    def take(self, who: int, call: Callable[[], Any]) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: not self._stretches or self._stretches[0][0] == who)
            try:
                return call()
            finally:
                self._count(who)

    def leave(self, who: int) -> None:
        with self._changed:
            self._stretches = [stretch for stretch in self._stretches if stretch[0] != who]
            self._changed.notify_all()

    def _count(self, who: int) -> None:
        if self._stretches and self._stretches[0][0] == who:
            self._stretches[0][1] -= 1
            if self._stretches[0][1] == 0:
                self._stretches.pop(0)
        self._changed.notify_all()


def in_turns(
    store: Store,
    works: Sequence[Work],
    stretches: Sequence[tuple[int, int]],
    shared: tuple[str, ...] = SHARED,
) -> list[object]:
    """
    Run ``works`` at once, in stretches of (who, how many calls).

    :returns: what each returned or raised.
    """
    turns = Turns(stretches)
    results: list[object] = [None] * len(works)

    def run(who: int) -> None:
        try:
            results[who] = works[who](Stepped(store, turns, who, shared))
        except Exception as error:  # noqa: BLE001 - handed to the test
            results[who] = error
        finally:
            turns.leave(who)

    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=240)
        assert not thread.is_alive(), f"stuck in {stretches}"
    return results


def calls_of(store: Store, work: Work, shared: tuple[str, ...] = SHARED) -> list[str]:
    """Return the calls that a work makes when it is alone."""
    alone = Stepped(store, Turns(()), 0, shared)
    work(alone)
    return alone.calls


def every_order(first: int, second: int) -> Iterator[list[tuple[int, int]]]:
    """Yield every order of ``first`` calls of caller 0 and ``second`` calls of caller 1."""
    for places in itertools.combinations(range(first + second), first):
        yield [(0 if n in places else 1, 1) for n in range(first + second)]


def two_switches(
    first: int, second: int, *, either: bool = True
) -> Iterator[list[tuple[int, int]]]:
    """
    Yield every way in which two works are switched between at most twice, and then once more.

    One begins; at any moment the other runs for a while; then one ends, and then the other.

    :param either: each of them begins in turn, not the first one only.
    """
    for i in range(first + 1):
        for j in range(second + 1):
            yield [(0, i), (1, j), (0, ALL), (1, ALL)]
            if either:
                yield [(1, j), (0, i), (1, ALL), (0, ALL)]
