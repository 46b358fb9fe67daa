"""
Where the partitions of a disk are: MBR with logical partitions, GPT, or none at all.

Owns the tables; knows no file system.
Invariant: a table comes from a guest and may say anything: what it says is bounded, no partition
reaches past the disk, and no chain of tables is followed for ever.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

_SECTOR = 512
_MBR_ENTRY = struct.Struct("<B3xB3xII")
_EXTENDED = {0x05, 0x0F, 0x85}
_PROTECTIVE = 0xEE
_GPT_HEADER = struct.Struct("<8sIII4xQQQQ16sQIII")
_GPT_ENTRY = struct.Struct("<16s16sQQQ72s")
_MAX_PARTITIONS = 128
_SIGNATURE = b"\x55\xaa"

Read = Callable[[int, int], bytes]


class Partition(NamedTuple):
    """A stretch of a disk; number 0 is the disk itself, where there is no table."""

    number: int
    offset: int
    length: int
    name: str = ""


def partitions(read: Read, size_bytes: int) -> list[Partition]:
    """Return the partitions of a disk by number; the whole disk when it has no table."""
    whole = Partition(0, 0, size_bytes)
    sector = read(0, _SECTOR) if size_bytes >= _SECTOR else b""
    if sector[510:] != _SIGNATURE:
        return [whole]
    entries = list(_entries(sector))
    if any(kind == _PROTECTIVE for kind, _, _ in entries):
        found = _gpt(read, size_bytes)
    else:
        found = list(_mbr(read, entries, size_bytes))
    inside = [part for part in found if _fits(part, size_bytes)]
    return inside[:_MAX_PARTITIONS] or [whole]


def _fits(part: Partition, size_bytes: int) -> bool:
    return 0 < part.offset < part.offset + part.length <= size_bytes


def _entries(sector: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield kind, first sector and number of sectors of a table's used entries."""
    for position in range(446, 510, _MBR_ENTRY.size):
        status, kind, first, count = _MBR_ENTRY.unpack_from(sector, position)
        # A boot sector of a file system has the signature as well, and code where the table is.
        if status not in {0, 0x80}:
            return
        if kind and count:
            yield kind, first, count


def _mbr(read: Read, entries: list[tuple[int, int, int]], size_bytes: int) -> Iterator[Partition]:
    extended = 0
    for number, (kind, first, count) in enumerate(entries, 1):
        if kind in _EXTENDED:
            extended = extended or first
        else:
            yield Partition(number, first * _SECTOR, count * _SECTOR)
    if extended:
        yield from _logical(read, extended, size_bytes)


def _logical(read: Read, extended: int, size_bytes: int) -> Iterator[Partition]:
    table, number = extended, 5
    seen: set[int] = set()
    while table not in seen and (table + 1) * _SECTOR <= size_bytes and number < _MAX_PARTITIONS:
        seen.add(table)
        sector = read(table * _SECTOR, _SECTOR)
        if sector[510:] != _SIGNATURE:
            return
        following = table
        for kind, first, count in _entries(sector):
            if kind in _EXTENDED:
                following = extended + first
            else:
                yield Partition(number, (table + first) * _SECTOR, count * _SECTOR)
                number += 1
        table = following


def _gpt(read: Read, size_bytes: int) -> list[Partition]:
    """Return what the first table says that is whole: the one in front, or the copy at the end."""
    for offset in (_SECTOR, size_bytes - _SECTOR):
        found = _gpt_at(read, offset, size_bytes)
        if found is not None:
            return found
    return []


def _gpt_at(read: Read, offset: int, size_bytes: int) -> list[Partition] | None:
    header = read(offset, _SECTOR)
    magic, _, length, checksum, _, _, _, _, _, first, count, size, entries_sum = (
        _GPT_HEADER.unpack_from(header)
    )
    if magic != b"EFI PART" or not _GPT_HEADER.size <= length <= _SECTOR:
        return None
    if zlib.crc32(header[:16] + bytes(4) + header[20:length]) != checksum:
        return None
    total = count * size
    is_bounded = size >= _GPT_ENTRY.size and 0 < total <= 2**20
    if not is_bounded or first * _SECTOR + total > size_bytes:
        return None
    entries = read(first * _SECTOR, total)
    if zlib.crc32(entries) != entries_sum:
        return None
    return list(_gpt_entries(entries, size))


def _gpt_entries(entries: bytes, size: int) -> Iterator[Partition]:
    for number, position in enumerate(range(0, len(entries), size), 1):
        kind, _, first, last, _, name = _GPT_ENTRY.unpack_from(entries, position)
        if any(kind) and last >= first:
            text = name.decode("utf-16-le", "replace").partition("\0")[0]
            yield Partition(number, first * _SECTOR, (last - first + 1) * _SECTOR, text)
