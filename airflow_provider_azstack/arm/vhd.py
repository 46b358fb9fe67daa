"""
The footer of a fixed VHD, as far as reading a disk needs it.

Owns the offsets of the "Virtual Hard Disk Image Format Specification"; does no I/O.
Invariant: what is not a footer is None, never a guess.
"""

import struct
from typing import NamedTuple
from uuid import UUID

FOOTER_BYTES = 512
COOKIE = b"conectix"
_FIXED = 2


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
