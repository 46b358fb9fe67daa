"""Whole VMs come back: bit-exact disks, and bodies that differ only where the request says so."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.compound import Rig, keyed, rig
from support.restores import body, digests, disk_at, execute, plan, restore

from airflow_provider_azstack.emulator import DiskSpec, EmulatedVm, Emulator
from airflow_provider_azstack.emulator.guests import GuestDisk
from airflow_provider_azstack.engine.restore.bodies import TAG

pytestmark = pytest.mark.tier2

MIB = 1 << 20
SUBNETS = "providers/Microsoft.Network/virtualNetworks/net/subnets"


@pytest.fixture
def site(emulator: Emulator, tmp_path: Path) -> Iterator[Rig]:
    emulator.add_group("dr")
    with rig(emulator, tmp_path / "repository") as made:
        yield made


def a_vm(emulator: Emulator, name: str = "web01", **more: Any) -> EmulatedVm:
    """A VM with one of everything that a restore has to bring back."""
    vm = emulator.add_vm(
        name,
        "rg",
        [DiskSpec(size_bytes=8 * MIB), DiskSpec(size_bytes=8 * MIB, sku="Premium_LRS")],
        **{
            "static_address": "10.0.1.9",
            "public_address": True,
            "availability_set": "front",
            "extensions": ["hello"],
            "tags": {"role": "web", "owner": "anna"},
            "properties": {"licenseType": "Windows_Server"},
            "plan": {"name": "p", "publisher": "q", "product": "r"},
            "identity": {"type": "SystemAssigned", "principalId": "read-only", "tenantId": "t"},
            **more,
        },
    )
    for number, disk in enumerate(vm.disks):
        disk.write(number * MIB, bytes([65 + number]) * 12288)
    return vm


def expected(vm: EmulatedVm) -> dict[tuple[str, str], str]:
    return {(vm.name, key): disk.sha256() for key, disk in keyed(vm.disks).items()}


def network(emulator: Emulator, group: str) -> None:
    """Give a group a network of its own, as a site for disasters has one."""
    emulator.add_vm(f"other-{group}", group, [DiskSpec(size_bytes=MIB)])


def test_real_guests_come_back_bit_exactly(
    site: Rig, emulator: Emulator, guest_disk: Callable[..., GuestDisk]
) -> None:
    """Managed, unmanaged and several disks, with partition tables and ext4."""
    guests = [guest_disk(f"g{n}", seed=n, size_bytes=48 * MIB) for n in range(3)]
    files = [guest.files() for guest in guests]
    managed = emulator.add_vm(
        "web01",
        "rg",
        [DiskSpec(size_bytes=48 * MIB, content=g.path) for g in guests[:2]],
    )
    unmanaged = emulator.add_vm(
        "legacy", "rg", [DiskSpec("unmanaged", 48 * MIB, content=guests[2].path)]
    )
    site.backup()
    made = restore(
        site,
        vms=["web01", "legacy"],
        mode="alternate",
        resource_group="dr",
        map={"names": {"*": "*-dr"}},
        verify=True,
    )
    assert digests(emulator, made) == expected(managed) | expected(unmanaged)
    saved = site.emulator.world.root / "restored.img"
    disk_at(emulator, made.vms[0].disks[0].id).save(saved)
    again = GuestDisk(saved, 48 * MIB)
    assert again.problems() == ""
    assert again.files() == files[0]


def test_in_place_after_a_loss_everything_is_as_it_was(site: Rig, emulator: Emulator) -> None:
    vm = a_vm(emulator)
    was = copy.deepcopy(body(site, vm.id))
    nic_id = was["properties"]["networkProfile"]["networkInterfaces"][0]["id"]
    nic_was = copy.deepcopy(body(site, nic_id))
    site.backup()
    digest = expected(vm)
    emulator.delete_vm(vm, with_disks=True)
    site.stack.delete(nic_id)
    made = restore(site, vms=["web01"], mode="original", power_on=True, identity=True)
    assert digests(emulator, made) == digest
    assert comparable(body(site, vm.id)) == comparable(was)
    assert comparable(body(site, nic_id)) == comparable(nic_was)
    view = site.stack.get(vm.id, **{"$expand": "instanceView"})
    assert "PowerState/running" in str(view)


# Read-only, of the moment, or not to be sent when disks are attached.
_NEW = {"vmId", "osProfile", "imageReference", "provisioningState", "resourceGuid", "macAddress",
        "etag", "createOption", "resources", "diskSizeGB", "toBeDetached", "storageAccountType",
        "principalId", "tenantId"}  # fmt: skip


def comparable(value: Any) -> Any:
    """Leave out what a stack makes anew, and our tag."""
    if isinstance(value, dict):
        return {k: comparable(v) for k, v in value.items() if k not in _NEW and k != TAG}
    return [comparable(item) for item in value] if isinstance(value, list) else value


def nic_of(rig_: Rig, vm: dict[str, Any]) -> dict[str, Any]:
    reference = vm["properties"]["networkProfile"]["networkInterfaces"][0]
    return body(rig_, reference["id"])


def first_address(rig_: Rig, vm: dict[str, Any]) -> dict[str, Any]:
    found = nic_of(rig_, vm)["properties"]["ipConfigurations"][0]["properties"]
    return dict(found)


# What is asked for -> what the stack says of the restored VM -> what it must be.
CHANGES: list[tuple[str, dict[str, Any], Callable[[Rig, dict[str, Any]], Any], Any]] = [
    ("name", {}, lambda _, vm: vm["name"][:5], "web02"),
    ("location", {}, lambda _, vm: vm["location"], "local"),
    ("group", {}, lambda _, vm: vm["id"].split("/")[4], "dr"),
    ("size kept", {}, lambda _, vm: vm["properties"]["hardwareProfile"]["vmSize"],
     "Standard_DS1_v2"),
    ("size", {"size": "Standard_DS2_v2"},
     lambda _, vm: vm["properties"]["hardwareProfile"]["vmSize"], "Standard_DS2_v2"),
    ("tags", {"tags": {"owner": None, "site": "dr"}},
     lambda _, vm: {k: v for k, v in vm["tags"].items() if k != TAG},
     {"role": "web", "site": "dr"}),
    ("plan", {}, lambda _, vm: vm["plan"], {"name": "p", "publisher": "q", "product": "r"}),
    ("licence", {}, lambda _, vm: vm["properties"]["licenseType"], "Windows_Server"),
    ("no identity", {}, lambda _, vm: vm.get("identity"), None),
    ("no extensions", {}, lambda _, vm: vm.get("resources"), None),
    ("no set", {}, lambda _, vm: vm["properties"].get("availabilitySet"), None),
    ("its set, made anew", {"availability_set": "same"},
     lambda _, vm: vm["properties"]["availabilitySet"]["id"].split("/")[4:],
     ["dr", "providers", "Microsoft.Compute", "availabilitySets", "front"]),
    ("os disk", {}, lambda _, vm: vm["properties"]["storageProfile"]["osDisk"]["osType"], "Linux"),
    ("caching", {}, lambda _, vm: [vm["properties"]["storageProfile"]["osDisk"]["caching"],
     vm["properties"]["storageProfile"]["dataDisks"][0]["caching"]], ["ReadWrite", "None"]),
    ("disk name", {"disks": {"data-0": {"name": "fresh"}}},
     lambda _, vm: vm["properties"]["storageProfile"]["dataDisks"][0]["name"], "fresh"),
    ("SKU kept", {}, lambda rig, vm: body(
        rig, vm["properties"]["storageProfile"]["dataDisks"][0]["managedDisk"]["id"]
    )["sku"]["name"], "Premium_LRS"),
    ("SKU", {"disks": {"data-0": {"sku": "Standard_LRS"}}}, lambda rig, vm: body(
        rig, vm["properties"]["storageProfile"]["dataDisks"][0]["managedDisk"]["id"]
    )["sku"]["name"], "Standard_LRS"),
    ("disk left out", {"disks": {"data-0": {"skip": True}}},
     lambda _, vm: vm["properties"]["storageProfile"]["dataDisks"], []),
    ("dynamic address", {},
     lambda rig, vm: first_address(rig, vm)["privateIPAllocationMethod"], "Dynamic"),
    ("static address", {"nics": {"web01-nic": {"private_address": "10.0.2.7"}}},
     lambda rig, vm: first_address(rig, vm)["privateIPAddress"], "10.0.2.7"),
    ("the same address elsewhere",
     {"nics": {"web01-nic": {"private_address": "same", "subnet": "net/default"}}},
     lambda rig, vm: first_address(rig, vm)["privateIPAddress"], "10.0.1.9"),
    ("subnet kept", {}, lambda rig, vm: first_address(rig, vm)["subnet"]["id"].split("/")[4], "rg"),
    ("subnet", {"nics": {"WEB01-NIC": {"subnet": "dr/net/default"}}},
     lambda rig, vm: first_address(rig, vm)["subnet"]["id"].split("/")[4], "dr"),
    ("no public address", {}, lambda rig, vm: first_address(rig, vm).get("publicIPAddress"), None),
    ("a new public address", {"nics": {"web01-nic": {"public_address": "new"}}},
     lambda rig, vm: first_address(rig, vm)["publicIPAddress"]["id"][-3:], "-ip"),
    ("security group", {},
     lambda rig, vm: nic_of(rig, vm)["properties"]["networkSecurityGroup"]["id"].split("/")[4],
     "rg"),
    ("another security group", {"nics": {"web01-nic": {"security_group": "nsg"}}},
     lambda rig, vm: nic_of(rig, vm)["properties"]["networkSecurityGroup"]["id"].split("/")[4],
     "dr"),
    ("no security group", {"nics": {"web01-nic": {"security_group": "none"}}},
     lambda rig, vm: nic_of(rig, vm)["properties"].get("networkSecurityGroup"), None),
]  # fmt: skip


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One backup for all of the table's restores."""
    path = tmp_path_factory.mktemp("changing")
    with Emulator(path / "stack", tls=False) as emulator:
        a_vm(emulator)
        network(emulator, "dr")
        with rig(emulator, path / "repository") as made:
            made.backup()
            yield made
        assert emulator.crashes == []


