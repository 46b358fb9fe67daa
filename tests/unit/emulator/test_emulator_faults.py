"""Scripted faults strike what they should, as often as they should."""

import random
import time

import pytest
import urllib3
from support.stack_client import COMPUTE, DISKS, StackClient

from airflow_provider_azstack.emulator import DiskSpec, EmulatedDisk, Emulator, faults

pytestmark = pytest.mark.tier1

LENGTH = 4096


@pytest.fixture
def disk(emulator: Emulator) -> EmulatedDisk:
    disk = emulator.add_vm("web01", "prod", [DiskSpec(size_bytes=1 << 20)]).disks[0]
    disk.write(0, random.Random(1).randbytes(1 << 20))
    return disk


@pytest.fixture
def url(client: StackClient, disk: EmulatedDisk) -> str:
    return client.granted_snapshot(disk.source, "s1")


@pytest.mark.parametrize(
    "retry_after", ["0", "3600", None, "soon", "Wed, 21 Oct 2026 07:28:00 GMT"]
)
def test_throttling(client: StackClient, retry_after: str | None) -> None:
    """As often as scripted, with the header of choice, and then no more."""
    fault = client.emulator.faults.throttle("virtualMachines", retry_after=retry_after, times=2)
    path = "~/providers/Microsoft.Compute/virtualMachines"
    for _ in range(2):
        answer = client.arm("GET", path, COMPUTE)
        assert (answer.status, answer.headers.get("Retry-After")) == (429, retry_after)
    assert client.arm("GET", path, COMPUTE).status == 200
    assert fault.struck == 2


@pytest.mark.parametrize("at", [0, 1, LENGTH // 2, -1])
def test_cut_connections(client: StackClient, url: str, disk: EmulatedDisk, at: int) -> None:
    """The headers promise the whole range; the connection ends before it."""
    client.emulator.faults.cut(at)
    with pytest.raises(urllib3.exceptions.HTTPError):
        client.read(url, 0, LENGTH)
    assert client.read(url, 0, LENGTH).data == disk.read(0, LENGTH)


@pytest.mark.parametrize(
    ("alter", "status", "length"),
    [
        (faults.shorter, 206, LENGTH - 1),
        (faults.longer, 206, LENGTH + 1),
        (faults.whole_blob, 200, (1 << 20) + 512),
        (faults.other_place, 206, LENGTH),
        (faults.flipped_bit, 206, LENGTH),
    ],
)
def test_wrong_ranges(
    client: StackClient, url: str, alter: faults.Alter, status: int, length: int
) -> None:
    """Each lies in its own way, once; page lists are left alone."""
    right = client.read(url, 100, LENGTH).data
    client.emulator.faults.alter_reads(alter)
    assert client.blob("GET", f"{url}&comp=pagelist", x_ms_range="bytes=0-99").status == 200
    answer = client.read(url, 100, LENGTH)
    assert (answer.status, len(answer.data)) == (status, length)
    assert answer.data != right
    assert client.read(url, 100, LENGTH).data == right


def test_wrong_headers(client: StackClient, url: str) -> None:
    """Content-Range, ETag or MD5 of choice."""
    client.emulator.faults.alter_reads(faults.with_header("ETag", '"other"'), skip=1)
    first, second = (client.read(url, 0, 10).headers["ETag"] for _ in range(2))
    assert first != second == '"other"'


def test_a_lost_answer_has_its_effect(client: StackClient, disk: EmulatedDisk) -> None:
    """The snapshot is there although nobody was told."""
    client.emulator.faults.lose_answer("PUT", "/snapshots/")
    with pytest.raises(urllib3.exceptions.HTTPError):
        client.snapshot(disk.source, "s1")
    assert [left.kind for left in client.emulator.leftovers()] == ["snapshot"]


@pytest.mark.parametrize("status", ["Failed", "Canceled", "InProgress"])
def test_operations_end_as_scripted(client: StackClient, disk: EmulatedDisk, status: str) -> None:
    """Failed and cancelled with an error, or never at all; the next one is fine."""
    client.emulator.faults.end_operation("snapshots.write", status, code="Oops", message="no")
    answer = client.snapshot(disk.source, "s1")
    assert answer.status == 202
    polled = client.poll(answer)
    assert polled["status"] == status
    assert polled.get("error", {}).get("code") == (None if status == "InProgress" else "Oops")
    assert client.poll(client.snapshot(disk.source, "s2"))["status"] == "Succeeded"


def test_polling_can_end_in_404(client: StackClient, disk: EmulatedDisk) -> None:
    """The operation is forgotten; its effect is there all the same."""
    client.emulator.faults.end_operation("snapshots.write", "404")
    answer = client.snapshot(disk.source, "s1")
    assert client.arm("GET", answer.headers["Azure-AsyncOperation"], "").status == 404
    assert client.get(answer.json()["id"], DISKS)["properties"]["provisioningState"] == "Succeeded"


def test_slow_and_arbitrary_answers(client: StackClient) -> None:
    """A delay is a delay; a redirect or garbage of choice is sent as scripted."""
    script = client.emulator.faults
    script.slow("resourceGroups", 0.2, times=1)
    started = time.monotonic()
    client.arm("GET", "~/resourceGroups", "2019-10-01")
    assert time.monotonic() - started >= 0.2
    script.answer("GET", "resourceGroups", 200, body=b"{" * 10_000)
    assert client.arm("GET", "~/resourceGroups", "2019-10-01").data == b"{" * 10_000
    script.answer("GET", "resourceGroups", 302, Location="http://127.0.0.1:1/")
    url = f"{client.emulator.arm_url}/subscriptions/x/resourceGroups"
    answer = client.pool.request("GET", url, redirect=False)
    assert answer.headers["Location"] == "http://127.0.0.1:1/"


def test_clearing_the_script_heals(client: StackClient, disk: EmulatedDisk) -> None:
    """After ``clear`` nothing goes wrong any more."""
    client.emulator.faults.throttle(times=1000)
    client.emulator.faults.end_operation("snapshots.write", "Failed")
    client.emulator.faults.clear()
    answer = client.snapshot(disk.source, "s1")
    assert client.poll(answer)["status"] == "Succeeded"
    assert client.arm("DELETE", answer.json()["id"], DISKS).status == 202
