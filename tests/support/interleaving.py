"""Two callers of one store, their calls in an order that the test chooses."""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from airflow_provider_azstack.store.base import Buffer, ObjectInfo, Store
from airflow_provider_azstack.store.guard import StoreWrapper

Work = Callable[[Store], object]


def orders(first: int, second: int) -> Iterator[tuple[int, ...]]:
    """Yield every order of ``first`` calls of caller 0 and ``second`` calls of caller 1."""
    for places in itertools.combinations(range(first + second), first):
        yield tuple(0 if n in places else 1 for n in range(first + second))


def run_in_order(store: Store, works: Sequence[Work], order: Sequence[int]) -> list[object]:
    """
    Run ``works`` at once, with their listings, puts and deletes in ``order``; reads are free.

    :returns: what each returned or raised.
    """
    turns = _Turns(order)
    results: list[object] = [None] * len(works)

    def run(number: int) -> None:
        try:
            results[number] = works[number](_InTurn(store, turns, number))
        except Exception as error:  # noqa: BLE001 - handed to the test
            results[number] = error
        finally:
            turns.leave(number)

    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive(), f"stuck in order {order}"
    return results


class _Turns:
    """Whose turn it is; one who has left is skipped, and after the order's end all are free."""

    def __init__(self, order: Sequence[int]) -> None:
        self._order = list(order)
        self._changed = threading.Condition()

    def take(self, who: int, call: Callable[[], Any]) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: who not in self._order or self._order[0] == who)
            if who in self._order:
                self._order.pop(0)
            try:
                return call()
            finally:
                self._changed.notify_all()

    def leave(self, who: int) -> None:
        with self._changed:
            self._order = [other for other in self._order if other != who]
            self._changed.notify_all()


class _InTurn(StoreWrapper):
    def __init__(self, store: Store, turns: _Turns, who: int) -> None:
        super().__init__(store)
        self._turns = turns
        self._who = who

    def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
        self._turns.take(self._who, lambda: self.inner.put(name, data))

    def delete(self, name: str) -> None:
        self._turns.take(self._who, lambda: self.inner.delete(name))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return iter(self._turns.take(self._who, lambda: list(self.inner.list(prefix))))
