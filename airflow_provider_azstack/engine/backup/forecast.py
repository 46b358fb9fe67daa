"""
What is to be expected of a job before it begins, from what earlier jobs measured.

Owns the seconds of each VM, the figures that the platform documents, and the end of each host;
pure, knows no requests.
Invariant: a forecast never promises more than a disk, a host's limit or a policy's limit gives.

A disk's figure is a cap, not a promise. Where a stream was seen to read faster than that, the
figure does not hold on this stack and is not counted.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from msgspec.structs import replace

from airflow_provider_azstack.config import MEGABYTE, BackupHost
from airflow_provider_azstack.engine.backup.parts import AtOnce
from airflow_provider_azstack.engine.backup.past import UNMEASURED_BYTES_PER_SECOND, Rates
from airflow_provider_azstack.engine.backup.simulate import (
    Ended,
    Given,
    Piece,
    Site,
    Task,
    simulate,
)
from airflow_provider_azstack.engine.pace import shares
from airflow_provider_azstack.model import (
    HostForecast,
    Manifest,
    Workload,
    WorkloadDisk,
    WorkloadVm,
)

PREMIUM_BYTES_PER_SECOND = 145 * MEGABYTE
STANDARD_BYTES_PER_SECOND = 60 * MEGABYTE
_FASTEST = PREMIUM_BYTES_PER_SECOND
# A stream that a disk could feed nearly twice is still one stream's worth.
_NEARLY = 0.15
# Streams that together moved this share of a limit were held up by it.
_HELD_UP = 0.7


class Costs(NamedTuple):
    """Seconds that pass besides reading."""

    vm: float = 4.0  # snapshots of a VM: asked for together, looked at every few seconds
    workload: float = 5.0  # two tasks, which Airflow starts one after the other
    run: float = 5.0  # from the manifests until the first stream


NO_COSTS = Costs(0.0, 0.0, 0.0)


def figure(sku: str) -> int:
    """Return the documented rate of a disk; one of unknown kind may be the fastest."""
    return STANDARD_BYTES_PER_SECOND if sku.lower().startswith("standard") else _FASTEST


def parts_at_once(rates: Rates, hosts: Iterable[BackupHost], cap: int | None) -> AtOnce:
    """
    Return how many streams a disk can feed: more of them at once would wait for each other.

    :param cap: what the configuration says instead.
    """
    most = rates.fastest or UNMEASURED_BYTES_PER_SECOND
    shared = [min(most, h.limit_bytes / h.streams) if h.limit_bytes else most for h in hosts]
    stream = max(shared, default=most)

    def at_once(disk: WorkloadDisk) -> int | None:
        known = _cap_of(disk, rates)
        return cap or (None if known is None else max(1, math.ceil(known / stream - _NEARLY)))

    return at_once


def host_speeds(
    rates: Rates, hosts: Sequence[BackupHost], policy_limit: int | None
) -> dict[str, float]:
    """
    Return how fast the streams of each host are together, within what limits allow.

    :param policy_limit: bytes a second over all hosts; None: no limit.
    """
    share = shares(float(policy_limit or 0), {host.name: host.streams for host in hosts})
    found = {}
    for host in hosts:
        stream = _stream_rate(host, rates.tempo(host.name).bytes_per_second)
        limits = (stream * host.streams, host.limit_bytes, share[host.name])
        found[host.name] = min(float(limit) for limit in limits if limit)
    return found


def with_limit(
    manifests: Iterable[Manifest], hosts: Iterable[BackupHost], limit_bytes: int | None
) -> tuple[Manifest, ...]:
    """Return manifests of which each workload knows its host's share of a policy's limit."""
    every = tuple(manifests)
    if limit_bytes is None:
        return every
    streams = {host.name: host.streams for host in hosts}
    # Only hosts with something to do get a share, and no more than they have streams for.
    busy = {m.host: min(streams[m.host], len(m.workloads)) for m in every}
    share = shares(limit_bytes, busy)
    return tuple(
        replace(
            manifest,
            workloads=tuple(
                replace(workload, limit_bytes=max(1, int(share[manifest.host])))
                for workload in manifest.workloads
            ),
        )
        for manifest in every
    )


def with_forecast(
    manifests: Iterable[Manifest],
    hosts: Iterable[BackupHost],
    rates: Rates,
    *,
    now: datetime,
    costs: Costs | None = None,
    stack_rate: float | None = None,
) -> tuple[Manifest, ...]:
    """
    Return manifests that say what is expected of their VMs and hosts.

    :param stack_rate: bytes a second that the stack gives all hosts together; None: any.
    """
    costs = costs or Costs()
    known = {host.name: host for host in hosts}
    timed = [_timed(manifest, known[manifest.host], rates) for manifest in manifests]
    sites = [_site(manifest, known[manifest.host], rates, costs) for manifest in timed]
    job = timed[0].job if timed else None
    given = Given(
        disk_rates=_disk_rates(timed, rates),
        stack_rate=stack_rate,
        stop_starting=_from(now, job.stop_starting_at if job else None, costs),
        stop_running=_from(now, job.stop_running_at if job else None, costs),
    )
    found = []
    told: set[str] = set()  # a VM whose pieces several hosts leave out is one VM
    for manifest, ended in zip(timed, simulate(sites, given), strict=True):
        left_out = set(ended.left_out) - told
        told |= left_out
        forecast = _forecast(manifest, ended, now, costs)
        found.append(replace(manifest, forecast=replace(forecast, left_out=len(left_out))))
    return tuple(found)


def _forecast(manifest: Manifest, ended: Ended, now: datetime, costs: Costs) -> HostForecast:
    return HostForecast(
        host=manifest.host,
        made_at=now,
        streams=ended.streams,
        workloads=len(manifest.workloads),
        vms=len({vm.key for workload in manifest.workloads for vm in workload.vms}),
        expected_bytes=sum(workload.expected_bytes for workload in manifest.workloads),
        busy_seconds=round(ended.busy_seconds, 3),
        end_seconds=round(ended.end_seconds + costs.run, 3) if ended.end_seconds else 0.0,
    )


def _cap_of(disk: WorkloadDisk, rates: Rates) -> int | None:
    """Return what a disk gives at most; None where its figure was seen not to hold."""
    known = figure(disk.sku)
    return None if rates.fastest and rates.fastest > known * (1 + _NEARLY) else known


def _disk_name(vm: WorkloadVm, disk: WorkloadDisk) -> str:
    return f"{vm.key}/{disk.key}"


def _disk_rates(manifests: Iterable[Manifest], rates: Rates) -> dict[str, float]:
    """Return the caps of disks that several streams may read at once; others' are in the pieces."""
    caps = {
        _disk_name(vm, disk): _cap_of(disk, rates)
        for manifest in manifests
        for workload in manifest.workloads
        for vm in workload.vms
        for disk in vm.streamed
        if disk.part is not None
    }
    return {name: float(cap) for name, cap in caps.items() if cap is not None}


