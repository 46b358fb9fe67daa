"""
Fleets to simulate: made up from a few lines, or as a job recorded them.

Owns their shape and what their VMs are expected to move; pure, knows no requests.
Invariant: the same file and seed are the same fleet, to the byte.
"""

import random
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta

from airflow_provider_azstack.config import GIB, MEGABYTE, Megabytes, Streams
from airflow_provider_azstack.documents import read_document
from airflow_provider_azstack.engine.backup.past import Past, Rates, Tempo
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.model import (
    Disk,
    Job,
    JobRecord,
    JobVm,
    Mode,
    Record,
    VirtualMachine,
    from_plain,
)

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MOST_VMS = 100_000

Share = Annotated[float, Meta(ge=0, le=1)]


class Group(Record, frozen=True, kw_only=True):
    """VMs that are alike."""

    vms: Annotated[int, Meta(ge=1, le=_MOST_VMS)]
    disks_gib: Annotated[tuple[Annotated[float, Meta(gt=0, le=1023)], ...], Meta(min_length=1)]
    sku: Literal["", "Premium_LRS", "Standard_LRS"] = ""
    data: Share = 0.5  # of a disk: what a first backup reads
    change: Share = 0.05  # of the data: what an incremental reads
    # How unlike they are: at 1, one VM in three moves less than 0.4 or more than 2.7 times as much.
    spread: Annotated[float, Meta(ge=0, le=3)] = 0.0


class Speeds(Record, frozen=True, kw_only=True):
    """What streams and the stack give."""

    stream_mb_per_second: Megabytes = 40
    seconds_per_disk: Annotated[float, Meta(ge=0, le=3600)] = 1.0
    stack_mb_per_second: Megabytes | None = None


class Fleet(Record, frozen=True, kw_only=True):
    """A fleet, and the hosts that it is backed up by."""

    groups: Annotated[dict[str, Group], Meta(min_length=1, max_length=100)]
    seed: int = 0
    hosts: Annotated[int, Meta(ge=1, le=200)] = 1
    streams: Streams = 4
    limit_mb_per_second: Megabytes | None = None
    speeds: Speeds = Speeds()


class Scene(NamedTuple):
    """VMs, what is known of them, and what they are read with."""

    vms: tuple[VirtualMachine, ...]
    past: Past
    rates: Rates
    stack_rate: float | None = None


def load_fleet(file: Path) -> Fleet:
    """
    Read a fleet from a YAML or JSON file.

    :raises ConfigurationError: it is none; names the key.
    """
    value = read_document(file, "give the path of a fleet's file")
    fleet = from_plain(Fleet, value, str(file))
    if sum(group.vms for group in fleet.groups.values()) > _MOST_VMS:
        raise ConfigurationError(f"{file}: more than {_MOST_VMS} VMs")
    return fleet


def made_up(fleet: Fleet, mode: Mode) -> Scene:
    """Return the VMs of a fleet as if each had been backed up before."""
    rng = random.Random(fleet.seed)  # noqa: S311 - repeatable on purpose
    pairs = list(_members(fleet, mode, rng))
    tempo = Tempo(
        fleet.speeds.seconds_per_disk, float(fleet.speeds.stream_mb_per_second * MEGABYTE)
    )
    stack = fleet.speeds.stack_mb_per_second
    return Scene(
        tuple(vm for vm, _ in pairs),
        Past([_as_recorded(tuple(moved for _, moved in pairs))]),
        Rates(usual=tempo),
        float(stack * MEGABYTE) if stack else None,
    )


def recorded(record: JobRecord, past: Past) -> Scene:
    """
    Return the VMs that a job did, as far as its record tells of them.

    How big each disk is, a record does not tell: those of a VM are taken to be alike.
    """
    done = (vm for vm in record.vms if vm.status == "done" and vm.disk_bytes)
    vms = tuple(
        _machine(vm.key, vm.name, [vm.disk_bytes // max(vm.disks, 1)] * max(vm.disks, 1), "")
        for vm in done
    )
    return Scene(vms, past, past.rates())


def _members(
    fleet: Fleet, mode: Mode, rng: random.Random
) -> Iterator[tuple[VirtualMachine, JobVm]]:
    number = 0
    for name, group in sorted(fleet.groups.items()):
        sizes = [int(gib * GIB) for gib in group.disks_gib]
        share = group.data * (group.change if mode == "incremental" else 1.0)
        for one in range(group.vms):
            number += 1
            unlike = rng.lognormvariate(0.0, group.spread) if group.spread else 1.0
            key = str(uuid.UUID(int=number))
            vm = _machine(key, f"{name}-{one + 1}", sizes, group.sku)
            moved = int(min(1.0, share * unlike) * sum(sizes))
            yield vm, _moved(vm, moved)


def _moved(vm: VirtualMachine, changed_bytes: int) -> JobVm:
    return JobVm(
        key=vm.key,
        name=vm.name,
        host="made-up",
        status="done",
        disks=len(vm.disks),
        changed_bytes=changed_bytes,
    )


def _as_recorded(vms: tuple[JobVm, ...]) -> JobRecord:
    job = Job(run="made-up", session="made-up", policy="made-up", stack="made-up")
    return JobRecord(job=job, status="done", started_at=_EPOCH, ended_at=_EPOCH, vms=vms)


def _machine(key: str, name: str, sizes: list[int], sku: str) -> VirtualMachine:
    disks = tuple(
        Disk(
            key="os" if n == 0 else f"data-{n - 1}",
            name=f"{name}-{n}",
            kind="managed",
            source=f"{name}-{n}",
            size_bytes=size,
            unique_id=f"{key}-{n}",
            sku=sku,
        )
        for n, size in enumerate(sizes)
    )
    return VirtualMachine(
        id=name,
        key=key,
        name=name,
        subscription_id="",
        resource_group="",
        location="",
        size="",
        os_type="",
        power_state="",
        disks=disks,
    )
