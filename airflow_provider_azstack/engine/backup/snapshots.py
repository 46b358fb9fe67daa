"""
Snapshot sets: the disks of one VM, snapshotted together.

Owns the check that the VM still is the one of the manifest, its power state around the snapshots,
and the set's record; what happens to the snapshots later is not its business.
Invariant: a recorded set has a snapshot of every disk of the manifest, all taken in this one call,
while the VM's power state and disks stayed the same. A set is never filled up later: a new attempt
takes a whole new one. Of attempts at the same set the first that is recorded counts; who comes
later drops his snapshots and uses that one's.

A set without snapshots is a note: with consistency ``required_stopped`` that the VM ran and was
skipped; what it is with ``stopped`` is in ``power``.
"""

import logging
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.arm.compute import Compute
from airflow_provider_azstack.engine import names, power
from airflow_provider_azstack.engine.accounts import Accounts
from airflow_provider_azstack.engine.backup import sets
from airflow_provider_azstack.engine.machines import (
    BlobFacts,
    Body,
    NotProtectableError,
    disk_places,
    machine,
    power_state,
    vm_key,
)
from airflow_provider_azstack.errors import (
    AzStackError,
    Cancelled,
    ConfigurationError,
    ObjectExists,
    SourceBusy,
    SourceChanged,
)
from airflow_provider_azstack.model import (
    Disk,
    DiskSnapshot,
    Job,
    SnapshotSet,
    VirtualMachine,
    WorkloadVm,
)
from airflow_provider_azstack.repo.sessions import Session

log = logging.getLogger(__name__)

AT_ONCE = 8  # snapshots of one VM requested at the same time: they should be of the same moment
# How long a stream waits for the set that another one is taking: stopping a VM takes minutes.
LOOKS, LOOK_EVERY_SECONDS = 120, 5.0

Random = Callable[[], uuid.UUID]


class Work(NamedTuple):
    """What a workload is worked on with."""

    stack: Stack
    accounts: Accounts
    session: Session
    job: Job
    who: str = ""  # the workload, as host/number: the same for every try of it
    cancel: threading.Event | None = None

    @property
    def host(self) -> str:
        """The backup host that this is."""
        return self.who.partition("/")[0]


def take_set(work: Work, vm: WorkloadVm, *, random: Random = uuid.uuid4) -> SnapshotSet:
    """
    Return a snapshot set of a VM: one of this session that is still whole, else a new one.

    Of the streams of a VM's pieces the first takes it, and the others wait for that.

    :returns: a set without snapshots when the VM runs and the policy requires it stopped.
    :raises SourceGone: the VM or one of its disks does not exist any more.
    :raises SourceChanged: it is not as the manifest says, or changed meanwhile.
    :raises SourceBusy: another run works on this VM.
    """
    work.session.claim(vm.key)
    for _ in range(LOOKS):
        earlier = _earlier(work, vm)
        usable = _usable(work, vm, earlier)
        if usable is not None:
            return usable
        if _may_take(work, vm, earlier):
            return _taken(work, vm, earlier, random)
        if work.cancel is not None and work.cancel.is_set():
            raise Cancelled("the task was told to stop")
        work.stack.patience.sleep(LOOK_EVERY_SECONDS)
    if work.job.consistency == "stopped":
        raise SourceBusy(
            f"{vm.id}: another stream of this VM is to stop it and take its snapshots, and has not "
            "yet: tried again later"
        )
    log.warning("%s: whoever was to take its snapshots has not: taking them here", vm.name)
    return _taken(work, vm, _earlier(work, vm), random)


def take_set_if_due(work: Work, vm: WorkloadVm) -> None:
    """Take the VM's snapshot set unless it is there, or another stream is taking it."""
    work.session.claim(vm.key)
    earlier = _earlier(work, vm)
    if _usable(work, vm, earlier) is None and _may_take(work, vm, earlier):
        _taken(work, vm, earlier, uuid.uuid4)


def _earlier(work: Work, vm: WorkloadVm) -> list[SnapshotSet]:
    """Return what this session recorded of the VM: sets, and notes."""
    recorded = work.session.repository.sets(work.job.run, vm.key)
    return [s for s in recorded if sets.is_current(s, work.job)]


def _usable(work: Work, vm: WorkloadVm, earlier: list[SnapshotSet]) -> SnapshotSet | None:
    for candidate in sets.newest_first(earlier, vm):
        if all(_is_there(work, snapshot) for snapshot in candidate.snapshots):
            return candidate
        log.warning("%s: a snapshot of set %s is gone: all are taken anew", vm.name, candidate.id)
    # Of a VM in pieces all are skipped or none.
    return next(filter(sets.is_skipped, earlier), None) if vm.pieces > 1 else None


def _may_take(work: Work, vm: WorkloadVm, earlier: list[SnapshotSet]) -> bool:
    number = sets.next_number(earlier)
    return vm.pieces == 1 or sets.has_turn(work.session, vm, number, work.who)


