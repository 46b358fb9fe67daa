"""
Storage accounts and the blobs in them that are unmanaged disks.

Owns keys, signatures and blob snapshots; knows nothing of policies, runs or images.
Invariant: nothing is ever deleted but a snapshot, or a blob with the metadata that says that we
made it; no lease is ever broken. Keys stay in here; what leaves is a grant for one blob and a time.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlencode

import urllib3

from airflow_provider_azstack.arm.blob_http import BlobClient, Doubt, Refusal
from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.arm.grants import Grant, GrantKeeper
from airflow_provider_azstack.arm.sas import path_in_account, signed_url
from airflow_provider_azstack.errors import AccessDenied, Refused, SourceGone, UnsupportedStack
from airflow_provider_azstack.secret import Secret

_PROVIDER = "providers/Microsoft.Storage/storageAccounts"
_SHORT_SECONDS = 900  # how long a signature for one request of our own holds
_KEY_SECONDS = 300.0  # a key that was rotated is asked for again before long
_MAX_LIST_BYTES = 16 * 2**20
_META = "x-ms-meta-"
_SEQUENCE = "x-ms-blob-sequence-number"


class BlobProperties(NamedTuple):
    """What a blob says about itself."""

    length: int  # a disk's with its footer
    etag: str
    created_at: str  # x-ms-creation-time, as sent; with the URL it identifies the blob
    blob_type: str
    metadata: Mapping[str, str]
    copy_status: str = ""  # of a blob that the service makes as a copy: success when it is done
    is_leased: bool = False  # a VM has it, or somebody else does
    sequence_number: int | None = None  # of a page blob; writers may insist on it


class BlobSnapshot(NamedTuple):
    """One snapshot of a blob."""

    url: str  # of the blob
    snapshot: str  # its time stamp
    metadata: Mapping[str, str]


class Storage:
    """Storage accounts of a stack. Thread-safe."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._keys: dict[str, tuple[Secret, float]] = {}
        self._client = BlobClient(
            version=stack.profile.blob,
            ca_bundle=stack.ca_bundle,
            patience=stack.patience,
            wall_clock=lambda: stack.now().timestamp(),
        )

    def accounts(self, subscription: str) -> Iterator[dict[str, Any]]:
        """Yield the storage accounts of a subscription."""
        return self._stack.list(f"/subscriptions/{subscription}/{_PROVIDER}")

    def account_key(self, account_id: str) -> Secret:
        """
        Return a key of a storage account.

        :raises AccessDenied: the application may not list keys, and none was given.
        """
        given = self._stack.account_keys.get(account_name(account_id))
        if given is not None:
            self._stack.on_secret(given.reveal())
            return given
        known = self._keys.get(account_id)
        if known and self._stack.clock() < known[1]:
            return known[0]
        key = self._listed_key(account_id)
        self._keys[account_id] = key, self._stack.clock() + _KEY_SECONDS
        return key

    def grant_read(self, account_id: str, url: str, snapshot: str, seconds: int) -> Grant:
        """Grant read access to a blob's snapshot, or to the blob when ``snapshot`` is empty."""
        return self._grant(account_id, url, "r", seconds, snapshot=snapshot)

    def grant_write(self, account_id: str, url: str, seconds: int) -> Grant:
        """Grant writing the pages of a blob, and reading them."""
        return self._grant(account_id, url, "rw", seconds)

    def create_page_blob(
        self,
        account_id: str,
        url: str,
        size_bytes: int,
        metadata: Mapping[str, str],
        sequence_number: int = 0,
    ) -> None:
        """
        Create an empty page blob.

        :param size_bytes: with the VHD footer.
        :param sequence_number: below 2^63; what tells this blob from another of its name.
        :raises Refused: there is a blob of that name; it is untouched.
        :raises SourceGone: there is no such container.
        """
        headers = {
            "x-ms-blob-type": "PageBlob",
            "x-ms-blob-content-length": str(size_bytes),
            _SEQUENCE: str(sequence_number),
            "If-None-Match": "*",
            **{_META + name: value for name, value in metadata.items()},
        }
        keeper = self._keeper(account_id, url, "cw")
        try:
            self._client.exchange("PUT", keeper, _nothing, headers=headers, refusals={409, 412})
        except Refusal as refusal:
            # A try whose answer was lost may have made it.
            if self.properties(account_id, url).metadata != dict(metadata):
                raise Refused(f"{url} exists and is not of this restore: {refusal}") from None

    def copy_page_blob(
        self, account_id: str, url: str, source: Secret, metadata: Mapping[str, str]
    ) -> None:
        """
        Let the service make a blob as a copy of another one; ``properties`` tell when it is done.

        :param source: signed URL of a snapshot.
        :raises UnsupportedStack: it does not copy that.
        """
        headers = {
            "x-ms-copy-source": source.reveal(),
            "If-None-Match": "*",
            **{_META + name: value for name, value in metadata.items()},
        }
        keeper = self._keeper(account_id, url, "cw")
        refusals = {400, 404, 409, 412, 501}
        try:
            self._client.exchange("PUT", keeper, _nothing, headers=headers, refusals=refusals)
        except Refusal as refusal:
            raise UnsupportedStack(f"{url} cannot be made as a copy: {refusal}") from None

    def number_page_blob(
        self, account_id: str, url: str, found: BlobProperties, sequence_number: int
    ) -> None:
        """
        Give a page blob its sequence number: a copy has that of its source.

        :param found: what was seen of it: another blob, or one that was written, is left alone.
        :raises SourceChanged: it is another one now.
        """
        headers = {
            "x-ms-sequence-number-action": "update",
            _SEQUENCE: str(sequence_number),
            "If-Match": found.etag,
        }
        keeper = self._keeper(account_id, url, "w")
        self._client.exchange("PUT", keeper, _nothing, query="comp=properties", headers=headers)

    def delete_page_blob(self, account_id: str, url: str, metadata: Mapping[str, str]) -> None:
        """
        Delete a blob that we made; nothing there is success.

        :param metadata: what it must carry to be ours.
        :raises Refused: it carries something else.
        """
        try:
            found = self.properties(account_id, url)
        except SourceGone:
            return
        if any(found.metadata.get(name) != value for name, value in metadata.items()):
            raise Refused(f"{url} was not made by this restore: it is not deleted")
        keeper = self._keeper(account_id, url, "d")
        self._client.exchange("DELETE", keeper, _nothing, headers={"If-Match": found.etag})

    def properties(self, account_id: str, url: str, snapshot: str = "") -> BlobProperties:
        """
        Return a blob's properties.

        :raises SourceGone: there is no such blob or snapshot.
        """
        keeper = self._keeper(account_id, url, "r", snapshot)
        return self._client.exchange("HEAD", keeper, _read_properties)

    def snapshot_blob(self, account_id: str, url: str, metadata: Mapping[str, str]) -> str:
        """
        Snapshot a blob, or find the snapshot that an earlier try made; return its time stamp.

        :param metadata: identifies the snapshot; names are letters, digits and underscores.
        """
        path = path_in_account(url, account_name(account_id))
        name = path.split("/", 2)[2]
        container = unquote(url).removesuffix(f"/{name}")
        for there in self.blob_snapshots(account_id, container, prefix=name):
            if unquote(there.url) == unquote(url) and there.metadata == dict(metadata):
                return there.snapshot
        headers = {_META + name: value for name, value in metadata.items()}
        keeper = self._keeper(account_id, url, "rcw")
        return self._client.exchange(
            "PUT", keeper, _read_snapshot_time, query="comp=snapshot", headers=headers
        )

    def delete_blob_snapshot(self, account_id: str, url: str, snapshot: str) -> None:
        """
        Delete one snapshot of a blob; nothing there is success.

        :raises Refused: no snapshot is named: that would be the blob itself.
        """
        if not snapshot:
            raise Refused(f"{url}: without a snapshot's time the disk itself would be deleted")
        keeper = self._keeper(account_id, url, "d", snapshot)
        try:
            self._client.exchange("DELETE", keeper, lambda _: None)
        except SourceGone:
            return

    def blob_snapshots(
        self, account_id: str, container_url: str, *, prefix: str = ""
    ) -> Iterator[BlobSnapshot]:
        """Yield the snapshots of all blobs in a container, with their metadata."""
        keeper = self._keeper(account_id, container_url, "l", resource="c")
        marker = ""
        while True:
            query = {"restype": "container", "comp": "list", "include": "snapshots,metadata"}
            query |= {"prefix": prefix} if prefix else {}
            query |= {"marker": marker} if marker else {}
            root = self._client.exchange("GET", keeper, _read_xml, query=urlencode(query))
            for blob in root.iterfind("./Blobs/Blob"):
                if snapshot := blob.findtext("Snapshot", ""):
                    url = f"{container_url}/{quote(blob.findtext('Name', ''))}"
                    yield BlobSnapshot(url, snapshot, _metadata_of(blob))
            marker = root.findtext("NextMarker", "")
            if not marker:
                return

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    def _listed_key(self, account_id: str) -> Secret:
        answer = self._stack.request("POST", f"{account_id}/listKeys").object()
        values = [entry.get("value") for entry in answer.get("keys") or ()]
        if not values or not isinstance(values[0], str):
            raise AccessDenied(f"{account_id} has no key: give one in the connection")
        self._stack.on_secret(values[0])
        return Secret(values[0])

    def _keeper(
        self,
        account_id: str,
        url: str,
        permissions: str,
        snapshot: str = "",
        *,
        resource: str = "b",
    ) -> GrantKeeper:
        def ask() -> Grant:
            return self._grant(
                account_id, url, permissions, _SHORT_SECONDS, snapshot=snapshot, resource=resource
            )

        return GrantKeeper(ask, clock=self._stack.clock)

    def _grant(
        self,
        account_id: str,
        url: str,
        permissions: str,
        seconds: int,
        *,
        snapshot: str = "",
        resource: str = "b",
    ) -> Grant:
        key = self.account_key(account_id)
        granted_at = self._stack.clock()
        signed = signed_url(
            url,
            account_name(account_id),
            key,
            permissions=permissions,
            resource=resource,
            now=self._stack.now(),
            seconds=seconds,
            version=self._stack.profile.blob,
            snapshot=snapshot,
        )
        self._stack.on_secret(signed.reveal())
        return Grant(signed, granted_at, seconds)


