"""
What a restore leaves for going back: the VM as it was, and safety snapshots of its disks.

Owns the names and tags of safety snapshots, and the notes of when a VM was stopped for its disks
to be replaced; stops and replaces nothing.
Invariant: no code of this package deletes a safety snapshot, neither a run that fails nor its
clean-up nor the janitor: only a user does.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.arm.compute import Compute
from airflow_provider_azstack.engine.accounts import Accounts
from airflow_provider_azstack.engine.restore import bodies
from airflow_provider_azstack.engine.restore.records import PlannedVm, ReplacedDisk
from airflow_provider_azstack.engine.restore.survey import scope_of
from airflow_provider_azstack.errors import ObjectExists
from airflow_provider_azstack.model import DiskKey, Record, Slug, Text
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.restores import PREFIX

TAG = "azstack-restore-safety"
KEEP = "keep"  # until somebody deletes it


class Safety(Record, frozen=True, kw_only=True):
    """The safety snapshot of one disk."""

    key: DiskKey
    source: Text  # the disk
    id: Text  # ARM id of a managed snapshot, or the blob's URL
    blob_snapshot: Text = ""


class Stopped(Record, frozen=True, kw_only=True):
    """A VM as it was before it was stopped."""

    plan: Slug
    number: int  # of the stop
    body: dict[str, Any]
    was_running: bool


class ReplaceNotes:
    """
    What is noted of a VM whose disks are replaced: each stop, what followed from it, and its end.

    A stop that has no end is one to go on with, or to make up for.
    """

    def __init__(self, repository: Repository, plan: str, vm_key: str) -> None:
        self._records = repository.records
        self._plan = plan
        self._prefix = f"{PREFIX}{plan}/{vm_key}.replace/"

    def last(self) -> Stopped | None:
        """Return the last stop, ended or not."""
        numbers = self._numbers("stopped")
        return self._stop(max(numbers)) if numbers else None

    def open(self) -> Stopped | None:
        """Return the stop that has not ended."""
        still = self._numbers("stopped") - self._numbers("ended")
        return self._stop(max(still)) if still else None

    def begin(self, body: dict[str, Any], *, was_running: bool) -> Stopped:
        """Note that a VM is about to be stopped; of two that do so at once, the first counts."""
        number = max(self._numbers("stopped"), default=0) + 1
        made = Stopped(plan=self._plan, number=number, body=body, was_running=was_running)
        self._put("stopped", number, made)
        return self._stop(number)

    def recreate(self, stop: Stopped) -> None:
        """Note that the VM is about to be deleted, and created again."""
        self._put("recreated", stop.number, stop)

    def is_recreated(self, stop: Stopped) -> bool:
        """Tell whether the VM may be gone because it is being created again."""
        return stop.number in self._numbers("recreated")

    def end(self, stop: Stopped) -> None:
        """Note that the VM is again as it shall be."""
        self._put("ended", stop.number, stop)

    def keep(self, stop: Stopped, safety: Safety) -> None:
        """Note a safety snapshot."""
        self._put(f"safety-{safety.key}", stop.number, safety)

    def safety(self, stop: Stopped, key: str) -> Safety | None:
        """Return a disk's safety snapshot of this stop."""
        if stop.number not in self._numbers(f"safety-{key}"):
            return None
        return self._records.get(self._name(f"safety-{key}", stop.number), Safety)

    def safeties(self) -> Iterator[Safety]:
        """Yield all safety snapshots that were noted."""
        for info in self._records.store.list(self._prefix):
            if info.name.removeprefix(self._prefix).startswith("safety-"):
                yield self._records.get(info.name, Safety)

    def _stop(self, number: int) -> Stopped:
        return self._records.get(self._name("stopped", number), Stopped)

    def _numbers(self, what: str) -> set[int]:
        prefix = f"{self._prefix}{what}/"
        names = (info.name for info in self._records.store.list(prefix))
        return {int(name.removeprefix(prefix)) for name in names}

    def _name(self, what: str, number: int) -> str:
        return f"{self._prefix}{what}/{number:06d}"

    def _put(self, what: str, number: int, record: Record) -> None:
        with suppress(ObjectExists):
            self._records.put(self._name(what, number), record)


def snapshot_id(vm: PlannedVm, disk: ReplacedDisk, stop: Stopped) -> str:
    """Return the id of a managed disk's safety snapshot: beside the disk, another for each stop."""
    name = f"azstack-safety-{stop.plan}-{vm.key[:8]}-{disk.key}-{stop.number}"
    return f"{scope_of(disk.place)}/{bodies.COMPUTE}/snapshots/{name}"


def take(
    stack: Stack, accounts: Accounts, vm: PlannedVm, disk: ReplacedDisk, stop: Stopped
) -> Safety:
    """
    Snapshot a disk, or find the snapshot that an earlier try took.

    :raises Refused: another snapshot has that name.
    """
    if disk.place.startswith("/"):
        tags = {bodies.TAG: stop.plan, TAG: KEEP}
        place = snapshot_id(vm, disk, stop)
        location = str(stop.body.get("location", ""))
        made = Compute(stack).create_snapshot(place, disk.place, location, tags)
        return Safety(key=disk.key, source=disk.place, id=made["id"])
    marks = {bodies.TAG: stop.plan, TAG: KEEP, f"{TAG}-stop": str(stop.number)}
    metadata = {name.replace("-", "_"): value for name, value in marks.items()}
    stamp = accounts.snapshot(disk.place, metadata)
    return Safety(key=disk.key, source=disk.place, id=disk.place, blob_snapshot=stamp)


def is_there(stack: Stack, accounts: Accounts, safety: Safety) -> bool:
    """Tell whether a safety snapshot is still there."""
    if safety.blob_snapshot:
        return accounts.has_snapshot(safety.id, safety.blob_snapshot)
    return stack.find(safety.id) is not None
