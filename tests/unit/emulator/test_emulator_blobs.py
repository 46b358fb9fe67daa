"""The blob service: signatures, snapshots, listings and writes of page blobs."""

import base64
import hashlib
import time
from pathlib import Path

import pytest
from azure.storage.blob import BlobClient
from support.stack_client import StackClient, code_of

from airflow_provider_azstack.emulator import DiskSpec, EmulatedDisk, Emulator

pytestmark = pytest.mark.tier1

PAGE = 4096


def test_newer_service_versions_are_refused(
    client: StackClient, disk: EmulatedDisk, key: bytes
) -> None:
    """What azure-storage-blob sends by default is InvalidHeaderValue here."""
    url = client.sas(disk.source, key)
    assert client.blob("HEAD", url).status == 200
    answer = client.blob("HEAD", url, x_ms_version="2019-12-12")
    assert code_of(answer) == (400, "InvalidHeaderValue")


def test_signatures_are_really_checked(client: StackClient, disk: EmulatedDisk, key: bytes) -> None:
    """Key, permissions, time, version and blob are all part of it; nothing is anonymous."""
    good = client.sas(disk.source, key)
    assert client.read(good, 0, 512).status == 206
    refused = {
        client.sas(disk.source, b"other key"): "AuthenticationFailed",
        client.sas(disk.source, key, se="2001-01-01T00:00:00Z"): "AuthenticationFailed",
        client.sas(disk.source, key, st="2098-01-01T00:00:00Z"): "AuthenticationFailed",
        client.sas(disk.source, key, sv="2020-02-10"): "AuthenticationFailed",
        client.sas(disk.source, key, "w"): "AuthorizationPermissionMismatch",
        good.replace("sp=r", "sp=rw"): "AuthenticationFailed",
        good.replace(".vhd?", "2.vhd?"): "AuthenticationFailed",
        disk.source: "ResourceNotFound",
    }
    for url, code in refused.items():
        assert code_of(client.read(url, 0, 512))[1] == code
    answer = client.blob("GET", good, Authorization="Bearer x")
    assert code_of(answer) == (400, "InvalidAuthenticationInfo")


def test_the_library_signs_with_shared_key(
    emulator: Emulator, disk: EmulatedDisk, key: bytes
) -> None:
    """azure-storage-blob, held to an old version, reads, snapshots and lists differences."""
    named = {"account_name": "store", "account_key": base64.b64encode(key).decode()}
    with BlobClient.from_blob_url(disk.source, named, api_version="2019-07-07") as blob:
        disk.write(0, b"hello")
        assert blob.download_blob(0, 5).readall() == b"hello"
        first = blob.create_snapshot(metadata={"owner": "us"})["snapshot"]
        disk.write(PAGE, b"x")
        disk.clear(0, PAGE)
        pages = [
            (p.start, p.end, p.cleared) for p in blob.list_page_ranges(previous_snapshot=first)
        ]
    assert pages == [(0, PAGE - 1, True), (PAGE, 2 * PAGE - 1, False)]
    assert emulator.leftovers()[0].tags == {"owner": "us"}


