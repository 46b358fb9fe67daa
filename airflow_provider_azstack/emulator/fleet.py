"""
Building what a stack holds: groups, accounts, networks, VMs with disks, and changing it later.

Owns the shapes of a fleet as a portal would create it; knows no requests.
Invariant: what is built here is what the API would have built, ids and references included.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_azstack.emulator import (
    attachments,
    disks,
    machines,
    network,
    resources,
    storage,
    vhd,
)
from airflow_provider_azstack.emulator.guests import GuestDisk
from airflow_provider_azstack.emulator.handles import DiskSpec, EmulatedDisk
from airflow_provider_azstack.emulator.http import Json
from airflow_provider_azstack.emulator.layers import Volume
from airflow_provider_azstack.emulator.state import Blob, Resource, World, body

CONTAINER = "vhds"
# What portals leave behind, and a restore by attaching disks must not send.
_IMAGE = {"publisher": "Debian", "offer": "debian-12", "sku": "12", "version": "latest"}
_OS_PROFILE = {
    "adminUsername": "azureuser",
    "linuxConfiguration": {"disablePasswordAuthentication": True, "provisionVMAgent": True},
    "secrets": [],
    "allowExtensionOperations": True,
    "requireGuestProvisionSignal": True,
}


@dataclass
class EmulatedVm:
    """A VM of the fleet, with the handles of its disks, the OS disk first."""

    id: str
    vm_id: str
    name: str
    group: str
    disks: list[EmulatedDisk] = field(default_factory=list)


class Fleet:
    """Builds and changes what the stack holds."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.vms: dict[str, EmulatedVm] = {}
        self.guests: dict[str, GuestDisk] = {}  # by a disk's source: the image its guest writes

    def add_group(self, name: str) -> str:
        """Create a resource group, unless it is there; return its id."""
        path = f"{self.world.scope}/resourceGroups/{name}"
        found = self.world.find(path)
        return (found or resources.add_group(self.world, name, {})).id

    def add_storage_account(self, name: str, group: str, **meta: Any) -> str:
        """Create a storage account with a container for VHDs; return its id."""
        self.add_group(group)
        account = storage.add_account(self.world, group, name, meta)
        self.world.containers.add((name, CONTAINER))
        return account.id

    def add_vm(
        self,
        name: str,
        group: str,
        disks: Sequence[DiskSpec] = (DiskSpec(),),
        *,
        size: str = "Standard_DS1_v2",
        os_type: str = "Linux",
        power: str = "running",
        tags: dict[str, str] | None = None,
        static_address: str = "",
        public_address: bool = False,
        availability_set: str = "",
        extensions: Sequence[str] = (),
        properties: Json | None = None,
        **top: Any,
    ) -> EmulatedVm:
        """
        Create a VM with its disks and a network interface.

        :param properties: more of the VM's properties, as ``licenseType``.
        :param top: more of the VM's body, as ``plan`` or ``identity``.
        """
        path = f"{self.add_group(group)}/providers/{machines.VMS}/{name}"
        vm = EmulatedVm(path, str(uuid.uuid4()), name, group)
        profile = self._storage_profile(vm, disks, os_type)
        nic = self._add_nic(group, name, static_address, public=public_address)
        given = {**_vm_properties(vm, size, profile, nic.id), **(properties or {})}
        if availability_set:
            given["availabilitySet"] = {"id": self._add_set(group, availability_set)}
        made = body(path, machines.VMS, self.world.location, {"tags": tags}, **top)
        resource = Resource({**made, "properties": given}, settings={"power": power})
        self.world.add(resource)
        attachments.attach_all(self.world, resource)
        for extension in extensions:
            self._add_extension(resource, extension)
        self.vms[path] = vm
        return vm

    def attach(self, vm: EmulatedVm, spec: DiskSpec, lun: int) -> EmulatedDisk:
        """Give a VM one more data disk."""
        disk, entry = self._add_disk(vm, spec, f"data{lun}")
        self._profile(vm).setdefault("dataDisks", []).append({"lun": lun, **entry})
        vm.disks.append(disk)
        attachments.attach_all(self.world, self.world.get(vm.id))
        return disk

    def detach(self, vm: EmulatedVm, lun: int) -> EmulatedDisk:
        """Take a data disk away; the disk itself stays."""
        entry = next(e for e in self._profile(vm)["dataDisks"] if e["lun"] == lun)
        resource = self.world.get(vm.id)
        attachments.release_disks(self.world, resource)
        self._profile(vm)["dataDisks"].remove(entry)
        attachments.attach_all(self.world, resource)
        disk = next(d for d in vm.disks if d.name == entry["name"])
        vm.disks.remove(disk)
        return disk

    def swap(self, vm: EmulatedVm, spec: DiskSpec, lun: int) -> EmulatedDisk:
        """Put another disk where one is."""
        self.detach(vm, lun)
        return self.attach(vm, spec, lun)

    def resize(self, disk: EmulatedDisk, size_bytes: int) -> None:
        """Grow a disk; an unmanaged one may shrink as well."""
        if disk.kind == "managed":
            disks.resize(self.world, self.world.get(disk.source), size_bytes)
        else:
            disks.resize_volume(self.world, disk.volume, size_bytes, str(uuid.uuid4()))
        for vm in self.world.of_type(machines.VMS):
            for entry in attachments.attached(vm):
                if entry["name"] == disk.name:
                    entry["diskSizeGB"] = _gigabytes(size_bytes)

    def delete_vm(self, vm: EmulatedVm, *, with_disks: bool = False) -> None:
        """Delete a VM; its disks stay unless asked for."""
        machines.remove(self.world, self.world.get(vm.id))
        del self.vms[vm.id]
        for disk in vm.disks if with_disks else ():
            found = self.world.find(disk.source)
            if found:
                self.world.remove(found)
            else:
                del self.world.blobs[self._blob_key(disk.source)]

    def rename(self, vm: EmulatedVm, name: str, group: str = "") -> None:
        """Move a VM to another name or group: the same vmId under another id."""
        resource = self.world.get(vm.id)
        self.world.remove(resource)
        del self.vms[vm.id]
        vm.name, vm.group = name, group or vm.group
        vm.id = f"{self.add_group(vm.group)}/providers/{machines.VMS}/{name}"
        resource.body |= {"id": vm.id, "name": name}
        self.world.add(resource)
        for extension in resource.settings.get("extensions", []):
            self.world.remove(extension)
            extension.body["id"] = f"{vm.id}/extensions/{extension.body['name']}"
            self.world.add(extension)
        self.vms[vm.id] = vm
        attachments.attach_all(self.world, resource)

    def set_power(self, vm: EmulatedVm, state: str) -> None:
        """Set a VM's power state: running, stopped, deallocated."""
        machines.set_power(self.world, self.world.get(vm.id), state)

    def power(self, vm: EmulatedVm) -> str:
        """Return a VM's power state."""
        return str(self.world.get(vm.id).settings["power"])

    def _profile(self, vm: EmulatedVm) -> Json:
        profile: Json = self.world.get(vm.id).properties["storageProfile"]
        return profile

    def _storage_profile(self, vm: EmulatedVm, specs: Sequence[DiskSpec], os_type: str) -> Json:
        os_disk, entry = self._add_disk(vm, specs[0], "os", os_type)
        vm.disks.append(os_disk)
        data_disks = []
        for lun, spec in enumerate(specs[1:]):
            disk, data_entry = self._add_disk(vm, spec, f"data{lun}")
            vm.disks.append(disk)
            data_disks.append({"lun": lun, **data_entry, "toBeDetached": False})
        entry = {"osType": os_type, **entry, "caching": "ReadWrite", "createOption": "FromImage"}
        return {"imageReference": dict(_IMAGE), "osDisk": entry, "dataDisks": data_disks}

    def _add_disk(
        self, vm: EmulatedVm, spec: DiskSpec, role: str, os_type: str = ""
    ) -> tuple[EmulatedDisk, Json]:
        name = spec.name or f"{vm.name}-{role}-{uuid.uuid4().hex[:8]}"
        unique_id = str(uuid.uuid4())
        volume = disks.new_volume(self.world, spec.size_bytes, unique_id)
        entry: Json = {
            "name": name,
            "createOption": "Attach",
            "caching": spec.caching,
            "diskSizeGB": _gigabytes(spec.size_bytes),
        }
        if spec.kind == "managed":
            source = self._add_managed(vm.group, name, spec, volume, os_type)
            entry["managedDisk"] = {"storageAccountType": spec.sku, "id": source}
        else:
            source = self._add_blob(vm.group, name, spec, volume)
            entry["vhd"] = {"uri": source}
        disk = EmulatedDisk(spec.kind, name, source, volume)
        if spec.content:
            disk.sync_from(spec.content)
        return disk, entry

    def _add_managed(
        self, group: str, name: str, spec: DiskSpec, volume: Volume, os_type: str
    ) -> str:
        path = f"{self.add_group(group)}/providers/{disks.DISKS}/{name}"
        properties: Json = {"creationData": {"createOption": "Empty"}}
        if os_type:
            creation = {"createOption": "FromImage", "imageReference": {"id": "/images/debian"}}
            properties = {"osType": os_type, "hyperVGeneration": "V1", "creationData": creation}
        sent = {"sku": {"name": spec.sku}, "properties": properties}
        return disks.add_disk(self.world, path, sent, volume).id

    def _add_blob(self, group: str, name: str, spec: DiskSpec, volume: Volume) -> str:
        account = spec.account or "vhdstore"
        if storage.account_named(self.world, account) is None:
            self.add_storage_account(account, group)
        blob = Blob(volume, self.world.etag(), self.world.clock())
        self.world.blobs[account, CONTAINER, f"{name}.vhd"] = blob
        return f"{self.world.blob_url}/{account}/{CONTAINER}/{name}.vhd"

    def _blob_key(self, url: str) -> tuple[str, str, str]:
        account, container, name = url.removeprefix(f"{self.world.blob_url}/").split("/", 2)
        return account, container, name

    def _add_nic(self, group: str, vm: str, address: str, *, public: bool) -> Resource:
        base = f"{self.add_group(group)}/providers"
        subnet = self._add_network(base)
        security = f"{base}/{network.GROUPS}/nsg"
        given: Json = {"subnet": {"id": subnet}}
        if address:
            given |= {"privateIPAddress": address, "privateIPAllocationMethod": "Static"}
        if public:
            address_id = f"{base}/{network.ADDRESSES}/{vm}-ip"
            network.make(self.world, address_id, network.ADDRESSES, {})
            given["publicIPAddress"] = {"id": address_id}
        properties = {
            "ipConfigurations": [{"name": "ipconfig1", "properties": given}],
            "networkSecurityGroup": {"id": security},
        }
        return network.make(
            self.world, f"{base}/{network.NICS}/{vm}-nic", network.NICS, {"properties": properties}
        )

    def _add_network(self, base: str) -> str:
        path = f"{base}/{network.NETWORKS}/net"
        if self.world.find(path) is None:
            subnet = {"name": "default", "properties": {"addressPrefix": "10.0.0.0/20"}}
            space = {"addressPrefixes": ["10.0.0.0/16"]}
            sent = {"properties": {"addressSpace": space, "subnets": [subnet]}}
            network.make(self.world, path, network.NETWORKS, sent)
            rules: Json = {"properties": {"securityRules": []}}
            network.make(self.world, f"{base}/{network.GROUPS}/nsg", network.GROUPS, rules)
        return f"{path}/subnets/default"

    def _add_set(self, group: str, name: str) -> str:
        kind = "Microsoft.Compute/availabilitySets"
        path = f"{self.add_group(group)}/providers/{kind}/{name}"
        made = body(path, kind, self.world.location, {}, sku={"name": "Aligned"})
        made["properties"] = {"platformUpdateDomainCount": 1, "platformFaultDomainCount": 1}
        return self.world.add(Resource(made)).id

    def _add_extension(self, vm: Resource, name: str) -> None:
        path = f"{vm.id}/extensions/{name}"
        made = body(path, machines.EXTENSIONS, self.world.location, {})
        made["properties"] = {
            "publisher": "Microsoft.Azure.Extensions",
            "type": name,
            "typeHandlerVersion": "2.0",
            "autoUpgradeMinorVersion": True,
            "settings": {},
            "provisioningState": "Succeeded",
        }
        extension = self.world.add(Resource(made))
        vm.settings.setdefault("extensions", []).append(extension)


def _vm_properties(vm: EmulatedVm, size: str, profile: Json, nic_id: str) -> Json:
    return {
        "hardwareProfile": {"vmSize": size},
        "provisioningState": "Succeeded",
        "vmId": vm.vm_id,
        "storageProfile": profile,
        "osProfile": {**_OS_PROFILE, "computerName": vm.name},
        "networkProfile": {"networkInterfaces": [{"id": nic_id}]},
    }


def _gigabytes(size_bytes: int) -> int:
    return -(-size_bytes // (1 << 30))


def footer_of(disk: EmulatedDisk) -> bytes:
    """Return the VHD footer behind a disk."""
    return disk.volume.content().read(disk.size_bytes, vhd.FOOTER)
