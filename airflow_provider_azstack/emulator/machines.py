"""
Virtual machines: reading, power, creation by attaching disks, deletion.

Owns the life of VMs and what they hold attached; knows no disk content.
Invariant: a disk, a VHD or a NIC belongs to one VM at most.
"""

import uuid
from collections.abc import Iterator

from airflow_provider_azstack.emulator import operations, resources
from airflow_provider_azstack.emulator.http import Answer, Call, Json, Problem, json_answer
from airflow_provider_azstack.emulator.state import Blob, Resource, World, body

VMS = "Microsoft.Compute/virtualMachines"
EXTENSIONS = "Microsoft.Compute/virtualMachines/extensions"
SIZES: dict[str, tuple[int, int, int]] = {  # cores, MiB of memory, most data disks
    "Standard_A1": (1, 1792, 2),
    "Standard_A2": (2, 3584, 4),
    "Standard_D1_v2": (1, 3584, 4),
    "Standard_DS1_v2": (1, 3584, 4),
    "Standard_DS2_v2": (2, 7168, 8),
    "Standard_F4s_v2": (4, 8192, 16),
}
_POWER = {
    "running": "VM running",
    "stopped": "VM stopped",
    "deallocated": "VM deallocated",
    "starting": "VM starting",
    "stopping": "VM stopping",
    "deallocating": "VM deallocating",
}
_VERBS = {
    "start": ("starting", "running"),
    "restart": ("starting", "running"),
    "poweroff": ("stopping", "stopped"),
    "deallocate": ("deallocating", "deallocated"),
}


def vm_sizes(world: World, call: Call) -> Answer:
    """``GET .../locations/{l}/vmSizes``."""
    listed = [
        {
            "name": name,
            "numberOfCores": cores,
            "memoryInMB": memory,
            "maxDataDiskCount": disks,
            "osDiskSizeInMB": 1047552,
            "resourceDiskSizeInMB": 51200,
        }
        for name, (cores, memory, disks) in SIZES.items()
    ]
    return resources.page(world, call, listed)


def skus(world: World, call: Call) -> Answer:
    """``GET .../Microsoft.Compute/skus``."""
    place = {"locations": [world.location], "restrictions": []}
    sizes = [{"resourceType": "virtualMachines", "name": name, **place} for name in SIZES]
    disks = [
        {"resourceType": "disks", "name": name, "tier": name.split("_")[0], **place}
        for name in ("Standard_LRS", "Premium_LRS")
    ]
    return resources.page(world, call, [*sizes, *disks])


def usages(world: World, call: Call) -> Answer:
    """``GET .../locations/{l}/usages``: quotas that a restore can hit."""
    behaviour = world.behaviour
    disks = list(world.of_type("Microsoft.Compute/disks"))
    used = sum(int(disk.properties["diskSizeBytes"]) for disk in disks) >> 30
    snapshots = sum(1 for _ in world.of_type("Microsoft.Compute/snapshots"))
    counted = {
        "StandardDiskSizeGiB": (used, behaviour.disk_quota_bytes >> 30),
        "SnapshotCount": (snapshots, behaviour.snapshot_quota),
        "virtualMachines": (sum(1 for _ in world.of_type(VMS)), 1000),
    }
    listed = [
        {
            "name": {"value": name, "localizedValue": name},
            "currentValue": value,
            "limit": limit,
            "unit": "Count",
        }
        for name, (value, limit) in counted.items()
    ]
    return resources.page(world, call, listed)


def get(world: World, call: Call) -> Answer:
    """``GET`` a VM, with its instance view when asked for."""
    vm = resources.target(world, call, VMS)
    shown = _with_extensions(vm)
    if call.query.get("$expand", "").lower() == "instanceview":
        shown = {**shown, "properties": {**vm.properties, "instanceView": _view(world, vm)}}
    return json_answer(200, shown)


def instance_view(world: World, call: Call) -> Answer:
    """``GET .../instanceView``."""
    return json_answer(200, _view(world, resources.target(world, call, VMS)))


def list_all(world: World, call: Call) -> Answer:
    """``GET`` the VMs of the subscription or of a group; never with instance views."""
    under = f"{resources.group_id(world, call)}/" if "group" in call.params else world.scope
    found = world.of_type(VMS, under)
    return resources.page(world, call, map(_with_extensions, found))


def _with_extensions(vm: Resource) -> Json:
    found = vm.settings.get("extensions")
    return {**vm.body, "resources": [each.body for each in found]} if found else vm.body


