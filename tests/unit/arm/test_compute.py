from pathlib import Path

import pytest
from support.stacks import snapshot_id, stack_of

from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.arm.compute import Compute, power_state
from airflow_provider_azstack.arm.network import Network
from airflow_provider_azstack.emulator import DiskSpec, Emulator
from airflow_provider_azstack.errors import (
    AccessDenied,
    InvalidName,
    Refused,
    SourceGone,
    UnsupportedStack,
)

pytestmark = pytest.mark.tier1

TAGS = {"azstack-backup-run": "run-1"}


def test_lists_are_read_to_the_last_page(tmp_path: Path) -> None:
    """nextLink is followed: a VM on page three is not forgotten."""
    with Emulator(tmp_path, tls=False, page_size=2) as emulator:
        ids = {emulator.add_vm(f"vm{n}", f"group{n % 2}").id for n in range(5)}
        with stack_of(emulator) as stack:
            compute, network = Compute(stack), Network(stack)
            assert {vm["id"] for vm in compute.vms(emulator.subscription_id)} == ids
            assert len(list(compute.disks(emulator.subscription_id))) == 5
            assert len(list(network.nics(emulator.subscription_id))) == 5


def test_creating_a_snapshot_again_returns_the_one_that_is_there(emulator: Emulator) -> None:
    """Get-or-create: a task that is tried again, or runs twice, has one snapshot."""
    disk = emulator.add_vm("vm", "group").disks[0]
    path = snapshot_id(disk.source)
    with stack_of(emulator) as stack:
        compute = Compute(stack)
        first = compute.create_snapshot(path, disk.source, emulator.location, TAGS)
        disk.write(0, b"x" * 4096)
        again = compute.create_snapshot(path, disk.source.upper(), emulator.location, TAGS)
    assert again["properties"]["timeCreated"] == first["properties"]["timeCreated"]
    assert again["properties"]["incremental"] is False
    assert again["tags"] == TAGS
    assert len([r for r in emulator.requests if r.method == "PUT"]) == 1


def test_a_lost_answer_makes_no_second_snapshot(emulator: Emulator) -> None:
    """F-C8's half of this layer: the request arrived, its answer did not: found by its name."""
    disk = emulator.add_vm("vm", "group").disks[0]
    lost = emulator.faults.lose_answer("PUT", "/snapshots/")
    with stack_of(emulator, sleep=lambda _: None) as stack:
        Compute(stack).create_snapshot(
            snapshot_id(disk.source), disk.source, emulator.location, TAGS
        )
    assert lost.struck == 1
    assert len(emulator.leftovers()) == 1


@pytest.mark.parametrize("difference", ["source", "tags"])
def test_a_snapshot_of_somebody_else_is_never_taken_for_ours(
    emulator: Emulator, difference: str
) -> None:
    one, two = emulator.add_vm("vm", "group", [DiskSpec(), DiskSpec()]).disks
    path = snapshot_id(one.source)
    with stack_of(emulator) as stack:
        compute = Compute(stack)
        compute.create_snapshot(path, one.source, emulator.location, TAGS)
        source = two.source if difference == "source" else one.source
        tags = {"azstack-backup-run": "run-2"} if difference == "tags" else TAGS
        with pytest.raises(Refused, match="left alone"):
            compute.create_snapshot(path, source, emulator.location, tags)


@pytest.mark.parametrize("place", ["both", "operation", "location"])
def test_access_is_found_wherever_the_stack_says_it(emulator: Emulator, place: str) -> None:
    """The signed URL is in the operation's output or behind Location: either will do."""
    emulator.behaviour.sas_in = place  # type: ignore[assignment]
    disk = emulator.add_vm("vm", "group").disks[0]
    told: list[str] = []
    with stack_of(emulator, clock=lambda: 77.0, on_secret=told.append) as stack:
        compute = Compute(stack)
        path = snapshot_id(disk.source)
        compute.create_snapshot(path, disk.source, emulator.location, TAGS)
        grant = compute.grant_read(path, 600)
    assert "sig=" in grant.url.reveal()
    assert grant.url.reveal() in told
    assert "sig" not in repr(grant)
    assert (grant.granted_at, grant.duration_seconds) == (77.0, 600)


