"""
Stores for tests: one in memory, one that crashes, and several that lie or fail.

None of them inherits from what it tests. ``CrashingStore`` and the faulty ones wrap any store.
"""

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, Literal
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from airflow_provider_azstack.errors import (
    ObjectExists,
    ObjectNotFound,
    ShortRead,
    StoreFull,
    Unreachable,
)
from airflow_provider_azstack.store.base import (
    MOST_BYTES,
    Buffer,
    ObjectInfo,
    Store,
    as_views,
    check_size,
    is_valid_name,
    validate_name,
    validate_prefix,
)
from airflow_provider_azstack.store.folders import TEMPORARY
from airflow_provider_azstack.store.guard import StoreWrapper
from airflow_provider_azstack.store.local import LocalStore


class MemoryStore(Store):
    """The contract, kept by a dictionary. ``objects`` is open to tests that plant and damage."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._lock = Lock()

    def names(self, prefix: str) -> set[str]:
        return {name for name in self.objects if name.startswith(prefix)}

    def lose(self, names: Iterable[str]) -> None:
        for name in names:
            del self.objects[name]

    @property
    def url(self) -> str:
        return "memory://"

    def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
        validate_name(name)
        content = b"".join(as_views(data))
        with self._lock:
            if name in self.objects:
                raise ObjectExists(f"{name} in {self.url} already exists")
            self.objects[name] = content

    def get(self, name: str, most_bytes: int = MOST_BYTES) -> bytes:
        try:
            content = self.objects[validate_name(name)]
        except KeyError:
            raise ObjectNotFound(f"{name} in {self.url} does not exist") from None
        check_size(len(content), most_bytes, name)
        return content

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        content = self.get(name)
        if not 0 <= offset <= offset + length <= len(content):
            raise ShortRead(f"{name} in {self.url} has {len(content)} bytes")
        return content[offset : offset + length]

    def info(self, name: str) -> ObjectInfo:
        return ObjectInfo(name, len(self.get(name)))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        validate_prefix(prefix)
        with self._lock:
            found = [
                ObjectInfo(name, len(content))
                for name, content in self.objects.items()
                if name.startswith(prefix) and is_valid_name(name)
            ]
        return iter(found)

    def delete(self, name: str) -> None:
        with self._lock:
            if self.objects.pop(validate_name(name), None) is None:
                raise ObjectNotFound(f"{name} in {self.url} does not exist")


class Crash(BaseException):
    """The process ends here. Not an ``Exception``: no handler in the product may survive it."""


class CrashingStore(StoreWrapper):
    """
    A store under which the process dies at one mutating call, and stays dead.

    ``calls`` counts ``put`` and ``delete`` from 0; call number ``at`` crashes:

    - *before*: the call has no effect.
    - *after*: the call has its whole effect, the caller never hears of it.
    - *torn*: dies in the middle. No store that keeps the contract shows half an object, so nothing
      of the object is visible; what a ``LocalStore`` leaves behind is half of it in a temporary
      file, and that is planted here. For a ``delete``, and for other stores, the same as *before*.

    Every later call of any kind crashes too: a ``finally`` of a killed process does not run, so
    its store calls must have no effect. ``at=None`` never crashes and only counts.
    """

    def __init__(
        self,
        inner: Store,
        at: int | None = None,
        mode: Literal["before", "after", "torn"] = "before",
    ) -> None:
        super().__init__(inner)
        self.at = at
        self.mode = mode
        self.calls = 0
        self.log: list[tuple[str, str]] = []
        self.crashed = False
        self._lock = Lock()

    def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
        def tear() -> None:
            if isinstance(self.inner, LocalStore):
                root = Path(unquote(urlsplit(self.inner.url).path))
                plant_temporary_file(root, name, data)

        self._mutate("put", name, lambda: self.inner.put(name, data), tear)

    def delete(self, name: str) -> None:
        self._mutate("delete", name, lambda: self.inner.delete(name), lambda: None)

    def get(self, name: str, most_bytes: int = MOST_BYTES) -> bytes:
        self._check()
        return super().get(name, most_bytes)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        self._check()
        return super().get_range(name, offset, length)

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        self._check()
        return super().get_ranges(name, ranges)

    def info(self, name: str) -> ObjectInfo:
        self._check()
        return super().info(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._check()
        return super().list(prefix)

    def _check(self) -> None:
        if self.crashed:
            raise Crash("the process is dead already")

    def _mutate(
        self, verb: str, name: str, effect: Callable[[], None], tear: Callable[[], None]
    ) -> None:
        with self._lock:
            self._check()
            number = self.calls
            self.calls += 1
            self.log.append((verb, name))
            self.crashed = number == self.at
            crashes = self.crashed
        if not crashes:
            effect()
            return
        if self.mode == "after":
            effect()
        elif self.mode == "torn":
            tear()
        raise Crash(f"{self.mode} {verb} {name} (call {number})")


def plant_temporary_file(root: Path, name: str, data: Buffer | Sequence[Buffer]) -> Path:
    """Leave what a killed ``LocalStore.put`` leaves: half of the bytes under a temporary name."""
    content = b"".join(as_views(data))
    folder = (root / name).parent
    folder.mkdir(parents=True, exist_ok=True)
    leftover = folder / f"{TEMPORARY}{uuid4().hex}"
    leftover.write_bytes(content[: len(content) // 2])
    return leftover


class ListingFault(StoreWrapper):
    """
    A store whose listings are wrong while ``fault`` is set.

    - *truncated*: the first ``page`` entries, silently.
    - *duplicated*: every entry twice.
    - *second page*: an error after ``page`` entries.
    - *empty*: nothing, with a success.
    """

    def __init__(self, inner: Store, fault: str | None, page: int = 1000) -> None:
        super().__init__(inner)
        self.fault = fault
        self.page = page

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        entries = sorted(self.inner.list(prefix))
        if self.fault == "truncated":
            return iter(entries[: self.page])
        if self.fault == "duplicated":
            return iter(entries + entries)
        if self.fault == "second page":
            return chain(entries[: self.page], self._fail(prefix))
        return iter([] if self.fault == "empty" else entries)

    def _fail(self, prefix: str) -> Iterator[ObjectInfo]:
        raise Unreachable(f"listing {prefix} in {self.url} broke on page 2")
        yield


class StaleListing(StoreWrapper):
    """A store whose listings show creations and deletions only ``seconds`` later."""

    def __init__(self, inner: Store, clock: Callable[[], float], seconds: float = 5.0) -> None:
        super().__init__(inner)
        self._clock = clock
        self._seconds = seconds
        self._history: list[tuple[float, dict[str, ObjectInfo]]] = [(clock(), self._now())]

    def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
        self.inner.put(name, data)
        self._history.append((self._clock(), self._now()))

    def delete(self, name: str) -> None:
        self.inner.delete(name)
        self._history.append((self._clock(), self._now()))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        shown = self._clock() - self._seconds
        seen = [state for when, state in self._history if when <= shown] or [self._history[0][1]]
        return iter([info for name, info in seen[-1].items() if name.startswith(prefix)])

    def _now(self) -> dict[str, ObjectInfo]:
        return {info.name: info for info in self.inner.list("")}


class LostWrites(StoreWrapper):
    """A store that acknowledges uploads of names that ``lost`` matches, and drops them."""

    def __init__(self, inner: Store, lost: Callable[[str], bool] = lambda name: True) -> None:
        super().__init__(inner)
        self._lost = lost

    def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
        if not self._lost(name):
            self.inner.put(name, data)


class LastWriterWins(MemoryStore):
    """A store that ignores put-if-absent, as older S3 work-alikes do."""

    def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
        self.objects[validate_name(name)] = b"".join(as_views(data))


class FullStore(StoreWrapper):
    """A store with room for ``room_bytes`` more; deleting does not give any back."""

    def __init__(self, inner: Store, room_bytes: int) -> None:
        super().__init__(inner)
        self.room_bytes = room_bytes

    def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
        needed = sum(view.nbytes for view in as_views(data))
        if needed > self.room_bytes:
            raise StoreFull(f"no room for {name}: {needed} bytes needed, {self.room_bytes} free")
        self.inner.put(name, data)
        self.room_bytes -= needed


class FailingSystem:
    """
    The operating system's calls for a ``LocalStore``, some of which fail.

    ``FailingSystem(errno.EIO, "fsync", times=1)`` fails the first ``fsync``; ``after`` lets that
    many pass first. ``counts`` tells how often each call was made.
    """

    def __init__(self, number: int, *calls: str, times: int = 1, after: int = 0) -> None:
        self._number = number
        self._calls = calls
        self._times = times
        self._after = after
        self.counts: Counter[str] = Counter()

    def __getattr__(self, call: str) -> Any:
        real = getattr(os, call)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.counts[call] += 1
            if call in self._calls:
                if self._after:
                    self._after -= 1
                elif self._times:
                    self._times -= 1
                    raise OSError(self._number, os.strerror(self._number))
            return real(*args, **kwargs)

        return wrapped


def failing_disk(directory: Path, *calls: str, times: int = 1, after: int = 0) -> LocalStore:
    """Return a ``LocalStore`` on a disk that answers ``EIO`` to ``calls``, ``times`` times."""
    return LocalStore(directory, system=FailingSystem(errno.EIO, *calls, times=times, after=after))
