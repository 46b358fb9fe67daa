"""
Share the work of a compound job out to its backup hosts: VMs into workloads, workloads into hosts.

Pure: the same input gives the same manifests, whatever the order it comes in. Knows no requests.
Invariants: every VM, or every piece of one that was cut, is in exactly one workload of one host; a
host has at most ``MAX_WORKLOADS`` workloads; the caps cannot be exceeded, because there are never
more workloads than they allow.

In order: VMs that would keep one stream busy for too long are cut; those that share storage
accounts are lumped until an account has no more lumps than its cap; small lumps are batched; the
batches go to the hosts, longest first, each to the host that would be done with it first; a host
that may run only so many at once has its batches merged.
"""

import heapq
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from airflow_provider_azstack.config import BackupHost
from airflow_provider_azstack.engine.backup.parts import AtOnce, cut
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.model import (
    Job,
    Manifest,
    VirtualMachine,
    Workload,
    WorkloadDisk,
    WorkloadVm,
)

MAX_WORKLOADS = 1000  # Airflow's core.max_map_length is 1,024
# What a disk costs besides its bytes (snapshot, grant, listing, clean-up), as bytes moved.
DISK_COST_BYTES = 64 << 20
# Enough workloads for each stream that the last ones to end are short.
WORKLOADS_PER_STREAM = 4
# A few seconds of streaming: what the two tasks of a workload cost before they do anything.
WORTH_A_WORKLOAD_BYTES = 256 << 20
DEFAULT_BATCH_BYTES = 64 << 30

NO_TURN = sys.maxsize  # of those who have not waited

T = TypeVar("T")


class _Lump(NamedTuple):
    """VMs, or pieces of them, that stay together: what they weigh, who they are, whose turn."""

    weight: int
    vms: tuple[WorkloadVm, ...]
    turn: int = NO_TURN

    @property
    def order(self) -> tuple[int, int, tuple[str, int]]:
        """Who has waited, heaviest first, then by the first VM: the same for the same VMs."""
        return (self.turn, -self.weight, _identity(self.vms[0]))


def distribute(
    job: Job,
    vms: Iterable[VirtualMachine],
    hosts: Sequence[BackupHost],
    *,
    history: Mapping[str, int] | None = None,
    waiting: Mapping[str, int] | None = None,
    siblings: Mapping[str, str] | None = None,
    batch_bytes: int = DEFAULT_BATCH_BYTES,
    account_cap: int | None = None,
    stack_cap: int | None = None,
    split_bytes: int | None = None,
    at_once: AtOnce = lambda _: None,
    speeds: Mapping[str, float] | None = None,
) -> tuple[Manifest, ...]:
    """
    Return one manifest for each host, ordered by its name, also for hosts that get nothing.

    :param history: expected bytes by VM, where earlier jobs tell; else the disks' sizes count.
    :param waiting: VMs that go before all others, and their turns: the lowest is first.
    :param siblings: by VM, another one that was made of the same image.
    :param batch_bytes: small VMs are gathered up to about this much.
    :param split_bytes: a VM of which more than this is expected may be cut; None: none is.
    :param at_once: how many parts of a disk may be streamed at the same time.
    :param speeds: by host, how fast all of its streams are together; else its streams count.
    :raises ConfigurationError: there is no host.
    """
    if not hosts:
        raise ConfigurationError("no backup host is left to do the work: add one to the policy")
    shares = _shares(hosts, stack_cap)
    streams = sum(shares.values())
    vms, known, like = list(vms), history or {}, siblings or {}
    light = [_workload_vm(vm, known.get(vm.key), like.get(vm.key, "")) for vm in vms]
    pieces = _cut(light, split_bytes, streams, at_once)
    for key, turn in (waiting or {}).items():
        pieces[key] = [lump._replace(turn=turn) for lump in pieces.get(key, ())]
    lumps = _lumped_by_account(vms, pieces, account_cap)
    batches = _batched(lumps, _batch_target(lumps, batch_bytes, streams))
    speeds = speeds or {host.name: host.streams for host in hosts}
    # A host that may run only some of its streams is that much slower.
    assigned = _assigned(
        batches, {h.name: speeds[h.name] * shares[h.name] / h.streams for h in hosts}
    )
    limits = {
        h.name: MAX_WORKLOADS if shares[h.name] == h.streams else shares[h.name] for h in hosts
    }
    return tuple(
        Manifest(
            job=job,
            host=name,
            workloads=_workloads(job, name, _merged(assigned[name], limits[name])),
        )
        for name in sorted(assigned)
    )