def _view(world: World, vm: Resource) -> Json:
    power = vm.settings["power"]
    provisioned = {
        "code": "ProvisioningState/succeeded",
        "level": "Info",
        "displayStatus": "Provisioning succeeded",
        "time": world.now(),
    }
    state = {"code": f"PowerState/{power}", "level": "Info", "displayStatus": _POWER[power]}
    names = [disk["name"] for disk in attached(vm)]
    agent = {"vmAgentVersion": "2.9.1.1", "statuses": [], "extensionHandlers": []}
    return {
        **({"vmAgent": agent, "osName": "debian"} if power == "running" else {}),
        "computerName": vm.body["name"],
        "disks": [{"name": name, "statuses": [provisioned]} for name in names],
        "hyperVGeneration": "V1",
        "statuses": [provisioned, state],
    }


def attached(vm: Resource) -> Iterator[Json]:
    """Yield the entries of a VM's storage profile, the OS disk first."""
    profile = vm.properties["storageProfile"]
    yield profile["osDisk"]
    yield from profile.get("dataDisks", [])


def power(world: World, call: Call) -> Answer:
    """``POST .../start|restart|powerOff|deallocate``."""
    vm = resources.target(world, call, VMS)
    verb = call.path.rstrip("/").rsplit("/", 1)[-1].lower()
    during, after = _VERBS[verb]
    before = vm.settings["power"]
    vm.settings["power"] = during

    def finish() -> None:
        set_power(world, vm, after)

    def fail() -> None:
        vm.settings["power"] = before

    return operations.start(world, call, f"virtualMachines.{verb}", finish, fail=fail)


def set_power(world: World, vm: Resource, state: str) -> None:
    """Set the power state; the disks of a deallocated VM are reserved, not attached."""
    vm.settings["power"] = state
    for entry in attached(vm):
        disk = world.find(str((entry.get("managedDisk") or {}).get("id", "")))
        if disk and disk.properties["diskState"] in {"Attached", "Reserved"}:
            reserved = state == "deallocated"
            disk.properties["diskState"] = "Reserved" if reserved else "Attached"


def put(world: World, call: Call) -> Answer:
    """``PUT`` a VM: create it from disks that are there, or change disks and tags."""
    resources.check_name(call)
    path, sent = resources.resource_id(world, call, VMS), call.json()
    given = sent.get("properties") or {}
    found = world.find(path)
    if found:
        return _update(world, call, found, sent)
    _check_new(given)
    made = body(path, VMS, world.location, sent)
    made |= {name: sent[name] for name in ("plan", "identity", "zones") if name in sent}
    made["properties"] = {**given, "vmId": str(uuid.uuid4()), "provisioningState": "Succeeded"}
    vm = Resource(made, settings={"power": "running"})
    for entry in attached(vm):
        check_free(world, entry, path)
    _check_references(world, given, path)
    world.add(vm)
    attach_all(world, vm)
    early = {**made, "properties": {**made["properties"], "provisioningState": "Creating"}}
    return operations.start(
        world, call, "virtualMachines.write", lambda: None, body=early, status=201
    )


def _check_new(given: Json) -> None:
    size = (given.get("hardwareProfile") or {}).get("vmSize")
    if size not in SIZES:
        raise Problem(400, "InvalidParameter", f"The value {size} of parameter vmSize is invalid.")
    profile = given.get("storageProfile") or {}
    os_disk = profile.get("osDisk") or {}
    if os_disk.get("createOption") != "Attach" or "osType" not in os_disk:
        raise Problem(
            400,
            "InvalidParameter",
            "osDisk needs createOption 'Attach' and an osType: no images here.",
        )
    for name, there in (("osProfile", given), ("imageReference", profile)):
        if there.get(name):
            raise Problem(400, "InvalidParameter", f"Parameter '{name}' is not allowed.")
    data_disks = profile.get("dataDisks") or []
    luns = [disk.get("lun") for disk in data_disks]
    if len(luns) != len(set(luns)) or len(luns) > SIZES[size][2]:
        raise Problem(409, "OperationNotAllowed", "Data disks repeat a lun, or are too many.")
    if any(disk.get("createOption") != "Attach" for disk in data_disks):
        raise Problem(400, "InvalidParameter", "Data disks need createOption 'Attach'.")


def _check_references(world: World, given: Json, path: str) -> None:
    interfaces = (given.get("networkProfile") or {}).get("networkInterfaces") or []
    if not interfaces:
        raise Problem(400, "InvalidParameter", "A VM needs a network interface.")
    for reference in interfaces:
        owner = world.get(reference["id"]).properties.get("virtualMachine", {}).get("id", path)
        if owner.lower() != path.lower():
            raise Problem(
                400, "NicInUse", f"Network interface {reference['id']} is used by {owner}."
            )
    if "availabilitySet" in given:
        world.get(given["availabilitySet"]["id"])