def _taken(work: Work, vm: WorkloadVm, earlier: list[SnapshotSet], random: Random) -> SnapshotSet:
    attempt = names.new_attempt_id(work.job.session, random)
    set_id = names.set_id(work.job.session, sets.next_number(earlier))
    return _Attempt(work, vm, attempt, set_id).run(power.interrupted(s.id for s in earlier))


def _live_machine(work: Work, vm: WorkloadVm) -> tuple[VirtualMachine, Body]:
    """
    Read a VM anew and hold it against the manifest.

    :raises SourceGone: the VM or a disk is gone.
    :raises SourceChanged: another VM has its name, or its disks are others.
    """
    body = Compute(work.stack).vm(vm.id, instance_view=True)
    try:
        if vm_key(body) != vm.key:
            raise SourceChanged(
                f"{vm.id} is another VM now (vmId {vm_key(body)}, the manifest says {vm.key}): "
                "the next run will find it as a new one"
            )
        found = machine(body, _Live(work), lambda disk: disk.unique_id in vm.excluded)
    except NotProtectableError as error:
        raise SourceChanged(f"{vm.id} cannot be backed up any more: {error}") from None
    _require_same_disks(vm, found)
    return found, body


class _Live:
    """Bodies by single requests, as they are now."""

    def __init__(self, work: Work) -> None:
        self._stack, self._accounts = work.stack, work.accounts

    def body(self, resource_id: str) -> Body | None:
        return self._stack.find(resource_id)

    def blob(self, url: str) -> BlobFacts:
        return self._accounts.facts(url)

    def extensions(self, body: Body) -> list[Body]:
        return Compute(self._stack).extensions(body["id"])


def _require_same_disks(vm: WorkloadVm, found: VirtualMachine) -> None:
    """Disks are known by their unique ids: a name or LUN may have been given to another."""
    now = {disk.unique_id: disk for disk in found.disks}
    then = {disk.unique_id: disk for disk in vm.disks}
    problems = [
        *(f"disk {then[gone].key} was detached or swapped" for gone in then.keys() - now.keys()),
        *(f"disk {now[new].name} was attached" for new in now.keys() - then.keys()),
    ]
    for unique_id in then.keys() & now.keys():
        old, new = then[unique_id], now[unique_id]
        if old.size_bytes != new.size_bytes:
            problems.append(f"disk {new.name}: {old.size_bytes} bytes are {new.size_bytes} now")
        elif old.key != new.key:
            problems.append(f"disk {new.name} moved from {old.key} to {new.key}")
    if problems:
        raise SourceChanged(
            f"{vm.id} changed since discovery: {'; '.join(sorted(problems))}: trigger a new run"
        )


