"""VM bodies, shaped as the Resource Manager answers them, into records."""

import copy
from typing import Any

import pytest
from msgspec.structs import replace

from airflow_provider_azstack.engine.machines import (
    GIB,
    BlobFacts,
    NotProtectableError,
    disk_places,
    id_part,
    machine,
    outline,
    resource_type,
)
from airflow_provider_azstack.errors import SourceGone
from airflow_provider_azstack.model import Disk, VirtualMachine, from_json, to_json

pytestmark = pytest.mark.tier1

GROUP = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/RG1"
COMPUTE = f"{GROUP}/providers/Microsoft.Compute"
NETWORK = f"{GROUP}/providers/Microsoft.Network"
KEY = "cb88d9c0-8cae-4d85-8c24-6be195f408e3"

VM: dict[str, Any] = {
    "name": "vm1",
    "id": f"{COMPUTE}/virtualMachines/vm1",
    "type": "Microsoft.Compute/virtualMachines",
    "location": "local",
    "tags": {"tier": "gold"},
    "plan": {"name": "p", "publisher": "q", "product": "r"},
    "identity": {"type": "SystemAssigned"},
    "properties": {
        "vmId": KEY.upper(),
        "provisioningState": "Succeeded",
        "hardwareProfile": {"vmSize": "Standard_DS1_v2"},
        "storageProfile": {
            "osDisk": {
                "osType": "Linux",
                "name": "os1",
                "caching": "ReadWrite",
                "managedDisk": {"id": f"{COMPUTE}/disks/os1"},
                "diskSizeGB": 30,
            },
            "dataDisks": [
                {"lun": 3, "name": "d3", "vhd": {"uri": "https://acc.blob.local.x/vhds/d3.vhd"}},
                {"lun": 0, "name": "d0", "managedDisk": {"id": f"{COMPUTE}/disks/d0"}},
            ],
        },
        "osProfile": {
            "computerName": "vm1",
            "adminUsername": "root",
            "adminPassword": "canary",
            "customData": "canary",
        },
        "networkProfile": {"networkInterfaces": [{"id": f"{NETWORK}/networkInterfaces/nic1"}]},
        "instanceView": {"statuses": [{"code": "PowerState/running"}], "canary": "canary"},
    },
}


def disk_body(name: str, size_gib: int = 30, **properties: Any) -> dict[str, Any]:
    return {
        "id": f"{COMPUTE}/disks/{name}",
        "name": name,
        "type": "Microsoft.Compute/disks",
        "sku": {"name": "Premium_LRS"},
        "properties": {"diskSizeGB": size_gib, "uniqueId": f"unique-{name}", **properties},
    }