def _stream_rate(host: BackupHost, measured: float) -> float:
    """
    Return what one stream of a host reads by itself.

    What was measured while all streams shared the host's limit says what the limit is, and not what
    one of them reads while the others wait for something else.
    """
    limit = host.limit_bytes
    if limit is None or measured * host.streams < limit * _HELD_UP:
        return measured
    return max(measured, min(limit, UNMEASURED_BYTES_PER_SECOND))


def _pieces(vm: WorkloadVm, host: BackupHost, rates: Rates) -> Iterator[Piece]:
    tempo, factor = rates.tempo(host.name), rates.factor(vm.key)
    for disk in vm.streamed:
        cap = _cap_of(disk, rates)
        rate = _stream_rate(host, tempo.bytes_per_second) / factor
        yield Piece(
            disk=_disk_name(vm, disk) if disk.part else "",
            size=disk.expected_bytes,
            bytes_per_second=rate if cap is None else min(rate, cap),
            seconds=tempo.seconds_per_disk * factor,
        )


def _timed(manifest: Manifest, host: BackupHost, rates: Rates) -> Manifest:
    """Return the manifest with the seconds that each VM takes a stream that nobody disturbs."""

    def timed(vm: WorkloadVm) -> WorkloadVm:
        seconds = sum(_alone(piece) for piece in _pieces(vm, host, rates))
        return replace(vm, expected_seconds=round(seconds, 3))

    return replace(
        manifest,
        workloads=tuple(
            replace(workload, vms=tuple(timed(vm) for vm in workload.vms))
            for workload in manifest.workloads
        ),
    )


def _alone(piece: Piece) -> float:
    return piece.seconds + piece.size / piece.bytes_per_second


def _site(manifest: Manifest, host: BackupHost, rates: Rates, costs: Costs) -> Site:
    limits = [host.limit_bytes, *(workload.limit_bytes for workload in manifest.workloads[:1])]
    return Site(
        host.name,
        host.streams,
        tuple(_task(workload, host, rates, costs) for workload in manifest.workloads),
        min((float(limit) for limit in limits if limit), default=None),
    )


def _task(workload: Workload, host: BackupHost, rates: Rates, costs: Costs) -> Task:
    pieces: list[Piece] = []
    for vm in workload.vms:
        for number, piece in enumerate(_pieces(vm, host, rates)):
            extra = 0.0 if number else costs.vm + (0.0 if pieces else costs.workload)
            pieces.append(piece._replace(seconds=piece.seconds + extra))
    # What no other stream reads is taken together: the sum is the same, and found sooner.
    alone = [piece for piece in pieces if not piece.disk]
    shared = [piece for piece in pieces if piece.disk]
    return Task(
        (*shared, *([_together(alone)] if alone else ())), tuple(vm.key for vm in workload.vms)
    )


def _together(pieces: Iterable[Piece]) -> Piece:
    several = list(pieces)
    size = sum(piece.size for piece in several)
    reading = sum(piece.size / piece.bytes_per_second for piece in several)
    rate = size / reading if reading else 1.0
    return Piece("", size, rate, sum(piece.seconds for piece in several))


def _from(now: datetime, moment: datetime | None, costs: Costs) -> float | None:
    """Return a moment as the simulation counts: from when streams can begin."""
    return None if moment is None else max(0.0, (moment - now).total_seconds() - costs.run)
