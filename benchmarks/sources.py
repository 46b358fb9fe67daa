"""The disks of the benchmarks: a sparse file, and the same file behind an HTTP range server."""

import json
import os
from bisect import bisect_left
from pathlib import Path

from airflow_provider_azstack.errors import ChangesUnknown, Unreachable
from airflow_provider_azstack.model import Extent


class FileDisk:
    """A sparse image file; its changes come from the ``.json`` beside it."""

    def __init__(self, path: Path) -> None:
        self.size_bytes = path.stat().st_size
        self._file = path.open("rb")
        journal = path.with_suffix(".json")
        self._changes: list[list[int]] | None = None
        if journal.exists():
            self._changes = json.loads(journal.read_text())

    def footer(self) -> bytes:
        """Return no footer: the images have none."""
        return b""

    def allocated(self, offset: int, length: int) -> list[Extent]:
        """Return what the file system says holds data."""
        found, end = [], offset + length
        while offset < end:
            try:
                start = os.lseek(self._file.fileno(), offset, os.SEEK_DATA)
            except OSError:
                break
            stop = min(os.lseek(self._file.fileno(), start, os.SEEK_HOLE), end)
            if start < end:
                found.append(Extent(start, stop - start))
            offset = stop
        return found

    def changed(self, offset: int, length: int) -> list[Extent]:
        """Return what the next day rewrote."""
        if self._changes is None:
            raise ChangesUnknown("no list of changes beside the image")
        end = offset + length
        first = max(bisect_left(self._changes, [offset]) - 1, 0)  # may reach into the window
        last = bisect_left(self._changes, [end])
        found = []
        for start, size in self._changes[first:last]:
            begin, stop = max(start, offset), min(start + size, end)
            if begin < stop:
                found.append(Extent(begin, stop - begin))
        return found

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from the file."""
        os.preadv(self._file.fileno(), [buffer], offset)


class HttpDisk(FileDisk):
    """The same disk, its bytes read through HTTP ranges."""

    def __init__(self, path: Path, url: str, connections: int) -> None:
        import urllib3  # noqa: PLC0415 - who reads a file does not pay for it

        super().__init__(path)
        self._url = url
        self._pool = urllib3.PoolManager(maxsize=connections, block=True)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` by one GET."""
        wanted = f"bytes={offset}-{offset + len(buffer) - 1}"
        response = self._pool.request(
            "GET", self._url, headers={"Range": wanted}, preload_content=False
        )
        filled = 0
        while filled < len(buffer) and (count := response.readinto(buffer[filled:])):
            filled += count
        response.release_conn()
        if response.status != 206 or filled != len(buffer):
            raise Unreachable(f"{wanted}: status {response.status}, {filled} bytes")
