"""Writing disks: what was acknowledged is there, and nothing of another's is written or deleted."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from support.restores import disk_at
from support.stacks import stack_of
from support.virtual_clock import VirtualClock

from airflow_provider_azstack.arm.checksums import MD5_EVERY
from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.arm.compute import Compute
from airflow_provider_azstack.arm.disk_writer import MAX_WRITE_BYTES, DiskWriter
from airflow_provider_azstack.arm.storage import BlobProperties, Storage
from airflow_provider_azstack.arm.vhd import build_footer
from airflow_provider_azstack.emulator import DiskSpec, Emulator
from airflow_provider_azstack.emulator.faults import Fault
from airflow_provider_azstack.emulator.http import Problem
from airflow_provider_azstack.errors import (
    AccessDenied,
    ConfigurationError,
    IntegrityError,
    Refused,
    SourceBusy,
    SourceChanged,
    SourceGone,
    Throttled,
    UnsupportedStack,
)

pytestmark = pytest.mark.tier1

MIB = 1 << 20
MARK = {"azstack_restore": "plan"}


@pytest.fixture
def stack(emulator: Emulator) -> Iterator[Stack]:
    with stack_of(emulator) as made:
        yield made


def upload(emulator: Emulator, stack: Stack, name: str = "new") -> str:
    """Create a disk that waits for its upload; return its id."""
    disk = f"{emulator.add_group('rg')}/providers/Microsoft.Compute/disks/{name}"
    creation = {"createOption": "Upload", "uploadSizeBytes": 8 * MIB + 512}
    Compute(stack).create_disk(
        disk, {"location": "local", "properties": {"creationData": creation}}
    )
    return disk


def writer(stack: Stack, disk: str, **more: Any) -> DiskWriter:
    return DiskWriter(lambda: Compute(stack).grant_write(disk, 600), **more)


def test_what_was_written_is_there_once_access_has_ended(emulator: Emulator, stack: Stack) -> None:
    disk = upload(emulator, stack)
    with writer(stack, disk) as pages:
        pages.write(4096, b"a" * 8192)
        pages.write(4 * MIB, memoryview(b"b" * MAX_WRITE_BYTES))
        pages.write(8 * MIB, build_footer(8 * MIB, uuid4(), datetime.now(UTC)))
    state = stack.get(disk)["properties"]["diskState"]
    Compute(stack).revoke(disk)
    assert (state, stack.get(disk)["properties"]["diskState"]) == ("ActiveUpload", "Unattached")
    there = disk_at(emulator, disk)
    assert there.read(0, 16384) == bytes(4096) + b"a" * 8192 + bytes(4096)
    assert there.read(4 * MIB, 4 * MIB) == b"b" * MAX_WRITE_BYTES


def test_a_disk_whose_access_knows_no_checksums_is_written_without(
    emulator: Emulator, stack: Stack
) -> None:
    emulator.behaviour.disk_checksums = False
    disk = upload(emulator, stack)
    with writer(stack, disk) as pages:
        for number in range(MD5_EVERY + 1):
            pages.write(number * 4096, b"%04d" % number * 1024)
    there = disk_at(emulator, disk)
    assert there.read(0, 4096) == b"0000" * 1024
    assert there.read(MD5_EVERY * 4096, 4096) == b"%04d" % MD5_EVERY * 1024
    assert [r.status for r in emulator.requests if r.ms_version].count(400) == 1


def test_bytes_that_arrive_damaged_are_sent_again(emulator: Emulator, stack: Stack) -> None:
    """Md5Mismatch is about this one try: again; and when it stays so, an error that is retried."""
    disk = upload(emulator, stack)
    damage = Problem(400, "Md5Mismatch", "The MD5 value specified did not match.")
    emulator.faults.add(Fault("PUT", "comp=page", instead=lambda _: damage.as_xml(), times=2))
    with writer(stack, disk) as pages:
        pages.write(0, b"x" * 4096)
        assert disk_at(emulator, disk).read(0, 4096) == b"x" * 4096
        emulator.faults.add(Fault("PUT", "comp=page", instead=lambda _: damage.as_xml(), times=99))
        with pytest.raises(IntegrityError, match="other bytes than were sent"):
            pages.write(4096, b"y" * 4096)


@pytest.mark.parametrize(
    ("offset", "length"), [(512, 4096), (0, 0), (0, MAX_WRITE_BYTES + 4096), (-4096, 4095)]
)
def test_what_is_no_pages_is_not_sent(
    emulator: Emulator, stack: Stack, offset: int, length: int
) -> None:
    disk = upload(emulator, stack)
    with writer(stack, disk) as pages, pytest.raises(ValueError, match="no pages"):
        pages.write(offset, bytes(length))
    assert disk_at(emulator, disk).read(0, 4096) == bytes(4096)


def test_writes_that_are_throttled_for_ever_end_within_their_budget(
    emulator: Emulator, stack: Stack
) -> None:
    """F-N5: obeys, and gives up in time; the clock proves that it waits."""
    disk = upload(emulator, stack)
    emulator.faults.throttle("comp=page", retry_after="30", times=10_000)
    clock = VirtualClock()
    with (
        writer(stack, disk, clock=clock, sleep=clock.sleep, retry_budget_seconds=600) as pages,
        pytest.raises(Throttled),
    ):
        pages.write(0, b"x" * 4096)
    assert 5 <= len(clock.slept) <= 25
    assert sum(clock.slept) <= 600


def test_a_second_access_is_refused_and_does_not_end_the_first(
    emulator: Emulator, stack: Stack
) -> None:
    disk = upload(emulator, stack)
    with writer(stack, disk) as pages:
        pages.write(0, b"x" * 4096)
        with pytest.raises(SourceBusy):
            Compute(stack).grant_write(disk, 600)
        pages.write(4096, b"y" * 4096)
    assert stack.get(disk)["properties"]["diskState"] == "ActiveUpload"


def test_access_that_has_ended_is_denied(emulator: Emulator, stack: Stack) -> None:
    disk = upload(emulator, stack)
    grant = Compute(stack).grant_write(disk, 600)
    emulator.expire_grants()
    with DiskWriter(lambda: grant) as pages, pytest.raises(AccessDenied):
        pages.write(0, b"x" * 4096)


def test_half_a_disk_is_not_finished_but_may_be_deleted(emulator: Emulator, stack: Stack) -> None:
    """A stack looks for the footer when access ends, and says InvalidVhd."""
    disk = upload(emulator, stack)
    with writer(stack, disk) as pages:
        pages.write(0, b"x" * 4096)
    with pytest.raises(ConfigurationError, match="InvalidVhd"):
        Compute(stack).revoke(disk)
    with writer(stack, disk) as pages:
        pages.write(0, b"y" * 4096)
    Compute(stack).delete_disk(disk)
    assert stack.find(disk) is None


def test_a_refused_upload_is_told_from_a_full_quota(emulator: Emulator, stack: Stack) -> None:
    emulator.behaviour.upload = False
    with pytest.raises(UnsupportedStack, match="Upload"):
        upload(emulator, stack)
    emulator.behaviour.upload = True
    emulator.behaviour.disk_quota_bytes = MIB
    with pytest.raises(ConfigurationError, match="quota") as caught:
        upload(emulator, stack)
    assert not isinstance(caught.value, UnsupportedStack)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, "BadRequest", "Could not find member 'uploadSizeBytes' on object of type."),
        (409, "OperationNotAllowed", "Direct upload is not supported here."),
        (501, "NotImplemented", "The requested operation is not implemented."),
    ],
)
def test_a_refused_upload_is_told_whatever_a_stack_says_it_with(
    emulator: Emulator, stack: Stack, status: int, code: str, message: str
) -> None:
    """No page says how: told as what it is, so that the disk is staged instead."""
    refusal = json.dumps({"error": {"code": code, "message": message}}).encode()
    emulator.faults.answer("PUT", "/disks/", status, body=refusal)
    with pytest.raises(UnsupportedStack):
        upload(emulator, stack)


def test_an_upload_that_is_refused_only_at_the_end_is_told(
    emulator: Emulator, stack: Stack
) -> None:
    emulator.faults.end_operation("disks.write", "Failed", code="FeatureNotSupported")
    with pytest.raises(UnsupportedStack, match="FeatureNotSupported"):
        upload(emulator, stack)


def test_older_versions_of_disks_know_no_uploads(emulator: Emulator) -> None:
    with (
        stack_of(emulator, profile="2019-03-01-hybrid") as older,
        pytest.raises(UnsupportedStack, match="uploadSizeBytes"),
    ):
        upload(emulator, older)


def test_a_deleted_disk_loses_its_access_first(emulator: Emulator, stack: Stack) -> None:
    disk = upload(emulator, stack)
    Compute(stack).grant_write(disk, 600)
    Compute(stack).delete_disk(disk)
    Compute(stack).delete_disk(disk)
    assert stack.find(disk) is None
    assert emulator.leftovers() == []


@pytest.fixture
def blob(emulator: Emulator, stack: Stack) -> Iterator[tuple[Storage, str, str]]:
    """A storage account: its client, its id, and the URL of a container."""
    emulator.add_storage_account("vhds1", "rg")
    storage = Storage(stack)
    (account,) = storage.accounts(emulator.subscription_id)
    yield storage, account["id"], f"{emulator.blob_url}/vhds1/vhds"
    storage.close()


def test_a_page_blob_is_created_once_and_never_over_another(
    emulator: Emulator, blob: tuple[Storage, str, str]
) -> None:
    storage, account, container = blob
    url = f"{container}/new.vhd"
    storage.create_page_blob(account, url, 8 * MIB + 512, MARK)
    with DiskWriter(lambda: storage.grant_write(account, url, 600)) as pages:
        pages.write(0, b"x" * 4096)
    storage.create_page_blob(account, url, 8 * MIB + 512, MARK)
    with pytest.raises(Refused):
        storage.create_page_blob(account, url, 8 * MIB + 512, {"azstack_restore": "other"})
    assert disk_at(emulator, url).read(0, 4096) == b"x" * 4096
    with pytest.raises(SourceGone):
        storage.create_page_blob(account, f"{container}-none/new.vhd", MIB + 512, MARK)


def test_only_what_we_made_is_deleted(emulator: Emulator, blob: tuple[Storage, str, str]) -> None:
    storage, account, container = blob
    vm = emulator.add_vm("vm", "rg", [DiskSpec("unmanaged", MIB, account="vhds1")])
    with pytest.raises(Refused):
        storage.delete_page_blob(account, vm.disks[0].source, MARK)
    storage.create_page_blob(account, f"{container}/new.vhd", MIB + 512, MARK)
    storage.delete_page_blob(account, f"{container}/new.vhd", MARK)
    storage.delete_page_blob(account, f"{container}/new.vhd", MARK)
    assert [key[2] for key in emulator.world.blobs] == [vm.disks[0].source.rpartition("/")[2]]


def test_the_disk_of_a_vm_is_not_written(
    emulator: Emulator, blob: tuple[Storage, str, str]
) -> None:
    """A VM holds the lease of its disks; leases are never broken."""
    storage, account, _ = blob
    vm = emulator.add_vm("vm", "rg", [DiskSpec("unmanaged", MIB, account="vhds1")])
    url = vm.disks[0].source
    with (
        DiskWriter(lambda: storage.grant_write(account, url, 600)) as pages,
        pytest.raises(SourceChanged),
    ):
        pages.write(0, b"x" * 4096)
    assert vm.disks[0].read(0, 4096) == bytes(4096)


def test_a_blob_that_took_anothers_place_is_not_written(
    emulator: Emulator, blob: tuple[Storage, str, str]
) -> None:
    """Each has a number of its own; a copy gets one after it came with its source's."""
    storage, account, container = blob
    url = f"{container}/new.vhd"

    def found() -> BlobProperties:
        return storage.properties(account, url)

    storage.create_page_blob(account, url, MIB + 512, MARK, 5)
    assert found().sequence_number == 5
    stale = found()
    with DiskWriter(lambda: storage.grant_write(account, url, 600), sequence_number=5) as pages:
        pages.write(0, b"x" * 4096)
        storage.number_page_blob(account, url, found(), 6)
        with pytest.raises(Refused, match="another restore"):
            pages.write(4096, b"x" * 4096)
    with pytest.raises(SourceChanged):
        storage.number_page_blob(account, url, stale, 7)
    assert found().sequence_number == 6
    assert disk_at(emulator, url).read(0, 8192) == b"x" * 4096 + bytes(4096)


def test_a_managed_disk_has_no_number_to_insist_on(emulator: Emulator, stack: Stack) -> None:
    disk = upload(emulator, stack)
    with (
        writer(stack, disk, sequence_number=5) as pages,
        pytest.raises(ConfigurationError, match="ConditionHeadersNotSupported"),
    ):
        pages.write(0, b"x" * 4096)
