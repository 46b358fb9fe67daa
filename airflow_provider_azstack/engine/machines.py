"""
One VM's bodies, as the stack tells them, into a ``VirtualMachine``.

Owns which disks can be protected, what identifies a disk, and what of the bodies is kept; how the
bodies are asked for is the caller's business. Used by discovery, over lists, for the VM and its
disks; and when snapshots are taken, over single requests, for all that belongs to it as well: both
must see the same VM.
Invariant: what is kept holds everything needed to create the VM again, and no secret.
"""

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

from msgspec.structs import replace

from airflow_provider_azstack.arm import compute
from airflow_provider_azstack.errors import SourceGone
from airflow_provider_azstack.model import Disk, VirtualMachine

GIB = 1 << 30
MIB = 1 << 20
VHD_FOOTER_BYTES = 512
MAX_DISK_BYTES = 1023 * GIB
MAX_PAGE_BLOB_BYTES = 1024 * GIB + VHD_FOOTER_BYTES

Body = dict[str, Any]

_VM_KEY = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UNSUPPORTED_SKUS = {"ultrassd_lrs", "premiumv2_lrs"}
# A point must not carry these, whoever can read it; the stack never answers them, an emulator or a
# later version might.
_SECRET = {"adminpassword", "customdata", "userdata", "protectedsettings"}
_VOLATILE = {"etag", "instanceview", "provisioningstate", "resourceguid", "timecreated"}
# Back references to whatever else uses a shared resource: long, and none of this VM's business.
_BACK_REFERENCES = {
    "microsoft.network/networksecuritygroups": {"networkinterfaces", "subnets"},
    "microsoft.compute/availabilitysets": {"virtualmachines"},
}


class NotProtectableError(Exception):
    """A VM cannot be backed up; the text says why, for the job's record."""


class BlobFacts(NamedTuple):
    """What is asked of an unmanaged disk's blob."""

    account: str
    size_bytes: int  # with the VHD footer
    created: str  # when it came into being: another blob of the same name has another time


class DiskSource(Protocol):
    """Where the bodies of disks come from."""

    def body(self, resource_id: str) -> Body | None:
        """Return a resource's body, or None when there is none."""

    def blob(self, url: str) -> BlobFacts:
        """
        Return the facts of an unmanaged disk.

        :raises SourceGone: there is no such blob.
        :raises NotProtectableError: its storage account cannot be used.
        """


class Source(DiskSource, Protocol):
    """Where all bodies come from."""

    def extensions(self, body: Body) -> list[Body]:
        """Return the extensions of a VM, as far as they are told."""


def outline(body: Body, source: DiskSource, left_out: Callable[[Disk], bool]) -> VirtualMachine:
    """
    Return the VM of ``body`` with its disks: what has to be known before it is snapshotted.

    :param left_out: tells which disks the policy excludes.
    :raises NotProtectableError: it cannot be backed up.
    :raises SourceGone: one of its disks does not exist.
    """
    properties = body.get("properties") or {}
    _check_kind(properties)
    disks = [_disk(entry, lun, source) for lun, entry in _entries(properties)]
    kept = tuple(disk for disk in disks if not left_out(disk))
    if not kept:
        raise NotProtectableError("the policy excludes each of its disks")
    return VirtualMachine(
        id=body["id"],
        key=vm_key(body),
        name=body["name"],
        subscription_id=id_part(body["id"], "subscriptions"),
        resource_group=id_part(body["id"], "resourceGroups"),
        location=body.get("location", ""),
        size=(properties.get("hardwareProfile") or {}).get("vmSize", ""),
        os_type=_os_disk(properties).get("osType", ""),
        power_state=power_state(body),
        image=_image(properties),
        disks=kept,
        excluded=tuple(disk for disk in disks if disk not in kept),
        tags=dict(body.get("tags") or {}),
    )


