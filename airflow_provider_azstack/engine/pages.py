"""
Which pages of some bytes matter: those that are not zero, those that differ.

Pure; knows neither disks nor who wants to know. Invariant: what is told are whole pages, each once
and in order, neighbours joined; only the last one may be shorter.
"""

from collections.abc import Iterable, Iterator

from airflow_provider_azstack.repo.images.overlay import PAGE_BYTES

_ZERO = bytes(PAGE_BYTES)
# Most of what is compared is equal: pieces of this size are compared before their pages.
_PIECE_BYTES = 16 * PAGE_BYTES


def nonzero(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where ``data`` holds pages that are not zero: where they begin, and where they end."""
    pages = range(0, len(data), PAGE_BYTES)
    return _joined((at for at in pages if data[at : at + PAGE_BYTES] != _ZERO), len(data))


def unequal(now: bytes | bytearray, wanted: bytes) -> Iterator[tuple[int, int]]:
    """Yield where pages differ, in the same way; views would be compared byte by byte."""
    return _joined(_unequal_pages(now, wanted), len(wanted))


def _unequal_pages(now: bytes | bytearray, wanted: bytes) -> Iterator[int]:
    for first in range(0, len(wanted), _PIECE_BYTES):
        end = first + _PIECE_BYTES
        one, other = now[first:end], wanted[first:end]
        if one == other:
            continue
        for at in range(0, len(other), PAGE_BYTES):
            if one[at : at + PAGE_BYTES] != other[at : at + PAGE_BYTES]:
                yield first + at


def _joined(pages: Iterable[int], length: int) -> Iterator[tuple[int, int]]:
    start = end = -1
    for page in pages:
        if page != end:
            if end >= 0:
                yield start, end
            start = page
        end = page + PAGE_BYTES
    if end >= 0:
        yield start, min(end, length)
