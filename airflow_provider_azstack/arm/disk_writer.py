"""
Writing a disk behind a signed URL, page by page.

Owns ``Put Page``; refuses to know what kind of disk it is, where the bytes come from, and when the
disk is whole.
Invariants: ``write`` returns only when the service acknowledged every byte. Repeating a write is
harmless, so what is in doubt is sent again. No page reaches a blob of another sequence number.
"""

from collections.abc import Callable
from typing import Self, Unpack

import urllib3

from airflow_provider_azstack.arm.blob_http import Doubt, Refusal, Settings, blob_client
from airflow_provider_azstack.arm.checksums import Checksums, content_md5
from airflow_provider_azstack.arm.grants import Grant

PAGE_BYTES = 4096  # a stack's; public Azure takes 512
MAX_WRITE_BYTES = 4 * 2**20


class DiskWriter:
    """
    A page blob, or a managed disk that waits for its upload, written by signed URL. Thread-safe.

    :param grant: asks for write access; called again at 80% of its time, and once when refused.
    :param sequence_number: of the page blob that is meant, where another one may come into its
        place; None for a managed disk, whose access ends with it.
    """

    def __init__(
        self,
        grant: Callable[[], Grant],
        *,
        sequence_number: int | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        self._client = blob_client(**settings)
        self._keeper = self._client.keeper(grant)
        self._conditions: dict[str, str] = {}
        if sequence_number is not None:
            self._conditions["x-ms-if-sequence-number-eq"] = str(sequence_number)
        self._checksums = Checksums()

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """
        Write whole pages at ``offset``; what ends at the disk's end, its footer, may be shorter.

        :raises SourceBusy: the disk is leased, or is not waiting for an upload (any more).
        :raises SourceGone: there is no such disk.
        :raises Refused: it is not the one that is meant; it is untouched.
        :raises IntegrityError: other bytes arrived than were sent, again and again.
        """
        if offset < 0 or offset % PAGE_BYTES or not 0 < len(data) <= MAX_WRITE_BYTES:
            raise ValueError(f"{len(data)} bytes at {offset} are no pages to write at once")
        headers = {
            "x-ms-page-write": "update",
            "x-ms-range": f"bytes={offset}-{offset + len(data) - 1}",
            **self._conditions,
        }
        is_checked = self._checksums.are_due(len(data))
        if is_checked:
            headers["Content-MD5"] = content_md5(data)
        try:
            self._client.exchange(
                "PUT",
                self._keeper,
                _written,
                query="comp=page",
                headers=headers,
                refusals={400} if is_checked else (),
                body=data,
            )
        except Refusal as refusal:
            self._checksums.refused(refusal)
            self.write(offset, data)

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _written(response: urllib3.BaseHTTPResponse) -> None:
    if response.status != 201:
        raise Doubt(f"status {response.status} to a page write")
