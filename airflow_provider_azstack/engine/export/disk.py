"""
A disk of a restore point as a file or a stream of bytes: raw, or a fixed VHD.

Owns the bytes, their order and their holes; knows no stack.
Invariant: what is exported without a word of losses is every byte of the disk as it was backed up.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from airflow_provider_azstack.arm.vhd import build_footer, parse_footer
from airflow_provider_azstack.engine.export.new_file import explained, replaced_file
from airflow_provider_azstack.errors import ConfigurationError, IntegrityError
from airflow_provider_azstack.model import Extent, Image
from airflow_provider_azstack.repo.images.reader import ImageReader, OnDamage, Piece

Format = Literal["raw", "vhd"]
Advance = Callable[[int], None]

_ZEROS = memoryview(bytes(2**20))
_SECTOR = 512


class Lost(NamedTuple):
    """A range that could not be read and is zero in what was exported."""

    offset: int
    length: int
    reason: str


class Losses:
    """What could not be read so far, each byte once, however often it was asked for."""

    def __init__(self) -> None:
        self._ranges: dict[tuple[int, int], str] = {}

    def note(self, extent: Extent, error: IntegrityError) -> None:
        """Take down a range."""
        self._ranges.setdefault((extent.offset, extent.length), str(error))

    def ranges(self) -> tuple[Lost, ...]:
        """Return the ranges in order, neighbours as one: a lost pack is many blocks."""
        joined: list[Lost] = []
        for (offset, length), reason in sorted(self._ranges.items()):
            last = joined[-1] if joined else None
            if last and offset <= last.offset + last.length:
                end = max(last.offset + last.length, offset + length)
                joined[-1] = last._replace(length=end - last.offset)
            else:
                joined.append(Lost(offset, length, reason))
        return tuple(joined)


class Exported(NamedTuple):
    """What became of a disk."""

    size_bytes: int  # of the file, its footer included
    data_bytes: int  # that are not holes
    lost: tuple[Lost, ...]


class DiskExport:
    """One disk of a restore point, ready to be written."""

    def __init__(
        self,
        image: Image,
        reader: ImageReader,
        form: Format,
        *,
        salvage: bool = False,
        advance: Advance = lambda _position: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """
        :param salvage: write zeros where the repository is damaged, and tell where.
        :param advance: is told how far on the disk the export is.
        """
        self._image = image
        self._reader = reader
        self._advance = advance
        self._salvage = salvage
        self._losses = Losses()
        self._tail = footer_of(image, clock()) if form == "vhd" else b""

    @property
    def size_bytes(self) -> int:
        """Size of the file to be."""
        return self._image.size_bytes + len(self._tail)

    def to_file(self, target: Path, *, overwrite: bool = False) -> Exported:
        """
        Write a sparse file that only its owner can read: guests' disks are secrets.

        :raises Refused: the name is taken, or another export to it is running.
        :raises StoreFull: there is no room; nothing is left behind.
        """
        with explained(target, self._needed), replaced_file(target, overwrite=overwrite) as file:
            os.truncate(file.fileno(), self.size_bytes)
            data_bytes = 0
            for piece in self._pieces():
                if piece.data is not None:
                    _write_at(file.fileno(), piece.data, piece.offset)
                    data_bytes += piece.length
            _write_at(file.fileno(), self._tail, self._image.size_bytes)
        return Exported(self.size_bytes, data_bytes, self._losses.ranges())

    def to_stream(self, stream: BinaryIO) -> Exported:
        """
        Write every byte in order, zeros too.

        :raises StoreError: the other end stopped reading; the message says after how much.
        """
        data_bytes = position = 0

        def needed() -> int:
            return self.size_bytes - position

        with explained("the output", needed):
            for piece in self._pieces():
                position = piece.offset
                if piece.data is not None:
                    data_bytes += piece.length
                stream.writelines(_parts(piece))
            stream.write(self._tail)
            stream.flush()
        return Exported(self.size_bytes, data_bytes, self._losses.ranges())

    def _pieces(self) -> Iterator[Piece]:
        on_damage: OnDamage | None = self._losses.note if self._salvage else None
        for piece in self._reader.stream(on_damage=on_damage):
            yield piece
            self._advance(piece.offset + piece.length)

    def _needed(self) -> int:
        return sum(extent.length for extent in self._reader.extents()) + len(self._tail)


def footer_of(image: Image, made_at: datetime) -> bytes:
    """
    Return the footer that the disk had, or a new one if it had none that fits.

    :raises ConfigurationError: no VHD can have that size.
    """
    kept = parse_footer(image.footer)
    if kept and kept.disk_bytes == image.size_bytes:
        return image.footer
    if image.size_bytes % _SECTOR:
        raise ConfigurationError(
            f"a VHD is made of sectors of {_SECTOR} bytes, the disk has {image.size_bytes}: "
            "export it as raw"
        )
    return build_footer(image.size_bytes, uuid.uuid5(uuid.NAMESPACE_URL, image.name), made_at)


def _write_at(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def _parts(piece: Piece) -> Iterator[bytes | memoryview]:
    if piece.data is not None:
        yield piece.data
        return
    for start in range(0, piece.length, len(_ZEROS)):
        yield _ZEROS[: piece.length - start]
