"""
A disk of a restore point as a file or a stream of bytes: raw, or a fixed VHD.

Owns what is written and under which name; knows no stack.
Invariant: the final name is that of a whole, synced disk or of what was there before. Until then
the bytes are in a file beside it that says so, locked by the living export; a dead one's is taken
over by the next.
"""

import errno
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from airflow_provider_azstack.arm.vhd import build_footer, parse_footer
from airflow_provider_azstack.errors import (
    ConfigurationError,
    IntegrityError,
    Refused,
    StoreError,
    StoreFull,
)
from airflow_provider_azstack.model import Extent, Image
from airflow_provider_azstack.repo.images import ImageReader, OnDamage, Piece

Format = Literal["raw", "vhd"]
Advance = Callable[[int], None]

_FULL = {errno.ENOSPC, errno.EDQUOT}
_ZEROS = memoryview(bytes(2**20))
_SECTOR = 512


class Lost(NamedTuple):
    """A range that could not be read and is zero in what was exported."""

    offset: int
    length: int
    reason: str


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
        self._lost: list[Lost] = []
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
        with _explained(target, self._needed), replaced_file(target, overwrite=overwrite) as file:
            os.truncate(file.fileno(), self.size_bytes)
            data_bytes = 0
            for piece in self._pieces():
                if piece.data is not None:
                    _write_at(file.fileno(), piece.data, piece.offset)
                    data_bytes += piece.length
            _write_at(file.fileno(), self._tail, self._image.size_bytes)
        return self._exported(data_bytes)

    def to_stream(self, stream: BinaryIO) -> Exported:
        """
        Write every byte in order, zeros too.

        :raises StoreError: the other end stopped reading; the message says after how much.
        """
        data_bytes = position = 0

        def needed() -> int:
            return self.size_bytes - position

        with _explained("the output", needed):
            for piece in self._pieces():
                position = piece.offset
                if piece.data is not None:
                    data_bytes += piece.length
                stream.writelines(_parts(piece))
            stream.write(self._tail)
            stream.flush()
        return self._exported(data_bytes)

    def _pieces(self) -> Iterator[Piece]:
        on_damage: OnDamage | None = self._note if self._salvage else None
        for piece in self._reader.stream(on_damage=on_damage):
            yield piece
            self._advance(piece.offset + piece.length)

    def _note(self, extent: Extent, error: IntegrityError) -> None:
        self._lost.append(Lost(extent.offset, extent.length, str(error)))

    def _exported(self, data_bytes: int) -> Exported:
        return Exported(self.size_bytes, data_bytes, tuple(_joined(sorted(self._lost))))

    def _needed(self) -> int:
        return sum(extent.length for extent in self._reader.extents()) + len(self._tail)


def _joined(ranges: list[Lost]) -> Iterator[Lost]:
    """Yield neighbours as one, with the first one's reason: a lost pack is many blocks."""
    last: Lost | None = None
    for lost in ranges:
        if last and last.offset + last.length == lost.offset:
            last = last._replace(length=last.length + lost.length)
            continue
        if last:
            yield last
        last = lost
    if last:
        yield last


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


@contextmanager
def replaced_file(target: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """
    Lend a file that gets the name ``target`` when the block ends well, and vanishes otherwise.

    :raises Refused: there is something of that name, or someone else is writing it.
    """
    _refuse_taken(target, overwrite=overwrite)
    partial = target.with_name(f".{target.name}.azstack-part")
    with _locked(partial) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            _publish(partial, target, overwrite=overwrite)
        finally:
            with suppress(FileNotFoundError):
                partial.unlink()


def _refuse_taken(target: Path, *, overwrite: bool) -> None:
    if target.is_dir():
        raise Refused(f"{target} is a directory: name a file")
    if target.is_symlink() or target.exists():
        if not overwrite:
            raise Refused(f"{target} exists: choose another name, or say --force to replace it")
        if not target.is_file() or target.is_symlink():
            raise Refused(f"{target} is no ordinary file and is not replaced")


@contextmanager
def _locked(partial: Path) -> Iterator[BinaryIO]:
    """Lend an empty file that nobody else writes; what a killed export left is used again."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        with open(os.open(partial, flags, 0o600), "r+b", buffering=0) as file:  # noqa: PTH123 - flags
            try:
                flock(file, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                raise Refused(f"another export is writing {partial}") from None
            # Another process may have finished and taken the name away before we had the lock.
            if partial.exists() and os.path.samestat(os.fstat(file.fileno()), partial.lstat()):
                file.truncate(0)
                yield file
                return


def _publish(partial: Path, target: Path, *, overwrite: bool) -> None:
    if overwrite:
        partial.replace(target)
    else:
        _link(partial, target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _link(partial: Path, target: Path) -> None:
    try:
        os.link(partial, target)
    except FileExistsError:
        raise Refused(f"{target} was made by someone else meanwhile") from None
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise
        _refuse_taken(target, overwrite=False)  # no hard links here, as on a stick with FAT
        partial.rename(target)


@contextmanager
def _explained(where: Path | str, needed: Callable[[], int]) -> Iterator[None]:
    """Turn the system's errors into ours."""
    try:
        yield
    except BrokenPipeError:
        raise StoreError(
            f"{where} was closed by its reader with {needed()} bytes to come"
        ) from None
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull(f"{where}: no room for the {needed()} bytes that it takes") from None
        raise StoreError(f"{where}: {error.strerror or error}") from None


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
