"""Managed disks: snapshots, grants, differences, uploads."""

import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from support.stack_client import DISKS, StackClient

from airflow_provider_azstack.arm.vhd import build_footer
from airflow_provider_azstack.emulator import DiskSpec, EmulatedDisk, Emulator
from airflow_provider_azstack.emulator.fleet import footer_of

pytestmark = pytest.mark.tier1

PAGE = 4096


@pytest.fixture
def disk(emulator: Emulator) -> EmulatedDisk:
    return emulator.add_vm("web01", "prod", [DiskSpec(size_bytes=8 << 20)]).disks[0]


def error_of(answer: object) -> tuple[int, str]:
    return answer.status, answer.json()["error"]["code"]  # type: ignore[attr-defined]


def test_a_snapshot_is_read_through_a_grant(client: StackClient, disk: EmulatedDisk) -> None:
    """Exact ranges of the bytes at the snapshot's time, with the VHD footer behind them."""
    disk.write(PAGE, b"before")
    url = client.granted_snapshot(disk.source, "s1")
    disk.write(PAGE, b"later!")
    answer = client.read(url, PAGE, 6)
    assert (answer.status, answer.data) == (206, b"before")
    assert answer.headers["Content-Range"] == f"bytes {PAGE}-{PAGE + 5}/{disk.size_bytes + 512}"
    footer = client.read(url, disk.size_bytes, 512).data
    assert footer == footer_of(disk)
    assert footer[:8] == b"conectix"
    assert client.blob("HEAD", url).headers["Content-Length"] == str(disk.size_bytes + 512)
    assert client.read(url, disk.size_bytes + 512, 1).status == 416


def test_a_grant_is_the_only_way(client: StackClient, disk: EmulatedDisk) -> None:
    """Signature, identifier and path are checked; a token beside them is refused."""
    url = client.granted_snapshot(disk.source, "s1")
    base, _, query = url.partition("?")
    other = client.grant(client.snapshot(disk.source, "s2").json()["id"])
    unsigned = url.partition("&sig=")[0]
    cut = (base, f"{unsigned}&sig=AAA%3D", f"{unsigned}&sig=%FF", url + "&sr=c")
    for wrong in (*cut, f"{base}?{other.partition('?')[2]}"):
        assert client.read(wrong, 0, 512).status in {403, 404}
    answer = client.blob("GET", url, Authorization=f"Bearer {client.token}")
    assert (answer.status, answer.headers["x-ms-error-code"]) == (400, "InvalidAuthenticationInfo")
    assert client.read(f"{base}?{query}", 0, 512).status == 206


def test_grants_expire_and_are_revoked(tmp_path: Path) -> None:
    """403 after the duration, and at once after endGetAccess."""
    now = time.time()
    with Emulator(tmp_path, tls=False, clock=lambda: now) as emulator:
        client = StackClient(emulator)
        disk = emulator.add_vm("v", "g").disks[0]
        path = client.snapshot(disk.source, "s1").json()["id"]
        url = client.grant(path, seconds=60)
        now += 60
        answer = client.read(url, 0, 512)
        assert (answer.status, answer.headers["x-ms-error-code"]) == (403, "AuthenticationFailed")
        url = client.grant(path, seconds=60)
        assert client.read(url, 0, 512).status == 206
        assert client.get(path, DISKS)["properties"]["diskState"] == "ActiveSAS"
        assert client.arm("POST", f"{path}/endGetAccess", DISKS).status == 202
        assert client.read(url, 0, 512).status == 403
        assert client.get(path, DISKS)["properties"]["diskState"] == "Unattached"
        client.close()


