"""
One disk behind a signed URL: its size, footer, page lists and bytes.

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
from urllib.parse import quote, urlsplit, urlunsplit

import urllib3
from urllib3.exceptions import ProtocolError

from airflow_provider_azstack.arm.blob_http import (
    Doubt,
    Refusal,
    Settings,
    TooMuch,
    blob_client,
)
from airflow_provider_azstack.arm.checksums import Checksums, content_md5
from airflow_provider_azstack.arm.grants import Grant
from airflow_provider_azstack.arm.page_ranges import join, parse_page_list
from airflow_provider_azstack.arm.vhd import FOOTER_BYTES, parse_footer
from airflow_provider_azstack.errors import (
    AccessDenied,
    ChangesUnknown,
    SourceChanged,
    SourceError,
    Unreachable,
)
from airflow_provider_azstack.model import Extent
from airflow_provider_azstack.secret import without_query

__all__ = ["BlobDisk", "Grant"]

WINDOW_BYTES = 16 * 2**30
SMALLEST_WINDOW_BYTES = 128 * 2**20
SPLIT = 4
MAX_PAGE_LIST_BYTES = 32 * 2**20
PROBE_BYTES = 4096
# No snapshot has this time, nor this name: an honest service refuses a difference against it.
_NO_SNAPSHOT = "2001-01-01T00:00:00.0000000Z"
_NO_NAME = "-never-existed"


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
        self._previous = self._client.keeper(previous_grant) if previous_grant else None
        self._previous_snapshot = previous_snapshot
        self._expected_bytes = size_bytes
        self._lock = threading.Lock()
        self._known: _Facts | None = None
        self._window = WINDOW_BYTES
        self._differences_hold: bool | None = None
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
        return self._page_lists(offset, length, "comp=pagelist", {})

    def changed(self, offset: int, length: int) -> list[Extent]:
        """
        Return what changed in a stretch since the reference snapshot, cleared pages included.

        :raises ChangesUnknown: there is no reference, or the service does not know it.
        """
        query, headers = self._difference(self._previous_snapshot, "")
        if self._differences_hold is None:
            # Once with the real reference first: a grant that has ended shows there, not below.
            self._page_lists(offset, min(length, PROBE_BYTES), query, headers)
            self._differences_hold = self._refuses_a_false_reference()
        if not self._differences_hold:
            raise ChangesUnknown(
                f"{self._name()}: the service ignores the reference snapshot: "
                "it lists what is allocated, not what changed"
            )
        return self._page_lists(offset, length, query, headers)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """
        Fill ``buffer`` with the bytes at ``offset``.

        :raises SourceChanged: the disk is not what it was when reading began.
        :raises IntegrityError: the answers are not what was asked for, again and again.
        """
        facts = self._facts()
        if offset < 0 or offset + len(buffer) > facts.size_bytes:
            raise SourceError(
                f"{self._name()}: {len(buffer)} bytes at {offset} are not inside the disk"
            )
        self._read(facts, offset, buffer)

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _name(self) -> str:
        return without_query(self._keeper.current().url.reveal())

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
                f"{self._name()}: {total} bytes, but the disk had {expected} when it was discovered"
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

    def _page_lists(
        self, offset: int, length: int, query: str, headers: dict[str, str]
    ) -> list[Extent]:
        end = min(offset + length, self.size_bytes)
        found: list[Extent] = []
        while offset < end:
            window = self._window
            stop = min(offset + window, end)
            try:
                found += self._page_list(
                    offset, stop, query, headers, splittable=window > SMALLEST_WINDOW_BYTES
                )
            except TooMuch as too_much:
                if window <= SMALLEST_WINDOW_BYTES:
                    raise too_much.failure from None
                self._window = max(min(window, stop - offset) // SPLIT, SMALLEST_WINDOW_BYTES)
            else:
                offset = stop
        return join(found)

    def _page_list(
        self, start: int, end: int, query: str, headers: dict[str, str], *, splittable: bool
    ) -> list[Extent]:
        asked = {**headers, "x-ms-range": f"bytes={start}-{end - 1}"}
        etag = self._facts().etag

        def read(response: urllib3.BaseHTTPResponse) -> list[Extent]:
            _require_same(response, etag)
            text = response.read(MAX_PAGE_LIST_BYTES + 1)
            if len(text) > MAX_PAGE_LIST_BYTES:
                raise TooMuch(Unreachable(f"{self._name()}: a page list that does not end"))
            return parse_page_list(text, start, end)

        try:
            return self._client.exchange(
                "GET",
                self._keeper,
                read,
                query=query,
                headers=asked,
                refusals={400, 404, 405, 409, 501},
                splittable=splittable,
            )
        except (Refusal, AccessDenied) as refusal:
            # Who was let in to the properties is refused the list, or the reference. All can be
            # read without, as AzCopy does (ste/sender-pageBlob.go: "nil if ... it was not possible
            # to get a response"); if access has ended, reading says so.
            raise ChangesUnknown(f"no page list: {refusal}") from None

    def _difference(self, snapshot: str, name_suffix: str) -> tuple[str, dict[str, str]]:
        """Return query and headers that ask for a difference against the reference."""
        if snapshot:
            return f"comp=pagelist&prevsnapshot={quote(snapshot, safe='')}", {}
        if self._previous is None:
            raise ChangesUnknown(f"{self._name()}: there is no reference snapshot")
        try:
            url = self._previous.current().url.reveal()
        except (SourceError, AccessDenied) as error:
            raise ChangesUnknown(f"no access to the reference snapshot: {error}") from None
        parts = urlsplit(url)
        url = urlunsplit(parts._replace(path=parts.path + name_suffix))
        return "comp=pagelist", {"x-ms-previous-snapshot-url": url}

    def _refuses_a_false_reference(self) -> bool:
        """
        Ask for a difference against a snapshot that never existed; tell whether that is refused.

        A service that does not know the parameter ignores it and lists what is allocated. Taken
        for a difference, that list would lack the pages that were cleared: silent corruption.
        """
        query, headers = self._difference(_NO_SNAPSHOT if self._previous_snapshot else "", _NO_NAME)
        try:
            self._client.exchange(
                "GET",
                self._keeper,
                lambda response: response.read(MAX_PAGE_LIST_BYTES),
                query=query,
                headers={**headers, "x-ms-range": f"bytes=0-{PROBE_BYTES - 1}"},
                refusals={400, 401, 403, 404, 409, 412, 501},
            )
        except Refusal:
            return True
        return False


def _read_facts(response: urllib3.BaseHTTPResponse) -> _Facts:
    etag = response.headers.get("etag", "")
    length = response.headers.get("content-length", "")
    kind = response.headers.get("x-ms-blob-type", "PageBlob")
    if response.status != 200 or not etag or not length.isdecimal() or len(length) > 16:
        raise Doubt("properties without ETag or length")
    if kind != "PageBlob":
        raise SourceError(f"the blob is a {kind[:40]}, not a page blob: it is no disk")
    return _Facts(int(length), etag)


def _require_same(response: urllib3.BaseHTTPResponse, etag: str) -> None:
    has = response.headers.get("etag", etag)
    if has != etag:
        raise SourceChanged(
            f"the ETag became {has[:80]} while the disk was read, it was {etag[:80]}"
        )


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
    _require_same(response, etag)


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