def test_snapshots_of_a_leased_vhd(client: StackClient, disk: EmulatedDisk, key: bytes) -> None:
    """Snapshots ignore the lease; deleting or writing the VHD does not."""
    url = client.sas(disk.source, key, "rwcd")
    head = client.blob("HEAD", url)
    assert head.headers["x-ms-lease-state"] == "leased"
    disk.write(0, b"then")
    made = client.blob("PUT", f"{url}&comp=snapshot", x_ms_meta_run="r1")
    name = made.headers["x-ms-snapshot"]
    disk.write(0, b"now!")
    assert client.read(f"{url}&snapshot={name}", 0, 4).data == b"then"
    assert client.read(url, 0, 4).data == b"now!"
    window = {"x_ms_range": f"bytes=0-{PAGE - 1}", "x_ms_page_write": "clear"}
    assert code_of(client.blob("PUT", f"{url}&comp=page", **window)) == (412, "LeaseIdMissing")
    assert code_of(client.blob("DELETE", url)) == (412, "LeaseIdMissing")
    assert code_of(client.blob("PUT", f"{url}&comp=lease")) == (409, "LeaseAlreadyPresent")
    listing = f"{client.emulator.blob_url}/store/vhds"
    signed = client.sas(listing, key, "l") + "&restype=container&comp=list"
    text = client.blob("GET", f"{signed}&include=snapshots,metadata").data.decode()
    assert f"<Snapshot>{name}</Snapshot>" in text
    assert "<Metadata><run>r1</run></Metadata>" in text
    assert "<Snapshot>" not in client.blob("GET", signed).data.decode()
    first = client.blob("GET", f"{signed}&include=snapshots&maxresults=1").data.decode()
    assert first.count("<Blob>") == 1
    assert "<NextMarker>1</NextMarker>" in first
    assert client.blob("DELETE", f"{url}&snapshot={name}").status == 202
    assert code_of(client.blob("DELETE", f"{url}&snapshot={name}")) == (404, "BlobNotFound")
    assert client.emulator.leftovers() == []


def test_differences_of_blobs(client: StackClient, disk: EmulatedDisk, key: bytes) -> None:
    """prevsnapshot lists what changed; unknown ones, ignoring and refusing stacks differ."""
    url = client.sas(disk.source, key, "rwc")
    times = []
    for number in range(2):
        disk.write(number * PAGE, b"x" * PAGE)
        made = client.blob("PUT", f"{url}&comp=snapshot")
        times.append(made.headers["x-ms-snapshot"])
    assert times[0] < times[1]
    old, new = times
    query = f"{url}&snapshot={new}&comp=pagelist"
    text = client.blob("GET", f"{query}&prevsnapshot={old}").data.decode()
    assert text.count("Range>") == 2
    assert f"<Start>{PAGE}</Start>" in text
    answer = client.blob("GET", f"{query}&prevsnapshot=2001-01-01T00:00:00.0000000Z")
    assert code_of(answer) == (409, "PreviousSnapshotNotFound")
    newer = client.blob("GET", f"{url}&snapshot={old}&comp=pagelist&prevsnapshot={new}")
    assert newer.status == 409
    client.emulator.behaviour.blob_differences = "ignored"
    assert client.blob("GET", f"{query}&prevsnapshot={old}").data == client.blob("GET", query).data
    client.emulator.behaviour.blob_differences = "refused"
    assert client.blob("GET", f"{query}&prevsnapshot={old}").status == 400


def test_limits(client: StackClient, disk: EmulatedDisk, key: bytes) -> None:
    """Snapshots per blob, windows that time out, MD5 of at most 4 MiB."""
    url = client.sas(disk.source, key, "rc")
    behaviour = client.emulator.behaviour
    behaviour.snapshots_per_blob = 1
    assert client.blob("PUT", f"{url}&comp=snapshot").status == 201
    assert code_of(client.blob("PUT", f"{url}&comp=snapshot"))[1] == "SnapshotCountExceeded"
    behaviour.page_list_limit_bytes = 1 << 20
    assert code_of(client.blob("GET", f"{url}&comp=pagelist"))[1] == "OperationTimedOut"
    window = {"x_ms_range": f"bytes=0-{(1 << 20) - 1}"}
    assert client.blob("GET", f"{url}&comp=pagelist", **window).status == 200
    window["x_ms_range_get_content_md5"] = "true"
    answer = client.blob("GET", url, **window)
    digest = hashlib.md5(answer.data, usedforsecurity=False).digest()
    assert answer.headers["Content-MD5"] == base64.b64encode(digest).decode()
    window["x_ms_range"] = f"bytes=0-{(4 << 20)}"
    assert code_of(client.blob("GET", url, **window))[1] == "OutOfRangeInput"


def test_conditions(client: StackClient, disk: EmulatedDisk, key: bytes) -> None:
    """If-Match holds for reads: 412 when the blob is another."""
    url = client.sas(disk.source, key)
    etag = client.blob("HEAD", url).headers["ETag"]
    assert client.blob("GET", url, If_Match=etag, x_ms_range="bytes=0-9").status == 206
    answer = client.blob("GET", url, If_Match='"0x0"', x_ms_range="bytes=0-9")
    assert code_of(answer) == (412, "ConditionNotMet")