def account_name(account_id: str) -> str:
    """Return the name of a storage account from its ARM id."""
    return account_id.rstrip("/").rpartition("/")[2]


def _nothing(_response: urllib3.BaseHTTPResponse) -> None:
    """Take any answer that is a success."""


def _read_properties(response: urllib3.BaseHTTPResponse) -> BlobProperties:
    headers = response.headers
    length, number = headers.get("content-length", ""), headers.get(_SEQUENCE, "")
    if not length.isdecimal() or len(length) > 16 or "etag" not in headers:
        raise Doubt("properties without ETag or length")
    if number and not (number.isdecimal() and len(number) < 20):
        raise Doubt("properties with a sequence number that is none")
    return BlobProperties(
        int(length),
        headers["etag"],
        headers.get("x-ms-creation-time", ""),
        headers.get("x-ms-blob-type", ""),
        {
            name.lower().removeprefix(_META): value
            for name, value in headers.items()
            if name.lower().startswith(_META)
        },
        headers.get("x-ms-copy-status", "").lower(),
        headers.get("x-ms-lease-state", "").lower() == "leased",
        int(number) if number else None,
    )


def _read_snapshot_time(response: urllib3.BaseHTTPResponse) -> str:
    time = response.headers.get("x-ms-snapshot", "")
    if not time:
        raise Doubt("a snapshot without a time")
    return time


def _read_xml(response: urllib3.BaseHTTPResponse) -> ET.Element:
    text = response.read(_MAX_LIST_BYTES + 1)
    if len(text) > _MAX_LIST_BYTES or b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise Doubt("a list that no blob service sends")
    try:
        return ET.fromstring(text)  # noqa: S314 - no declarations, bounded: nothing to expand
    except ET.ParseError:
        raise Doubt("a list that is no XML") from None


def _metadata_of(blob: ET.Element) -> dict[str, str]:
    metadata = blob.find("Metadata")
    return {} if metadata is None else {item.tag.lower(): item.text or "" for item in metadata}