def test_what_is_exported_stays(
    emulator: Emulator, client: StackClient, disk: EmulatedDisk
) -> None:
    """409 on deleting an exported snapshot, and on a second grant where the stack refuses it."""
    path = client.snapshot(disk.source, "s1").json()["id"]
    client.grant(path)
    assert error_of(client.arm("DELETE", path, DISKS)) == (409, "OperationNotAllowed")
    asked = {"access": "Read", "durationInSeconds": 60}
    second = client.arm("POST", f"{path}/beginGetAccess", DISKS, asked)
    assert error_of(second) == (409, "OperationNotAllowed")
    emulator.behaviour.second_grant = "allowed"
    client.grant(path)
    assert [left.kind for left in emulator.leftovers()] == ["snapshot", "grant", "grant"]
    client.arm("POST", f"{path}/endGetAccess", DISKS)
    assert client.arm("DELETE", path, DISKS).status == 202
    assert client.arm("DELETE", path, DISKS).status == 204
    assert emulator.leftovers() == []


def test_the_grant_may_show_in_one_place_only(client: StackClient, disk: EmulatedDisk) -> None:
    """Stacks differ: in the operation's output, or at the Location."""
    path = client.snapshot(disk.source, "s1").json()["id"]
    asked = {"access": "Read", "durationInSeconds": 60}
    client.emulator.behaviour.second_grant = "allowed"
    for place in ("operation", "location"):
        client.emulator.behaviour.sas_in = place
        answer = client.arm("POST", f"{path}/beginGetAccess", DISKS, asked)
        in_operation = "accessSAS" in str(client.poll(answer))
        in_location = b"accessSAS" in client.arm("GET", answer.headers["Location"], "").data
        assert (in_operation, in_location) == (place == "operation", place == "location")


def test_a_running_disk_is_not_exported(client: StackClient, disk: EmulatedDisk) -> None:
    """Its snapshots are."""
    asked = {"access": "Read", "durationInSeconds": 60}
    answer = client.arm("POST", f"{disk.source}/beginGetAccess", DISKS, asked)
    assert error_of(answer) == (409, "OperationNotAllowed")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"properties": {"incremental": True, "creationData": {"createOption": "Copy"}}}, 400),
        ({"properties": {"creationData": {"createOption": "Magic"}}}, 400),
        ({"properties": {}}, 400),
        ({"location": ""}, 400),
    ],
)
def test_bad_snapshots_are_refused(
    client: StackClient, disk: EmulatedDisk, change: dict[str, object], code: int
) -> None:
    """Incremental ones above all: a stack has none."""
    assert client.snapshot(disk.source, "s1", **change).status == code
    assert client.emulator.leftovers() == []


def test_snapshots_are_created_once(client: StackClient, disk: EmulatedDisk) -> None:
    """The same request again is no error and no second point in time; another source is."""
    disk.write(0, b"first")
    path = client.snapshot(disk.source, "s1").json()["id"]
    created = client.get(path, DISKS)
    disk.write(0, b"other")
    assert client.snapshot(disk.source, "s1", tags={"a": "b"}).status == 202
    assert client.read(client.grant(path), 0, 5).data == b"first"
    assert client.get(path, DISKS)["properties"]["uniqueId"] == created["properties"]["uniqueId"]
    assert client.get(path, DISKS)["tags"] == {"a": "b"}
    other = client.emulator.add_vm("web02", "prod").disks[0]
    assert error_of(client.snapshot(other.source, "s1")) == (409, "PropertyChangeNotAllowed")


def test_snapshots_tell_their_source(client: StackClient, disk: EmulatedDisk) -> None:
    """Source id and unique id, size and time, in the recorded places."""
    shown = client.get(client.snapshot(disk.source, "s1").json()["id"], DISKS)["properties"]
    source = client.get(disk.source, DISKS)["properties"]
    assert shown["creationData"]["sourceUniqueId"] == source["uniqueId"] != shown["uniqueId"]
    assert (shown["diskSizeBytes"], shown["incremental"]) == (disk.size_bytes, False)
    assert shown["timeCreated"].endswith("+00:00")


def test_quotas_and_permissions(client: StackClient, disk: EmulatedDisk) -> None:
    """The quota is named; a source that may not be read is a linked failure."""
    behaviour = client.emulator.behaviour
    behaviour.denied.add("Microsoft.Compute/disks/beginGetAccess/action")
    assert error_of(client.snapshot(disk.source, "s1")) == (403, "LinkedAuthorizationFailed")
    behaviour.denied = {"Microsoft.Compute/snapshots/write"}
    assert error_of(client.snapshot(disk.source, "s1")) == (403, "AuthorizationFailed")
    behaviour.denied = set()
    behaviour.snapshot_quota = 1
    assert client.snapshot(disk.source, "s1").status == 202
    assert error_of(client.snapshot(disk.source, "s2")) == (409, "QuotaExceeded")


