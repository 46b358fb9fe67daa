"""What a plan refuses: every bad input at once, a line each, whatever else is wrong."""

from typing import Any

import pytest
from support.compound import Rig
from support.restores import execute, plan

from airflow_provider_azstack.emulator import DiskSpec, Emulator
from airflow_provider_azstack.errors import Refused

pytestmark = pytest.mark.tier2

MIB = 1 << 20
SUBNET = {"subnet": "rg/net/default"}

# What is wrong -> how one VM's part of a request says it -> what the line says.
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "size": ({"size": "Standard_None"}, "no VM size 'Standard_None'"),
    "size for fewer disks": ({"size": "Standard_A1"}, "takes 2 data disks of 3"),
    "subnet missing": ({"nics": {"{}-nic": {"subnet": "net/gone"}}}, "subnets/gone does not exist"),
    "subnet misspelt": ({"nics": {"{}-nic": {"subnet": "gone"}}}, "give its id, network/subnet"),
    "security group": (
        {"nics": {"{}-nic": {"security_group": "gone"}}}, "networkSecurityGroups/gone does not"),
    "address taken": (
        {"nics": {"{}-nic": {**SUBNET, "private_address": "10.0.1.9"}}}, "10.0.1.9 of subnet"),
    "address outside": (
        {"nics": {"{}-nic": {**SUBNET, "private_address": "10.99.0.9"}}}, "10.99.0.9 is no host"),
    "public address missing": (
        {"nics": {"{}-nic": {"public_address": "gone"}}}, "publicIPAddresses/gone does not exist"),
    "public address in use": (
        {"nics": {"{}-nic": {"public_address": "rg/holder-ip"}}}, "holder-ip is in use by"),
    "interface unknown": ({"nics": {"eth9": {}}}, "no interface 'eth9'"),
    "disk unknown": ({"disks": {"data-9": {"skip": True}}}, "no disk 'data-9'"),
    "availability set": ({"availability_set": "gone"}, "availabilitySets/gone does not exist"),
    "group missing": ({"resource_group": "nowhere"}, "resourceGroups/nowhere does not exist"),
    "interface exists": ({"resource_group": "rg"}, "networkInterfaces/{}-nic exists"),
    "disk exists": ({"resource_group": "rg"}, "disks/{}-os"),
    "VM exists": ({"name": "holder", "resource_group": "rg"}, "virtualMachines/holder exists"),
}  # fmt: skip


@pytest.fixture
def site(it: Rig) -> Rig:
    it.emulator.add_group("dr")
    return it


def test_all_bad_inputs_are_refused_at_once_with_a_line_each(site: Rig, emulator: Emulator) -> None:
    """F-R2, F-H10: a VM for each mistake, and what concerns all; nothing has been written."""
    emulator.add_vm(
        "holder", "rg", [DiskSpec(size_bytes=MIB)], static_address="10.0.1.9", public_address=True
    )
    names = {f"vm{number:02d}": what for number, what in enumerate(WRONG)}
    for name in names:
        emulator.add_vm(name, "rg", [DiskSpec(size_bytes=MIB)] * 4, size="Standard_DS2_v2")
    site.backup()
    emulator.behaviour.disk_quota_bytes = 0
    emulator.behaviour.denied = {"Microsoft.Compute/disks/write"}
    changes = {}
    for name, what in names.items():
        change = dict(WRONG[what][0])
        if "nics" in change:
            change["nics"] = {key.format(name): nic for key, nic in change["nics"].items()}
        changes[name] = change
    emulator.requests.clear()
    made = plan(
        site, vms=[*names, "nobody"], mode="alternate", resource_group="dr", changes=changes
    )
    lines = list(made.refusals)
    expected = {what: WRONG[what][1].format(name) for name, what in names.items()} | {
        "unknown VM": "no restore point of a VM 'nobody'",
        "quota": "quota StandardDiskSizeGiB",
        "permission": "permission Microsoft.Compute/disks/write",
    }
    for what, line in expected.items():
        assert [one for one in lines if line in one], (what, lines)
    assert all("\n" not in line for line in lines)
    assert len(lines) == len(set(lines))
    with pytest.raises(Refused, match="the plan is refused"):
        execute(site, made)
    assert not [s for s in emulator.requests if s.method in {"PUT", "DELETE"}]


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"point": "no-such-point"}, "no restore point 'no-such-point'"),
        ({"at": "2001-01-01T00:00:00Z"}, "no restore point up to 2001-01-01"),
        ({"storage_account": "gone", "disk_kind": "unmanaged"}, "no storage account 'gone'"),
    ],
)
def test_a_point_or_account_that_is_not_there_is_refused(
    site: Rig, emulator: Emulator, asked: dict[str, Any], line: str
) -> None:
    emulator.add_vm("web01", "rg", [DiskSpec(size_bytes=MIB)])
    site.backup()
    made = plan(site, vms=["web01"], mode="alternate", resource_group="dr", **asked)
    assert [one for one in made.refusals if line in one], made.refusals


def test_a_vm_that_shall_get_disks_and_is_not_there_is_one_refusal(
    site: Rig, emulator: Emulator
) -> None:
    emulator.add_vm("web01", "rg", [DiskSpec(size_bytes=MIB)])
    site.backup()
    made = plan(site, vms=["web01"], mode="disks", changes={"web01": {"attach_to": "gone"}})
    [line] = made.refusals
    assert "virtualMachines/gone does not exist" in line