def _workload_vm(vm: VirtualMachine, expected_bytes: int | None, sibling: str) -> WorkloadVm:
    """Strip a VM to ids and sizes; what is expected of it is spread over its disks by size."""
    whole = sum(disk.size_bytes for disk in vm.disks) or 1
    expected = whole if expected_bytes is None else min(expected_bytes, whole)
    return WorkloadVm(
        id=vm.id,
        key=vm.key,
        name=vm.name,
        sibling=sibling,
        excluded=tuple(disk.unique_id for disk in vm.excluded),
        disks=tuple(
            WorkloadDisk(
                key=disk.key,
                kind=disk.kind,
                source=disk.source,
                size_bytes=disk.size_bytes,
                unique_id=disk.unique_id,
                expected_bytes=expected * disk.size_bytes // whole,
                sku=disk.sku,
            )
            for disk in vm.disks
        ),
    )


def _cut(
    vms: Sequence[WorkloadVm], split_bytes: int | None, streams: int, at_once: AtOnce
) -> dict[str, list[_Lump]]:
    """
    Return, by VM, its pieces as lumps of their own.

    Nothing is cut that the streams would have time for anyway: what weighs less than a fair share
    of a stream holds nobody up, and each piece costs a task.
    """
    fair = _expected(vms) // (max(streams, 1) * WORKLOADS_PER_STREAM)
    if split_bytes is None or streams < 2:  # one stream has nobody to share with
        return {vm.key: [_lump([vm])] for vm in vms}
    target = max(split_bytes, fair, 1)
    return {vm.key: [_lump([piece]) for piece in cut(vm, target, at_once)] for vm in vms}


def _identity(vm: WorkloadVm) -> tuple[str, int]:
    return vm.key, vm.piece


def _expected(vms: Iterable[WorkloadVm]) -> int:
    return sum(disk.expected_bytes for vm in vms for disk in vm.disks)


def _lump(vms: Iterable[WorkloadVm]) -> _Lump:
    ordered = tuple(sorted(vms, key=_identity))
    cost = DISK_COST_BYTES * sum(len(vm.streamed) for vm in ordered)
    return _Lump(_expected(ordered) + cost, ordered)


def _join(lumps: Iterable[_Lump]) -> _Lump:
    together = list(lumps)
    turn = min(lump.turn for lump in together)
    return _lump(vm for lump in together for vm in lump.vms)._replace(turn=turn)


def _lumped_by_account(
    vms: Sequence[VirtualMachine], pieces: Mapping[str, list[_Lump]], cap: int | None
) -> list[_Lump]:
    """
    Lump VMs together until no storage account has disks in more lumps than its cap.

    Accounts that a VM connects count as one: that is never too many, and simple.
    """
    if cap is None:
        return [lump for of_vm in pieces.values() for lump in of_vm]
    groups = _by_connected_accounts(vms)
    lumps = [lump for key in groups.pop("", []) for lump in pieces[key]]
    for keys in groups.values():
        lumps += _merged([lump for key in keys for lump in pieces[key]], cap)
    return lumps


def _by_connected_accounts(vms: Sequence[VirtualMachine]) -> dict[str, list[str]]:
    """Group VM keys by the accounts that their disks connect; ``""`` has those with none."""
    parent: dict[str, str] = {}

    def root(account: str) -> str:
        while parent.setdefault(account, account) != account:
            parent[account] = parent[parent[account]]
            account = parent[account]
        return account

    accounts = {vm.key: sorted({d.storage_account for d in vm.disks} - {""}) for vm in vms}
    for first, *others in filter(None, accounts.values()):
        for other in others:
            parent[root(other)] = root(first)
    groups: dict[str, list[str]] = {}
    for key, names in accounts.items():
        groups.setdefault(root(names[0]) if names else "", []).append(key)
    return groups


