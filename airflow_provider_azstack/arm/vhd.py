"""
The footer of a fixed VHD, read and written.

Owns the offsets of the "Virtual Hard Disk Image Format Specification"; does no I/O.
Invariants: what is not a footer is None, never a guess; what is built here parses here.
"""

import struct
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

FOOTER_BYTES = 512
COOKIE = b"conectix"
_FIXED = 2
_LAYOUT = ">8sIIQI4sI4sQQHBBII16sB427x"
_EPOCH_2000 = 946684800


class Footer(NamedTuple):
    """What a fixed VHD says about itself."""

    disk_bytes: int
    unique_id: str


def parse_footer(data: bytes | bytearray) -> Footer | None:
    """Return what the footer says, or None when ``data`` is no footer of a fixed VHD."""
    if len(data) != FOOTER_BYTES or not data.startswith(COOKIE):
        return None
    (disk_bytes,) = struct.unpack_from(">Q", data, 48)
    (kind,) = struct.unpack_from(">L", data, 60)
    if kind != _FIXED:
        return None
    return Footer(disk_bytes, str(UUID(bytes=bytes(data[68:84]))))


def build_footer(disk_bytes: int, unique_id: UUID, made_at: datetime) -> bytes:
    """Return the footer of a fixed VHD of ``disk_bytes``, which do not count the footer."""
    stamp = max(0, int(made_at.timestamp()) - _EPOCH_2000)
    cylinders, heads, sectors = _geometry(disk_bytes // 512)

    def packed(checksum: int) -> bytes:
        # The creator is "win ": for any other, qemu-img takes the size from the geometry, which
        # rounds.
        return struct.pack(
            _LAYOUT, COOKIE, 2, 0x10000, 2**64 - 1, stamp, b"win ", 0xA0000, b"Wi2k",
            disk_bytes, disk_bytes, cylinders, heads, sectors, _FIXED, checksum,
            unique_id.bytes, 0,
        )  # fmt: skip

    return packed(~sum(packed(0)) & 0xFFFFFFFF)


def _geometry(sectors: int) -> tuple[int, int, int]:
    """Return cylinders, heads and sectors of a track, by the specification's appendix."""
    sectors = min(sectors, 65535 * 16 * 255)
    if sectors >= 65535 * 16 * 63:
        return min(sectors // 255 // 16, 65535), 16, 255
    in_track = 17
    by_heads = sectors // in_track
    heads = max(4, (by_heads + 1023) // 1024)
    if by_heads >= heads * 1024 or heads > 16:
        in_track, heads = 31, 16
        by_heads = sectors // in_track
    if by_heads >= heads * 1024:
        in_track, heads = 63, 16
        by_heads = sectors // in_track
    return by_heads // heads, heads, in_track
