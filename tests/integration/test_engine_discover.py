"""Discovery on the emulator: what is selected, what is refused, and how little is asked."""

import re
from collections.abc import Iterator

import msgspec
import pytest
from support.compound import connect

from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.emulator import DiskSpec, Emulator
from airflow_provider_azstack.engine.backup.discover import Inventory, discover
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.policy import Policy, Selection, load_policy, read_trigger
from airflow_provider_azstack.secret import Secret

pytestmark = pytest.mark.tier2

MIB = 1 << 20
ALL = Policy(name="all")


@pytest.fixture
def stack(emulator: Emulator) -> Iterator[Stack]:
    with connect(emulator) as made:
        yield made


@pytest.fixture
def fleet(emulator: Emulator) -> None:
    small = DiskSpec(size_bytes=MIB)
    old = DiskSpec(kind="unmanaged", size_bytes=MIB, account="legacy")
    emulator.add_storage_account("legacy", "prod")
    emulator.add_vm("web-1", "prod", [small], tags={"Tier": "gold"})
    emulator.add_vm("web-2", "prod", [small, small], tags={"Tier": "silver"})
    emulator.add_vm("db-1", "data", [small, old], tags={"tier": "gold"})
    emulator.add_vm("set-1", "data", [small])
    scale_set = {"id": "/subscriptions/x/resourceGroups/data/providers/x/virtualMachineScaleSets/s"}
    emulator.world.get(emulator.vms[next(v for v in emulator.vms if v.endswith("set-1"))].id).body[
        "properties"
    ]["virtualMachineScaleSet"] = scale_set


def names(inventory: Inventory) -> list[str]:
    return sorted(vm.name for vm in inventory.vms)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, ["db-1", "web-1", "web-2"]),
        ({"selection": {"vms": ["WEB-*"]}}, ["web-1", "web-2"]),
        ({"selection": {"resource_groups": ["Data"]}}, ["db-1"]),
        ({"selection": {"tags": {"tier": "gold"}}}, ["db-1", "web-1"]),
        ({"exclude": {"vms": ["web-*", "set-*"]}}, ["db-1"]),
    ],
)
@pytest.mark.usefixtures("fleet")
def test_what_a_policy_selects(
    stack: Stack, policy: dict[str, object], expected: list[str]
) -> None:
    assert names(discover(stack, load_policy({"name": "p", **policy}))) == expected


@pytest.mark.usefixtures("fleet")
def test_a_scale_sets_instance_is_reported_with_its_reason(stack: Stack) -> None:
    (vm,) = discover(stack, ALL).unprotected
    assert vm.name == "set-1"
    assert "scale set" in vm.reason


@pytest.mark.usefixtures("fleet")
def test_an_account_that_may_not_be_used_makes_its_vm_unprotected(
    emulator: Emulator, stack: Stack
) -> None:
    """The role for unmanaged disks is an option: without it the VM is reported, not the run red."""
    emulator.behaviour.denied.add("Microsoft.Storage/storageAccounts/listKeys/action")
    inventory = discover(stack, ALL)
    assert names(inventory) == ["web-1", "web-2"]
    reasons = {vm.name: vm.reason for vm in inventory.unprotected}
    assert "may not be read" in reasons["db-1"]
    assert "sig=" not in reasons["db-1"]


@pytest.mark.usefixtures("fleet")
def test_an_account_whose_key_is_in_the_connection_needs_no_role(emulator: Emulator) -> None:
    emulator.behaviour.denied.add("Microsoft.Storage/storageAccounts/listKeys/action")
    account = next(r for r in emulator.world.resources.values() if r.id.endswith("/legacy"))
    keys = {"legacy": Secret(account.settings["keys"][0])}
    with connect(emulator, account_keys=keys) as stack:
        assert names(discover(stack, ALL)) == ["db-1", "web-1", "web-2"]


