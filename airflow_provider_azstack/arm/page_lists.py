"""
What a disk behind a signed URL holds, and what changed of it, as the service's page lists say.

Owns asking for them, in windows that the service can finish in time; knows no bytes.
Invariant: a difference is believed only of a service that refused one to a snapshot that never
existed: one that does not know the question answers it with something else.
"""

from typing import NamedTuple
from urllib.parse import quote, urlsplit, urlunsplit

import urllib3

from airflow_provider_azstack.arm.blob_http import BlobClient, Refusal, TooMuch, require_same
from airflow_provider_azstack.arm.grants import GrantKeeper
from airflow_provider_azstack.arm.page_ranges import join, parse_page_list
from airflow_provider_azstack.errors import (
    AccessDenied,
    ChangesUnknown,
    SourceError,
    Unreachable,
)
from airflow_provider_azstack.model import Extent

WINDOW_BYTES = 16 * 2**30
SMALLEST_WINDOW_BYTES = 128 * 2**20
SPLIT = 4
MAX_PAGE_LIST_BYTES = 32 * 2**20
PROBE_BYTES = 4096
# No snapshot has this time, nor this name: an honest service refuses a difference against it.
_NO_SNAPSHOT = "2001-01-01T00:00:00.0000000Z"
_NO_NAME = "-never-existed"


class _Question(NamedTuple):
    """What is asked of every window."""

    query: str
    headers: dict[str, str]
    etag: str  # of the disk that is meant

    def over(self, start: int, end: int) -> dict[str, str]:
        """Return the headers that ask it of one window."""
        return {**self.headers, "x-ms-range": f"bytes={start}-{end - 1}"}


class PageLists:
    """
    The page lists of one disk. Thread-safe.

    :param keeper: access to the disk.
    :param previous: access to the reference snapshot, where its name is not enough.
    :param previous_snapshot: time stamp of the reference snapshot of the same blob.
    """

    def __init__(
        self,
        client: BlobClient,
        keeper: GrantKeeper,
        *,
        previous: GrantKeeper | None,
        previous_snapshot: str,
    ) -> None:
        self._client = client
        self._keeper = keeper
        self._previous = previous
        self._previous_snapshot = previous_snapshot
        self._window = WINDOW_BYTES
        self._differences_hold: bool | None = None

    def allocated(self, offset: int, end: int, etag: str) -> list[Extent]:
        """
        Return what holds data between two places of the disk that has this ETag.

        :raises ChangesUnknown: the service has no page list of it.
        :raises SourceChanged: the disk has another ETag.
        """
        return self._in_windows(offset, end, _Question("comp=pagelist", {}, etag))

    def changed(self, offset: int, end: int, etag: str) -> list[Extent]:
        """
        Return what changed since the reference snapshot, cleared pages included.

        :raises ChangesUnknown: there is no reference, or the service does not know it.
        :raises SourceChanged: the disk has another ETag.
        """
        question = self._difference(self._previous_snapshot, "", etag)
        if self._differences_hold is None:
            # Once with the real reference first: a grant that has ended shows there, not below.
            self._in_windows(offset, min(offset + PROBE_BYTES, end), question)
            self._differences_hold = self._refuses_a_false_reference(etag)
        if not self._differences_hold:
            raise ChangesUnknown(
                f"{self._keeper.place}: the service ignores the reference snapshot: "
                "it lists what is allocated, not what changed"
            )
        return self._in_windows(offset, end, question)

    def _in_windows(self, offset: int, end: int, question: _Question) -> list[Extent]:
        found: list[Extent] = []
        while offset < end:
            window = self._window
            stop = min(offset + window, end)
            try:
                splittable = window > SMALLEST_WINDOW_BYTES
                found += self._page_list(offset, stop, question, splittable=splittable)
            except TooMuch as too_much:
                if window <= SMALLEST_WINDOW_BYTES:
                    raise too_much.failure from None
                self._window = max(min(window, stop - offset) // SPLIT, SMALLEST_WINDOW_BYTES)
            else:
                offset = stop
        return join(found)

    def _page_list(
        self, start: int, end: int, question: _Question, *, splittable: bool
    ) -> list[Extent]:
        def read(response: urllib3.BaseHTTPResponse) -> list[Extent]:
            require_same(response, question.etag)
            text = response.read(MAX_PAGE_LIST_BYTES + 1)
            if len(text) > MAX_PAGE_LIST_BYTES:
                raise TooMuch(Unreachable(f"{self._keeper.place}: a page list that does not end"))
            return parse_page_list(text, start, end)

        try:
            return self._client.exchange(
                "GET",
                self._keeper,
                read,
                query=question.query,
                headers=question.over(start, end),
                refusals={400, 404, 405, 409, 501},
                splittable=splittable,
            )
        except (Refusal, AccessDenied) as refusal:
            # Who was let in to the properties is refused the list, or the reference. All can be
            # read without, as AzCopy does (ste/sender-pageBlob.go: "nil if ... it was not possible
            # to get a response"); if access has ended, reading says so.
            raise ChangesUnknown(f"no page list: {refusal}") from None

    def _difference(self, snapshot: str, name_suffix: str, etag: str) -> _Question:
        """Return what asks for a difference against the reference."""
        if snapshot:
            query = f"comp=pagelist&prevsnapshot={quote(snapshot, safe='')}"
            return _Question(query, {}, etag)
        if self._previous is None:
            raise ChangesUnknown(f"{self._keeper.place}: there is no reference snapshot")
        try:
            url = self._previous.current().url.reveal()
        except (SourceError, AccessDenied) as error:
            raise ChangesUnknown(f"no access to the reference snapshot: {error}") from None
        parts = urlsplit(url)
        url = urlunsplit(parts._replace(path=parts.path + name_suffix))
        return _Question("comp=pagelist", {"x-ms-previous-snapshot-url": url}, etag)

    def _refuses_a_false_reference(self, etag: str) -> bool:
        """
        Ask for a difference against a snapshot that never existed; tell whether that is refused.

        A service that does not know the parameter ignores it and lists what is allocated. Taken
        for a difference, that list would lack the pages that were cleared: silent corruption.
        """
        snapshot = _NO_SNAPSHOT if self._previous_snapshot else ""
        question = self._difference(snapshot, _NO_NAME, etag)
        try:
            self._client.exchange(
                "GET",
                self._keeper,
                lambda response: response.read(MAX_PAGE_LIST_BYTES),
                query=question.query,
                headers=question.over(0, PROBE_BYTES),
                refusals={400, 401, 403, 404, 409, 412, 501},
            )
        except Refusal:
            return True
        return False