@pytest.mark.parametrize(
    ("number", "change", "seen", "must_be"),
    [(number, *row[1:]) for number, row in enumerate(CHANGES)],
    ids=[row[0] for row in CHANGES],
)
def test_what_is_asked_for_is_what_changes(
    changing: Rig,
    number: int,
    change: dict[str, Any],
    seen: Callable[[Rig, dict[str, Any]], Any],
    must_be: Any,
) -> None:
    made = restore(
        changing,
        vms=["web01"],
        mode="alternate",
        resource_group="dr",
        changes={"web01": {"name": f"web02-{number}", **change}},
    )
    assert seen(changing, body(changing, made.vms[0].target)) == must_be


def test_what_runs_code_in_a_guest_comes_only_when_asked_for(site: Rig, emulator: Emulator) -> None:
    a_vm(emulator)
    site.backup()
    asked = {"vms": ["web01"], "mode": "alternate", "resource_group": "dr"}
    left_out = plan(site, **asked)
    assert any("extensions" in remark for remark in left_out.remarks)
    assert any("identity" in remark for remark in left_out.remarks)
    made = restore(site, **asked, extensions=True, identity=True)
    vm = body(site, made.vms[0].target)
    assert [extension["name"] for extension in vm["resources"]] == ["hello"]
    assert vm["identity"] == {"type": "SystemAssigned"}