def machine(body: Body, source: Source, left_out: Callable[[Disk], bool]) -> VirtualMachine:
    """Return the same VM with the bodies of all that belongs to it, to create it again from."""
    keeper = _Keeper(source)
    keeper.resources[body["id"]] = cleaned(body)
    vm = outline(body, keeper, left_out)
    properties = body.get("properties") or {}
    _ask_for_network(properties, keeper)
    keeper.body(reference(properties.get("availabilitySet")))
    extensions = {extension["id"]: cleaned(extension) for extension in source.extensions(body)}
    return replace(vm, resources=keeper.resources | extensions)


class _Keeper:
    """A source that keeps the bodies it was asked for, cleaned."""

    def __init__(self, source: DiskSource) -> None:
        self.resources: dict[str, Body] = {}
        self.blob = source.blob
        self._source = source

    def body(self, resource_id: str) -> Body | None:
        """Return a resource's body; None when there is none, or nothing was asked for."""
        found = self._source.body(resource_id) if resource_id else None
        if found is not None:
            self.resources[resource_id] = cleaned(found)
        return found


def vm_key(body: Body) -> str:
    """
    Return the VM's identity: ``vmId``, which a new VM of the same name does not inherit.

    :raises NotProtectableError: it has none.
    """
    key = str((body.get("properties") or {}).get("vmId") or "").lower()
    if not _VM_KEY.fullmatch(key):
        raise NotProtectableError("the stack tells no vmId: it is still being created, or not a VM")
    return key


def power_state(body: Body) -> str:
    """Return ``running``, ``deallocated`` ... or ``unknown`` when the body has no instance view."""
    return compute.power_state(body) or "unknown"


def id_part(resource_id: str, kind: str) -> str:
    """Return what follows ``/<kind>/`` in an ARM id, whose case varies."""
    parts = resource_id.split("/")
    for name, value in pairwise(parts):
        if name.lower() == kind.lower():
            return value
    return ""


def resource_type(resource_id: str) -> str:
    """Return ``provider/type`` of an ARM id, in small letters."""
    parts = resource_id.lower().split("/providers/")[-1].split("/")
    return "/".join([parts[0], *parts[1::2]])


def reference(value: Any) -> str:
    """Return the id in a ``{"id": ...}`` reference, or ``""``."""
    return str(value.get("id") or "") if isinstance(value, dict) else ""


def cleaned(body: Body) -> Body:
    """Return a copy of a body without what is secret or only true for a moment."""
    dropped = _SECRET | _VOLATILE | _BACK_REFERENCES.get(str(body.get("type", "")).lower(), set())
    return _without(body, dropped)  # type: ignore[no-any-return]


def _without(value: Any, dropped: set[str]) -> Any:
    if isinstance(value, dict):
        return {k: _without(v, dropped) for k, v in value.items() if k.lower() not in dropped}
    if isinstance(value, list):
        return [_without(item, dropped) for item in value]
    return value


def _check_kind(properties: Body) -> None:
    if properties.get("virtualMachineScaleSet"):
        raise NotProtectableError(
            "it is an instance of a scale set, which is created, not restored"
        )
    if str(properties.get("provisioningState", "")).lower() == "deleting":
        raise NotProtectableError("it is being deleted")


def _storage_profile(properties: Body) -> Body:
    return properties.get("storageProfile") or {}


def _os_disk(properties: Body) -> Body:
    return _storage_profile(properties).get("osDisk") or {}


def _image(properties: Body) -> str:
    """Return what a VM was made of, without the version: the next one has most of its files."""
    image = _storage_profile(properties).get("imageReference") or {}
    if image.get("id"):
        return str(image["id"]).lower()
    named = [str(image.get(part) or "") for part in ("publisher", "offer", "sku")]
    return ":".join(named).lower() if all(named) else ""