def test_access_without_a_url_is_an_error(emulator: Emulator) -> None:
    disk = emulator.add_vm("vm", "group").disks[0]
    emulator.faults.answer("POST", "/beginGetAccess", 200, body=b"{}")
    with stack_of(emulator) as stack, pytest.raises(UnsupportedStack, match="accessSAS"):
        Compute(stack).grant_read(disk.source, 600)


def test_stopping_and_starting(emulator: Emulator) -> None:
    vm = emulator.add_vm("vm", "group")
    with stack_of(emulator) as stack:
        compute = Compute(stack)
        states = [power_state(compute.vm(vm.id, instance_view=True))]
        compute.deallocate(vm.id)
        states.append(power_state(compute.vm(vm.id, instance_view=True)))
        compute.start(vm.id)
        states.append(power_state(compute.vm(vm.id, instance_view=True)))
        assert states == ["running", "deallocated", "running"]
        assert power_state(compute.vm(vm.id)) == ""


def test_unknown_fields_survive(emulator: Emulator) -> None:
    """A backup of metadata keeps what no model of any SDK knows."""
    vm = emulator.add_vm("vm", "group", fieldOfTomorrow={"a": [1, None]})
    with stack_of(emulator) as stack:
        assert Compute(stack).vm(vm.id)["fieldOfTomorrow"] == {"a": [1, None]}


def test_what_is_not_there_is_gone(emulator: Emulator) -> None:
    gone = snapshot_id(emulator.add_vm("vm", "group").disks[0].source, "never")
    with stack_of(emulator) as stack:
        compute = Compute(stack)
        with pytest.raises(SourceGone, match="snapshots/never"):
            stack.get(gone)
        compute.delete_snapshot(gone)
        compute.revoke(gone)


def test_a_missing_permission_is_named(emulator: Emulator) -> None:
    emulator.behaviour.denied.add("Microsoft.Compute/snapshots/write")
    disk = emulator.add_vm("vm", "group").disks[0]
    with stack_of(emulator) as stack, pytest.raises(AccessDenied, match="role assignments"):
        Compute(stack).create_snapshot(
            snapshot_id(disk.source), disk.source, emulator.location, TAGS
        )


@pytest.mark.parametrize(
    "path",
    [
        "",
        "subscriptions",
        "//elsewhere.example/subscriptions",
        "/subscriptions/../x",
        "/subscriptions/%2e%2e/x",
        "/subscriptions/x?api-version=1",
        "/subscriptions/x#y",
        "/subscriptions/x\n",
        "/subscriptions/x\\y",
        "/subscriptions/./x",
        "https://elsewhere.example/x",
    ],
)
def test_a_path_that_could_lead_elsewhere_is_refused(stack: Stack, path: str) -> None:
    """Ids come from manifests and answers: none of them may leave the stack or its resource."""
    with pytest.raises(InvalidName):
        stack.get(path)


@pytest.fixture
def stack(emulator: Emulator) -> Stack:
    return stack_of(emulator)


def test_what_may_not_be_listed_for_a_subscription_is_listed_by_groups(
    emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    """Roles on groups: all that they show is found, and the log says that it is not all."""
    ids = {emulator.add_vm(f"vm{n}", f"group{n}").id for n in range(3)}
    emulator.behaviour.roles_on_groups = True
    with stack_of(emulator) as stack:
        compute, network = Compute(stack), Network(stack)
        assert {vm["id"] for vm in compute.vms(emulator.subscription_id)} == ids
        assert len(list(network.nics(emulator.subscription_id))) == 3
        assert "only resource groups that may be read" in caplog.text
        emulator.behaviour.denied = {"Microsoft.Compute/virtualMachines/read"}
        with pytest.raises(AccessDenied, match="virtualMachines/read"):
            list(compute.vms(emulator.subscription_id))
