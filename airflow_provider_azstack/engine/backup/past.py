"""
What earlier jobs tell the next one: how much will move, how fast, and who has waited.

Owns the look back, one pass over the outlines of all jobs, of which only the last word on each VM
is kept; pure, knows no repository. Invariant: the same jobs tell the same, whatever the order they
come in.

How fast: reading a VM takes some time for each of its disks, and some for each byte. Both are
fitted to what each host was last seen to need, and a VM that needed more or less than its host
usually does is expected to do so again.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from statistics import median
from typing import NamedTuple

from airflow_provider_azstack.config import MEGABYTE
from airflow_provider_azstack.model import HostShare, JobOutline, JobRecord, JobVm, Mode, VmOutline

# As far as nothing was measured. A stream that only reads is faster; one that has a share of two
# cores, of a network and of a stack that others use as well is not.
UNMEASURED_BYTES_PER_SECOND = 40 * MEGABYTE
UNMEASURED_SECONDS_PER_DISK = 1.0
# Less than this says more about requests than about bytes.
_TELLING_BYTES = 64 << 20
# One odd night does not make a VM ten times as slow.
_MOST_UNUSUAL = 4.0
_SHORTEST = 0.05  # seconds: a clock's resolution must not weigh more than a night

_Seen = VmOutline | JobVm


class Tempo(NamedTuple):
    """What reading takes one stream."""

    seconds_per_disk: float = UNMEASURED_SECONDS_PER_DISK
    bytes_per_second: float = float(UNMEASURED_BYTES_PER_SECOND)

    def seconds(self, disks: float, count: float) -> float:
        """Return what ``count`` bytes of so many disks take."""
        return disks * self.seconds_per_disk + count / self.bytes_per_second


class Rates(NamedTuple):
    """How fast streams read, as far as that was measured."""

    hosts: Mapping[str, Tempo] = {}
    usual: Tempo | None = None  # over all hosts; None: nothing was measured
    vms: Mapping[str, float] = {}  # how much longer than usual, as a factor
    fastest: float | None = None  # bytes a second that a stream was seen to reach

    def tempo(self, host: str) -> Tempo:
        """Return a host's tempo, else the usual one, else what is assumed."""
        return self.hosts.get(host) or self.usual or Tempo()

    def factor(self, vm_key: str) -> float:
        """Return how much longer than usual a VM takes."""
        return self.vms.get(vm_key, 1.0)


class _Told(NamedTuple):
    """The last word on a VM."""

    last_at: datetime
    last: _Seen
    done_at: datetime | None
    done: _Seen | None
    most_bytes: int


class Past:
    """What is known of each VM."""

    def __init__(self, jobs: Iterable[JobOutline | JobRecord]) -> None:
        """
        Look back.

        :param jobs: in any order; several tries of one may be among them.
        """
        self._told: dict[str, _Told] = {}
        for job in jobs:
            for vm in job.vms:
                before = self._told.get(vm.key)
                self._told[vm.key] = _heard(before, job.ended_at, vm)

    def expected_bytes(self, mode: Mode) -> dict[str, int]:
        """Return by VM what will move: an incremental as the last did, a full the most ever."""
        return {
            key: told.most_bytes if mode == "full" else told.done.changed_bytes
            for key, told in self._told.items()
            if told.done is not None
        }

    def done(self) -> set[str]:
        """Return the VMs of which some job made a restore point."""
        return {key for key, told in self._told.items() if told.done is not None}

    def of_images(self) -> dict[str, list[str]]:
        """Return by image the VMs made of it, first whose points are there most likely."""
        told = [(t.done_at, key, t.done.image) for key, t in self._told.items() if t.done]
        found: dict[str, list[str]] = defaultdict(list)
        for _, key, image in sorted(told, reverse=True):
            found[image].append(key)
        found.pop("", None)  # made of none that is known
        return dict(found)

    def waiting(self) -> dict[str, int]:
        """Return the VMs that a window left out last, each with its place: 0 waits longest."""
        never = datetime.min.replace(tzinfo=UTC)
        keys = [key for key, told in self._told.items() if told.last.is_waiting]
        keys.sort(key=lambda key: (self._told[key].done_at or never, key))
        return {key: place for place, key in enumerate(keys)}

    def rates(self) -> Rates:
        """Return how fast streams were when each VM was last done."""
        seen = {key: told.done for key, told in sorted(self._told.items()) if told.done}
        timed = {key: vm for key, vm in seen.items() if vm.seconds > 0}
        by_host: dict[str, list[_Seen | HostShare]] = defaultdict(list)
        for vm in timed.values():
            if not vm.more_hosts:
                by_host[vm.host].append(vm)
            for share in vm.shares:  # of several hosts; without, nobody knows who was how fast
                by_host[share.host].append(share)
        usual = _fitted(timed.values())
        fitted = {host: _fitted(vms) for host, vms in by_host.items()}
        rates = Rates({host: tempo for host, tempo in fitted.items() if tempo}, usual)
        telling = [vm for vm in timed.values() if vm.changed_bytes >= _TELLING_BYTES]
        fastest = max((vm.changed_bytes / vm.seconds for vm in telling), default=None)
        factors = {key: _unusual(vm, rates) for key, vm in timed.items()} if usual else {}
        return rates._replace(vms=factors, fastest=fastest)


def _heard(before: _Told | None, at: datetime, vm: _Seen) -> _Told:
    is_done = vm.status == "done"
    told = before or _Told(at, vm, None, None, 0)
    if at >= told.last_at:
        told = told._replace(last_at=at, last=vm)
    if is_done and (told.done_at is None or at >= told.done_at):
        told = told._replace(done_at=at, done=vm)
    if is_done:
        told = told._replace(most_bytes=max(told.most_bytes, vm.changed_bytes))
    return told


def _disks(vm: _Seen | HostShare) -> int:
    return max(vm.disks, 1)  # records of earlier versions do not count them


def _unusual(vm: _Seen, rates: Rates) -> float:
    usual = rates.tempo("" if vm.more_hosts else vm.host).seconds(_disks(vm), vm.changed_bytes)
    factor = vm.seconds / max(usual, _SHORTEST)
    return min(max(factor, 1 / _MOST_UNUSUAL), _MOST_UNUSUAL)


def _fitted(vms: Iterable[_Seen | HostShare]) -> Tempo | None:
    """
    Fit seconds = a * disks + b * bytes; None where too little moved to tell.

    Weighted such that being wrong by half counts the same for a small VM and for a big one; neither
    a nor b is below zero.
    """
    seen = [(float(_disks(vm)), float(vm.changed_bytes), max(vm.seconds, _SHORTEST)) for vm in vms]
    if sum(count for _, count, _ in seen) < _TELLING_BYTES:
        return None
    dd = sum(d * d / s**2 for d, _, s in seen)
    db = sum(d * b / s**2 for d, b, s in seen)
    bb = sum(b * b / s**2 for _, b, s in seen)
    d1 = sum(d / s for d, _, s in seen)
    b1 = sum(b / s for _, b, s in seen)
    determinant = dd * bb - db * db
    if determinant > 1e-9 * dd * bb:
        a = (d1 * bb - b1 * db) / determinant
        b = (b1 * dd - d1 * db) / determinant
        if a >= 0 and b > 0:
            return Tempo(a, 1 / b)
    middle = median(s / count for _, count, s in seen if count)
    return Tempo(0.0, 1 / middle)