def _batch_target(lumps: Sequence[_Lump], batch_bytes: int, streams: int) -> int:
    """
    Return how much a batch may weigh: less than asked where streams would have too few.

    Each stream gets one whatever it weighs, and more only of those that are worth their tasks.
    """
    fair = sum(lump.weight for lump in lumps) // streams
    return min(batch_bytes, max(fair // WORKLOADS_PER_STREAM, min(fair, WORTH_A_WORKLOAD_BYTES)))


def _batched(lumps: Iterable[_Lump], target: int) -> list[_Lump]:
    """
    Gather lumps, lightest first, while they fit ``target``; a heavier one stays alone.

    Those that have waited are gathered by themselves: others would hold them up.
    """
    batches: list[_Lump] = []
    gathered: list[_Lump] = []
    weight = 0
    for lump in sorted(lumps, key=_lightest_first):
        is_other = bool(gathered) and _has_waited(lump) != _has_waited(gathered[0])
        if gathered and (is_other or weight + lump.weight > target):
            batches.append(_join(gathered))
            gathered, weight = [], 0
        gathered.append(lump)
        weight += lump.weight
    return [*batches, _join(gathered)] if gathered else batches


def _lightest_first(lump: _Lump) -> tuple[bool, int, tuple[str, int]]:
    return (not _has_waited(lump), lump.weight, _identity(lump.vms[0]))


def _has_waited(lump: _Lump) -> bool:
    return lump.turn != NO_TURN


def _shares(hosts: Iterable[BackupHost], cap: int | None) -> dict[str, int]:
    """Return how many streams each host may run: all of them, biggest host first, up to the cap."""
    shares: dict[str, int] = {}
    left = cap
    for host in sorted(hosts, key=lambda host: (-host.streams, host.name)):
        shares[host.name] = host.streams if left is None else min(host.streams, left)
        left = None if left is None else left - shares[host.name]
    return shares


def _assigned(batches: Iterable[_Lump], speeds: Mapping[str, float]) -> dict[str, list[_Lump]]:
    """Give each batch, longest first, to the host that would have it done first."""
    assigned: dict[str, list[_Lump]] = {name: [] for name in speeds}
    loads = dict.fromkeys((name for name in sorted(speeds) if speeds[name]), 0)

    def done(lump: _Lump) -> Callable[[str], float]:
        return lambda name: (loads[name] + lump.weight) / speeds[name]

    for lump in sorted(batches, key=lambda lump: lump.order):
        name = min(loads, key=done(lump))
        assigned[name].append(lump)
        loads[name] += lump.weight
    return assigned


def _merged(lumps: Sequence[_Lump], limit: int) -> list[_Lump]:
    """Merge lumps into at most ``limit``, longest first, each into the lightest so far."""
    if len(lumps) <= limit:
        return list(lumps)
    bins: list[tuple[int, int]] = [(0, number) for number in range(limit)]
    parts: list[list[_Lump]] = [[] for _ in range(limit)]
    for lump in sorted(lumps, key=lambda lump: lump.order):
        weight, number = heapq.heappop(bins)
        parts[number].append(lump)
        heapq.heappush(bins, (weight + lump.weight, number))
    return [_join(part) for part in parts]


def _workloads(job: Job, host: str, lumps: Iterable[_Lump]) -> tuple[Workload, ...]:
    """Number a host's workloads, heaviest first: that is the order its streams take them in."""
    return tuple(
        Workload(
            job=job,
            host=host,
            number=number,
            label=f"{host} / {_called(lump.vms)}",
            expected_bytes=_expected(lump.vms),
            vms=lump.vms,
        )
        for number, lump in enumerate(sorted(lumps, key=lambda lump: lump.order))
    )


def _called(vms: Sequence[WorkloadVm]) -> str:
    """Return what the grid calls a workload."""
    first, count = vms[0], len({vm.key for vm in vms})
    if count > 1:
        return f"{count} VMs"
    return first.name if first.pieces == 1 else f"{first.name} {first.piece + 1}/{first.pieces}"