class _Attempt:
    """One try to take a set."""

    def __init__(self, work: Work, vm: WorkloadVm, attempt: str, set_id: str) -> None:
        """
        Prepare it.

        :param attempt: what its snapshots, and its notes of the VM's power, are named by.
        :param set_id: what its set is recorded as, unless another's is.
        """
        self._work = work
        self._compute = Compute(work.stack)
        self._vm = vm
        self._attempt = attempt
        self._set_id = set_id

    def run(self, interrupted: set[str]) -> SnapshotSet:
        """:param interrupted: stops of this VM that an earlier try did not make up for."""
        found, body = _live_machine(self._work, self._vm)
        is_off = found.power_state in power.OFF
        consistency = self._work.job.consistency
        if consistency == "required_stopped" and not is_off:
            log.warning("%s is %s and must be stopped: skipped", found.name, found.power_state)
            return self._put(found, ())
        if consistency != "stopped" or (is_off and not interrupted):
            return self._put(found, self._snapshots(found, body))
        empty = self._set(self._attempt, found, ())
        with power.stopped(self._work.session, self._compute, empty, interrupted):
            body = self._compute.vm(found.id, instance_view=True)
            found = msgspec.structs.replace(found, power_state=power_state(body))
            snapshots = self._snapshots(found, body)
        return self._put(found, snapshots)

    def _snapshots(self, found: VirtualMachine, before: Body) -> tuple[DiskSnapshot, ...]:
        """Snapshot every disk at once; leave nothing behind unless all of it can be used."""
        with ThreadPoolExecutor(min(AT_ONCE, len(found.disks)), "snapshot") as pool:
            futures = [pool.submit(self._snapshot, disk, found.location) for disk in found.disks]
        errors = [error for error in (future.exception() for future in futures) if error]
        made = tuple(future.result() for future in futures if not future.exception())
        try:
            _raise_first(errors)
            self._require_unchanged(found, before)
        except BaseException:
            for snapshot in made:
                self._discard(snapshot)
            raise
        return made

    def _snapshot(self, disk: Disk, location: str) -> DiskSnapshot:
        if disk.kind == "managed":
            return self._managed(disk, location)
        metadata = names.blob_metadata(
            self._work.job, self._work.session.repository.id, self._vm.key, self._attempt
        )
        stamp = self._work.accounts.snapshot(disk.source, metadata)
        return self._record(disk, disk.source, stamp, moment(stamp))

    def _managed(self, disk: Disk, location: str) -> DiskSnapshot:
        name = names.snapshot_name(self._vm.key, disk.key, self._attempt)
        repository = self._work.session.repository.id
        made = self._compute.create_snapshot(
            f"{self._group()}/providers/Microsoft.Compute/snapshots/{name}",
            disk.source,
            location,
            names.tags(self._work.job, repository, self._vm.key, self._attempt),
        )
        properties = made["properties"]
        taken = properties.get("timeCreated")
        snapshot = self._record(
            disk, made["id"], "", moment(taken) if taken else self._work.stack.now()
        )
        if not _is_of(properties, disk):
            self._discard(snapshot)
            raise SourceChanged(f"disk {disk.name} was swapped or resized while snapshotted")
        return snapshot

    def _record(self, disk: Disk, place: str, stamp: str, taken: datetime) -> DiskSnapshot:
        return DiskSnapshot(
            disk_key=disk.key,
            kind=disk.kind,
            id=place,
            blob_snapshot=stamp,
            size_bytes=disk.size_bytes,
            unique_id=disk.unique_id,
            taken_at=taken,
        )

    def _group(self) -> str:
        """Return the path of the resource group that managed snapshots go to."""
        own = "/".join(self._vm.id.split("/")[:5])
        if not self._work.job.snapshot_group:
            return own
        return f"{own.rpartition('/')[0]}/{self._work.job.snapshot_group}"

    def _require_unchanged(self, found: VirtualMachine, before: Body) -> None:
        after = self._compute.vm(found.id, instance_view=True)
        if (state := power_state(after)) != found.power_state:
            raise SourceChanged(
                f"{found.id} went from {found.power_state} to {state} while its disks were "
                "snapshotted: its snapshots were dropped and are taken again by the next try"
            )
        if disk_places(after) != disk_places(before):
            raise SourceChanged(
                f"{found.id}: disks were attached or detached while snapshotted: trigger a new run"
            )

    def _discard(self, snapshot: DiskSnapshot) -> None:
        """Delete a snapshot of a set that failed; the clean-up finds what is left all the same."""
        try:
            delete_snapshot(self._work.stack, self._work.accounts, snapshot)
        except AzStackError as error:
            log.warning("%s: left for the clean-up: %s", snapshot.id, error)

    def _set(
        self, set_id: str, found: VirtualMachine, snapshots: tuple[DiskSnapshot, ...]
    ) -> SnapshotSet:
        return SnapshotSet(
            id=set_id,
            run=self._work.job.run,
            vm=found,
            consistency=self._work.job.consistency,
            snapshots=snapshots,
        )

    def _put(self, found: VirtualMachine, snapshots: tuple[DiskSnapshot, ...]) -> SnapshotSet:
        made = self._set(self._set_id, found, snapshots)
        try:
            self._work.session.put_set(made)
        except ObjectExists:
            log.info("%s: another stream was faster: its snapshots are used", self._vm.name)
            for snapshot in snapshots:
                self._discard(snapshot)
            job, repository = self._work.job, self._work.session.repository
            return repository.snapshot_set(job.run, self._vm.key, self._set_id)
        return made


def delete_snapshot(stack: Stack, accounts: Accounts, snapshot: DiskSnapshot) -> None:
    """Delete a snapshot of either kind; one that is not there is fine."""
    if snapshot.kind == "managed":
        Compute(stack).delete_snapshot(snapshot.id)
    else:
        accounts.delete_snapshot(snapshot.id, snapshot.blob_snapshot)


def moment(text: str) -> datetime:
    """
    Return a time of the stack's, which writes seven digits of a second.

    :raises ConfigurationError: it is no time with a zone.
    """
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        value = None
    if value is None or value.tzinfo is None:
        raise ConfigurationError(f"the stack tells a time {text[:60]!r} that is none")
    return value


def _is_there(work: Work, snapshot: DiskSnapshot) -> bool:
    if snapshot.kind == "managed":
        return work.stack.find(snapshot.id) is not None
    return work.accounts.has_snapshot(snapshot.id, snapshot.blob_snapshot)


def _raise_first(errors: list[BaseException]) -> None:
    if errors:
        raise errors[0]


def _is_of(properties: dict[str, Any], disk: Disk) -> bool:
    """Tell whether a snapshot is of the disk that was meant, as far as the stack tells."""
    source = (properties.get("creationData") or {}).get("sourceUniqueId")
    # Disks of the older profile have no unique id: theirs is made of the ARM id, which has slashes.
    is_told = source is not None and "/" not in disk.unique_id
    size = properties.get("diskSizeBytes") or disk.size_bytes
    return size == disk.size_bytes and (source == disk.unique_id or not is_told)
