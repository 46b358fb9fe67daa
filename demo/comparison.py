"""
Reads a restore point back and compares it with what the guest's disk held then, byte by byte.

Owns the comparison; knows the repository and files, no stack and no Airflow. Invariant: every byte
of the disk is looked at, the zeros too, and nothing that backed the disk up says what is right.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from airflow_provider_azstack.model import RestorePoint
from airflow_provider_azstack.repo.images.reader import ImageReader, Piece
from airflow_provider_azstack.repo.repository import Repository

_STEP = 1 << 20
_ZEROS = bytes(_STEP)


class Difference(NamedTuple):
    """Where a disk read back differs first from what it was."""

    disk: str
    offset: int


def differences(
    repository: Repository, point: RestorePoint, truth: dict[str, Path]
) -> list[Difference]:
    """
    Compare every disk of ``point`` with its copy.

    :param truth: disk key -> raw copy of the disk as it was.
    """
    found = []
    if missing := truth.keys() ^ {image.disk_key for image in point.images}:
        found = [Difference(key, 0) for key in sorted(missing)]
    for image in point.images:
        if image.disk_key not in truth:
            continue
        reader = ImageReader(repository.image(image.image), repository.reader())
        with _opened(truth[image.disk_key]) as copy:
            offset = _first_difference(reader, copy)
        if offset is not None:
            found.append(Difference(image.disk_key, offset))
    return found


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    copy = os.open(path, os.O_RDONLY)
    try:
        yield copy
    finally:
        os.close(copy)


def _first_difference(reader: ImageReader, copy: int) -> int | None:
    size = os.fstat(copy).st_size
    at = 0
    with closing(reader.stream()) as pieces:
        for piece in pieces:
            if piece.offset != at or not _is_same(piece, copy):
                return at
            at += piece.length
    return None if at == size else min(at, size)


def _is_same(piece: Piece, copy: int) -> bool:
    if piece.data is not None:
        return os.pread(copy, piece.length, piece.offset) == piece.data
    return all(
        os.pread(copy, length, offset) == _ZEROS[:length]
        for offset, length in _written(copy, piece.offset, piece.offset + piece.length)
    )


def _written(copy: int, offset: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of a sparse file that are no holes; a hole reads as zeros by itself."""
    while offset < end:
        try:
            start = os.lseek(copy, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the file's end
                return
            raise
        stop = min(end, os.lseek(copy, start, os.SEEK_HOLE))
        for at in range(start, stop, _STEP):
            yield at, min(_STEP, stop - at)
        offset = max(stop, start)
