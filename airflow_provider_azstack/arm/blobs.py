"""
One disk behind a signed URL: its size, its footer and its bytes.

Owns the verified range read; refuses to know whether the disk is managed and who grants access.
Invariant: bytes reach the caller's buffer as good only when status, range, length and ETag of the
answer are exactly those asked for; the disk does not change while it is read, or reading fails.

Reads carry no ``If-Match``: the access of managed disks takes no conditions, as AzCopy notes where
it reads them (github.com/Azure/azure-storage-azcopy, ste/downloader-blob.go). The ETag of each
answer says the same.
"""

import threading
from collections.abc import Callable
from typing import NamedTuple, Self, Unpack

import urllib3
from urllib3.exceptions import ProtocolError

from airflow_provider_azstack.arm.blob_http import (
    Doubt,
    Refusal,
    Settings,
    blob_client,
    require_same,
)
from airflow_provider_azstack.arm.checksums import Checksums, content_md5
from airflow_provider_azstack.arm.grants import Grant
from airflow_provider_azstack.arm.page_lists import PageLists
from airflow_provider_azstack.arm.vhd import FOOTER_BYTES, parse_footer
from airflow_provider_azstack.errors import SourceChanged, SourceError
from airflow_provider_azstack.model import Extent


class _Facts(NamedTuple):
    total_bytes: int  # with the footer
    etag: str
    footer: bytes = b""

    @property
    def size_bytes(self) -> int:
        return self.total_bytes - len(self.footer)


