"""Modified metadata: what is asked for changes, and nothing else does."""

from collections.abc import Iterator
from typing import Any

import pytest
from support.compound import Rig, rig
from support.restores import body, restore

from airflow_provider_azstack.emulator import DiskSpec, Emulator
from airflow_provider_azstack.engine.restore.bodies import TAG
from airflow_provider_azstack.engine.restore.request import Change, DiskChange, NicChange

pytestmark = pytest.mark.tier2

MIB = 1 << 20
# Made anew by the stack, or of the moment.
_NEW = {"vmId", "uniqueId", "timeCreated", "etag", "resourceGuid", "macAddress", "diskState", TAG}

# What is asked for -> the only places that differ from a restore that asks for nothing.
ITEMS: dict[str, tuple[dict[str, Any], dict[str, Any], set[str]]] = {
    "size": ({"size": "Standard_F4s_v2"}, {}, {"vm.properties.hardwareProfile.vmSize"}),
    "tags": ({"tags": {"site": "dr", "owner": None}}, {}, {"vm.tags.site", "vm.tags.owner"}),
    "availability set": (
        {"availability_set": "same"}, {}, {"vm.properties.availabilitySet.id"}),
    "disk name": (
        {"disks": {"data-0": {"name": "fresh"}}}, {},
        {"vm.properties.storageProfile.dataDisks.0.name", "disk-1.id", "disk-1.name",
         "vm.properties.storageProfile.dataDisks.0.managedDisk.id"}),
    "SKU": (
        {"disks": {"data-0": {"sku": "Standard_LRS"}}}, {},
        {"disk-1.sku.name", "disk-1.sku.tier"}),
    "skip": (
        {"disks": {"data-0": {"skip": True}}}, {},
        {"vm.properties.storageProfile.dataDisks", "disk-1"}),
    "subnet": (
        {"nics": {"web01-nic": {"subnet": "dr/net/default"}}}, {},
        {"nic.properties.ipConfigurations.0.properties.subnet.id"}),
    "security group": (
        {"nics": {"web01-nic": {"security_group": "dr/nsg"}}}, {},
        {"nic.properties.networkSecurityGroup.id"}),
    "no security group": (
        {"nics": {"web01-nic": {"security_group": "none"}}}, {},
        {"nic.properties.networkSecurityGroup.id"}),
    "static address": (
        {"nics": {"web01-nic": {"private_address": "10.0.2.7"}}}, {},
        {"nic.properties.ipConfigurations.0.properties.privateIPAllocationMethod",
         "nic.properties.ipConfigurations.0.properties.privateIPAddress"}),
    "public address": (
        {"nics": {"web01-nic": {"public_address": "new"}}}, {},
        {"nic.properties.ipConfigurations.0.properties.publicIPAddress.id"}),
    "identity": ({}, {"identity": True}, {"vm.identity.type"}),
    "extensions": ({}, {"extensions": True}, {"vm.resources"}),
    "power": ({"power_on": True}, {}, {"power"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A VM with one of everything, backed up once."""
    path = tmp_path_factory.mktemp("metadata")
    with Emulator(path / "stack", tls=False) as emulator:
        emulator.add_vm(
            "web01",
            "rg",
            [DiskSpec(size_bytes=MIB), DiskSpec(size_bytes=MIB, sku="Premium_LRS")],
            size="Standard_DS2_v2",
            static_address="10.0.1.9",
            public_address=True,
            availability_set="front",
            extensions=["hello"],
            tags={"role": "web", "owner": "anna"},
            properties={"licenseType": "Windows_Server"},
            plan={"name": "p", "publisher": "q", "product": "r"},
            identity={"type": "SystemAssigned", "principalId": "read-only", "tenantId": "t"},
        )
        emulator.add_vm("other", "dr", [DiskSpec(size_bytes=MIB)])
        with rig(emulator, path / "repository") as made:
            made.backup()
            yield made


def restored(site: Rig, name: str, change: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Return everything that the stack says of a restored VM, flat, with its name left out."""
    made = restore(
        site,
        vms=["web01"],
        mode="alternate",
        resource_group="dr",
        changes={"web01": {"name": name, **change}},
        **asked,
    )
    vm = body(site, made.vms[0].target)
    nic = body(site, vm["properties"]["networkProfile"]["networkInterfaces"][0]["id"])
    facts: dict[str, Any] = {"vm": vm, "nic": nic}
    facts["power"] = site.emulator.world.get(vm["id"]).settings["power"]
    for disk in made.vms[0].disks:
        facts[f"disk-{0 if disk.key == 'os' else 1}"] = body(site, disk.id)
    return dict(flat(facts, "", name))


def flat(value: Any, path: str, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        is_dynamic = value.get("privateIPAllocationMethod") == "Dynamic"
        for key, inner in value.items():
            if key not in _NEW and not (is_dynamic and key == "privateIPAddress"):
                yield from flat(inner, f"{path}.{key}", name)
    elif isinstance(value, list) and value:
        for number, inner in enumerate(value):
            yield from flat(inner, f"{path}.{number}", name)
    else:
        yield path[1:], value.replace(name, "VM") if isinstance(value, str) else value


@pytest.fixture(scope="module")
def plain(site: Rig) -> dict[str, Any]:
    return restored(site, "plain00", {}, {})


@pytest.mark.parametrize("number", range(len(ITEMS)), ids=list(ITEMS))
def test_an_item_changes_and_nothing_else(site: Rig, plain: dict[str, Any], number: int) -> None:
    """Every item of a request's changes, against a restore that asks for none."""
    change, asked, expected = list(ITEMS.values())[number]
    found = restored(site, f"vm{number:05d}", change, asked)
    different = {key for key in plain.keys() | found.keys() if plain.get(key) != found.get(key)}
    for key in different:
        assert any(f"{key}.".startswith(f"{place}.") for place in expected), (key, found.get(key))
    for place in expected:
        assert any(f"{key}.".startswith(f"{place}.") for key in different), place


def test_every_item_of_a_change_is_in_the_table() -> None:
    """A new item needs a row: except names and places, which each restore has, and attaching."""
    asked = [change for change, _, _ in ITEMS.values()]
    seen = {key for change in asked for key in change}
    assert seen == set(Change.__struct_fields__) - {"name", "resource_group", "attach_to"}
    nics = {key for change in asked for nic in change.get("nics", {}).values() for key in nic}
    assert nics == set(NicChange.__struct_fields__)
    disks = {key for change in asked for disk in change.get("disks", {}).values() for key in disk}
    assert disks == set(DiskChange.__struct_fields__)
