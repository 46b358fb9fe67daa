"""
What of a disk is sent: stretches of data that one write may hold.

Owns the joining; sends nothing. Invariant: put together, the stretches are the data of the stream.
"""

from collections.abc import Generator, Iterable
from typing import NamedTuple

from airflow_provider_azstack.arm.disk_writer import MAX_WRITE_BYTES
from airflow_provider_azstack.repo.images.reader import Piece


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
