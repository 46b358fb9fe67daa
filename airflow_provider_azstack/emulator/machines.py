"""
Virtual machines: reading, power, creation by attaching disks, deletion.

Owns the life of VMs; knows neither disk content nor who else may hold a disk.
Invariant: a VM of which anything is refused is not created, and not changed.
"""

import uuid

from airflow_provider_azstack.emulator import operations, resources
from airflow_provider_azstack.emulator.attachments import (
    attach_all,
    attached,
    check_free,
    check_nics,
    check_swap,
    release_disks,
    release_nics,
    reserve,
)
from airflow_provider_azstack.emulator.http import Answer, Call, Json, Problem, json_answer
from airflow_provider_azstack.emulator.offers import SIZES
from airflow_provider_azstack.emulator.state import Resource, World, body

VMS = "Microsoft.Compute/virtualMachines"
EXTENSIONS = "Microsoft.Compute/virtualMachines/extensions"
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
    reserve(world, vm)


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
    check_nics(world, given, path)
    if "availabilitySet" in given:
        world.get(given["availabilitySet"]["id"])  # which must be there
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
        check_swap(world, vm, profile)
        for entry in [profile["osDisk"], *profile.get("dataDisks", [])]:
            check_free(world, entry, vm.id)
        release_disks(world, vm)
        vm.properties["storageProfile"] = {**vm.properties["storageProfile"], **profile}
        attach_all(world, vm)
    vm.body["tags"] = dict(sent.get("tags") or {})
    early = {**vm.body, "properties": {**vm.properties, "provisioningState": "Updating"}}
    return operations.start(
        world, call, "virtualMachines.write", lambda: None, body=early, status=200
    )


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
    release_disks(world, vm)
    release_nics(world, vm)
    for extension in vm.settings.get("extensions", []):
        world.remove(extension)
    world.remove(vm)
