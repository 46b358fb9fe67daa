"""A clock that only sleeping moves, so that hours of waiting take no time and can be counted."""

import threading


class VirtualClock:
    """Call it for the time; give its ``sleep`` to what sleeps."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.slept: list[float] = []
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0, "sleeping for no time is a busy loop"
        with self._lock:
            self.now += seconds
            self.slept.append(seconds)
