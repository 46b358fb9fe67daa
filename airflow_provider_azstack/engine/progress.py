"""
How far the backup of a disk is.

Owns the counters that its threads share; knows nothing of what they count.
Invariant: what is reported never goes back, and is complete only when the disk is.
"""

import threading
from typing import Any, NamedTuple

from airflow_provider_azstack.speed import Speed, Told, amount, ended, going


class Progress(NamedTuple):
    """One look at a running backup; ``str()`` is fit for a log line."""

    size_bytes: int
    done_bytes: int  # of the disk: stored, or known to be as before, or zero
    read_bytes: int
    stored_bytes: int  # new in the repository
    deduplicated_bytes: int  # read, but the repository had them already
    seconds: float
    # The source is asked window by window what is allocated or changed, while the work goes on.
    asked_bytes: int = 0  # of the disk: the source has said what there is to do
    work_bytes: int = 0  # what it said
    worked_bytes: int = 0  # of that: done
    worked_per_second: float = 0.0  # lately
    read_per_second: float = 0.0  # lately

    @property
    def percent(self) -> float:
        """Share of the disk that is done."""
        return 100.0 * self.done_bytes / self.size_bytes if self.size_bytes else 100.0

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return self.done_bytes >= self.size_bytes

    @property
    def eta_seconds(self) -> float | None:
        """
        Seconds to go at the pace of late, None while that is not known.

        What counts is what has to be read, not the size of the disk: most of a disk is empty, or
        as it was. Where the source was not asked yet, there is as much to do as where it was.
        """
        if self.is_done:
            return 0.0
        if not self.asked_bytes or self.worked_per_second <= 0:
            return None
        not_asked = self.size_bytes - self.asked_bytes
        expected = self.work_bytes * (1 + not_asked / self.asked_bytes)
        return max(0.0, expected - self.worked_bytes) / self.worked_per_second

    def __str__(self) -> str:
        pace = (
            ended(self.read_bytes, self.seconds)
            if self.is_done
            else going(self.read_per_second, self.eta_seconds)
        )
        return (
            f"{self.percent:.1f}% of {amount(self.size_bytes)}, {amount(self.read_bytes)} read, "
            f"{pace}, {amount(self.stored_bytes)} stored, "
            f"{amount(self.deduplicated_bytes)} saved by deduplication"
        )

    def told(self, key: str, label: str) -> Told:
        """
        Return this as a line for those who watch.

        :param key: of the attempt at the image.
        """
        eta = self.eta_seconds
        facts: dict[str, Any] = {
            "percent": round(self.percent, 1),
            "read_bytes": self.read_bytes,
            "stored_bytes": self.stored_bytes,
            "deduplicated_bytes": self.deduplicated_bytes,
            "bytes_per_second": int(self.read_per_second),
            "eta_seconds": eta if eta is None else round(eta),
            "seconds": round(self.seconds, 1),
        }
        return Told(f"{label}: {self}", key, facts)


class Tally:
    """Counters of one backup. Thread-safe."""

    def __init__(self, size_bytes: int) -> None:
        self._counts = Progress(size_bytes, 0, 0, 0, 0, 0.0)
        self._worked, self._read = Speed(), Speed()
        self._lock = threading.Lock()

    def add(
        self,
        *,
        done: int = 0,
        read: int = 0,
        stored: int = 0,
        deduplicated: int = 0,
        worked: int = 0,
    ) -> None:
        """Count more bytes."""
        with self._lock:
            now = self._counts
            self._counts = now._replace(
                done_bytes=now.done_bytes + done,
                read_bytes=now.read_bytes + read,
                stored_bytes=now.stored_bytes + stored,
                deduplicated_bytes=now.deduplicated_bytes + deduplicated,
                worked_bytes=now.worked_bytes + worked,
            )

    def plan(self, asked: int, work: int) -> None:
        """Count a stretch of the disk, and what there is to do in it."""
        with self._lock:
            now = self._counts
            self._counts = now._replace(
                asked_bytes=now.asked_bytes + asked, work_bytes=now.work_bytes + work
            )

    def look(self, seconds: float = 0.0) -> Progress:
        """Return the counters as they are now."""
        with self._lock:
            counts = self._counts
        return counts._replace(
            seconds=seconds,
            worked_per_second=self._worked.per_second(seconds, counts.worked_bytes),
            read_per_second=self._read.per_second(seconds, counts.read_bytes),
        )
