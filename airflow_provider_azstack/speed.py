"""
How fast work goes, how long it still takes, and how that is told to people.

Owns the wording of amounts, counts, speeds and times, and what crosses from those who work to
those who watch; knows nothing of what the work is.
Invariant: a time to go is told from what was done lately, and not told at all when nothing was.
"""

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any, Self

# Long enough to bridge a slow range, short enough that a stream that slows down says so.
WINDOW_SECONDS = 30.0
TELL_SECONDS = 5.0
_SAMPLE_SECONDS = 1.0
_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


class Told(str):
    """
    A line for a log that also carries what it says as numbers.

    :param key: what it is about: the same through all lines of one attempt, of no other attempt.
    :param facts: plain JSON.
    """

    __slots__ = ("facts", "key")
    key: str
    facts: dict[str, Any]

    def __new__(cls, text: str, key: str, facts: Mapping[str, Any]) -> Self:
        """Make a line."""
        told = super().__new__(cls, text)
        told.key, told.facts = key, dict(facts)
        return told


class Speed:
    """What was done per second lately. Thread-safe."""

    def __init__(self, window_seconds: float = WINDOW_SECONDS) -> None:
        self._window = window_seconds
        self._samples: deque[tuple[float, float]] = deque([(0.0, 0.0)])
        self._lock = threading.Lock()

    def per_second(self, seconds: float, done: float) -> float:
        """
        Return the speed of the last ``WINDOW_SECONDS``.

        :param seconds: since the beginning.
        :param done: since the beginning.
        """
        with self._lock:
            while len(self._samples) > 1 and self._samples[1][0] <= seconds - self._window:
                self._samples.popleft()
            since, before = self._samples[0]
            if seconds - self._samples[-1][0] >= _SAMPLE_SECONDS:
                self._samples.append((seconds, done))
        return (done - before) / (seconds - since) if seconds > since else 0.0


class Course:
    """
    How far work of a known amount is. Told by one thread.

    :param key: see ``Told``.
    :param label: what the line begins with.
    :param total: what there is to do, in bytes or in whatever ``at`` counts.
    :param verb: what is done to the bytes: ``"written"``.
    """

    def __init__(self, key: str, label: str, total: float, *, verb: str, began: float) -> None:
        self.verb = verb
        self._key, self._label = key, label
        self._total = total
        self._began = self._told = began
        self._done_speed, self._bytes_speed = Speed(), Speed()

    def is_due(self, now: float) -> bool:
        """Tell whether it is time for another line."""
        return now - self._told >= TELL_SECONDS

    def is_over(self, done: float) -> bool:
        """Tell whether nothing is left."""
        return done >= self._total

    def at(self, now: float, done: float, moved_bytes: float) -> Told:
        """Return the line for this moment."""
        self._told = now
        seconds = now - self._began
        done = min(done, self._total)
        pace = self._done_speed.per_second(seconds, done)
        rate = self._bytes_speed.per_second(seconds, moved_bytes)
        left = self._total - done
        eta = 0.0 if not left else left / pace if pace > 0 else None
        percent = 100.0 * done / self._total if self._total else 100.0
        text = f"{self._label}: {percent:.1f}%, {amount(moved_bytes)} {self.verb}, "
        text += ended(moved_bytes, seconds) if not left else going(rate, eta)
        facts = {
            "percent": round(percent, 1),
            f"{self.verb}_bytes": int(moved_bytes),
            "bytes_per_second": int(rate),
            "eta_seconds": eta if eta is None else round(eta),
            "seconds": round(seconds, 1),
        }
        return Told(text, self._key, facts)


def amount(size_bytes: float) -> str:
    """Return an amount of bytes as people say it, in decimal units."""
    for factor, unit in _UNITS:
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes:.0f} bytes"


def counted(count: int, one: str, many: str = "") -> str:
    """Return ``1 VM``, ``2 VMs``, ``5,000 VMs``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """Return a time as people say it: ``8 s``, ``4 min 10 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def going(bytes_per_second: float, eta_seconds: float | None) -> str:
    """Return the speed and the time to go of what is under way."""
    left = "time to go unknown" if eta_seconds is None else f"{duration(eta_seconds)} to go"
    return f"{amount(bytes_per_second)}/s, {left}"


def ended(moved_bytes: float, seconds: float) -> str:
    """Return how long all of it took, and how fast that was."""
    return f"in {duration(seconds)}, {amount(moved_bytes / seconds if seconds > 0 else 0.0)}/s"
