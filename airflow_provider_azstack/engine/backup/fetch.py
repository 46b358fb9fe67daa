"""
Many ranges of a disk read at once, as many as one buffer holds.

Owns the threads that help readers to wait for their ranges; knows neither regions nor blocks.
Invariant: nobody writes to a batch's buffers after ``fetch`` ended, all are filled when it ended
well, and after the first error, which it raises, no more of the batch is begun.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import NamedTuple

ReadInto = Callable[[int, memoryview], None]


class Piece(NamedTuple):
    """A range, by where it begins and the buffer that it fills."""

    offset: int
    buffer: memoryview


class Fetcher:
    """Reads batches of ranges; idle helpers join whoever has more than one range to wait for."""

    def __init__(self, read_into: ReadInto) -> None:
        self._read_into = read_into
        self._calls: SimpleQueue[_Batch | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._most = self._helpers = 0

    @contextmanager
    def helped(self, most: int) -> Iterator[None]:
        """Let up to ``most`` threads help; one stuck in a socket is a daemon and holds nothing."""
        self._most = most
        try:
            yield
        finally:
            with self._lock:
                self._most = 0
                for _ in range(self._helpers):
                    self._calls.put(None)

    def fetch(self, pieces: Iterable[Piece]) -> None:
        """Fill all buffers; the caller reads as well. Thread-safe."""
        batch = _Batch(pieces)
        self._join(batch)
        batch.finish()

    def _help(self) -> None:
        while (batch := self._calls.get()) is not None:
            self._join(batch)

    def _join(self, batch: "_Batch") -> None:
        # Whoever joins calls one more: a batch that is quickly done wakes few for nothing.
        if batch.left > 1:
            self._call(batch)
        batch.work(self._read_into)

    def _call(self, batch: "_Batch") -> None:
        with self._lock:
            if self._helpers < self._most:  # most disks hardly change and need none
                self._helpers += 1
                name = f"fetch-{self._helpers}"
                threading.Thread(target=self._help, daemon=True, name=name).start()
        self._calls.put(batch)


class _Batch:
    """Ranges that several threads read together."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._left = deque(pieces)
        self._running = 0
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    @property
    def left(self) -> int:
        return len(self._left)

    def work(self, read_into: ReadInto) -> None:
        """Read until nothing is left to begin."""
        while (piece := self._next()) is not None:
            try:
                read_into(piece.offset, piece.buffer)
            except BaseException as error:  # noqa: BLE001 - whatever it is, ``finish`` raises it
                self._ended(error)
            else:
                self._ended(None)

    def finish(self) -> None:
        """Wait for what others began; raise the first error."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running)
        if self._error is not None:
            raise self._error

    def _next(self) -> Piece | None:
        with self._changed:
            if not self._left:
                return None
            self._running += 1
            return self._left.popleft()

    def _ended(self, error: BaseException | None) -> None:
        with self._changed:
            self._running -= 1
            if error is not None:
                self._left.clear()
                self._error = self._error or error
            if not self._running:
                self._changed.notify()
