"""Resource Manager: versions, paging, shapes, long operations, machines and networks."""

import time
from pathlib import Path

import pytest
from support.stack_client import COMPUTE, DISKS, NETWORK, RESOURCES, STORAGE, StackClient

from airflow_provider_azstack.emulator import DiskSpec, Emulator

pytestmark = pytest.mark.tier1

VMS = "Microsoft.Compute/virtualMachines"


@pytest.mark.parametrize(
    ("path", "version"),
    [
        ("~/providers/Microsoft.Compute/virtualMachines", "2019-07-02"),
        ("~/providers/Microsoft.Compute/disks", "2020-06-01"),  # a VM's version, not a disk's
        ("~/providers/Microsoft.Network/networkInterfaces", "2023-05-01"),
        ("~/providers/Microsoft.Storage/storageAccounts", "2023-01-01"),
    ],
)
def test_unknown_versions_are_refused_by_name(client: StackClient, path: str, version: str) -> None:
    """The error lists the versions that the stack knows for that type."""
    answer = client.arm("GET", path, version)
    error = answer.json()["error"]
    assert (answer.status, error["code"]) == (400, "NoRegisteredProviderFound")
    supported = error["message"].split("The supported api-versions are '")[1].split("'")[0]
    assert client.arm("GET", path, supported.split(", ")[-1]).status == 200


def test_a_version_is_required(client: StackClient) -> None:
    """A path without api-version is refused."""
    answer = client.arm("GET", f"{client.emulator.arm_url}/subscriptions", "")
    assert answer.json()["error"]["code"] == "MissingApiVersionParameter"


def test_providers_tell_the_versions(client: StackClient) -> None:
    """What the provider lists is what the calls take."""
    told = client.get("~/providers/microsoft.compute", RESOURCES)
    versions = {entry["resourceType"]: entry["apiVersions"] for entry in told["resourceTypes"]}
    assert DISKS in versions["disks"]
    assert versions["virtualMachines"][0] == COMPUTE


def test_lists_come_in_pages(tmp_path: Path) -> None:
    """Following nextLink gives every VM once, in a stable order."""
    with Emulator(tmp_path, tls=False, page_size=3) as emulator:
        client = StackClient(emulator)
        for number in range(8):
            emulator.add_vm(f"vm{number}", "prod", [DiskSpec(size_bytes=1 << 20)])
        page = client.get(f"~/providers/{VMS}")
        names = [vm["name"] for vm in page["value"]]
        while "nextLink" in page:
            assert len(page["value"]) == 3
            page = client.arm("GET", page["nextLink"], "").json()
            names += [vm["name"] for vm in page["value"]]
        assert names == [f"vm{number}" for number in range(8)]
        client.close()


def test_a_vm_has_the_recorded_shape(emulator: Emulator, client: StackClient) -> None:
    """Power state only with the instance view; extensions beside; ids in any case."""
    vm = emulator.add_vm(
        "web01",
        "prod",
        [DiskSpec(), DiskSpec(), DiskSpec("unmanaged", account="store")],
        tags={"tier": "web"},
        extensions=["CustomScript"],
        plan={"name": "p"},
        public_address=True,
        availability_set="web",
    )
    shown = client.get(vm.id.upper())
    assert shown["id"] == vm.id
    assert shown["properties"]["vmId"] == vm.vm_id
    assert "instanceView" not in shown["properties"]
    profile = shown["properties"]["storageProfile"]
    assert profile["osDisk"]["osType"] == "Linux"
    assert [disk["lun"] for disk in profile["dataDisks"]] == [0, 1]
    assert profile["dataDisks"][1]["vhd"]["uri"] == vm.disks[2].source
    assert "managedDisk" not in profile["dataDisks"][1]
    assert shown["resources"][0]["type"] == f"{VMS}/extensions"
    assert shown["plan"] == {"name": "p"}
    view = client.get(vm.id, COMPUTE, **{"$expand": "instanceView"})["properties"]["instanceView"]
    assert view["statuses"][1]["code"] == "PowerState/running"
    nic = client.get(shown["properties"]["networkProfile"]["networkInterfaces"][0]["id"], NETWORK)
    assert nic["properties"]["virtualMachine"]["id"] == vm.id
    configuration = nic["properties"]["ipConfigurations"][0]["properties"]
    assert client.get(configuration["publicIPAddress"]["id"], NETWORK)["sku"]
    assert client.get(configuration["subnet"]["id"], NETWORK)["properties"]["addressPrefix"]
    assert client.get(nic["properties"]["networkSecurityGroup"]["id"], NETWORK)
    assert client.get(shown["properties"]["availabilitySet"]["id"])["sku"]["name"] == "Aligned"
    disk = client.get(vm.disks[0].source, DISKS)
    assert (disk["managedBy"], disk["properties"]["diskState"]) == (vm.id, "Attached")
    old = client.get(vm.disks[0].source, "2017-03-30")
    assert "uniqueId" not in old["properties"]


