"""
What of a disk is sent: stretches of data that one write may hold, without their zero pages.

Owns the cutting and joining; sends nothing. Invariant: put together, the stretches are the data of
the stream, and what is left out of them is zero, or there already.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import NamedTuple

from airflow_provider_azstack.arm.disk_writer import MAX_WRITE_BYTES, PAGE_BYTES
from airflow_provider_azstack.repo.images.reader import Piece

_ZERO = bytes(PAGE_BYTES)


class Stretch(NamedTuple):
    """Bytes of a disk in a row, in pieces; no more than one write may hold."""

    offset: int
    data: list[bytes]


def joined(pieces: Iterable[Piece]) -> Generator[Stretch, None, None]:
    """Yield the data of a stream in stretches that one write may hold."""
    offset, data, length = 0, list[bytes](), 0
    for piece in pieces:
        is_next = piece.offset == offset + length
        if data and not (is_next and piece.data and length + piece.length <= MAX_WRITE_BYTES):
            yield Stretch(offset, data)
            data, length = [], 0
        if piece.data is not None:
            offset = offset if data else piece.offset
            data.append(piece.data)
            length += piece.length
    if data:
        yield Stretch(offset, data)


def nonzero(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where ``data`` holds pages that are not zero, neighbours joined."""
    return _where(len(data), lambda at: data[at : at + PAGE_BYTES] != _ZERO)


def unequal(now: bytearray, wanted: bytes) -> Iterator[tuple[int, int]]:
    """Yield where whole pages differ, neighbours joined; views would be compared byte by byte."""
    return _where(len(wanted), lambda at: now[at : at + PAGE_BYTES] != wanted[at : at + PAGE_BYTES])


def _where(length: int, is_meant: Callable[[int], bool]) -> Iterator[tuple[int, int]]:
    start = -1
    for at in range(0, length, PAGE_BYTES):
        if not is_meant(at):
            if start >= 0:
                yield start, at
            start = -1
        elif start < 0:
            start = at
    if start >= 0:
        yield start, length