def _entries(properties: Body) -> list[tuple[int | None, Body]]:
    """Return the VM's disks as its body lists them: the OS disk first, then by LUN."""
    profile = _storage_profile(properties)
    os_disk = _os_disk(properties)
    if not os_disk:
        raise NotProtectableError("the stack tells no OS disk")
    if os_disk.get("diffDiskSettings"):
        raise NotProtectableError("its OS disk is ephemeral and cannot be snapshotted")
    data = sorted(profile.get("dataDisks") or (), key=lambda entry: int(entry["lun"]))
    return [(None, os_disk), *((int(entry["lun"]), entry) for entry in data)]


def _disk(entry: Body, lun: int | None, source: DiskSource) -> Disk:
    name = str(entry.get("name", ""))
    if managed := reference(entry.get("managedDisk")):
        body = source.body(managed)
        if body is None:
            raise SourceGone(f"disk {managed} does not exist or may not be read")
        kind, place, account = "managed", managed, ""
        size, unique_id, sku = _managed_facts(name, body)
    elif url := str((entry.get("vhd") or {}).get("uri") or ""):
        facts = source.blob(url)
        kind, place, account = "unmanaged", url, facts.account
        size, unique_id, sku = _without_footer(facts.size_bytes), f"{url} {facts.created}", ""
        if facts.size_bytes > MAX_PAGE_BLOB_BYTES:
            raise NotProtectableError(f"disk {name} is larger than 1 TiB")
    else:
        raise NotProtectableError(f"disk {name} is neither a managed disk nor a page blob")
    return Disk(
        key="os" if lun is None else f"data-{lun}",
        name=name,
        kind=kind,  # type: ignore[arg-type]
        source=place,
        size_bytes=size,
        unique_id=unique_id,
        lun=lun,
        caching=str(entry.get("caching") or "None"),
        sku=sku,
        storage_account=account,
    )


def _managed_facts(name: str, body: Body) -> tuple[int, str, str]:
    """Return size, unique id and SKU of a managed disk that can be protected."""
    properties = body.get("properties") or {}
    sku = str((body.get("sku") or {}).get("name") or "")
    size = int(properties.get("diskSizeBytes") or int(properties.get("diskSizeGB") or 0) * GIB)
    if sku.lower() in _UNSUPPORTED_SKUS:
        raise NotProtectableError(f"disk {name} is of the unsupported kind {sku}")
    if int(properties.get("maxShares") or 1) > 1 or body.get("managedByExtended"):
        raise NotProtectableError(f"disk {name} is shared between VMs")
    if size > MAX_DISK_BYTES:
        raise NotProtectableError(f"disk {name} is larger than {MAX_DISK_BYTES // GIB} GiB")
    # Profiles before 2020-09-01 tell no unique id: then the time it was created tells disks apart.
    unique_id = properties.get("uniqueId") or f"{body['id']} {properties.get('timeCreated', '')}"
    return size, str(unique_id), sku


def _without_footer(size_bytes: int) -> int:
    """Return a VHD's disk size: it is whole MiB, followed by 512 bytes that are not the disk's."""
    return size_bytes - VHD_FOOTER_BYTES if size_bytes % MIB == VHD_FOOTER_BYTES else size_bytes


def _ask_for_network(properties: Body, keeper: _Keeper) -> None:
    """Have the VM's NICs kept and, through them, security groups and public addresses."""
    for entry in (properties.get("networkProfile") or {}).get("networkInterfaces") or ():
        nic = keeper.body(reference(entry))
        nic_properties = (nic or {}).get("properties") or {}
        keeper.body(reference(nic_properties.get("networkSecurityGroup")))
        for configuration in nic_properties.get("ipConfigurations") or ():
            inner = configuration.get("properties") or {}
            keeper.body(reference(inner.get("publicIPAddress")))


def disk_places(body: Body) -> list[str]:
    """Return where the disks of a VM are, as its body says: what attaching or detaching changes."""
    profile = (body.get("properties") or {}).get("storageProfile") or {}
    entries = [profile.get("osDisk") or {}, *(profile.get("dataDisks") or ())]
    return sorted(
        f"{e.get('lun')} {reference(e.get('managedDisk')) or e.get('vhd')}".lower() for e in entries
    )
