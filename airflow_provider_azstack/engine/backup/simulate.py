"""
How long streams take to work through what was shared out to their hosts.

Owns a simulation by events: streams take workloads in order, and whoever reads at the same time
shares what a disk, a host and the stack give; pure, knows neither records nor configurations.
Invariant: no rate is ever exceeded, none is left unused that somebody could use, and the same
input gives the same answer.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

_DUST = 1e-6  # of a second or a byte: what floating point leaves


class Piece(NamedTuple):
    """What one stream reads in a row."""

    disk: str  # whose rate it shares with others that read it; "": nobody's
    size: float  # bytes
    bytes_per_second: float  # that the stream reads when nothing else holds it up
    seconds: float  # that pass before the first byte


_NOTHING = Piece("", 0, 1, 0)


class Task(NamedTuple):
    """A workload."""

    pieces: tuple[Piece, ...]
    vms: tuple[str, ...] = ("",)  # whose they are


class Site(NamedTuple):
    """A backup host and its workloads, in the order in which its streams take them."""

    name: str
    streams: int
    tasks: tuple[Task, ...]
    bytes_per_second: float | None = None  # over all its streams; None: no limit


class Given(NamedTuple):
    """What does not depend on the host. Rates are in bytes, moments in seconds from now."""

    disk_rates: Mapping[str, float] = {}
    stack_rate: float | None = None
    stop_starting: float | None = None
    stop_running: float | None = None


class Ended(NamedTuple):
    """How a host fared."""

    name: str
    streams: int
    end_seconds: float  # when its last stream ended
    busy_seconds: float  # of all its streams together
    left_out: tuple[str, ...]  # VMs that the window left no time for, once for each workload

    def idle(self, run_seconds: float) -> float:
        """Return which share of its streams' time it had nothing to do while the run went on."""
        whole = self.streams * run_seconds
        return 1 - self.busy_seconds / whole if whole else 0.0


@dataclass
class _Stream:
    """A stream at work. The piece at hand is first waited for, then read."""

    site: int
    task: Task
    pieces: Iterator[Piece]
    piece: Piece = _NOTHING
    wait: float = 0.0
    left: float = 0.0
    rate: float = 0.0

    def next(self) -> bool:
        """Go on with the next piece; tell whether there is one."""
        piece = next(self.pieces, None)
        if piece is None:
            return False
        self.piece, self.wait, self.left = piece, piece.seconds, piece.size
        return True

    @property
    def to_go(self) -> float:
        """Seconds until something changes, at the rate of now."""
        if self.wait > _DUST:
            return self.wait
        return self.left / self.rate if self.rate else float("inf")

    @property
    def is_through(self) -> bool:
        """Whether the piece is done."""
        return self.wait <= _DUST and self.left <= max(_DUST, self.rate * _DUST)


@dataclass
class _State:
    sites: Sequence[Site]
    given: Given
    now: float = 0.0
    active: list[_Stream] = field(default_factory=list)
    begun: list[int] = field(default_factory=list)  # tasks, by site
    ends: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    stopped: list[list[str]] = field(default_factory=list)  # VMs, by site


def simulate(sites: Sequence[Site], given: Given | None = None) -> tuple[Ended, ...]:
    """Let all hosts work through their workloads, and return how each fared."""
    count = len(sites)
    state = _State(
        sites,
        given or Given(),
        begun=[0] * count,
        ends=[0.0] * count,
        busy=[0.0] * count,
        stopped=[[] for _ in sites],
    )
    _start(state)
    while state.active:
        _share(state)
        _advance(state)
        _start(state)
    return tuple(
        Ended(
            site.name,
            site.streams,
            state.ends[n],
            state.busy[n],
            (*state.stopped[n], *(vm for task in site.tasks[state.begun[n] :] for vm in task.vms)),
        )
        for n, site in enumerate(sites)
    )


def _start(state: _State) -> None:
    """Let every idle stream take the next workload, as long as the window is open."""
    stop = state.given.stop_starting
    if stop is not None and state.now >= stop - _DUST:
        return
    running = [0] * len(state.sites)
    for stream in state.active:
        running[stream.site] += 1
    for n, site in enumerate(state.sites):
        while running[n] < site.streams and state.begun[n] < len(site.tasks):
            task = site.tasks[state.begun[n]]
            state.begun[n] += 1
            stream = _Stream(n, task, iter(task.pieces))
            if stream.next():
                state.active.append(stream)
                running[n] += 1


def _advance(state: _State) -> None:
    """Let time pass until a stream has read or waited enough, or until the window closes."""
    step = min(stream.to_go for stream in state.active)
    stop = state.given.stop_running
    is_over = stop is not None and state.now + step >= stop
    if stop is not None and is_over:
        step = max(0.0, stop - state.now)
    state.now += step
    going = []
    for stream in state.active:
        state.busy[stream.site] += step
        state.ends[stream.site] = state.now
        if stream.wait > _DUST:
            stream.wait -= step
        else:
            stream.left -= step * stream.rate
        if not stream.is_through or stream.next():
            going.append(stream)
    if is_over:
        for stream in going:
            state.stopped[stream.site] += stream.task.vms
        going = []
    state.active = going


def _share(state: _State) -> None:
    """Give each stream that reads a fair rate: as much as the others, or as it can use."""
    reading = [stream for stream in state.active if stream.wait <= _DUST]
    for stream in state.active:
        stream.rate = 0.0
    groups = list(_groups(state, reading))
    open_streams = {id(stream): stream for stream in reading}
    while open_streams:
        for group in groups:
            group.members &= open_streams.keys()
        groups = [group for group in groups if group.members]
        tightest = min(groups, key=lambda group: group.share, default=None)
        least = max(0.0, tightest.share) if tightest else float("inf")
        own = [s for s in open_streams.values() if s.piece.bytes_per_second <= least]
        held_up = [open_streams[key] for key in tightest.members] if tightest else []
        for stream in own or held_up:
            stream.rate = min(stream.piece.bytes_per_second, least)
            del open_streams[id(stream)]
        for group in groups:
            group.left -= sum(s.rate for s in own or held_up if id(s) in group.members)


@dataclass
class _Group:
    """Streams that share a rate, and what of it is left to give."""

    left: float
    members: set[int]

    @property
    def share(self) -> float:
        """What each member would get of what is left."""
        return self.left / len(self.members)


def _groups(state: _State, reading: Iterable[_Stream]) -> Iterator[_Group]:
    by_disk: dict[str, set[int]] = {}
    by_site: dict[int, set[int]] = {}
    for stream in reading:
        by_disk.setdefault(stream.piece.disk, set()).add(id(stream))
        by_site.setdefault(stream.site, set()).add(id(stream))
    for disk, members in by_disk.items():
        if (rate := state.given.disk_rates.get(disk)) is not None:
            yield _Group(rate, {*members})
    for n, members in by_site.items():
        if (rate := state.sites[n].bytes_per_second) is not None:
            yield _Group(rate, {*members})
    if state.given.stack_rate is not None:
        yield _Group(state.given.stack_rate, {id(stream) for stream in reading})
