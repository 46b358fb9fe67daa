"""
Bandwidth limits that all streams of a backup host keep together.

Owns the waiting, and the small files by which processes of one host know of each other; knows
neither disks nor stacks.
Invariant: in any stretch of time, all processes together are given at most the limit times that
time and ``BURST_SECONDS`` of it more; one that is killed holds back others for seconds at most.

A file holds one number: the moment at which the next bytes may start to flow. Whoever wants some
locks the file, puts its piece behind what others asked for before, unlocks, and waits until its
piece would have flowed. So streams take turns, first come, first served, and nothing has to be
given back.
"""

import fcntl
import os
import stat
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from airflow_provider_azstack.errors import Cancelled, ConfigurationError

# What was not used this long ago may be used now: without it, time spent reading would be lost.
BURST_SECONDS = 0.25
# A piece takes at most this long, so a stream that wants much does not hold up the others.
_PIECE_SECONDS = 0.1
# A host has at most 64 streams, each with one piece in the queue. A moment further away than that
# was written before the clock was set anew, by a restart of the host.
_FARTHEST_SECONDS = 30.0
_GLANCE_SECONDS = 0.2  # how soon a set ``cancel`` is seen
_MOMENT = struct.Struct("<d")
_VARIABLE = "AZSTACK_RUNTIME_DIR"


class Limit(NamedTuple):
    """What everything of one name on this host may move together."""

    name: str
    bytes_per_second: float


class Pace:
    """Several limits, all of which hold. Thread-safe; processes of one host share them by name."""

    def __init__(
        self,
        limits: Iterable[Limit],
        *,
        directory: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """
        Check that the limits can be kept.

        :param directory: of the files that processes share; default: ``runtime_directory()``.
        :param clock: the same for all processes, as the time since the host was started is.
        :raises ConfigurationError: the directory cannot be used.
        """
        wanted = tuple(limits)
        place = _own_directory(directory or runtime_directory()) if wanted else Path()
        self._gates = [_Gate(place, limit, clock, sleep) for limit in wanted]

    def take(self, count: int, cancel: threading.Event | None = None) -> None:
        """
        Wait until ``count`` bytes may be moved.

        :raises Cancelled: ``cancel`` was set.
        """
        for gate in self._gates:
            gate.take(count, cancel)


def host_limits(
    host: str, limit_bytes: float | None, policy: str = "", share_bytes: float | None = None
) -> tuple[Limit, ...]:
    """
    Return what holds for a stream on a host.

    :param limit_bytes: what the host may move in a second, whoever asks; None: no limit.
    :param share_bytes: what a policy may move in a second on this host.
    """
    limits = (Limit(host, limit_bytes or 0.0), Limit(f"{host}/{policy}", share_bytes or 0.0))
    return tuple(limit for limit in limits if limit.bytes_per_second)


def shares(limit_bytes: float, streams: Mapping[str, int]) -> dict[str, float]:
    """
    Share a limit that holds over all hosts out to them, by the streams that each of them has.

    :param streams: host -> streams; those with none get nothing.
    """
    whole = sum(streams.values())
    return {host: limit_bytes * count / whole for host, count in streams.items() if count}


def runtime_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where processes of this host meet: ``AZSTACK_RUNTIME_DIR``, else one for each user."""
    if named := environ.get(_VARIABLE):
        return Path(named)
    return Path(tempfile.gettempdir()) / f"azstack-{os.getuid()}"


class _Gate:
    """One limit."""

    def __init__(
        self,
        directory: Path,
        limit: Limit,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._path = directory / f"{quote(limit.name, safe='')}.pace"
        self._rate = limit.bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._turn = threading.Lock()  # one piece of each process is in the queue, not all
        self._reserve(0)  # say now what cannot be written later

    def take(self, count: int, cancel: threading.Event | None) -> None:
        piece = max(1, int(self._rate * _PIECE_SECONDS))
        while not self._turn.acquire(timeout=_GLANCE_SECONDS):
            _check(cancel)
        try:
            for start in range(0, count, piece):
                self._wait_until(self._reserve(min(piece, count - start)), cancel)
        finally:
            self._turn.release()

    def _wait_until(self, moment: float, cancel: threading.Event | None) -> None:
        _check(cancel)
        while (left := moment - self._clock()) > 0:
            self._sleep(min(left, _GLANCE_SECONDS))
            _check(cancel)

    def _reserve(self, count: int) -> float:
        """Queue ``count`` bytes and return when they will have flowed."""
        try:
            with self._locked() as file:
                end = self._start(os.pread(file, _MOMENT.size, 0)) + count / self._rate
                os.pwrite(file, _MOMENT.pack(end), 0)
        except OSError as error:
            raise _unusable(self._path, error.strerror or str(error)) from None
        return end

    def _start(self, written: bytes) -> float:
        """Return when the next bytes may start; a file that tells nonsense tells nothing."""
        now = self._clock()
        moment = _MOMENT.unpack(written)[0] if len(written) == _MOMENT.size else now
        if moment < now - BURST_SECONDS:
            return now - BURST_SECONDS
        return moment if moment <= now + _FARTHEST_SECONDS else now

    @contextmanager
    def _locked(self) -> Iterator[int]:
        # Opened each time: a file that a cleaner of temporary files removed is made again.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(self._path, flags, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)  # the kernel unlocks it when a process is killed
            yield file
        finally:
            os.close(file)


def _check(cancel: threading.Event | None) -> None:
    if cancel is not None and cancel.is_set():
        raise Cancelled("told to stop while waiting for bandwidth")


def _own_directory(path: Path) -> Path:
    """Return the directory, made if it is missing; nobody else may own what we wait for."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from None
    if stat.S_ISLNK(found.st_mode) or found.st_uid not in {os.getuid(), 0}:
        raise _unusable(path, "it is a link, or another user's")
    return path


def _unusable(path: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"{path}: {reason}: the streams of this host keep their bandwidth limit by a small file "
        f"there: set {_VARIABLE} to a directory that they can write"
    )