def _update(world: World, call: Call, vm: Resource, sent: Json) -> Answer:
    given = sent.get("properties") or {}
    old_set = vm.properties.get("availabilitySet", {}).get("id", "")
    if given.get("availabilitySet", {}).get("id", old_set).lower() != old_set.lower():
        raise Problem(
            409,
            "PropertyChangeNotAllowed",
            "Changing property 'availabilitySet.id' is not allowed.",
        )
    profile = given.get("storageProfile")
    if profile:
        _check_swap(world, vm, profile)
        for entry in [profile["osDisk"], *profile.get("dataDisks", [])]:
            check_free(world, entry, vm.id)
        release_all(world, vm)
        vm.properties["storageProfile"] = {**vm.properties["storageProfile"], **profile}
        attach_all(world, vm)
    vm.body["tags"] = dict(sent.get("tags") or {})
    early = {**vm.body, "properties": {**vm.properties, "provisioningState": "Updating"}}
    return operations.start(
        world, call, "virtualMachines.write", lambda: None, body=early, status=200
    )


def _check_swap(world: World, vm: Resource, profile: Json) -> None:
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
        managed = world.find(str((now.get("managedDisk") or {}).get("id", "")))
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


def put_extension(world: World, call: Call) -> Answer:
    """``PUT`` an extension of a VM, which must exist."""
    resources.check_name(call)
    path, sent = resources.resource_id(world, call, EXTENSIONS), call.json()
    vm = world.get(path.rpartition("/extensions/")[0])
    given = sent.get("properties") or {}
    for name in ("publisher", "type", "typeHandlerVersion"):
        if not given.get(name):
            raise Problem(400, "InvalidParameter", f"Required parameter '{name}' is missing.")
    made = body(path, EXTENSIONS, world.location, sent)
    kept = {name: value for name, value in given.items() if name != "protectedSettings"}
    made["properties"] = {**kept, "provisioningState": "Succeeded"}
    others = [e for e in vm.settings.get("extensions", []) if e.id.lower() != path.lower()]
    vm.settings["extensions"] = [*others, world.add(Resource(made))]
    return operations.start(
        world, call, "virtualMachines.extensions.write", lambda: None, body=made, status=201
    )


def delete(world: World, call: Call) -> Answer:
    """``DELETE`` a VM; its disks and interfaces stay."""
    vm = world.find(resources.resource_id(world, call, VMS))
    if vm is None:
        return Answer(204)
    return operations.start(world, call, "virtualMachines.delete", lambda: remove(world, vm))


def remove(world: World, vm: Resource) -> None:
    """Delete a VM and let go of what it held."""
    release_all(world, vm)
    for reference in vm.properties["networkProfile"]["networkInterfaces"]:
        nic = world.find(reference["id"])
        if nic:
            nic.properties.pop("virtualMachine", None)
    for extension in vm.settings.get("extensions", []):
        world.remove(extension)
    world.remove(vm)


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
    blob = blob_of(world, entry)
    if blob.leased_by and blob.leased_by.lower() != vm_id.lower():
        raise Problem(409, "AcquireDiskLeaseFailed", "The VHD is leased by another VM.")


def blob_of(world: World, entry: Json) -> Blob:
    """Return the page blob behind an unmanaged disk."""
    uri = str((entry.get("vhd") or {}).get("uri", ""))
    account, _, rest = uri.removeprefix(f"{world.blob_url}/").partition("/")
    container, _, name = rest.partition("/")
    blob = world.blobs.get((account, container, name))
    if blob is None:
        raise Problem(404, "DiskBlobNotFound", f"Unable to find VHD blob with URI {uri}.")
    return blob


def attach_all(world: World, vm: Resource) -> None:
    """Mark everything in the VM's profiles as the VM's."""
    for entry in attached(vm):
        managed = world.find(str((entry.get("managedDisk") or {}).get("id", "")))
        if managed:
            managed.body["managedBy"] = vm.id
            managed.properties["diskState"] = "Attached"
        else:
            blob_of(world, entry).leased_by = vm.id
    for reference in vm.properties["networkProfile"]["networkInterfaces"]:
        nic = world.get(reference["id"])
        nic.properties["virtualMachine"] = {"id": vm.id}
    set_power(world, vm, vm.settings["power"])


def release_all(world: World, vm: Resource) -> None:
    """Let go of all disks of a VM."""
    for entry in attached(vm):
        managed = world.find(str((entry.get("managedDisk") or {}).get("id", "")))
        if managed:
            managed.body.pop("managedBy", None)
            managed.properties["diskState"] = "Unattached"
        elif "vhd" in entry:
            blob_of(world, entry).leased_by = ""
