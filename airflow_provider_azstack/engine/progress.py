"""
How far the backup of a disk is.

Owns the counters that its threads share; knows nothing of what they count.
Invariant: what is reported never goes back, and is complete only when the disk is.
"""

import threading
from typing import NamedTuple


class Progress(NamedTuple):
    """One look at a running backup; ``str()`` is fit for a log line."""

    size_bytes: int
    done_bytes: int  # of the disk: stored, or known to be as before, or zero
    read_bytes: int
    stored_bytes: int  # new in the repository
    deduplicated_bytes: int  # read, but the repository had them already
    seconds: float

    @property
    def percent(self) -> float:
        """Share of the disk that is done."""
        return 100.0 * self.done_bytes / self.size_bytes if self.size_bytes else 100.0

    @property
    def bytes_per_second(self) -> float:
        """What was read from the source per second so far."""
        return self.read_bytes / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta_seconds(self) -> float | None:
        """Seconds to go at the pace so far, None while nothing is done."""
        if not self.done_bytes:
            return None
        return self.seconds * (self.size_bytes - self.done_bytes) / self.done_bytes

    def __str__(self) -> str:
        eta = "?" if self.eta_seconds is None else f"{self.eta_seconds:.0f}"
        return (
            f"{self.percent:.1f}%, {self.bytes_per_second / 1e6:.0f} MB/s, {eta} s to go, "
            f"{self.stored_bytes / 1e6:.1f} MB stored, "
            f"{self.deduplicated_bytes / 1e6:.1f} MB saved by deduplication"
        )


class Tally:
    """Counters of one backup. Thread-safe."""

    def __init__(self, size_bytes: int) -> None:
        self._counts = Progress(size_bytes, 0, 0, 0, 0, 0.0)
        self._lock = threading.Lock()

    def add(self, *, done: int = 0, read: int = 0, stored: int = 0, deduplicated: int = 0) -> None:
        """Count more bytes."""
        with self._lock:
            now = self._counts
            self._counts = now._replace(
                done_bytes=now.done_bytes + done,
                read_bytes=now.read_bytes + read,
                stored_bytes=now.stored_bytes + stored,
                deduplicated_bytes=now.deduplicated_bytes + deduplicated,
            )

    def look(self, seconds: float = 0.0) -> Progress:
        """Return the counters as they are now."""
        with self._lock:
            return self._counts._replace(seconds=seconds)
