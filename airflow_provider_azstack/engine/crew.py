"""
A few threads working through tasks that may make more tasks.

Owns the threads and how they end; knows nothing of disks.
Invariant: after the first error, or when told to stop, no task is begun any more, and the error
that came first is the one that is raised.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from airflow_provider_azstack.errors import Cancelled

# How often the caller's thread looks up; a set ``cancel`` is seen this soon.
_GLANCE_SECONDS = 0.2
# A thread stuck in a socket is left behind after this long: it is a daemon, holds nothing that
# others need, and what it would add next is refused by the writer that was aborted.
_LEAVE_BEHIND_SECONDS = 4.0

T = TypeVar("T")


class Crew(Generic[T]):
    """
    Threads that take tasks first from what was added, then from ``source``.

    What was added goes first, so that work once opened is finished before more is opened.
    ``source`` is asked by one thread at a time.
    """

    def __init__(self, source: Iterable[T]) -> None:
        self._source = iter(source)
        self._exhausted = False
        self._added: deque[T] = deque()
        self._asking = False
        self._busy = 0
        self._stopped = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()  # only members wait for it: waking costs the GIL
        self._over = threading.Event()

    def add(self, tasks: Iterable[T]) -> None:
        """Put tasks in front; called from within a task."""
        with self._changed:
            self._added.extend(tasks)
            self._changed.notify_all()

    def run(
        self,
        work: Callable[[Iterator[T]], None],
        threads: int,
        *,
        cancel: threading.Event | None = None,
        glance: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Let each thread call ``work`` with an iterator of tasks, and wait for the end.

        :param glance: called in the caller's thread a few times a second.
        :raises Cancelled: ``cancel`` was set before the work was done.
        """
        crew = [
            threading.Thread(target=self._member, args=(work,), daemon=True, name=f"backup-{n}")
            for n in range(threads)
        ]
        for thread in crew:
            thread.start()
        try:
            self._watch(cancel, glance)
        finally:
            self._stop()
            for thread in crew:
                thread.join(_LEAVE_BEHIND_SECONDS)
        if self._error is not None:
            raise self._error

    def _watch(self, cancel: threading.Event | None, glance: Callable[[], None]) -> None:
        while not self._over.is_set():
            if cancel is not None and cancel.is_set():
                raise Cancelled("the backup of the disk was told to stop")
            glance()
            self._over.wait(_GLANCE_SECONDS)

    def _member(self, work: Callable[[Iterator[T]], None]) -> None:
        try:
            work(self._tasks())
        except BaseException as error:  # noqa: BLE001 - whatever it is, the caller's thread raises it
            self._stop(error)

    def _stop(self, error: BaseException | None = None) -> None:
        with self._changed:
            if error is not None and self._error is None and not self._stopped:
                self._error = error
            self._stopped = True
            self._wake_at_the_end()

    def _tasks(self) -> Iterator[T]:
        while (task := self._next()) is not None:
            yield task
            with self._changed:
                self._busy -= 1
                self._wake_at_the_end()

    def _next(self) -> T | None:
        while True:
            with self._changed:
                self._changed.wait_for(self._ready)
                if self._ended():
                    return None
                if self._added:
                    self._busy += 1
                    return self._added.popleft()
                self._asking = True
            self._ask()

    def _ask(self) -> None:
        """Move one task from the source to those added; without the lock: it may take seconds."""
        task = next(self._source, None)
        with self._changed:
            self._asking = False
            if task is None:
                self._exhausted = True
                self._wake_at_the_end()
            else:
                self._added.append(task)
                self._changed.notify()  # the source is free: another member may ask

    def _wake_at_the_end(self) -> None:
        if self._ended():
            self._over.set()
            self._changed.notify_all()

    def _ready(self) -> bool:
        return bool(self._added) or not (self._asking or self._exhausted) or self._ended()

    def _ended(self) -> bool:
        waiting = self._added or self._asking or not self._exhausted
        return self._stopped or not (waiting or self._busy)