class Bodies:
    """A few bodies, by id; the case of ids differs as it does in the Resource Manager."""

    def __init__(self, *bodies: dict[str, Any], blob_bytes: int = 1024**3 + 512) -> None:
        self.bodies = {body["id"].lower(): body for body in bodies}
        self.blob_bytes = blob_bytes

    def body(self, resource_id: str) -> dict[str, Any] | None:
        return self.bodies.get(resource_id.lower())

    def blob(self, url: str) -> BlobFacts:
        return BlobFacts("acc", self.blob_bytes, "2026-01-01")

    def extensions(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        settings = {"settings": {"a": 1}, "protectedSettings": {"k": "canary"}}
        return [{"id": f"{body['id']}/extensions/e", "name": "e", "properties": settings}]


def bodies(**settings: int) -> Bodies:
    nic = {
        "id": f"{NETWORK}/networkInterfaces/NIC1",
        "type": "Microsoft.Network/networkInterfaces",
        "etag": "canary",
        "properties": {
            "networkSecurityGroup": {"id": f"{NETWORK}/networkSecurityGroups/nsg"},
            "ipConfigurations": [
                {"properties": {"publicIPAddress": {"id": f"{NETWORK}/publicIPAddresses/ip"}}}
            ],
        },
    }
    nsg = {
        "id": f"{NETWORK}/networkSecurityGroups/nsg",
        "type": "Microsoft.Network/networkSecurityGroups",
        "properties": {"securityRules": [{"name": "ssh"}], "networkInterfaces": ["canary"]},
    }
    address = {"id": f"{NETWORK}/publicIPAddresses/ip", "properties": {"ipAddress": "1.2.3.4"}}
    return Bodies(disk_body("os1"), disk_body("d0", 4), nic, nsg, address, **settings)


def made(change: Any = None, source: Bodies | None = None, out: str = "") -> VirtualMachine:
    body = copy.deepcopy(VM)
    if change:
        change(body["properties"])
    return machine(body, source or bodies(), lambda disk: disk.key == out)


def test_everything_that_is_needed_to_create_the_vm_again_is_there() -> None:
    vm = made()
    assert (vm.key, vm.name, vm.resource_group, vm.size) == (KEY, "vm1", "RG1", "Standard_DS1_v2")
    assert vm.power_state == "running"
    assert [(d.key, d.kind, d.size_bytes, d.lun) for d in vm.disks] == [
        ("os", "managed", 30 * GIB, None),
        ("data-0", "managed", 4 * GIB, 0),
        ("data-3", "unmanaged", GIB, 3),
    ]
    assert vm.disks[2].storage_account == "acc"
    kinds = {resource_type(resource_id) for resource_id in vm.resources}
    assert kinds == {
        "microsoft.compute/virtualmachines",
        "microsoft.compute/virtualmachines/extensions",
        "microsoft.compute/disks",
        "microsoft.network/networkinterfaces",
        "microsoft.network/networksecuritygroups",
        "microsoft.network/publicipaddresses",
    }
    assert vm.resources[vm.id]["plan"]["name"] == "p"
    assert from_json(VirtualMachine, to_json(vm), "it") == vm


def test_the_outline_is_the_same_vm_without_bodies() -> None:
    """Discovery and snapshots see the same VM; ten thousand need no bodies to be shared out."""
    found = outline(copy.deepcopy(VM), bodies(), lambda disk: disk.key == "data-3")
    assert found.resources == {}
    assert found == replace(made(out="data-3"), resources={})


def test_no_secret_and_nothing_volatile_is_kept() -> None:
    text = to_json(made()).decode()
    assert "canary" not in text
    assert "adminUsername" in text
    assert "securityRules" in text


def test_excluded_disks_are_remembered_as_left_out() -> None:
    vm = made(out="data-3")
    assert [disk.key for disk in vm.disks] == ["os", "data-0"]
    assert [disk.key for disk in vm.excluded] == ["data-3"]
    with pytest.raises(NotProtectableError, match="excludes each"):
        machine(copy.deepcopy(VM), bodies(), lambda _: True)


def replaced_disk(**properties: Any) -> Bodies:
    source = bodies()
    changed = disk_body("d0", **properties)
    source.bodies[changed["id"].lower()] = changed
    return source


@pytest.mark.parametrize(
    ("change", "source", "reason"),
    [
        (lambda p: p.update(virtualMachineScaleSet={"id": "x"}), None, "scale set"),
        (lambda p: p.update(vmId=""), None, "no vmId"),
        (lambda p: p.update(provisioningState="Deleting"), None, "being deleted"),
        (lambda p: p["storageProfile"].pop("osDisk"), None, "no OS disk"),
        (
            lambda p: p["storageProfile"]["osDisk"].update(diffDiskSettings={"option": "Local"}),
            None,
            "ephemeral",
        ),
        (
            lambda p: p["storageProfile"]["dataDisks"][1].pop("managedDisk"),
            None,
            "neither a managed disk nor",
        ),
        (None, replaced_disk(maxShares=2), "shared"),
        (None, replaced_disk(size_gib=1024), "larger than 1023 GiB"),
        (None, bodies(blob_bytes=1024 * GIB + 1024), "larger than 1 TiB"),
    ],
)
def test_what_cannot_be_protected_says_why(change: Any, source: Any, reason: str) -> None:
    with pytest.raises(NotProtectableError, match=reason):
        made(change, source)


def test_ultra_disks_are_not_supported() -> None:
    source = bodies()
    source.bodies[f"{COMPUTE}/disks/d0".lower()]["sku"]["name"] = "UltraSSD_LRS"
    with pytest.raises(NotProtectableError, match="UltraSSD_LRS"):
        made(source=source)


def test_a_disk_that_is_gone_is_named() -> None:
    source = bodies()
    del source.bodies[f"{COMPUTE}/disks/d0".lower()]
    with pytest.raises(SourceGone, match="disks/d0"):
        made(source=source)


def test_a_blob_without_a_footer_keeps_its_whole_size() -> None:
    assert made(source=bodies(blob_bytes=1 << 30)).disks[2].size_bytes == 1 << 30


def test_older_profiles_tell_disks_apart_by_their_creation() -> None:
    def unique(created: str) -> Disk:
        source = bodies()
        properties = source.bodies[f"{COMPUTE}/disks/d0".lower()]["properties"]
        del properties["uniqueId"]
        properties["timeCreated"] = created
        return made(source=source).disks[1]

    assert unique("2026-01-01").unique_id != unique("2026-01-02").unique_id


def test_attaching_and_detaching_changes_the_places_of_disks() -> None:
    after = copy.deepcopy(VM)
    assert disk_places(after) == disk_places(VM)
    after["properties"]["storageProfile"]["dataDisks"].pop()
    assert disk_places(after) != disk_places(VM)


def test_ids_are_read_whatever_their_case() -> None:
    assert id_part(VM["id"].replace("resourceGroups", "resourcegroups"), "resourceGroups") == "RG1"
    assert id_part(VM["id"], "snapshots") == ""
    assert (
        resource_type(f"{VM['id']}/extensions/e") == "microsoft.compute/virtualmachines/extensions"
    )