@pytest.mark.parametrize(("power_on", "state"), [(False, "deallocated"), (True, "running")])
def test_a_vm_runs_only_if_it_shall(
    site: Rig, emulator: Emulator, state: str, *, power_on: bool
) -> None:
    a_vm(emulator)
    site.backup()
    made = restore(site, vms=["web01"], mode="alternate", resource_group="dr", power_on=power_on)
    view = site.stack.get(made.vms[0].target, **{"$expand": "instanceView"})
    assert f"PowerState/{state}" in str(view)


def test_an_existing_public_address_is_taken_over(site: Rig, emulator: Emulator) -> None:
    a_vm(emulator)
    address = f"{emulator.add_group('dr')}/providers/Microsoft.Network/publicIPAddresses/spare"
    site.stack.put(address, {"location": "local", "properties": {}})
    site.backup()
    asked = {"changes": {"web01": {"nics": {"web01-nic": {"public_address": "spare"}}}}}
    made = restore(site, vms=["web01"], mode="alternate", resource_group="dr", **asked)
    assert made.touched == (address,)
    vm = body(site, made.vms[0].target)
    assert first_address(site, vm)["publicIPAddress"]["id"] == address


def test_kinds_of_disks_change_both_ways(site: Rig, emulator: Emulator) -> None:
    managed = a_vm(emulator)
    unmanaged = emulator.add_vm("legacy", "rg", [DiskSpec("unmanaged", 8 * MIB)])
    unmanaged.disks[0].write(4096, b"old" * 4096)
    site.backup()
    for vm, kind in ((managed, "unmanaged"), (unmanaged, "managed")):
        made = restore(
            site,
            vms=[vm.name],
            mode="alternate",
            resource_group="dr",
            disk_kind=kind,
            storage_account="vhdstore",
            verify=True,
        )
        assert digests(emulator, made) == expected(vm)
        assert {disk.kind for disk in made.vms[0].disks} == {kind}


def test_a_stack_that_refuses_uploads_imports_staged_blobs(site: Rig, emulator: Emulator) -> None:
    vm = a_vm(emulator)
    emulator.add_storage_account("staging", "rg")
    site.backup()
    emulator.behaviour.upload = False
    asked = {"vms": ["web01"], "mode": "alternate", "resource_group": "dr"}
    failed = execute(site, plan(site, **asked))
    assert "storage_account" in failed[0].reason
    made = restore(site, **asked, storage_account="staging", verify=True)
    assert digests(emulator, made) == expected(vm)
    assert not [key for key in emulator.world.blobs if key[0] == "staging"]