@pytest.mark.usefixtures("fleet")
def test_single_disks_are_left_out(stack: Stack) -> None:
    policy = load_policy({"name": "p", "exclude": {"disks": ["web-2/data-0", "db-1/os"]}})
    found = {vm.name: vm for vm in discover(stack, policy).vms}
    assert [disk.key for disk in found["web-2"].disks] == ["os"]
    assert [disk.key for disk in found["db-1"].disks] == ["data-0"]
    assert [disk.key for disk in found["db-1"].excluded] == ["os"]


@pytest.mark.usefixtures("fleet")
def test_a_trigger_narrows_and_a_name_it_gets_wrong_is_an_error(stack: Stack) -> None:
    assert names(discover(stack, ALL, read_trigger({"vms": ["web-1"]}))) == ["web-1"]
    assert names(discover(stack, ALL, read_trigger({"tags": {"tier": "gold"}}))) == [
        "db-1",
        "web-1",
    ]
    with pytest.raises(ConfigurationError, match="'web-9'"):
        discover(stack, ALL, read_trigger({"vms": ["web-1", "web-9"]}))
    with pytest.raises(ConfigurationError, match="'dat'"):
        discover(stack, ALL, read_trigger({"resource_groups": ["dat"]}))
    prod = msgspec.structs.replace(ALL, selection=Selection(resource_groups=("prod",)))
    with pytest.raises(ConfigurationError, match="'db-1'"):
        discover(stack, prod, read_trigger({"vms": ["db-1"]}))


@pytest.mark.usefixtures("fleet")
def test_a_policy_that_selects_nothing_is_an_error(stack: Stack) -> None:
    """F-A9: nothing to do is right only when the policy says so and its places are really there."""
    typo = Policy(name="p", selection=Selection(resource_groups=("prdo",)))
    with pytest.raises(ConfigurationError, match=r"none of the 4 VMs.*may_be_empty"):
        discover(stack, typo)
    with pytest.raises(ConfigurationError, match="no resource group 'prdo'"):
        discover(stack, msgspec.structs.replace(typo, may_be_empty=True))
    nobody = Selection(resource_groups=("prod",), tags={"tier": "none"})
    empty = Policy(name="p", selection=nobody, may_be_empty=True)
    assert discover(stack, empty) == ((), ())


def test_a_stack_without_vms_is_an_error_too(stack: Stack) -> None:
    """F-A9: a list is also empty when a role is missing."""
    with pytest.raises(ConfigurationError, match="none of the 0 VMs"):
        discover(stack, ALL)


def test_a_subscription_that_is_not_visible_is_named(stack: Stack) -> None:
    unknown = "00000000-0000-0000-0000-0000000000ff"
    with pytest.raises(ConfigurationError, match=unknown):
        discover(stack, Policy(name="p", selection=Selection(subscriptions=(unknown,))))


@pytest.mark.usefixtures("fleet")
def test_a_missing_group_for_snapshots_is_said_before_anything_is_made(
    emulator: Emulator, stack: Stack
) -> None:
    policy = Policy(name="p", snapshot_resource_group="backup-snapshots")
    with pytest.raises(ConfigurationError, match="no resource group 'backup-snapshots'"):
        discover(stack, policy)
    emulator.add_group("backup-snapshots")
    assert len(discover(stack, policy).vms) == 3


def test_requests_grow_with_pages_and_not_with_vms(emulator: Emulator, stack: Stack) -> None:
    """Discovery asks for lists, never for a VM or a disk, and for nothing else that VMs have."""
    for number in range(120):
        emulator.add_vm(f"vm-{number:03d}", "prod", [DiskSpec(size_bytes=MIB)])
    emulator.requests.clear()
    assert len(discover(stack, ALL).vms) == 120
    asked = [seen.path for seen in emulator.requests]
    assert len(asked) < 20
    assert not [path for path in asked if re.search(r"/(virtualMachines|disks)/|Network", path)]
