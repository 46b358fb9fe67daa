"""
Every place of a disk where a file system may be.

Owns the way from the disk to partitions and the logical volumes behind them; knows no files.
Invariant: a place's bytes are read through ``read`` by offsets within its ``partition``.
"""

from collections.abc import Iterator
from typing import NamedTuple

from airflow_provider_azstack.engine.guest.file_systems import READABLE
from airflow_provider_azstack.engine.guest.logical_volumes import Segment, logical_volumes
from airflow_provider_azstack.engine.guest.partitions import Partition, Read, partitions
from airflow_provider_azstack.engine.guest.signatures import what_is_in


class Stretch(NamedTuple):
    """A stretch of a place and where on the disk it lies."""

    offset: int
    length: int
    on_disk: int


class Place(NamedTuple):
    """A partition, or a logical volume in one; ``holds`` is what it was found to hold."""

    partition: Partition
    volume: str
    read: Read
    holds: str
    stretches: tuple[Stretch, ...]

    @property
    def is_readable(self) -> bool:
        """Tell whether files can be read here."""
        return self.holds in READABLE


def places(read: Read, size_bytes: int) -> Iterator[Place]:
    """Yield the partitions, and behind one of LVM the logical volumes in it."""
    for part in partitions(read, size_bytes):
        holds = what_is_in(read, part)
        yield Place(part, "", read, holds, (Stretch(0, part.length, part.offset),))
        for volume in logical_volumes(read, part) if holds == "LVM" else ():
            inside = Partition(part.number, 0, volume.size_bytes)
            reads = volume.reader(read, part)
            found = what_is_in(reads, inside) if volume.segments else "more than this partition has"
            parts = tuple(_on_disk(part, segment) for segment in volume.segments)
            yield Place(inside, volume.name, reads, found, parts)


def _on_disk(part: Partition, segment: Segment) -> Stretch:
    return Stretch(segment.offset, segment.length, part.offset + segment.on_partition)