def page_list(client: StackClient, url: str, **headers: str) -> str:
    answer = client.blob("GET", f"{url}&comp=pagelist", **headers)
    assert answer.status == 200, answer.data
    text: str = answer.data.decode("utf-8-sig")
    return text.split("<PageList>")[1].removesuffix("</PageList>")


def ranges(*pages: tuple[str, int, int]) -> str:
    return "".join(
        f"<{kind}Range><Start>{start}</Start><End>{end - 1}</End></{kind}Range>"
        for kind, start, end in pages
    )


def test_differences_of_managed_snapshots(client: StackClient, disk: EmulatedDisk) -> None:
    """Written and cleared pages since the previous snapshot, in order; nothing when unchanged."""
    disk.write(0, b"x" * 4 * PAGE)
    first = client.granted_snapshot(disk.source, "s1")
    disk.write(8 * PAGE + 5, b"y")
    disk.clear(PAGE, 2 * PAGE)
    second = client.granted_snapshot(disk.source, "s2")
    footer = ("Page", disk.size_bytes, disk.size_bytes + 512)
    assert page_list(client, first) == ranges(("Page", 0, 4 * PAGE), footer)
    written = ("Page", 8 * PAGE, 9 * PAGE)
    expected = [("Page", 0, PAGE), ("Page", 3 * PAGE, 4 * PAGE), written, footer]
    assert page_list(client, second) == ranges(*expected)
    changes = ranges(("Clear", PAGE, 3 * PAGE), written)
    assert page_list(client, second, x_ms_previous_snapshot_url=first) == changes
    window = f"bytes={2 * PAGE}-{4 * PAGE - 1}"
    clipped = page_list(client, second, x_ms_previous_snapshot_url=first, x_ms_range=window)
    assert clipped == ranges(("Clear", 2 * PAGE, 3 * PAGE))
    third = client.granted_snapshot(disk.source, "s3")
    assert page_list(client, third, x_ms_previous_snapshot_url=second) == ""


def test_stacks_that_ignore_or_refuse_differences(client: StackClient, disk: EmulatedDisk) -> None:
    """Ignored: everything is listed, cleared pages are not. Refused: 501. Unknown: 409."""
    disk.write(0, b"x" * PAGE)
    first = client.granted_snapshot(disk.source, "s1")
    disk.clear(0, PAGE)
    second = client.granted_snapshot(disk.source, "s2")
    url = f"{second}&comp=pagelist"
    unknown = first.replace("/abcd", "/none")
    assert client.blob("GET", url, x_ms_previous_snapshot_url=unknown).status == 409
    assert (
        client.blob("GET", f"{first}&comp=pagelist", x_ms_previous_snapshot_url=second).status
        == 409
    )
    client.emulator.behaviour.managed_differences = "ignored"
    assert page_list(client, second, x_ms_previous_snapshot_url=unknown) == page_list(
        client, second
    )
    client.emulator.behaviour.managed_differences = "refused"
    assert client.blob("GET", url, x_ms_previous_snapshot_url=first).status == 501