class BlobDisk:
    """
    A page blob, or a snapshot of one, read by signed URL. Thread-safe.

    :param grant: asks for access; called again at 80% of its time, and once when refused.
    :param size_bytes: of the disk without its VHD footer; None to find out from the blob.
    :param previous_snapshot: time stamp of the reference snapshot of the same blob.
    :param previous_grant: access to the reference snapshot of the same managed disk.
    """

    def __init__(
        self,
        grant: Callable[[], Grant],
        *,
        size_bytes: int | None = None,
        previous_snapshot: str = "",
        previous_grant: Callable[[], Grant] | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        self._client = blob_client(**settings)
        self._keeper = self._client.keeper(grant)
        self._lists = PageLists(
            self._client,
            self._keeper,
            previous=self._client.keeper(previous_grant) if previous_grant else None,
            previous_snapshot=previous_snapshot,
        )
        self._expected_bytes = size_bytes
        self._lock = threading.Lock()
        self._known: _Facts | None = None
        self._checksums = Checksums()

    @property
    def size_bytes(self) -> int:
        """The disk's size without its footer."""
        return self._facts().size_bytes

    @property
    def etag(self) -> str:
        """What every answer must show: where it differs, the disk is not what it was."""
        return self._facts().etag

    @property
    def concurrency(self) -> int:
        """How many requests may run at once now: lower while the stack throttles."""
        return self._client.gate.limit

    def footer(self) -> bytes:
        """
        Return the 512 bytes of the fixed VHD's footer, or nothing when there is none.

        :raises SourceChanged: the disk has another size than the caller was told.
        """
        return self._facts().footer

    def allocated(self, offset: int, length: int) -> list[Extent]:
        """
        Return what holds data in a stretch of the disk.

        :raises ChangesUnknown: the service has no page list of it.
        """
        return self._lists.allocated(offset, self._end(offset, length), self.etag)

    def changed(self, offset: int, length: int) -> list[Extent]:
        """
        Return what changed in a stretch since the reference snapshot, cleared pages included.

        :raises ChangesUnknown: there is no reference, or the service does not know it.
        """
        return self._lists.changed(offset, self._end(offset, length), self.etag)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """
        Fill ``buffer`` with the bytes at ``offset``.

        :raises SourceError: that is not inside the disk.
        :raises SourceChanged: the disk is not what it was when reading began.
        :raises IntegrityError: the answers are not what was asked for, again and again.
        """
        facts = self._facts()
        if offset < 0 or offset + len(buffer) > facts.size_bytes:
            raise SourceError(
                f"{self._keeper.place}: {len(buffer)} bytes at {offset} are not inside the disk"
            )
        self._read(facts, offset, buffer)

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end(self, offset: int, length: int) -> int:
        return min(offset + length, self.size_bytes)

    def _facts(self) -> _Facts:
        if self._known is None:
            with self._lock:
                if self._known is None:
                    facts = self._client.exchange("HEAD", self._keeper, _read_facts)
                    self._known = facts._replace(footer=self._read_footer(facts))
        return self._known

    def _read_footer(self, facts: _Facts) -> bytes:
        total, expected = facts.total_bytes, self._expected_bytes
        if expected == total or total < FOOTER_BYTES:
            return b""
        if expected is not None and expected + FOOTER_BYTES != total:
            raise SourceChanged(
                f"{self._keeper.place}: {total} bytes, "
                f"but the disk had {expected} when it was discovered"
            )
        last = bytearray(FOOTER_BYTES)
        self._read(facts, total - FOOTER_BYTES, memoryview(last))
        has_footer = expected is not None or parse_footer(last) is not None
        return bytes(last) if has_footer else b""

    def _read(self, facts: _Facts, offset: int, buffer: memoryview) -> None:
        last = offset + len(buffer) - 1
        headers = {"x-ms-range": f"bytes={offset}-{last}"}
        is_checked = self._checksums.are_due(len(buffer))
        if is_checked:
            headers["x-ms-range-get-content-md5"] = "true"
        content_range = f"bytes {offset}-{last}/{facts.total_bytes}"

        def read(response: urllib3.BaseHTTPResponse) -> None:
            _require_range(response, content_range, len(buffer), facts.etag)
            _fill(response, buffer)
            if is_checked:  # else it may be an old one, of the whole disk
                _require_md5(response, buffer)

        refusals = {400} if is_checked else ()
        try:
            self._client.exchange("GET", self._keeper, read, headers=headers, refusals=refusals)
        except Refusal as refusal:
            self._checksums.refused(refusal)
            self._read(facts, offset, buffer)


def _read_facts(response: urllib3.BaseHTTPResponse) -> _Facts:
    etag = response.headers.get("etag", "")
    length = response.headers.get("content-length", "")
    kind = response.headers.get("x-ms-blob-type", "PageBlob")
    if response.status != 200 or not etag or not length.isdecimal() or len(length) > 16:
        raise Doubt("properties without ETag or length")
    if kind != "PageBlob":
        raise SourceError(f"the blob is a {kind[:40]}, not a page blob: it is no disk")
    return _Facts(int(length), etag)


def _require_range(
    response: urllib3.BaseHTTPResponse, content_range: str, length: int, etag: str
) -> None:
    """Check all that can be known before the body."""
    headers = response.headers
    if response.status != 206:
        raise Doubt(f"status {response.status} to a range read")
    if headers.get("content-range") != content_range:
        raise Doubt("another range than the one asked for")
    if headers.get("content-length") != str(length) or "transfer-encoding" in headers:
        raise Doubt("another length than the one asked for")
    if headers.get("content-encoding", "identity") != "identity":
        raise Doubt("a body that is encoded")
    if "etag" not in headers:
        raise Doubt("a range without ETag")
    require_same(response, etag)


def _fill(response: urllib3.BaseHTTPResponse, buffer: memoryview) -> None:
    """
    Read exactly the body into ``buffer``; its length was checked before.

    From http.client's response underneath, whose ``readinto`` fills the buffer where it is:
    urllib3's own makes a copy first, a fifth of the CPU time of a read.
    """
    source = getattr(response, "_fp", response)
    done = 0
    while done < len(buffer):
        got = source.readinto(buffer[done:])
        if not got:
            raise ProtocolError(f"the body ends after {done} of {len(buffer)} bytes")
        done += got
    response.length_remaining = 0  # so that urllib3 knows that the connection is free again


def _require_md5(response: urllib3.BaseHTTPResponse, buffer: memoryview) -> None:
    said = response.headers.get("content-md5")
    if said is None:
        return
    if said != content_md5(buffer):
        raise Doubt("bytes that differ from their Content-MD5")
