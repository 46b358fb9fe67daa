"""
What becomes of a VM that exists, whose disks are replaced.

Owns which of its disks give way to which of the restore point's, and what must be known before
somebody agrees to it; asks through the survey and writes nothing.
Invariant: every disk that gives way is named in the plan, and is kept.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from msgspec.structs import replace

from airflow_provider_azstack.engine.machines import (
    Body,
    NotProtectableError,
    reference,
    vm_key,
)
from airflow_provider_azstack.engine.power import OFF
from airflow_provider_azstack.engine.restore import bodies
from airflow_provider_azstack.engine.restore.difference import differing
from airflow_provider_azstack.engine.restore.place import Case
from airflow_provider_azstack.engine.restore.records import PlannedDisk, PlannedVm, ReplacedDisk
from airflow_provider_azstack.engine.restore.safety import ReplaceNotes
from airflow_provider_azstack.engine.restore.survey import Survey, scope_of
from airflow_provider_azstack.errors import AzStackError, IntegrityError, ObjectNotFound
from airflow_provider_azstack.model import DiskKind, DiskSnapshot

DELETE_VM = "Microsoft.Compute/virtualMachines/delete"
_SUFFIX = re.compile(r"-r[0-9a-f]{16}\Z")


class WholeError(Exception):
    """A disk is written whole; the text says why. Never leaves this module."""


class Occupant(NamedTuple):
    """The VM that is where one shall be restored to, before anything was done to it."""

    body: Body
    key: str
    entries: dict[str, Body]
    kind: DiskKind

    def new_name(self, name: str, plan: str) -> str:
        """Return what the disk is called that takes another's place: that one keeps its name."""
        return f"{_SUFFIX.sub('', name)[:60]}-r{plan}"

    def beside(self, key: str) -> str:
        """Return the place of the disk of that key, else of the OS disk: new ones go there too."""
        entry = self.entries.get(key) or self.entries["os"]
        return reference(entry.get("managedDisk")) or str(entry["vhd"]["uri"])


def occupant(case: Case, target: str) -> Occupant | None:
    """Return the VM that is at a target, as it was before an earlier try of this very plan."""
    body = case.survey.find(target)
    last = ReplaceNotes(case.repository, case.plan, case.was.key).last()
    if last is not None and (body is None or _is_half_done(body, last.body)):
        body = last.body
    if body is None:
        return None
    entries = bodies.entries_of(body)
    try:
        key = vm_key(body)
    except NotProtectableError as error:
        case.survey.refuse(f"VM {target}: {error}")
        key = case.was.key
    kind: DiskKind = "managed" if entries["os"].get("managedDisk") else "unmanaged"
    return Occupant(body, key, entries, kind)


def _is_half_done(body: Body, before: Body) -> bool:
    """Tell whether a VM has other disks than when it was stopped for this plan."""
    now, then = bodies.entries_of(body), bodies.entries_of(before)
    return {k: bodies.place_of(e) for k, e in now.items()} != {
        k: bodies.place_of(e) for k, e in then.items()
    }


def replaced(case: Case, there: Occupant, planned: PlannedVm) -> PlannedVm:
    """Return the VM with what is replaced in it."""
    survey = case.survey
    target = str(there.body["id"])
    gives_way = tuple(_gives_way(case, there, disk) for disk in planned.disks)
    may_recreate = survey.allows(scope_of(target), DELETE_VM)
    made = replace(
        planned,
        target=target,
        occupant=there.key,
        disks=tuple(map(_Based(case, there.key, gives_way).disk, planned.disks)),
        replaces=gives_way,
        entries=tuple(_entry(case, there, disk) for disk in planned.disks),
        may_recreate=may_recreate,
    )
    _refuse_what_no_vm_takes(case, there)
    _say(case, there, made)
    return made