def test_a_disk_is_uploaded_through_a_write_grant(emulator: Emulator, client: StackClient) -> None:
    """Upload, Put Page, end, attachable; a read grant writes nothing."""
    group = emulator.add_group("prod")
    path = f"{group}/providers/Microsoft.Compute/disks/new"
    size = 4 << 20
    creation = {"createOption": "Upload", "uploadSizeBytes": size + 512}
    body = {"location": "local", "properties": {"creationData": creation}}
    assert client.arm("PUT", path, DISKS, body).status == 202
    assert client.get(path, DISKS)["properties"]["diskState"] == "ReadyToUpload"
    url = client.grant(path, access="Write") + "&comp=page"

    def put(offset: int, data: bytes, mode: str = "update") -> int:
        window = f"bytes={offset}-{offset + len(data) - 1}"
        sent = data if mode == "update" else None
        return client.blob("PUT", url, sent, x_ms_range=window, x_ms_page_write=mode).status

    assert put(PAGE, b"p" * PAGE) == 201
    assert put(size, build_footer(size, uuid4(), datetime.now(UTC))) == 201
    assert put(512, b"p" * 512) == 416  # pages have 4 KiB here
    assert put(0, b"p" * (size + PAGE)) == 416
    assert client.get(path, DISKS)["properties"]["diskState"] == "ActiveUpload"
    client.arm("POST", f"{path}/endGetAccess", DISKS)
    assert client.get(path, DISKS)["properties"]["diskState"] == "Unattached"
    assert put(0, b"p" * PAGE) == 403
    url = client.grant(path) + "&comp=page"
    assert put(0, b"p" * PAGE) == 403
    assert client.read(url.removesuffix("&comp=page"), PAGE, 4).data == b"pppp"
    body["properties"]["tier"] = "P30"  # type: ignore[index]
    answer = client.arm("PUT", f"{path}2", DISKS, body)
    assert error_of(answer) == (400, "BadRequest")
    assert b"Could not find member 'tier' on object of type 'DiskProperties'" in answer.data
    del body["properties"]["tier"]  # type: ignore[attr-defined]
    client.emulator.behaviour.upload = False
    assert client.arm("PUT", f"{path}2", DISKS, body).status == 400


def test_bodies_of_resized_disks_keep_their_footer(
    emulator: Emulator, client: StackClient, disk: EmulatedDisk
) -> None:
    """The footer moves to the new end; where it was are zeros."""
    old = disk.size_bytes
    disk.write(old - 4, b"tail")
    emulator.resize(disk, 1 << 30)
    url = client.granted_snapshot(disk.source, "s1")
    assert client.read(url, old - 4, 516).data == b"tail" + bytes(512)
    assert client.read(url, 1 << 30, 8).data == b"conectix"
    answer = client.snapshot(disk.source, "s2")
    assert client.get(answer.json()["id"], DISKS)["properties"]["diskSizeGB"] == 1


def test_a_vhd_blob_is_imported(emulator: Emulator, client: StackClient) -> None:
    """Import takes a page blob with a right footer, and nothing else."""
    account = emulator.add_storage_account("store", "prod")
    spec = DiskSpec("unmanaged", 2 << 20, account="store")
    vhd = emulator.add_vm("old", "prod", [spec]).disks[0]
    vhd.write(0, b"boot")
    path = f"{account.rpartition('/providers/')[0]}/providers/Microsoft.Compute/disks/new"
    creation = {"createOption": "Import", "sourceUri": vhd.source, "storageAccountId": account}
    body = {"location": "local", "properties": {"creationData": creation}}
    assert client.arm("PUT", path, DISKS, body).status == 202
    assert client.read(client.grant(path), 0, 4).data == b"boot"
    vhd.volume.write(vhd.size_bytes, bytes(512))
    assert error_of(client.arm("PUT", f"{path}2", DISKS, body)) == (400, "InvalidVhd")
    creation["sourceUri"] += "x"
    assert error_of(client.arm("PUT", f"{path}2", DISKS, body)) == (400, "InvalidParameter")


def test_all_grants_can_be_expired(client: StackClient, disk: EmulatedDisk) -> None:
    """What a test with a real clock uses to see a renewal."""
    path = client.snapshot(disk.source, "s1").json()["id"]
    url = client.grant(path)
    client.emulator.expire_grants()
    assert client.read(url, 0, 512).status == 403
    assert client.read(client.grant(path), 0, 512).status == 206


def test_attached_disks_are_not_deleted(client: StackClient, disk: EmulatedDisk) -> None:
    """409 names the VM."""
    answer = client.arm("DELETE", disk.source, DISKS)
    assert error_of(answer) == (409, "OperationNotAllowed")
    assert "web01" in answer.json()["error"]["message"]
