import pytest
from support.stacks import granting, snapshot_id, stack_of

from airflow_provider_azstack.arm.blobs import BlobDisk
from airflow_provider_azstack.arm.compute import Compute
from airflow_provider_azstack.arm.network import Network
from airflow_provider_azstack.arm.offered import check_versions
from airflow_provider_azstack.arm.storage import Storage
from airflow_provider_azstack.arm.versions import (
    PROFILES,
    api_version,
    profile_named,
    resource_type,
)
from airflow_provider_azstack.emulator import DiskSpec, Emulator, versions
from airflow_provider_azstack.errors import ConfigurationError, UnsupportedStack

pytestmark = pytest.mark.tier1

# Written down again, from the design's table: the package's own table must not vouch for itself.
EXPECTED = {
    "2020-09-01-hybrid": {
        "/virtualmachines": "2020-06-01",
        "/disks": "2019-07-01",
        "/snapshots": "2019-07-01",
        "/diskoperations": "2019-07-01",
        "/locations/": "2020-06-01",
        "/networkinterfaces": "2018-11-01",
        "/publicipaddresses": "2018-11-01",
        "/virtualnetworks": "2018-11-01",
        "/networksecuritygroups": "2018-11-01",
        "/storageaccounts": "2019-06-01",
        "/providers/microsoft.compute": "2019-10-01",
        "/subscriptions": "2016-06-01",
        "/metadata/endpoints": "2015-01-01",
        "blob": "2019-07-07",
    },
    "2019-03-01-hybrid": {
        "/virtualmachines": "2017-12-01",
        "/disks": "2017-03-30",
        "/snapshots": "2017-03-30",
        "/diskoperations": "2017-03-30",
        "/locations/": "2017-12-01",
        "/networkinterfaces": "2017-10-01",
        "/publicipaddresses": "2017-10-01",
        "/virtualnetworks": "2017-10-01",
        "/networksecuritygroups": "2017-10-01",
        "/storageaccounts": "2017-10-01",
        "/providers/microsoft.compute": "2018-05-01",
        "/subscriptions": "2016-06-01",
        "/metadata/endpoints": "2015-01-01",
        "blob": "2017-11-09",
    },
}


def expected_version(path: str, table: dict[str, str]) -> str:
    kinds = ("/diskoperations", "/snapshots", "/virtualmachines", "/disks", "/locations/")
    for kind in (*kinds, *table):
        if kind in path.lower():
            return table[kind]
    raise AssertionError(f"a request to {path}, which this test knows no version for")


def do_everything(emulator: Emulator, profile: str) -> None:
    """Send every kind of request that the package can send to a stack."""
    vm = emulator.add_vm("vm", "group", [DiskSpec(), DiskSpec(kind="unmanaged")], extensions=["e"])
    managed, unmanaged = vm.disks
    subscription = emulator.subscription_id
    with stack_of(emulator, profile=profile) as stack:
        compute, network, storage = Compute(stack), Network(stack), Storage(stack)
        list(stack.subscriptions())
        check_versions(stack, subscription)
        for listing in (compute.vms, compute.disks, compute.snapshots, storage.accounts):
            list(listing(subscription))
        list(network.nics(subscription))
        for kind in ("publicIPAddresses", "virtualNetworks", "networkSecurityGroups"):
            list(stack.list(f"/subscriptions/{subscription}/providers/Microsoft.Network/{kind}"))
        compute.vm(vm.id, instance_view=True)
        compute.extensions(vm.id)
        stack.get(managed.source)
        first, second = (snapshot_id(managed.source, name) for name in ("first", "second"))
        for snapshot in (first, second):
            compute.create_snapshot(snapshot, managed.source, emulator.location, {"a": "b"})
        grants = {"previous_grant": granting(compute, first), "blob_version": stack.profile.blob}
        with BlobDisk(granting(compute, second), **grants) as disk:
            disk.read_into(0, memoryview(bytearray(4096)))
            disk.allocated(0, disk.size_bytes)
            if profile == "2020-09-01-hybrid":  # older blob services know no such header
                disk.changed(0, disk.size_bytes)
        for snapshot in (first, second):
            compute.delete_snapshot(snapshot)
        compute.deallocate(vm.id)
        compute.start(vm.id)
        (account,) = (a["id"] for a in storage.accounts(subscription))
        storage.properties(account, unmanaged.source)
        taken = storage.snapshot_blob(account, unmanaged.source, {"a": "b"})
        storage.delete_blob_snapshot(account, unmanaged.source, taken)
        storage.close()


