"""
Which pages of some bytes matter: those that are not zero, those that differ.

Pure; knows neither disks nor who wants to know. Invariant: what is told are whole pages, each once
and in order, neighbours joined; only the last one may be shorter.
"""

from collections.abc import Iterable, Iterator

from airflow_provider_azstack.repo.images.overlay import PAGE_BYTES
from airflow_provider_azstack.store.base import Buffer

_ZERO = bytes(PAGE_BYTES)
# Most of what is compared is equal: pieces of this size are compared before their pages.
_PIECE_BYTES = 16 * PAGE_BYTES


def nonzero(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where ``data`` holds pages that are not zero: where they begin, and where they end."""
    pages = range(0, len(data), PAGE_BYTES)
    return _joined(
        (at for at in pages if not _ZERO.startswith(data[at : at + PAGE_BYTES])), len(data)
    )


def unequal(now: Buffer, wanted: bytes) -> Iterator[tuple[int, int]]:
    """
    Yield where pages differ, in the same way.

    :raises ValueError: one is longer than the other.
    """
    if len(now) != len(wanted):
        raise ValueError(f"{len(now)} bytes cannot be compared with {len(wanted)}")
    return _joined(_unequal_pages(memoryview(now), wanted), len(wanted))


def _unequal_pages(now: memoryview, wanted: bytes) -> Iterator[int]:
    # "startswith" compares in place: slices of bytes would be copies, and views that are compared
    # with each other are taken byte by byte.
    for first in range(0, len(wanted), _PIECE_BYTES):
        end = min(first + _PIECE_BYTES, len(wanted))
        if wanted.startswith(now[first:end], first):
            continue
        for at in range(first, end, PAGE_BYTES):
            if not wanted.startswith(now[at : at + PAGE_BYTES], at):
                yield at


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