def test_what_is_not_there_is_404(client: StackClient) -> None:
    """Resource, group and subscription each say so."""
    client.emulator.add_group("prod")
    path = f"~/resourceGroups/prod/providers/{VMS}/none"
    assert client.arm("GET", path, COMPUTE).json()["error"]["code"] == "ResourceNotFound"
    path = f"~/resourceGroups/none/providers/{VMS}"
    assert client.arm("GET", path, COMPUTE).json()["error"]["code"] == "ResourceGroupNotFound"
    path = "/subscriptions/other/resourceGroups"
    assert client.arm("GET", path, RESOURCES).json()["error"]["code"] == "SubscriptionNotFound"


def test_long_operations_take_their_time(tmp_path: Path) -> None:
    """202, InProgress until the clock says so, then the result in both places."""
    now = time.time()
    with Emulator(tmp_path, tls=False, clock=lambda: now, operation_seconds=30) as emulator:
        client = StackClient(emulator)
        vm = emulator.add_vm("web01", "prod")
        answer = client.snapshot(vm.disks[0].source, "s1")
        assert (answer.status, answer.json()["properties"]["provisioningState"]) == (
            202,
            "Updating",
        )
        assert client.poll(answer)["status"] == "InProgress"
        assert client.arm("GET", answer.headers["Location"], "").status == 202
        now += 30
        done = client.poll(answer)
        assert (done["status"], done["properties"]["output"]["name"]) == ("Succeeded", "s1")
        assert client.arm("GET", answer.headers["Location"], "").json()["name"] == "s1"
        client.close()


@pytest.mark.parametrize(
    ("verb", "during", "after"),
    [
        ("deallocate", "deallocating", "deallocated"),
        ("powerOff", "stopping", "stopped"),
        ("start", "starting", "running"),
    ],
)
def test_power(tmp_path: Path, verb: str, during: str, after: str) -> None:
    """The instance view follows; the disks of a deallocated VM are reserved."""
    now = time.time()
    with Emulator(tmp_path, tls=False, clock=lambda: now, operation_seconds=5) as emulator:
        client = StackClient(emulator)
        vm = emulator.add_vm("web01", "prod")
        assert client.arm("POST", f"{vm.id}/{verb}", COMPUTE).status == 202
        assert emulator.power(vm) == during
        now += 5
        view = client.get(f"{vm.id}/instanceView")
        assert view["statuses"][1]["code"] == f"PowerState/{after}"
        state = client.get(vm.disks[0].source, DISKS)["properties"]["diskState"]
        assert state == ("Reserved" if after == "deallocated" else "Attached")
        client.close()


def test_a_vm_is_created_from_disks_and_a_nic(emulator: Emulator, client: StackClient) -> None:
    """The way of a restore: disks and NIC first, then the VM; what is in use is refused."""
    vm = emulator.add_vm("old", "prod", [DiskSpec(size_bytes=1 << 30)])
    group = vm.id.rpartition("/providers/")[0]
    disk = f"{group}/providers/Microsoft.Compute/disks/copy"
    creation = {"createOption": "Copy", "sourceResourceId": vm.disks[0].source}
    body = {"location": "local", "properties": {"creationData": creation}}
    assert client.arm("PUT", disk, DISKS, body).status == 202
    subnet = f"{group}/providers/Microsoft.Network/virtualNetworks/net/subnets/default"
    nic = f"{group}/providers/Microsoft.Network/networkInterfaces/new-nic"
    static = {"privateIPAllocationMethod": "Static", "privateIPAddress": "10.0.2.2"}
    given = {"name": "ip", "properties": {"subnet": {"id": subnet}, **static}}
    made = client.arm("PUT", nic, NETWORK, {"properties": {"ipConfigurations": [given]}})
    assert made.status == 201
    assert made.json()["properties"]["macAddress"]
    profile = {"osDisk": {"name": "copy", "createOption": "Attach", "managedDisk": {"id": disk}}}
    wanted = {
        "hardwareProfile": {"vmSize": "Standard_DS1_v2"},
        "storageProfile": profile,
        "networkProfile": {"networkInterfaces": [{"id": nic}]},
    }
    path = f"{group}/providers/{VMS}/new"
    body = {"location": "local", "properties": wanted}
    assert client.arm("PUT", path, COMPUTE, body).status == 400  # osType is missing
    profile["osDisk"]["osType"] = "Linux"
    wanted["osProfile"] = {"computerName": "new"}
    assert b"osProfile" in client.arm("PUT", path, COMPUTE, body).data
    del wanted["osProfile"]
    assert client.arm("PUT", path, COMPUTE, body).status == 201
    assert client.get(disk, DISKS)["managedBy"] == path
    again = client.arm("PUT", f"{path}2", COMPUTE, body)
    assert again.json()["error"]["code"] == "ConflictingUserInput"
    wanted_set = {**wanted, "availabilitySet": {"id": "/other"}}
    changed = client.arm("PUT", path, COMPUTE, {"location": "local", "properties": wanted_set})
    assert changed.json()["error"]["code"] == "PropertyChangeNotAllowed"
    assert client.arm("DELETE", path, COMPUTE).status == 202
    assert "managedBy" not in client.get(disk, DISKS)


