"""
The footer of a fixed VHD, written and checked.

Owns the 512 bytes; knows nothing of disks or blobs. Source: Virtual Hard Disk Image Format
Specification 1.0; written from it a second time here, so that what a restore builds is not checked
with the code that built it. Invariant: what ``footer`` makes, ``check`` accepts.
"""

import struct
import uuid

FOOTER = 512
_FORMAT = ">8sIIQI4sI4sQQHBBII16sB427x"
_FIXED = 2
_EPOCH_2000 = 946684800


def footer(size_bytes: int, unique_id: uuid.UUID, now: float) -> bytes:
    """Build the footer of a fixed VHD of ``size_bytes`` (without the footer)."""
    cylinders, heads, sectors = _geometry(size_bytes // 512)
    stamp = max(0, int(now) - _EPOCH_2000)

    def packed(checksum: int) -> bytes:
        return struct.pack(
            _FORMAT, b"conectix", 2, 0x10000, 2**64 - 1, stamp, b"win ", 0xA0000, b"Wi2k",
            size_bytes, size_bytes, cylinders, heads, sectors, _FIXED, checksum, unique_id.bytes, 0,
        )  # fmt: skip

    return packed(~sum(packed(0)) & 0xFFFFFFFF)


def check(data: bytes, size_bytes: int) -> str:
    """Say what is wrong with the footer of a disk of ``size_bytes``; empty when nothing is."""
    if len(data) != FOOTER or data[:8] != b"conectix":
        return "the footer cookie is missing"
    fields = struct.unpack(_FORMAT, data)
    if fields[13] != _FIXED:
        return "the VHD is not of the fixed type"
    if fields[9] != size_bytes:
        return f"the footer says {fields[9]} bytes, the disk has {size_bytes}"
    if fields[14] != ~(sum(data) - sum(data[64:68])) & 0xFFFFFFFF:
        return "the checksum of the footer is wrong"
    return ""


def _geometry(sectors: int) -> tuple[int, int, int]:
    """Cylinders, heads and sectors per track, by the specification's appendix."""
    sectors = min(sectors, 65535 * 16 * 255)
    if sectors >= 65535 * 16 * 63:
        return min(sectors // 255 // 16, 65535), 16, 255
    per_track = 17
    by_heads = sectors // per_track
    heads = max(4, (by_heads + 1023) // 1024)
    if by_heads >= heads * 1024 or heads > 16:
        per_track, heads = 31, 16
        by_heads = sectors // per_track
    if by_heads >= heads * 1024:
        per_track, heads = 63, 16
        by_heads = sectors // per_track
    return by_heads // heads, heads, per_track
