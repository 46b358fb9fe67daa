"""
Wrappers around a store: one that is patient, two that are not allowed everything.

Owns retries and permissions; knows no backend.
Invariant: a wrapper never turns a failure into a success, but for what it can prove: a repeated
``put`` that finds its own bytes under the name, and a repeated ``delete`` that finds nothing, did
their work in the try whose answer was lost.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

from airflow_provider_azstack.errors import (
    AccessDenied,
    ObjectExists,
    ObjectNotFound,
    Tampered,
    Throttled,
    Unreachable,
)
from airflow_provider_azstack.store.base import MOST_BYTES, Buffer, ObjectInfo, Store, as_views

T = TypeVar("T")

_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 60.0


class StoreWrapper(Store):
    """Another store, unchanged: what wrappers have in common."""

    def __init__(self, store: Store) -> None:
        self.inner = store

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def is_near(self) -> bool:
        return self.inner.is_near

    def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
        self.inner.put(name, data)

    def get(self, name: str, most_bytes: int = MOST_BYTES) -> bytes:
        return self.inner.get(name, most_bytes)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self.inner.get_range(name, offset, length)

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        return self.inner.get_ranges(name, ranges)

    def info(self, name: str) -> ObjectInfo:
        return self.inner.info(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self.inner.list(prefix)

    def delete(self, name: str) -> None:
        self.inner.delete(name)


class RetryingStore(StoreWrapper):
    """
    A store whose passing troubles are waited out.

    Waits double from half a second to a minute, each shortened at random so that many hosts do not
    return at once, and never shorter than what the store asked for.

    :param budget_seconds: for one call; when the next wait would pass it, the last error is raised.
    """

    def __init__(
        self,
        store: Store,
        *,
        budget_seconds: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        super().__init__(store)
        self._budget_seconds = budget_seconds
        self._clock = clock
        self._sleep = sleep
        self._uniform = uniform

    def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
        self._patiently(lambda: self.inner.put(name, data), lambda: self._put_again(name, data))

    def get(self, name: str, most_bytes: int = MOST_BYTES) -> bytes:
        return self._patiently(lambda: self.inner.get(name, most_bytes))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self._patiently(lambda: self.inner.get_range(name, offset, length))

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        return self._patiently(lambda: self.inner.get_ranges(name, ranges))

    def info(self, name: str) -> ObjectInfo:
        return self._patiently(lambda: self.inner.info(name))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        # Read to its end before the first entry is handed out: who iterates sees all or an error,
        # never the beginning of one listing and the rest of another.
        return iter(self._patiently(lambda: tuple(self.inner.list(prefix))))

    def delete(self, name: str) -> None:
        self._patiently(lambda: self.inner.delete(name), lambda: self._delete_again(name))

    def _put_again(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
        try:
            self.inner.put(name, data)
        except ObjectExists:
            if not self._holds(name, as_views(data)):
                raise

    def _holds(self, name: str, views: Sequence[memoryview]) -> bool:
        mine = b"".join(views)
        try:
            return self.inner.get(name, len(mine)) == mine
        except (ObjectNotFound, Tampered):  # somebody deleted it since; it has more bytes
            return False

    def _delete_again(self, name: str) -> None:
        with suppress(ObjectNotFound):
            self.inner.delete(name)

    def _patiently(self, action: Callable[[], T], repeated: Callable[[], T] | None = None) -> T:
        """Run ``action``, then ``repeated``, until one succeeds or the budget is used up."""
        started = self._clock()
        longest = _FIRST_WAIT_SECONDS
        while True:
            try:
                return action()
            except (Throttled, Unreachable) as error:
                asked = error.retry_after_seconds if isinstance(error, Throttled) else 0.0
                wait = max(asked, self._uniform(longest / 2, longest))
                if self._clock() - started + wait > self._budget_seconds:
                    raise
            self._sleep(wait)
            longest = min(2 * longest, _LONGEST_WAIT_SECONDS)
            action = repeated or action


class ReadOnlyStore(StoreWrapper):
    """A store that may only be read."""

    def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:  # noqa: ARG002
        raise AccessDenied(f"{self.url} is open for reading only: {name} was not created")

    def delete(self, name: str) -> None:
        raise AccessDenied(f"{self.url} is open for reading only: {name} was not deleted")


class AppendOnlyStore(StoreWrapper):
    """
    A store that may grow: what the credentials of a backup host should be able to do.

    :param deletable: folders whose objects may be deleted all the same.
    """

    def __init__(self, store: Store, deletable: Sequence[str] = ("sessions/", "claims/")) -> None:
        super().__init__(store)
        self._deletable = tuple(deletable)

    def delete(self, name: str) -> None:
        if not name.startswith(self._deletable):
            raise AccessDenied(
                f"{self.url} is append-only here: {name} was not deleted; "
                "run this where the credentials for pruning are"
            )
        self.inner.delete(name)