@pytest.mark.parametrize(
    ("address", "code"),
    [("10.0.1.1", "PrivateIPAddressInUse"), ("172.16.0.1", "PrivateIPAddressNotInSubnet")],
)
def test_addresses_are_checked(client: StackClient, address: str, code: str) -> None:
    """A static address must be in the subnet and free."""
    vm = client.emulator.add_vm("web01", "prod", static_address="10.0.1.1")
    base = f"{vm.id.rpartition('/Microsoft.Compute/')[0]}/Microsoft.Network"
    properties = {
        "subnet": {"id": f"{base}/virtualNetworks/net/subnets/default"},
        "privateIPAllocationMethod": "Static",
        "privateIPAddress": address,
    }
    body = {"properties": {"ipConfigurations": [{"name": "ip", "properties": properties}]}}
    answer = client.arm("PUT", f"{base}/networkInterfaces/new", NETWORK, body)
    assert answer.json()["error"]["code"] == code


def test_the_world_changes(emulator: Emulator, client: StackClient) -> None:
    """Resize, attach, detach, swap, rename and delete show in the VM's body."""
    vm = emulator.add_vm("web01", "prod", [DiskSpec(), DiskSpec()])
    emulator.resize(vm.disks[1], 2 << 30)
    assert client.get(vm.disks[1].source, DISKS)["properties"]["diskSizeBytes"] == 2 << 30
    first = vm.disks[1]
    swapped = emulator.swap(vm, DiskSpec("unmanaged"), 0)
    emulator.attach(vm, DiskSpec(), 5)
    profile = client.get(vm.id)["properties"]["storageProfile"]
    assert [disk["lun"] for disk in profile["dataDisks"]] == [0, 5]
    assert profile["dataDisks"][0]["vhd"]["uri"] == swapped.source
    assert client.get(first.source, DISKS)["properties"]["diskState"] == "Unattached"
    old = vm.id
    emulator.rename(vm, "web02", "other")
    assert client.get(vm.id)["properties"]["vmId"] == vm.vm_id
    assert client.arm("GET", old, COMPUTE).status == 404
    emulator.delete_vm(vm, with_disks=True)
    assert client.arm("GET", vm.id, COMPUTE).status == 404
    assert emulator.world.blobs == {}


def test_storage_keys_and_sizes_are_told(emulator: Emulator, client: StackClient) -> None:
    """Accounts with endpoints, keys only by listKeys, sizes, SKUs, usages, permissions."""
    account = emulator.add_storage_account("store", "prod")
    shown = client.get(account, STORAGE)
    assert shown["properties"]["primaryEndpoints"]["blob"] == f"{emulator.blob_url}/store/"
    assert "key" not in str(shown).lower()
    assert len(client.key(account)) == 64
    location = "~/providers/Microsoft.Compute/locations/local"
    assert client.get(f"{location}/vmSizes")["value"][0]["maxDataDiskCount"] == 2
    assert {u["name"]["value"] for u in client.get(f"{location}/usages")["value"]} >= {
        "SnapshotCount"
    }
    assert client.get("~/providers/Microsoft.Compute/skus", "2019-04-01")["value"]
    path = "~/providers/Microsoft.Authorization/permissions"
    assert client.get(path, "2015-07-01")["value"][0]["actions"] == ["*"]
    listed = client.get("~/resourceGroups/PROD/resources", RESOURCES)["value"]
    assert [entry["type"] for entry in listed] == ["Microsoft.Storage/storageAccounts"]


def test_the_log_remembers_no_query(client: StackClient) -> None:
    """Method, path, versions, and whether a token was sent; signatures are not kept."""
    client.get("/subscriptions", "2016-06-01")
    seen = client.emulator.requests[-1]
    assert seen == ("GET", "/subscriptions", "2016-06-01", "", True, 200)
    assert not any("?" in entry.path for entry in client.emulator.requests)
