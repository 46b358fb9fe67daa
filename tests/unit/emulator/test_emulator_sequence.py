"""Sequence numbers of page blobs: what a writer insists on holds, or nothing is written."""

import base64

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobClient
from support.stack_client import StackClient, code_of

from airflow_provider_azstack.emulator import EmulatedDisk, Emulator

pytestmark = pytest.mark.tier1

PAGE = 4096


@pytest.fixture
def numbered(client: StackClient, disk: EmulatedDisk, key: bytes) -> str:
    """A page blob that was given the number 7; a signed URL of it."""
    assert disk
    url = client.sas(f"{client.emulator.blob_url}/store/vhds/numbered.vhd", key, "rcwd")
    made = client.blob(
        "PUT", url, x_ms_blob_type="PageBlob", x_ms_blob_content_length=str(2 * PAGE),
        x_ms_blob_sequence_number="7",
    )  # fmt: skip
    assert made.status == 201
    return url


def number_of(client: StackClient, url: str) -> str:
    return str(client.blob("HEAD", url).headers["x-ms-blob-sequence-number"])


@pytest.mark.parametrize(
    ("conditions", "holds"),
    [
        ({"eq": 7}, True),
        ({"eq": 6}, False),
        ({"eq": 8}, False),
        ({"le": 7}, True),
        ({"le": 6}, False),
        ({"lt": 8}, True),
        ({"lt": 7}, False),
        ({"le": 7, "eq": 8}, False),
        ({}, True),
    ],
)
def test_pages_are_written_only_while_the_number_is_the_one_asked_for(
    client: StackClient, numbered: str, conditions: dict[str, int], *, holds: bool
) -> None:
    named = {f"x_ms_if_sequence_number_{name}": str(n) for name, n in conditions.items()}
    window = {"x_ms_range": f"bytes=0-{PAGE - 1}", "x_ms_page_write": "update", **named}
    answer = client.blob("PUT", f"{numbered}&comp=page", b"z" * PAGE, **window)
    if holds:
        assert answer.status == 201
    else:
        assert code_of(answer) == (412, "SequenceNumberConditionNotMet")
    assert client.read(numbered, 0, PAGE).data == (b"z" if holds else b"\0") * PAGE


def test_a_blobs_number_is_set_and_told(
    client: StackClient, numbered: str, disk: EmulatedDisk, key: bytes
) -> None:
    """At creation, and by Set Blob Properties; copies and snapshots have their source's."""
    assert number_of(client, client.sas(disk.source, key)) == "0"
    assert number_of(client, numbered) == "7"

    def change(action: str, number: str = "", **more: str) -> object:
        asked = {"x_ms_blob_sequence_number": number} if number else {}
        asked |= {"x_ms_sequence_number_action": action, **more}
        return client.blob("PUT", f"{numbered}&comp=properties", **asked)

    assert change("max", "5").headers["x-ms-blob-sequence-number"] == "7"  # type: ignore[attr-defined]
    assert change("increment").headers["x-ms-blob-sequence-number"] == "8"  # type: ignore[attr-defined]
    assert change("update", "3").status == 200  # type: ignore[attr-defined]
    assert code_of(change("update", "4", If_Match='"0x0"')) == (412, "ConditionNotMet")
    for action, number in (
        ("increment", "4"), ("update", ""), ("update", "-1"), ("max", str(1 << 63)), ("", "4"),
    ):  # fmt: skip
        assert code_of(change(action, number)) == (400, "InvalidHeaderValue")
    assert number_of(client, numbered) == "3"
    made = client.blob("PUT", f"{numbered}&comp=snapshot")
    assert change("update", "9").status == 200  # type: ignore[attr-defined]
    frozen = f"{numbered}&snapshot={made.headers['x-ms-snapshot']}"
    assert number_of(client, frozen) == "3"
    copy = client.sas(f"{client.emulator.blob_url}/store/vhds/copy.vhd", key, "rcwd")
    assert client.blob("PUT", copy, x_ms_copy_source=frozen).status == 202
    assert number_of(client, copy) == "3"


def test_a_condition_that_is_no_number_is_refused(client: StackClient, numbered: str) -> None:
    window = {"x_ms_range": f"bytes=0-{PAGE - 1}", "x_ms_page_write": "clear"}
    bad = client.blob("PUT", f"{numbered}&comp=page", x_ms_if_sequence_number_eq="seven", **window)
    assert code_of(bad) == (400, "InvalidHeaderValue")


def test_the_library_writes_under_a_condition(
    emulator: Emulator, disk: EmulatedDisk, key: bytes
) -> None:
    """azure-storage-blob sends the same headers, and knows the refusal."""
    named = {"account_name": "store", "account_key": base64.b64encode(key).decode()}
    url = f"{disk.source.rpartition('/')[0]}/library.vhd"
    with BlobClient.from_blob_url(url, named, api_version="2019-07-07") as blob:
        blob.create_page_blob(2 * PAGE, sequence_number=11)
        assert blob.get_blob_properties().page_blob_sequence_number == 11
        blob.upload_page(b"a" * PAGE, 0, PAGE, if_sequence_number_eq=11)
        blob.set_sequence_number("update", "12")
        with pytest.raises(HttpResponseError) as refused:
            blob.upload_page(b"b" * PAGE, 0, PAGE, if_sequence_number_eq=11)
        assert refused.value.error_code == "SequenceNumberConditionNotMet"
        assert blob.download_blob().readall() == b"a" * PAGE + bytes(PAGE)
