"""
What tests and demos hold of the stack's disks: the guest's and the hypervisor's side of them.

Owns reading and writing disks past the API, as a guest does; knows no requests.
Invariant: offsets are the disk's: the VHD footer behind it is out of reach.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from airflow_provider_azstack.emulator import vhd
from airflow_provider_azstack.emulator.layers import PAGE, Volume

Kind = Literal["managed", "unmanaged"]
_CHUNK = 1 << 20


@dataclass(frozen=True)
class DiskSpec:
    """A disk to create, empty or with the content of a file."""

    kind: Kind = "managed"
    size_bytes: int = 64 << 20
    content: Path | None = None
    sku: str = "Standard_LRS"
    name: str = ""  # made from the VM's name unless given
    account: str = ""  # of an unmanaged disk; a default account unless given
    caching: str = "None"


@dataclass(frozen=True)
class EmulatedDisk:
    """One disk of a VM."""

    kind: Kind
    name: str
    source: str  # ARM id of a managed disk, URL of a page blob
    volume: Volume

    @property
    def size_bytes(self) -> int:
        """The disk's size, without the footer."""
        return self.volume.size_bytes - vhd.FOOTER

    def write(self, offset: int, data: bytes) -> None:
        """Write as the guest does."""
        self._check(offset, len(data))
        self.volume.write(offset, data)

    def clear(self, offset: int, length: int) -> None:
        """Discard as the guest does: whole pages become unallocated zeros."""
        self._check(offset, length)
        self.volume.clear(offset, length)

    def read(self, offset: int, length: int) -> bytes:
        """Read what the guest would read."""
        return self.volume.content().read(offset, min(length, self.size_bytes - offset))

    def sha256(self) -> str:
        """Digest the whole disk, without the footer."""
        digest = hashlib.sha256()
        frozen = self.volume.freeze()
        for offset in range(0, self.size_bytes, _CHUNK):
            digest.update(frozen.read(offset, min(_CHUNK, self.size_bytes - offset)))
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write the disk's content to a sparse file."""
        frozen = self.volume.freeze()
        with path.open("wb") as file:
            file.truncate(self.size_bytes)
            for start, end, _ in frozen.allocated(0, self.size_bytes):
                for at in range(start, end, _CHUNK):
                    file.seek(at)
                    file.write(frozen.read(at, min(_CHUNK, end - at)))

    def sync_from(self, path: Path) -> int:
        """
        Make the disk equal to a file by writing only the pages that differ, as the guest did.

        Pages that are holes in the file are discarded. Returns how many bytes changed.
        """
        changed = 0
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > self.size_bytes:
                raise ValueError(f"{path} has {size} bytes, the disk {self.size_bytes}")
            for start, end in _chunks(self._interesting(file.fileno(), size)):
                data = os.pread(file.fileno(), end - start, start).ljust(end - start, b"\0")
                changed += self._sync(start, data)
        return changed

    def _sync(self, start: int, data: bytes) -> int:
        old = self.volume.content().read(start, len(data))
        if old == data:
            return 0
        changed = 0
        for first, last in _differing(old, data):
            piece = data[first:last]
            if _is_zero(piece):
                self.volume.clear(start + first, last - first)
            else:
                self.volume.write(start + first, piece)
            changed += last - first
        return changed

    def _interesting(self, fd: int, size: int) -> list[tuple[int, int]]:
        """List where the file or the disk holds data, whole pages, sorted."""
        found = [
            (start, end) for start, end, _ in self.volume.content().allocated(0, self.size_bytes)
        ]
        found += _data_extents(fd, size)
        return sorted(
            (start // PAGE * PAGE, min(-(-end // PAGE) * PAGE, self.size_bytes))
            for start, end in found
        )

    def _check(self, offset: int, length: int) -> None:
        if not 0 <= offset <= offset + length <= self.size_bytes:
            raise ValueError(f"{offset}+{length} is outside a disk of {self.size_bytes} bytes")


def _is_zero(data: bytes) -> bool:
    return data.count(0) == len(data)


def _data_extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        at = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, at


def _chunks(extents: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Cut sorted extents, which may overlap, into pieces that do not."""
    done = 0
    for extent_start, end in extents:
        start = max(extent_start, done)
        while start < end:
            stop = min(start + _CHUNK, end)
            yield start, stop
            start = done = stop


def _differing(old: bytes, new: bytes) -> Iterator[tuple[int, int]]:
    """Yield the stretches of whole pages that differ; all-zero pages in stretches of their own."""
    first, zero = -1, False
    for at in range(0, len(new), PAGE):
        page = new[at : at + PAGE]
        differs = old[at : at + PAGE] != page
        is_zero = differs and _is_zero(page)
        if first >= 0 and (not differs or is_zero != zero):
            yield first, at
            first = -1
        if differs and first < 0:
            first, zero = at, is_zero
    if first >= 0:
        yield first, len(new)
