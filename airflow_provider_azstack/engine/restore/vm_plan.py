"""
What becomes of one VM: its place, its names, its disks, its network, its body.

Owns how request, rules and restore point make one planned VM; asks through the survey and writes
nothing.
Invariant: where something goes is taken from the request, never from ids that a restore point
holds, unless they are of the place that the request names.
"""

from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace

from airflow_provider_azstack.engine.machines import Body, reference, resource_type
from airflow_provider_azstack.engine.restore import bodies
from airflow_provider_azstack.engine.restore.disk_plan import DiskPlan
from airflow_provider_azstack.engine.restore.network import NetworkPlan
from airflow_provider_azstack.engine.restore.place import Case
from airflow_provider_azstack.engine.restore.records import (
    PlannedDisk,
    PlannedResource,
    PlannedVm,
)
from airflow_provider_azstack.engine.restore.replace_plan import occupant, replaced
from airflow_provider_azstack.engine.restore.request import (
    NONE,
    SAME,
    mapped,
)
from airflow_provider_azstack.engine.restore.survey import scope_of
from airflow_provider_azstack.errors import AzStackError


def plan_vm(case: Case) -> PlannedVm:
    """Return what becomes of one VM; reasons not to are the survey's."""
    return _VmPlan(case).made()


class _VmPlan:
    def __init__(self, case: Case) -> None:
        self._case = case
        self._survey = case.survey
        self._change = case.change
        self._was = case.was
        self._body: Body = case.was.resources.get(case.was.id) or {}
        base, name = case.place.base, case.place.vm_name
        self._target = f"{base}/{bodies.COMPUTE}/virtualMachines/{name}"
        self._occupant = occupant(case, self._target) if case.request.replace else None
        self._disk_plan = DiskPlan(case, self._occupant)

    def made(self) -> PlannedVm:
        """Return the planned VM."""
        self._check_names()
        disks = tuple(self._disk_plan.planned())
        planned = PlannedVm(
            key=self._was.key,
            name=self._was.name,
            point=self._case.point.id,
            taken_at=self._case.point.taken_at,
            disks=disks,
        )
        if self._case.request.mode == "disks":
            return self._attached(planned)
        power_on = self._change.power_on
        power_on = self._case.request.power_on if power_on is None else power_on
        planned = replace(planned, target=self._target, power_on=power_on)
        if self._occupant:
            return replaced(self._case, self._occupant, planned)
        return replace(planned, resources=tuple(self._resources(self._target, disks)))

    def _check_names(self) -> None:
        """Refuse changes of what the VM does not have: a slip that would go unnoticed."""
        nics = [i.rpartition("/")[2].lower() for i in self._was.resources if _is_nic(i)]
        for name in self._change.nics:
            if name.lower() not in nics:
                self._survey.refuse(f"{self._was.name} has no interface {name!r}: {nics}")
        keys = [image.disk_key for image in self._case.point.images]
        for key in self._change.disks:
            if key not in keys:
                self._survey.refuse(f"{self._was.name} has no disk {key!r} in the point: {keys}")

    # Attaching to an existing VM

    def _attached(self, planned: PlannedVm) -> PlannedVm:
        if not self._change.attach_to:
            return planned
        target = self._case.place.resolved(
            self._change.attach_to, bodies.COMPUTE, "virtualMachines"
        )
        body = self._survey.require(target, "VM")
        if body is None:
            return planned
        properties = body.get("properties") or {}
        profile = properties.get("storageProfile") or {}
        there = profile.get("dataDisks") or []
        used = {int(entry["lun"]) for entry in there}
        names = {str(entry.get("name", "")).lower() for entry in there}
        ours = [disk for disk in planned.disks if disk.name.lower() not in names]
        if bool((profile.get("osDisk") or {}).get("managedDisk")) != all(
            disk.kind == "managed" for disk in planned.disks
        ):
            self._survey.refuse(f"{target} and its new disks must be of one kind: set disk_kind")
        free = (lun for lun in range(64) if lun not in used)
        size = (properties.get("hardwareProfile") or {}).get("vmSize", "")
        self._check_disk_count(size, len(there) + len(ours))
        entries = tuple(self._entry(disk, next(free)) for disk in ours)
        return replace(planned, attach_to=target, entries=entries)

    def _entry(self, disk: PlannedDisk, lun: int | None) -> Body:
        was = next(d for d in self._was.disks if d.key == disk.key)
        return bodies.storage_entry(
            name=disk.name,
            kind=disk.kind,
            place=disk.id,
            lun=lun,
            caching=was.caching,
            os_type=self._was.os_type,
        )

    # The VM and what belongs to it

    def _resources(self, target: str, disks: tuple[PlannedDisk, ...]) -> Iterator[PlannedResource]:
        self._disk_plan.check_free(target, "VM")
        if len({disk.kind for disk in disks}) > 1:
            self._survey.refuse(f"{self._was.name} has disks of both kinds: set disk_kind")
        nics = list(NetworkPlan(self._case).interfaces())
        for nic in nics:
            for address in nic.addresses:
                self._disk_plan.check_free(address.id, "public address")
                yield address
            self._disk_plan.check_free(nic.resource.id, "interface")
            yield nic.resource
        set_id, made = self._availability_set()
        if made:
            yield made
        yield PlannedResource(
            id=target, body=self._machine(disks, [nic.reference for nic in nics], set_id)
        )
        for extension in self._extensions():
            name = extension["id"].rpartition("/")[2]
            body = bodies.extension(extension, self._case.place.location)
            yield PlannedResource(id=f"{target}/extensions/{name}", body=body)

    def _machine(self, disks: tuple[PlannedDisk, ...], nics: list[Body], set_id: str) -> Body:
        was = {disk.key: disk for disk in self._was.disks}
        size = (
            self._change.size
            or mapped(self._case.request.map.sizes, [self._was.size])
            or self._was.size
        )
        self._check_disk_count(size, len(disks) - 1)
        tags = {**self._was.tags, **self._change.tags}
        identity = self._identity()
        return bodies.machine(
            self._body,
            self._case.place.location,
            {**{name: value for name, value in tags.items() if value is not None},
             bodies.TAG: self._case.plan},
            size=size,
            disks=[self._entry(disk, was[disk.key].lun) for disk in disks],
            nics=nics,
            availability_set_id=set_id,
            boot_diagnostics=self._keeps_diagnostics(),
            identity=identity,
        )  # fmt: skip

    def _check_disk_count(self, size: str, count: int) -> None:
        location = self._case.place.location
        sizes = self._survey.sizes(self._case.place.subscription, location)
        if sizes is None:
            return
        found = sizes.get(size.lower())
        if found is None:
            known = ", ".join(sorted(str(one.get("name")) for one in sizes.values())[:20])
            self._survey.refuse(
                f"{self._was.name}: there is no VM size {size!r} in {location}: {known}"
            )
        elif count > int(found.get("maxDataDiskCount", count)):
            most = found["maxDataDiskCount"]
            self._survey.refuse(f"{self._was.name}: size {size} takes {most} data disks of {count}")

    def _availability_set(self) -> tuple[str, PlannedResource | None]:
        old = reference((self._body.get("properties") or {}).get("availabilitySet"))
        asked = self._change.availability_set or (SAME if self._case.is_in_place else NONE)
        if asked == NONE or (asked == SAME and not old):
            return "", None
        name = old.rpartition("/")[2] if asked == SAME else asked
        target = self._case.place.resolved(name, bodies.COMPUTE, "availabilitySets")
        if scope_of(target).lower() != self._case.place.base.lower():
            self._survey.refuse(f"availability set {target} is not in the VM's resource group")
        if self._survey.find(target):
            return target, None
        saved = self._was.resources.get(old)
        if asked != SAME or saved is None:
            self._survey.refuse(f"availability set {target} does not exist")
            return target, None
        body = bodies.availability_set(saved, self._case.place.location, self._case.plan)
        return target, PlannedResource(id=target, body=body)

    def _extensions(self) -> Iterator[Body]:
        kind = "microsoft.compute/virtualmachines/extensions"
        found = [b for i, b in self._was.resources.items() if resource_type(i) == kind]
        if not found:
            return
        names = ", ".join(sorted(b["id"].rpartition("/")[2] for b in found))
        if not self._case.request.extensions:
            self._survey.remark(f"{self._was.name}: extensions are left out: {names}")
            return
        self._survey.remark(
            f"{self._was.name}: extensions {names} are installed without protected settings, "
            "which no backup has"
        )
        yield from found

    def _identity(self) -> bool:
        """Tell whether the VM gets its identity; user-assigned ones must be of this place."""
        had: Any = self._body.get("identity")
        if not had:
            return False
        if not self._case.request.identity:
            self._survey.remark(f"{self._was.name}: its managed identity is left out")
            return False
        foreign = [
            i for i in had.get("userAssignedIdentities") or {} if not self._case.place.has(i)
        ]
        if foreign:
            self._survey.refuse(f"{self._was.name}: identity {foreign[0]} is of another place")
        return not foreign

    def _keeps_diagnostics(self) -> bool:
        profile = (self._body.get("properties") or {}).get("diagnosticsProfile") or {}
        uri = str((profile.get("bootDiagnostics") or {}).get("storageUri") or "")
        if not uri:
            return bool(profile)
        try:
            self._survey.accounts.account_id(uri if uri.endswith("/") else f"{uri}/")
        except AzStackError:
            self._survey.remark(f"{self._was.name}: boot diagnostics are left out: no {uri} here")
            return False
        return True


def _is_nic(resource_id: str) -> bool:
    return resource_type(resource_id) == "microsoft.network/networkinterfaces"
