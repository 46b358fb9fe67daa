"""
What this package asks of every stack, tried on one: the emulator, or a real Azure Stack Hub.

``AZSTACK_CONTRACT=<file>`` names the stack; without it the emulator is tried. The file is JSON with
what the emulator writes into its ``connection.json`` (arm_url, ca_file, tenant_id, client_id,
client_secret, subscription_id), a resource group as ``group``, a storage account with a container
``vhds`` as ``account``, and for older stacks ``profile``. Only the owner may read it. Disks,
snapshots and blobs are made there, and taken away again: docs/stack.md.
"""

import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.stacks import stack_of

from airflow_provider_azstack.arm.client import Credentials, Stack
from airflow_provider_azstack.arm.compute import Compute
from airflow_provider_azstack.arm.network import Network
from airflow_provider_azstack.arm.offered import check_versions
from airflow_provider_azstack.arm.probe import Finding, probe_disks
from airflow_provider_azstack.arm.probe_blobs import blobs_of
from airflow_provider_azstack.arm.storage import Storage
from airflow_provider_azstack.arm.versions import Profile
from airflow_provider_azstack.emulator import Emulator
from airflow_provider_azstack.errors import (
    AccessDenied,
    SourceGone,
    UnsupportedStack,
)
from airflow_provider_azstack.secret import Secret

pytestmark = pytest.mark.tier1

REAL = os.environ.get("AZSTACK_CONTRACT", "")


@dataclass
class Site:
    stack: Stack
    subscription: str
    group: str
    account: str

    @property
    def group_id(self) -> str:
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.group}"


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A signed-in stack; whatever was made there is gone afterwards."""
    if not REAL:
        emulator = request.getfixturevalue("emulator")
        yield from emulated(emulator)
        assert emulator.leftovers() == []
        assert [key for key in emulator.world.blobs if "probe" in key[2]] == []
        return
    given = json.loads(Path(REAL).read_text())
    credentials = Credentials(
        given.get("tenant_id", ""), given["client_id"], Secret(given["client_secret"])
    )
    profile = given.get("profile", "2020-09-01-hybrid")
    arm = given["arm_url"]
    with Stack(arm, credentials, ca_bundle=given.get("ca_file"), profile=profile) as stack:
        yield Site(stack, given["subscription_id"], given["group"], given.get("account", ""))


def emulated(emulator: Emulator) -> Iterator[Site]:
    emulator.add_group("scratch")
    emulator.add_storage_account("staging", "scratch")
    with stack_of(emulator) as stack:
        yield Site(stack, emulator.subscription_id, "scratch", "staging")


def probed(site: Site) -> list[Finding]:
    if not site.account:
        return list(probe_disks(site.stack, site.group_id))
    blobs = blobs_of(site.stack, site.subscription, site.account)
    return [*probe_disks(site.stack, site.group_id, blobs.staging()), *blobs.probe()]


def test_the_stack_lists_the_versions_that_we_use(site: Site) -> None:
    assert len(check_versions(site.stack, site.subscription)) == 3


def test_everything_that_discovery_reads_is_read(site: Site) -> None:
    compute, network, storage = Compute(site.stack), Network(site.stack), Storage(site.stack)
    base = f"/subscriptions/{site.subscription}"
    for read in (
        compute.vms,
        compute.disks,
        compute.snapshots,
        network.nics,
        storage.accounts,
        lambda _: site.stack.list(f"{base}/providers/Microsoft.Network/virtualNetworks"),
        lambda _: site.stack.list(f"{base}/providers/Microsoft.Network/publicIPAddresses"),
        lambda _: site.stack.list(f"{base}/providers/Microsoft.Network/networkSecurityGroups"),
    ):
        for body in read(site.subscription):
            assert str(body["id"]).lower().startswith(base.lower())


def test_what_is_not_there_is_told_from_what_is_refused(site: Site) -> None:
    absent = f"{site.group_id}/providers/Microsoft.Compute/disks/azstack-probe-{uuid.uuid4().hex}"
    assert site.stack.find(absent) is None
    with pytest.raises(SourceGone):
        site.stack.get(absent)
    Compute(site.stack).delete_disk(absent)
    Compute(site.stack).delete_snapshot(absent.replace("/disks/", "/snapshots/"))


def test_a_version_that_the_stack_lacks_is_told(site: Site) -> None:
    known = site.stack.profile
    newer = {**known.types, "microsoft.compute/disks": "2099-01-01"}
    site.stack.profile = Profile(newer, known.blob)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedStack, match="2099-01-01"):
        check_versions(site.stack, site.subscription)
    with pytest.raises(UnsupportedStack):
        list(Compute(site.stack).disks(site.subscription))


def test_a_wrong_secret_is_told(site: Site) -> None:
    wrong = Credentials(
        site.stack._credentials.tenant_id, site.stack._credentials.client_id, Secret("wrong")
    )
    arm = site.stack._endpoint
    with (
        Stack(arm, wrong, ca_bundle=site.stack.ca_bundle) as stack,
        pytest.raises(AccessDenied, match="client id and secret"),
    ):
        next(stack.subscriptions(), None)


def test_disks_and_blobs_do_what_backups_and_restores_ask_of_them(site: Site) -> None:
    """What the stack does in another way is printed (``-s``); only what fails them fails here."""
    findings = probed(site)
    for finding in findings:
        print(f"{finding.verdict:8} {finding.question}: {finding.finding}")  # noqa: T201
    assert [finding for finding in findings if finding.verdict == "failed"] == []
    assert len(findings) >= (5 if not site.account else 10)