def test_disks_only_and_attached_to_a_running_vm(site: Rig, emulator: Emulator) -> None:
    vm = a_vm(emulator, size="Standard_DS2_v2")
    site.backup()
    alone = restore(site, vms=["web01"], mode="disks")
    assert digests(emulator, alone) == expected(vm)
    assert alone.touched == ()
    attached = restore(
        site,
        vms=["web01"],
        mode="disks",
        resource_group="dr",
        changes={"web01": {"attach_to": "rg/web01", "disks": {"os": {"skip": True}}}},
    )
    assert attached.touched == (vm.id,)
    profile = body(site, vm.id)["properties"]["storageProfile"]
    places = [entry["managedDisk"]["id"] for entry in profile["dataDisks"]]
    assert places[1:] == [disk.id for disk in attached.vms[0].disks]
    again = execute(site, attached)
    assert again[0].status == "done"
    assert len(body(site, vm.id)["properties"]["storageProfile"]["dataDisks"]) == 2


def test_rules_move_many_vms_at_once(site: Rig, emulator: Emulator) -> None:
    for name in ("web01", "web02"):
        emulator.add_vm(name, "rg-front", [DiskSpec(size_bytes=MIB)])
    network(emulator, "dr-front")
    site.backup()
    made = restore(
        site,
        vms=["web01", "web02"],
        mode="alternate",
        map={
            "resource_groups": {"rg-*": "dr-*"},
            "subnets": {"rg-*/net/*": "dr-*/net/*"},
            "security_groups": {"rg-*/*": "dr-*/*"},
            "sizes": {"Standard_DS1_v2": "Standard_A2"},
        },
    )
    for vm in made.vms:
        found = body(site, vm.target)
        assert found["id"].split("/")[4] == "dr-front"
        assert found["properties"]["hardwareProfile"]["vmSize"] == "Standard_A2"
        assert "/dr-front/" in first_address(site, found)["subnet"]["id"]
        assert "/dr-front/" in str(nic_of(site, found)["properties"]["networkSecurityGroup"])


def test_points_are_chosen_by_time_and_id(site: Rig, emulator: Emulator) -> None:
    vm = a_vm(emulator)
    first = site.point(site.backup()["web01"])
    old = expected(vm)
    vm.disks[0].write(0, b"later" * 1000)
    site.backup()
    for which in ({"at": first.taken_at.isoformat()}, {"point": first.id}):
        group = f"dr{len(which)}{next(iter(which))}"
        emulator.add_group(group)
        made = restore(site, vms=[vm.vm_id], mode="alternate", resource_group=group, **which)
        assert digests(emulator, made) == old
    assert digests(
        emulator, restore(site, vms=[vm.id], mode="alternate", resource_group="dr")
    ) == expected(vm)


def test_what_is_zero_is_never_sent(site: Rig, emulator: Emulator) -> None:
    """A terabyte disk with little on it costs what little costs."""
    vm = emulator.add_vm("big", "rg", [DiskSpec(size_bytes=1023 << 30)])
    for offset in (0, 500 << 30, (1023 << 30) - 4096):
        vm.disks[0].write(offset, b"x" * 4096)
    site.backup()
    emulator.requests.clear()
    made = restore(site, vms=["big"], mode="disks")
    writes = [seen for seen in emulator.requests if seen.method == "PUT" and "md-" in seen.path]
    assert len(writes) == 4  # three pages and the footer
    disk = disk_at(emulator, made.vms[0].disks[0].id)
    assert [disk.read(offset, 1) for offset in (0, 500 << 30, (1023 << 30) - 4096)] == [b"x"] * 3


def test_doing_it_again_changes_nothing(site: Rig, emulator: Emulator) -> None:
    a_vm(emulator)
    site.backup()
    asked = {"vms": ["web01"], "mode": "alternate", "resource_group": "dr"}
    made = restore(site, **asked)
    emulator.requests.clear()
    assert plan(site, **asked).id == made.id
    assert [outcome.status for outcome in execute(site, made)] == ["done"]
    assert not [seen for seen in emulator.requests if seen.method in {"PUT", "DELETE"}]


def test_everything_goes_over_tls(tls_emulator: Emulator, tmp_path: Path) -> None:
    tls_emulator.add_group("dr")
    vm = a_vm(tls_emulator)
    with rig(tls_emulator, tmp_path / "repository") as made:
        made.backup()
        done = restore(made, vms=["web01"], mode="alternate", resource_group="dr", verify=True)
        assert digests(tls_emulator, done) == expected(vm)
