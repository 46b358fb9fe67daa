"""
The logical volumes of LVM2 that lie on one partition.

Owns LVM's label and metadata text, and the way from a volume's offsets to the partition's; knows
no file system.
Invariant: a volume is offered only when every extent of it is plain and on this very partition.
Of others (striped, thin, mirrored, cached, on several disks) only the name is told. Metadata are
believed when their checksums hold, and even then are bounded: a guest wrote them.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from airflow_provider_azstack.engine.guest.partitions import Partition, Read

_SECTOR = 512
_LABEL = struct.Struct("<8sQII8s")
_MAGIC = b" LVM2 x[5A%r0N*>"
_METADATA = struct.Struct("<I16sIQQQQII")
_FIRST_CRC = 0xF597A6CF
_MAX_TEXT = 4 * 1024**2
_MAX_DEPTH = 8
_TOKEN = re.compile(r'\s+|\#[^\n]*|("(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|[\w.+-]+|[{}\[\]=,])')


class _Malformed(Exception):
    """The metadata are not such as LVM writes."""


class Segment(NamedTuple):
    """A stretch of a volume and where on the partition it lies."""

    offset: int
    length: int
    on_partition: int


class LogicalVolume(NamedTuple):
    """A volume by its name, as ``group/volume``; without segments it cannot be read."""

    name: str
    size_bytes: int
    segments: tuple[Segment, ...]

    def reader(self, read: Read, partition: Partition) -> Read:
        """Return what reads this volume like a disk."""

        def read_volume(offset: int, length: int) -> bytes:
            parts = []
            for segment in self.segments:
                start = max(offset, segment.offset)
                stop = min(offset + length, segment.offset + segment.length)
                if start < stop:
                    place = partition.offset + segment.on_partition + start - segment.offset
                    parts.append(read(place, stop - start))
            return b"".join(parts)

        return read_volume


def logical_volumes(read: Read, partition: Partition) -> list[LogicalVolume]:
    """Return the volumes that the partition's metadata tell of; none when they are damaged."""
    try:
        identity, text = _metadata(read, partition)
        return sorted(_volumes(_parse(text), identity, partition))
    except (_Malformed, struct.error, LookupError, TypeError, ValueError, AttributeError):
        return []


def _metadata(read: Read, partition: Partition) -> tuple[str, str]:
    """Return the identity of this physical volume, and the text that describes its group."""
    head = read(partition.offset, min(partition.length, 4 * _SECTOR))
    for start in range(0, len(head), _SECTOR):
        magic, _, checksum, at, kind = _LABEL.unpack_from(head, start)
        if magic == b"LABELONE" and kind == b"LVM2 001":
            break
    else:
        raise _Malformed
    if _crc(head[start + 20 : start + _SECTOR]) != checksum:
        raise _Malformed
    label = head[start + at : start + _SECTOR]
    areas = [struct.unpack_from("<QQ", label, place) for place in range(40, len(label) - 15, 16)]
    ends = [number for number, area in enumerate(areas) if area == (0, 0)]
    for offset, length in areas[ends[0] + 1 : ends[1]]:
        text = _text(read, partition, offset, length)
        if text is not None:
            return label[:32].decode("ascii"), text
    raise _Malformed


def _text(read: Read, partition: Partition, offset: int, length: int) -> str | None:
    if not 0 < offset < offset + length <= partition.length or length < _SECTOR:
        return None
    header = read(partition.offset + offset, _SECTOR)
    checksum, magic, _, _, _, at, size, text_checksum, _ = _METADATA.unpack_from(header)
    is_bounded = _SECTOR <= at < length and 0 < size <= min(_MAX_TEXT, length - _SECTOR)
    if magic != _MAGIC or _crc(header[4:]) != checksum or not is_bounded:
        return None
    first = min(size, length - at)  # the area is a ring behind its header
    text = read(partition.offset + offset + at, first)
    text += read(partition.offset + offset + _SECTOR, size - first)
    return text.rstrip(b"\0").decode() if _crc(text) == text_checksum else None


def _crc(data: bytes) -> int:
    return zlib.crc32(data, _FIRST_CRC ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def _parse(text: str) -> dict[str, Any]:
    tokens = _tokens(text)
    return _section(tokens, 0)


def _tokens(text: str) -> Iterator[str]:
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _Malformed
        if match[1]:
            yield match[1]
        position = match.end()


def _section(tokens: Iterator[str], depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if depth > _MAX_DEPTH:
        raise _Malformed
    for name in tokens:
        if name == "}":
            return found
        sign = next(tokens, "")
        if sign == "{":
            found[name] = _section(tokens, depth + 1)
        elif sign == "=":
            found[name] = _value(tokens)
        else:
            raise _Malformed
    return found


def _value(tokens: Iterator[str]) -> Any:
    token = next(tokens, "")
    if token != "[":  # noqa: S105 - a token of the text
        return token[1:-1] if token.startswith('"') else token
    values: list[str] = []
    for item in tokens:
        if item == "]":
            return values
        if item != ",":
            values.append(item[1:-1] if item.startswith('"') else item)
    raise _Malformed


def _volumes(text: dict[str, Any], identity: str, partition: Partition) -> Iterator[LogicalVolume]:
    [(group, described)] = [(name, one) for name, one in text.items() if isinstance(one, dict)]
    extent = int(described["extent_size"]) * _SECTOR
    ours = {
        name: int(one["pe_start"]) * _SECTOR
        for name, one in described["physical_volumes"].items()
        if one["id"].replace("-", "") == identity
    }
    for name, volume in described.get("logical_volumes", {}).items():
        if "VISIBLE" not in volume["status"]:
            continue
        numbers = range(1, min(int(volume["segment_count"]), 65536) + 1)
        parts = [volume[f"segment{number}"] for number in numbers]
        size = sum(int(part["extent_count"]) for part in parts) * extent
        segments = tuple(_segments(parts, extent, ours, partition))
        is_whole = sum(segment.length for segment in segments) == size
        yield LogicalVolume(f"{group}/{name}", size, segments if is_whole else ())


def _segments(
    parts: list[dict[str, Any]], extent: int, ours: dict[str, int], partition: Partition
) -> Iterator[Segment]:
    """Yield the segments that are plain and on this partition, in order, without a gap."""
    position = 0
    for part in parts:
        if part["type"] != "striped" or int(part["stripe_count"]) != 1:
            return
        physical, first = part["stripes"]
        length = int(part["extent_count"]) * extent
        place = ours.get(physical, -1) + int(first) * extent
        is_here = physical in ours and 0 < place < place + length <= partition.length
        if int(part["start_extent"]) * extent != position or not is_here:
            return
        yield Segment(position, length, place)
        position += length