@pytest.mark.parametrize("profile", PROFILES)
def test_every_request_names_the_version_that_the_profile_has_for_it(
    emulator: Emulator, profile: str
) -> None:
    """A stack refuses anything newer, and VMs and disks differ: each request has its own."""
    do_everything(emulator, profile)
    table = EXPECTED[profile]
    seen = [r for r in emulator.requests if "/oauth2" not in r.path and "openid" not in r.path]
    arm = [r for r in seen if r.api_version]
    blob = [r for r in seen if not r.api_version]
    assert len(arm) > 30
    assert len(blob) > 6
    assert [r for r in arm if r.api_version != expected_version(r.path, table)] == []
    assert {r.ms_version for r in blob} == {table["blob"]}
    assert [r for r in seen if r.status == 400] == []


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/subscriptions", "microsoft.resources/subscriptions"),
        ("/subscriptions/s", "microsoft.resources/subscriptions"),
        ("/tenants", "microsoft.resources/tenants"),
        ("/subscriptions/s/resourceGroups/g", "microsoft.resources/resources"),
        ("/subscriptions/s/providers/Microsoft.Compute", "microsoft.resources/resources"),
        ("/subscriptions/s/providers/Microsoft.Compute/disks", "microsoft.compute/disks"),
        (
            "/subscriptions/s/resourceGroups/providers/providers/Microsoft.Network/networkInterfaces/n",
            "microsoft.network/networkinterfaces",
        ),
        (
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/v/extensions",
            "microsoft.compute/virtualmachines",
        ),
    ],
)
def test_a_path_tells_its_resource_type(path: str, kind: str) -> None:
    assert resource_type(path) == kind


def test_an_unknown_type_is_refused_before_it_is_sent() -> None:
    with pytest.raises(UnsupportedStack, match=r"microsoft\.web/sites"):
        api_version(
            "/subscriptions/s/providers/Microsoft.Web/sites", profile_named("2020-09-01-hybrid")
        )


def test_an_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="2020-09-01-hybrid, 2019-03-01-hybrid"):
        profile_named("latest")


def test_a_stack_without_our_versions_is_refused_by_name(emulator: Emulator) -> None:
    """The versions that the stack has are named, so that the reader knows which profile to take."""
    body = (
        b'{"resourceTypes": [{"resourceType": "virtualMachines", "apiVersions": ["2015-06-15"]}]}'
    )
    emulator.faults.answer("GET", r"/providers/Microsoft\.Compute\?", 200, body=body)
    with stack_of(emulator) as stack, pytest.raises(UnsupportedStack, match="it has 2015-06-15"):
        check_versions(stack, emulator.subscription_id)


@pytest.mark.parametrize(
    ("disks", "advice"),
    [
        (("2019-03-01", "2017-03-30"), "API profile to 2019-03-01-hybrid"),
        (("2019-03-01",), "none of our API profiles fits it"),
    ],
)
def test_the_profile_that_fits_a_stack_is_named(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, disks: tuple[str, ...], advice: str
) -> None:
    """Build 2008 has most of the newer profile, and no 2019-07-01 of disks."""
    for kind in ("disks", "snapshots"):
        monkeypatch.setitem(versions.SUPPORTED, f"Microsoft.Compute/{kind}", disks)
    with stack_of(emulator) as stack, pytest.raises(UnsupportedStack, match=advice):
        check_versions(stack, emulator.subscription_id)


def test_a_version_that_the_stack_refuses_is_named(emulator: Emulator) -> None:
    """The stack's own list of versions is in the message."""
    table = dict(PROFILES["2020-09-01-hybrid"].types) | {"microsoft.compute": "2026-03-02"}
    with stack_of(emulator) as stack:
        stack.profile = stack.profile._replace(types=table)
        with pytest.raises(UnsupportedStack, match="2020-06-01"):
            list(Compute(stack).vms(emulator.subscription_id))