class _Based:
    """Finds out which new disks can be made of what they replace."""

    def __init__(self, case: Case, vm_key: str, gives_way: Iterable[ReplacedDisk]) -> None:
        self._case = case
        self._old = {disk.key: disk for disk in gives_way}
        self._last: dict[str, DiskSnapshot] = {}
        self._images: dict[str, str] = {}
        with suppress(AzStackError):  # then everything is written whole
            point = case.repository.latest_point(vm_key)
            for image in point.images if point else ():
                self._last[image.snapshot.unique_id] = image.snapshot
                self._images[image.snapshot.unique_id] = image.image

    def disk(self, planned: PlannedDisk) -> PlannedDisk:
        """Return the disk as it is written, and tell how much of it and why."""
        label = f"{self._case.was.name} {planned.key}"
        try:
            differs = self._differs(planned)
        except (WholeError, IntegrityError, ObjectNotFound) as reason:
            self._case.survey.remark(
                f"{label}: all {planned.data_bytes} bytes are written: {reason}"
            )
            return planned
        last = self._last[self._old[planned.key].unique_id]
        self._case.survey.remark(
            f"{label}: of {planned.data_bytes} bytes {differs} are written into a copy of the old "
            f"disk, and what changed on that since {last.taken_at:%Y-%m-%d %H:%M} UTC"
        )
        return replace(
            planned,
            way="blob" if planned.way == "blob" else "import",
            base=self._images[last.unique_id],
            data_bytes=differs,
        )

    def _differs(self, planned: PlannedDisk) -> int:
        """
        Return how many bytes differ between the last backup and the restore point.

        :raises WholeError: the disk cannot be made of the old one, or that would not be worth it.
        """
        old = self._old[planned.key]
        last = self._last.get(old.unique_id)
        if not old.place:
            raise WholeError("nothing is in its place")
        if self._case.request.salvage:
            raise WholeError("a salvage compares with nothing")
        if planned.way != "blob" and not planned.staging:
            raise WholeError("give storage_account, where the stack can copy the old disk to")
        if last is None or not self._is_there(last):
            raise WholeError("no snapshot is left of its last backup to tell changes since")
        repository = self._case.repository
        base = repository.image(self._images[old.unique_id])
        image = repository.image(planned.image)
        same_shape = (base.size_bytes, base.region_bytes) == (image.size_bytes, image.region_bytes)
        if not same_shape or image.size_bytes != planned.size_bytes:
            raise WholeError("its size changed")
        differs = sum(extent.length for extent in differing(repository, base, image))
        if 2 * differs > planned.data_bytes:
            raise WholeError("most of it differs")
        return differs

    def _is_there(self, snapshot: DiskSnapshot) -> bool:
        if not snapshot.blob_snapshot:
            return self._case.survey.find(snapshot.id) is not None
        return self._case.survey.accounts.has_snapshot(snapshot.id, snapshot.blob_snapshot)


def _gives_way(case: Case, there: Occupant, disk: PlannedDisk) -> ReplacedDisk:
    entry = there.entries.get(disk.key)
    if entry is None:
        return ReplacedDisk(key=disk.key)
    place = there.beside(disk.key)
    return ReplacedDisk(
        key=disk.key, place=place, unique_id=_unique_id(case.survey, place), entry=entry
    )


def _unique_id(survey: Survey, place: str) -> str:
    if not place.startswith("/"):
        found = survey.accounts.properties(place)
        return f"{place} {found.created_at}" if found else ""
    body = survey.find(place) or {}
    properties = body.get("properties") or {}
    return str(
        properties.get("uniqueId") or f"{body.get('id')} {properties.get('timeCreated', '')}"
    )


def _entry(case: Case, there: Occupant, disk: PlannedDisk) -> Body:
    was = next(d for d in case.was.disks if d.key == disk.key)
    now = there.entries.get(disk.key) or {}
    return bodies.storage_entry(
        name=disk.name,
        kind=disk.kind,
        place=disk.id,
        lun=was.lun,
        caching=str(now.get("caching") or was.caching),
        os_type=case.was.os_type,
    )


def _refuse_what_no_vm_takes(case: Case, there: Occupant) -> None:
    os_type = str(there.entries["os"].get("osType", ""))
    if os_type.lower() != case.was.os_type.lower():
        case.survey.refuse(
            f"{case.was.name} runs {os_type}, its restore point is of {case.was.os_type}: delete "
            "it, or use mode alternate"
        )


def _say(case: Case, there: Occupant, planned: PlannedVm) -> None:
    """Remark what the user should know before agreeing."""
    survey, name = case.survey, case.was.name
    if there.key != case.was.key:
        survey.remark(f"{name} is another VM than was backed up: vmId {there.key}")
    view = survey.power(planned.target)
    if view not in OFF and not planned.power_on:
        survey.remark(f"{name} runs now and will be left stopped: power_on starts it")
    was = {disk.key: disk for disk in case.was.disks}
    for gone in planned.replaces:
        if gone.place and gone.unique_id != was[gone.key].unique_id:
            survey.remark(f"{name} {gone.key}: {gone.place} is another disk than was backed up")
    left = sorted(there.entries.keys() - {disk.key for disk in planned.replaces})
    if left:
        survey.remark(f"{name}: disks {', '.join(left)} stay as they are")
    survey.remark(
        f"{name}: the old disks and a safety snapshot of each are kept until you delete them"
    )
    if "os" not in {disk.key for disk in planned.replaces}:
        return
    if planned.may_recreate:
        survey.remark(
            f"{name}: if the stack does not let its OS disk be changed, the VM is deleted, keeping "
            "disks and interfaces, and created again: then with a new vmId, without extensions"
        )
    else:
        survey.remark(
            f"{name}: if the stack does not let its OS disk be changed, this fails and the VM is "
            f"put back: creating it again would need the permission {DELETE_VM}"
        )
