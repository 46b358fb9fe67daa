"""
Before the hosts of a restore begin: which disks several of them write, and who writes what.

Owns making those disks, and the cut into tasks; writes no data but what shows whether a stack lets
several hosts write one disk.
Invariants: a disk that several hosts write is there before any of them begins, and none of them
makes or deletes it. Doing this again, or twice at once, changes nothing that hosts work on.
"""

import logging
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from msgspec.structs import replace

from airflow_provider_azstack.config import Config
from airflow_provider_azstack.engine.restore.disks import created, usable
from airflow_provider_azstack.engine.restore.parts import Regions, is_written, shares
from airflow_provider_azstack.engine.restore.records import (
    SHARED,
    PartDone,
    PlannedDisk,
    PlannedVm,
    RestorePlan,
    each_disk,
)
from airflow_provider_azstack.engine.restore.standing import (
    Standing,
    is_complete,
    look_everywhere,
    staged,
)
from airflow_provider_azstack.engine.restore.writing import Content, Restore
from airflow_provider_azstack.errors import (
    AzStackError,
    ConfigurationError,
    TransientError,
)
from airflow_provider_azstack.speed import amount

log = logging.getLogger(__name__)

MAX_TASKS = 1000  # of a host: Airflow's core.max_map_length is 1,024


class Splitting(NamedTuple):
    """When several streams write one disk."""

    streams: Mapping[str, int]  # host -> how many it has
    least_bytes: int  # of data, from which on
    shared_uploads: bool  # the stack is said to let several hosts write a managed disk
    most: int | None = None  # streams that write one disk at once: it has at most so many shares

    @classmethod
    def of(cls, config: Config) -> "Splitting":
        """Return what a configuration says of it."""
        streams = {host.name: host.streams for host in config.backup_hosts()}
        return cls(streams, config.split_bytes, config.shared_uploads, config.caps.disk)

    @property
    def shares(self) -> int:
        """How many streams may write one disk."""
        streams = sum(self.streams.values())
        return streams if self.most is None else min(streams, self.most)

    def concerns(self, disk: PlannedDisk) -> bool:
        """Tell whether a disk is big enough, and more than one stream may write it."""
        return self.shares > 1 and disk.data_bytes > self.least_bytes


class Piece(NamedTuple):
    """What one task writes: a disk, or a share of one."""

    vm: PlannedVm
    disk: PlannedDisk
    data_bytes: int
    share: Regions | None = None
    number: str = ""  # which of how many shares


def remarked(plan: RestorePlan, splitting: Splitting) -> RestorePlan:
    """Return the plan with remarks on big disks that one host has to write, or several stage."""
    return replace(plan, remarks=(*plan.remarks, *_remarks(plan, splitting)))


def _remarks(plan: RestorePlan, splitting: Splitting) -> Iterator[str]:
    for vm, disk in each_disk(plan):
        if disk.way != "upload" or splitting.shared_uploads or not splitting.concerns(disk):
            continue
        held = f"{vm.name}: disk {disk.name} ({amount(disk.data_bytes)})"
        if disk.staging:
            yield f"{held} is written by several hosts as a page blob, {disk.staging}"
        else:
            yield (
                f"{held} is written by one host: give storage_account, where several can, or set "
                "shared_uploads if this stack lets several hosts write one disk"
            )


def pieces(restore: Restore, vms: Collection[str], splitting: Splitting) -> list[Piece]:
    """
    Make the disks that several hosts write; return what there is to write, in pieces for tasks.

    :param vms: keys of the VMs whose disks may be written.
    """
    found: list[Piece] = []
    for vm, disk in each_disk(restore.plan):
        if vm.key not in vms:
            continue
        cut = _split(restore, vm, disk, splitting) if splitting.concerns(disk) else None
        found += [Piece(vm, disk, disk.data_bytes)] if cut is None else cut
    return found


def handed_out(
    work: Collection[Piece], streams: Mapping[str, int]
) -> dict[str, list[dict[str, Any]]]:
    """
    Hand pieces out to hosts: the longest first, to who is done first.

    :param streams: host -> how many pieces it writes at once.
    :raises ConfigurationError: they are too many.
    """
    loads = dict.fromkeys(streams, 0.0)
    hosts: dict[str, list[dict[str, Any]]] = {host: [] for host in streams}
    for piece in sorted(work, key=lambda one: (-one.data_bytes, one.disk.id, one.number)):
        host = min(loads, key=lambda name: (loads[name], name))
        loads[host] += max(piece.data_bytes, 1) / streams[host]
        if len(hosts[host]) == MAX_TASKS:
            raise ConfigurationError(
                f"more than {MAX_TASKS} disks for backup host {host}: restore fewer VMs at once"
            )
        label = f"{host} / {piece.vm.name} {piece.disk.key} {piece.number}".strip()
        task = {"vm": piece.vm.key, "key": piece.disk.key, "label": label}
        hosts[host].append(task if piece.share is None else task | {"share": [*piece.share]})
    return hosts


def _split(
    restore: Restore, vm: PlannedVm, disk: PlannedDisk, splitting: Splitting
) -> list[Piece] | None:
    """Return a disk's shares, or None where one host writes it."""
    try:
        content = Content(restore, vm, disk)
        done = _made(restore, vm, disk, content, splitting)
    except TransientError:
        raise
    except AzStackError as error:
        # Whoever writes it meets the same, and says so for this disk only.
        log.warning("%s %s is left to one host: %s", vm.name, disk.key, error)
        return None
    if done is None:
        return None
    least = splitting.least_bytes // 2
    cut = shares(content.image, done, content.data_bytes, splitting.shares, least)
    return [
        Piece(vm, disk, share.data_bytes, share.regions, f"{number}/{len(cut)}")
        for number, share in enumerate(cut, 1)
    ] or None  # only its footer is missing


def _made(
    restore: Restore, vm: PlannedVm, disk: PlannedDisk, content: Content, splitting: Splitting
) -> set[str] | None:
    """Make a disk for several hosts; return what is noted of it, or None where one has to do."""
    restore.session.check()
    if is_complete(restore, vm, disk):
        return None
    there = look_everywhere(restore, vm, disk)
    if there.is_whole or is_written(content.image, there.done()):
        return None  # only its end is missing
    if there.is_open and SHARED in there.done():
        return there.done()  # by an earlier try, or another one just now: hosts may be writing
    there = usable(there, content.image)
    if there.disk.way == "upload" and not splitting.shared_uploads:
        if there.is_open or not disk.staging:
            return None
        there = staged(there)
    return _shared(there, content)


def _shared(there: Standing, content: Content) -> set[str] | None:
    """Let several hosts at a disk, which is made if it is not there."""
    was_there = there.found is not None
    there = created(there)
    if not there.target.admits_several(content.first_page):
        if SHARED in there.done():
            return there.done()  # another try of this was sooner, and hosts write
        if was_there:
            return None  # a host may be writing it, or go on with it: it is not taken away
        there.target.discard()
        if not there.disk.staging:
            return None
        there = created(staged(there))
    there.note(SHARED, PartDone(bytes=0))
    return there.done()
