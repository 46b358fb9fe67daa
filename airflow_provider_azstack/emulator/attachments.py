"""
What virtual machines hold: disks, VHDs and network interfaces, taken and let go.

Owns who holds what, and what a VM may change of its disks; knows no disk content.
Invariant: a disk, a VHD or a NIC belongs to one VM at most.
"""

from collections.abc import Iterator

from airflow_provider_azstack.emulator.http import Json, Problem
from airflow_provider_azstack.emulator.state import Blob, Resource, World


def attached(vm: Resource) -> Iterator[Json]:
    """Yield the entries of a VM's storage profile, the OS disk first."""
    profile = vm.properties["storageProfile"]
    yield profile["osDisk"]
    yield from profile.get("dataDisks", [])


def check_free(world: World, entry: Json, vm_id: str) -> None:
    """Refuse a disk that does not exist or belongs to another VM."""
    managed = (entry.get("managedDisk") or {}).get("id")
    if managed:
        disk = world.get(managed)
        owner, state = disk.body.get("managedBy", ""), disk.properties["diskState"]
        free = not owner and state == "Unattached"
        if not free and owner.lower() != vm_id.lower():
            raise Problem(
                409,
                "ConflictingUserInput",
                f"Disk '{managed}' cannot be attached: {state} {owner}.",
            )
        return
    blob = _vhd(world, entry)
    if blob.leased_by and blob.leased_by.lower() != vm_id.lower():
        raise Problem(409, "AcquireDiskLeaseFailed", "The VHD is leased by another VM.")


def check_nics(world: World, given: Json, vm_id: str) -> None:
    """Refuse a VM without network interfaces, or with one of another VM."""
    interfaces = (given.get("networkProfile") or {}).get("networkInterfaces") or []
    if not interfaces:
        raise Problem(400, "InvalidParameter", "A VM needs a network interface.")
    for reference in interfaces:
        owner = world.get(reference["id"]).properties.get("virtualMachine", {}).get("id", vm_id)
        if owner.lower() != vm_id.lower():
            raise Problem(
                400, "NicInUse", f"Network interface {reference['id']} is used by {owner}."
            )


def check_swap(world: World, vm: Resource, profile: Json) -> None:
    """Refuse what no VM lets be changed of the disks that it has."""
    was, now = vm.properties["storageProfile"], profile["osDisk"]
    _check_unchanged("osDisk.createOption", was["osDisk"], now, "createOption")
    _check_unchanged("osDisk.osType", was["osDisk"], now, "osType")
    if _place(now) != _place(was["osDisk"]):
        if not world.behaviour.os_disk_swap or ("vhd" in now) != ("vhd" in was["osDisk"]):
            kind = "vhd.uri" if "vhd" in now else "managedDisk.id"
            raise _not_allowed(f"osDisk.{kind}")
        if vm.settings["power"] != "deallocated":
            raise Problem(
                409, "OperationNotAllowed", "The OS disk of a VM is swapped while deallocated only."
            )
        managed = _managed(world, now)
        if managed and now.get("name") != managed.body["name"]:
            raise _not_allowed("osDisk.name")
    places = {disk["lun"]: disk for disk in was.get("dataDisks", [])}
    for disk in profile.get("dataDisks", []):
        if (there := places.get(disk["lun"])) and _place(there) != _place(disk):
            raise _not_allowed("dataDisk.managedDisk.id")  # detached first, attached then
        if there is None and disk.get("createOption") != "Attach":
            raise Problem(400, "InvalidParameter", "Data disks need createOption 'Attach'.")


def _check_unchanged(name: str, was: Json, now: Json, key: str) -> None:
    if str(now.get(key, "")).lower() != str(was.get(key, "")).lower():
        raise _not_allowed(name)


def _not_allowed(name: str) -> Problem:
    return Problem(409, "PropertyChangeNotAllowed", f"Changing property '{name}' is not allowed.")


def _place(entry: Json) -> str:
    managed = (entry.get("managedDisk") or {}).get("id")
    return str(managed or (entry.get("vhd") or {}).get("uri", "")).lower()


def attach_all(world: World, vm: Resource) -> None:
    """Mark everything in the VM's profiles as the VM's."""
    for entry in attached(vm):
        managed = _managed(world, entry)
        if managed:
            managed.body["managedBy"] = vm.id
            managed.properties["diskState"] = "Attached"
        else:
            _vhd(world, entry).leased_by = vm.id
    for reference in vm.properties["networkProfile"]["networkInterfaces"]:
        nic = world.get(reference["id"])
        nic.properties["virtualMachine"] = {"id": vm.id}
    reserve(world, vm)


def release_disks(world: World, vm: Resource) -> None:
    """Let go of all disks of a VM."""
    for entry in attached(vm):
        managed = _managed(world, entry)
        if managed:
            managed.body.pop("managedBy", None)
            managed.properties["diskState"] = "Unattached"
        elif "vhd" in entry:
            _vhd(world, entry).leased_by = ""


def release_nics(world: World, vm: Resource) -> None:
    """Let go of all network interfaces of a VM."""
    for reference in vm.properties["networkProfile"]["networkInterfaces"]:
        nic = world.find(reference["id"])
        if nic:
            nic.properties.pop("virtualMachine", None)


def reserve(world: World, vm: Resource) -> None:
    """Mark the disks of a VM as reserved while it is deallocated, as attached otherwise."""
    state = "Reserved" if vm.settings["power"] == "deallocated" else "Attached"
    for entry in attached(vm):
        disk = _managed(world, entry)
        if disk and disk.properties["diskState"] in {"Attached", "Reserved"}:
            disk.properties["diskState"] = state


def _managed(world: World, entry: Json) -> Resource | None:
    return world.find(str((entry.get("managedDisk") or {}).get("id", "")))


def _vhd(world: World, entry: Json) -> Blob:
    uri = str((entry.get("vhd") or {}).get("uri", ""))
    account, _, rest = uri.removeprefix(f"{world.blob_url}/").partition("/")
    container, _, name = rest.partition("/")
    blob = world.blobs.get((account, container, name))
    if blob is None:
        raise Problem(404, "DiskBlobNotFound", f"Unable to find VHD blob with URI {uri}.")
    return blob