def test_a_page_blob_is_written(client: StackClient, disk: EmulatedDisk, key: bytes) -> None:
    """Container, blob, pages, metadata; MD5 and lengths are checked."""
    emulator = client.emulator
    container = f"{emulator.blob_url}/store/restored"
    made = client.blob("PUT", client.sas(container, key, "c") + "&restype=container")
    assert made.status == 201
    url = client.sas(f"{container}/disk.vhd", key, "rcwd")
    size = {"x_ms_blob_type": "PageBlob", "x_ms_blob_content_length": str(2 * PAGE + 512)}
    assert client.blob("PUT", url, **size).status == 201
    window = {"x_ms_range": f"bytes={PAGE}-{2 * PAGE - 1}", "x_ms_page_write": "update"}
    assert client.blob("PUT", f"{url}&comp=page", b"z" * PAGE, **window).status == 201
    bad = client.blob("PUT", f"{url}&comp=page", b"z" * PAGE, Content_MD5="AAAA", **window)
    assert code_of(bad) == (400, "Md5Mismatch")
    assert client.blob("PUT", f"{url}&comp=page", b"z", **window).status == 400
    assert client.read(url, PAGE - 1, 3).data == b"\0zz"
    assert client.blob("DELETE", url).status == 202


@pytest.mark.parametrize("number", ["", "-512", "\u00b2", "9" * 5000])
def test_a_number_that_is_none_is_refused(
    client: StackClient, disk: EmulatedDisk, key: bytes, number: str
) -> None:
    """Of a size and in a range: in any letters, of any length."""
    url = client.sas(disk.source, key, "rcw")
    size = {"x_ms_blob_type": "PageBlob", "x_ms_blob_content_length": number}
    assert code_of(client.blob("PUT", url, **size)) == (400, "InvalidHeaderValue")
    answer = client.blob("GET", url, x_ms_range=f"bytes={number}-")
    assert code_of(answer) == (400, "InvalidHeaderValue")


def test_sas_expires_by_the_stacks_clock(tmp_path: Path) -> None:
    """A signature for an hour dies after an hour."""
    now = time.time()
    with Emulator(tmp_path, tls=False, clock=lambda: now) as emulator:
        client = StackClient(emulator)
        emulator.add_storage_account("store", "prod")
        spec = DiskSpec("unmanaged", 1 << 20, account="store")
        disk = emulator.add_vm("v", "prod", [spec]).disks[0]
        group = f"/subscriptions/{emulator.subscription_id}/resourceGroups/prod"
        key = client.key(f"{group}/providers/Microsoft.Storage/storageAccounts/store")
        end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + 3600))
        url = client.sas(disk.source, key, se=end)
        assert client.read(url, 0, 512).status == 206
        now += 3601
        assert client.read(url, 0, 512).status == 403
        client.close()


def test_fragmented_and_empty_stretches_are_read_right(
    tls_emulator: Emulator, emulator: Emulator
) -> None:
    """Layers, holes and many small pieces give the same bytes over HTTP and over TLS."""
    for stack in (tls_emulator, emulator):
        client = StackClient(stack)
        disk = stack.add_vm("v", "g", [DiskSpec(size_bytes=4 << 20)]).disks[0]
        for at in range(0, 1 << 20, 2 * PAGE):
            disk.write(at, bytes([at // PAGE % 251 + 1]) * PAGE)
        stack.world.get(disk.source)
        client.granted_snapshot(disk.source, "older")
        disk.write(3 << 20, b"w" * (PAGE * 3))
        url = client.granted_snapshot(disk.source, "newer")
        whole = client.read(url, 0, 4 << 20).data
        assert whole == disk.read(0, 4 << 20)
        assert client.read(url, PAGE - 7, 20).data == disk.read(PAGE - 7, 20)
        client.close()
