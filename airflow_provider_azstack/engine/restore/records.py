"""
The plan of a restore, and what is noted while it is carried out.

Owns the records and where in the repository they are kept; makes and carries out nothing.
Invariant: a plan says everything that will be sent to the stack: carrying it out decides nothing
that could have been decided, and refused, before.
"""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal

from airflow_provider_azstack.engine.restore.request import RestoreRequest
from airflow_provider_azstack.errors import ObjectExists
from airflow_provider_azstack.model import (
    DiskKey,
    DiskKind,
    Moment,
    Record,
    Size,
    Slug,
    Text,
    VmKey,
)
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.restores import PREFIX

FOOTER = "footer"
COMPLETE = "complete"
USED = "used"
COMPARED = "compared"  # a copy of what is replaced, in which everything that differs was written
SHARED = "shared"  # several hosts may write it at once: so it was tried, before any of them began

# How a disk comes into being: by an upload into a managed disk, by a page blob that is then
# imported into one, or as a page blob for good.
Way = Literal["upload", "import", "blob"]


class PlannedDisk(Record, frozen=True, kw_only=True):
    """One disk to write."""

    key: DiskKey
    image: Text  # object name
    way: Way
    kind: DiskKind
    id: Text  # ARM id of the managed disk, or URL of the page blob
    name: Text
    staging: Text = ""  # URL of the page blob that a managed disk may be imported from
    base: Text = ""  # image of what it replaces: only what differs from that is written
    size_bytes: Size  # without the VHD footer; whole MiB
    data_bytes: Size  # to write
    sku: Text = ""
    location: Text = ""
    tags: dict[str, str] = {}  # noqa: RUF012 - msgspec copies it
    properties: dict[str, Any] = {}  # noqa: RUF012 - msgspec copies it


class PlannedResource(Record, frozen=True, kw_only=True):
    """One resource to create, as it will be sent."""

    id: Text
    body: dict[str, Any]


class ReplacedDisk(Record, frozen=True, kw_only=True):
    """What is in a place of an existing VM now, and gives way to a restored disk."""

    key: DiskKey
    place: Text = ""  # ARM id of a managed disk, or URL of a page blob; nothing: the LUN is free
    unique_id: Text = ""
    entry: dict[str, Any] = {}  # noqa: RUF012 - msgspec copies it


class PlannedVm(Record, frozen=True, kw_only=True):
    """One VM to restore."""

    key: VmKey
    name: Text  # when it was backed up
    point: Slug
    taken_at: Moment
    target: Text = ""  # id of the VM to create; nothing when only disks are restored
    attach_to: Text = ""  # id of the VM that gets the disks
    entries: tuple[dict[str, Any], ...] = ()  # of the storage profile of a VM that exists
    disks: tuple[PlannedDisk, ...]
    resources: tuple[PlannedResource, ...] = ()  # in the order of their creation
    power_on: bool = False
    occupant: Text = ""  # vmId of the VM that ``target`` is, when its disks are replaced
    replaces: tuple[ReplacedDisk, ...] = ()
    may_recreate: bool = False  # delete that VM and create it again where it takes no other OS disk


class Permission(Record, frozen=True, kw_only=True):
    """An action that carrying out the plan needs in a scope."""

    scope: Text
    action: Text


class RestorePlan(Record, frozen=True, kw_only=True):
    """Everything that a restore will do."""

    version: Literal[1] = 1
    id: Slug  # the same for the same request and points: doing it again goes on where it stopped
    made_at: Moment
    repository: Text
    stack: Text
    subscriptions: tuple[Text, ...]
    request: RestoreRequest
    vms: tuple[PlannedVm, ...]
    permissions: tuple[Permission, ...] = ()
    touched: tuple[Text, ...] = ()  # ids of what exists and will be changed
    write_bytes: Size = 0
    expected_seconds: float | None = None  # one disk after another; None: nothing was measured
    refusals: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


class PartDone(Record, frozen=True, kw_only=True):
    """A part of a disk that is on the stack."""

    bytes: Size
    host: Text = ""  # the backup host that wrote it, where there are several


class DiskDone(Record, frozen=True, kw_only=True):
    """A disk that is whole and may be used."""

    bytes: Size
    seconds: float
    verified: bool


class LostRange(Record, frozen=True, kw_only=True):
    """A range that the repository has lost, and that is zero on the restored disk."""

    offset: Size
    length: Size
    reason: Text


class LostRanges(Record, frozen=True, kw_only=True):
    """What was lost of one part of a disk."""

    ranges: tuple[LostRange, ...]


class Notes:
    """
    What is noted of one attempt at one disk. Thread-safe.

    :param attempt: identifies the very disk: another one of that name has another.
    """

    def __init__(self, repository: Repository, plan: str, vm: str, disk: str, attempt: str) -> None:
        self._records = repository.records
        digest = hashlib.sha256(attempt.encode()).hexdigest()[:16]
        self._prefix = f"{disk_prefix(plan, vm, disk)}{digest}/"

    def done(self) -> set[str]:
        """Return the parts that are done."""
        found = self._records.store.list(self._prefix)
        return {info.name.removeprefix(self._prefix) for info in found}

    def note(self, part: str, record: Record) -> None:
        """Note that a part is done; again is fine."""
        with suppress(ObjectExists):
            self._records.put(self._prefix + part, record)


def disk_prefix(plan: str, vm: str, disk: str) -> str:
    """Return what the names of all notes of a disk begin with."""
    return f"{PREFIX}{plan}/{vm}.{disk}/"


def note_lost(
    repository: Repository, prefix: str, part: str, ranges: tuple[LostRange, ...]
) -> None:
    """Note what is lost of a part of a disk, before the part is noted as done; again is fine."""
    if ranges:
        with suppress(ObjectExists):
            repository.records.put(f"{prefix}lost/{part}", LostRanges(ranges=ranges))


def lost_ranges(repository: Repository, prefix: str) -> list[LostRange]:
    """Return what is noted as lost of a disk, in order."""
    records = repository.records
    found = [
        lost
        for info in records.store.list(f"{prefix}lost/")
        for lost in records.get(info.name, LostRanges).ranges
    ]
    return sorted(set(found), key=lambda lost: (lost.offset, lost.length))


def each_disk(plan: RestorePlan) -> Iterator[tuple[PlannedVm, PlannedDisk]]:
    """Yield every disk of a plan with its VM."""
    for vm in plan.vms:
        for disk in vm.disks:
            yield vm, disk
