"""
Cut a VM that is too heavy for one stream into pieces: disks, and parts of big disks.

Owns where a disk is cut and what goes together; pure, knows no hosts.
Invariant: of every disk of a VM each byte is in exactly one piece, a disk is cut between two
regions only, and it never has more parts than may be streamed at once. Every piece names all disks.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from msgspec.structs import replace

from airflow_provider_azstack.model import DiskPart, WorkloadDisk, WorkloadVm
from airflow_provider_azstack.repo.images.runs import REGION_BYTES

MAX_PARTS = 64  # of a disk: each costs a task, a record and a few requests

# How many parts of a disk may be streamed at the same time; None: any number.
AtOnce = Callable[[WorkloadDisk], int | None]


class _Share(NamedTuple):
    """A disk, or a part of one, and what is expected of it."""

    key: str
    part: DiskPart | None
    expected_bytes: int


def cut(vm: WorkloadVm, target: int, at_once: AtOnce) -> tuple[WorkloadVm, ...]:
    """
    Return a VM in pieces of which about ``target`` bytes are expected; a light one stays whole.

    A disk goes into equal parts of whole regions: where in it the bytes are that have to move is
    not known.
    """
    if sum(disk.expected_bytes for disk in vm.disks) <= target:
        return (vm,)
    shares = [share for disk in vm.disks for share in _shares(disk, target, at_once(disk))]
    pieces = list(_gathered(shares, target))
    return tuple(_piece(vm, number, pieces) for number in range(len(pieces)))


def stretches(size_bytes: int, count: int) -> tuple[DiskPart, ...]:
    """Return a disk in ``count`` parts of whole regions, fewer where it has fewer regions."""
    regions = -(-size_bytes // REGION_BYTES)
    count = min(count, regions)
    borders = [number * regions // count * REGION_BYTES for number in range(count)]
    ends = [*borders[1:], size_bytes]
    return tuple(DiskPart(first, end) for first, end in zip(borders, ends, strict=True))


def _shares(disk: WorkloadDisk, target: int, at_once: int | None) -> Iterator[_Share]:
    count = min(-(-disk.expected_bytes // target), MAX_PARTS, at_once or MAX_PARTS)
    parts = stretches(disk.size_bytes, count) if count > 1 else ()
    if len(parts) < 2:
        yield _Share(disk.key, None, disk.expected_bytes)
        return
    for part in parts:
        before = disk.expected_bytes * part.first // disk.size_bytes
        yield _Share(disk.key, part, disk.expected_bytes * part.end // disk.size_bytes - before)


def _gathered(shares: Iterable[_Share], target: int) -> Iterator[dict[str, _Share]]:
    """Yield what goes together: neighbours while they fit ``target``, of each disk one part."""
    gathered: dict[str, _Share] = {}
    for share in shares:
        expected = sum(other.expected_bytes for other in gathered.values())
        is_too_much = expected + share.expected_bytes > target
        if gathered and (is_too_much or share.key in gathered):
            yield gathered
            gathered = {}
        gathered[share.key] = share
    yield gathered


def _piece(vm: WorkloadVm, number: int, pieces: list[dict[str, _Share]]) -> WorkloadVm:
    here = pieces[number]
    nothing = _Share("", None, 0)
    shares = [(disk, here.get(disk.key, nothing)) for disk in vm.disks]
    return replace(
        vm,
        piece=number,
        pieces=len(pieces),
        elsewhere=tuple(disk.key for disk in vm.disks if disk.key not in here),
        disks=tuple(
            replace(disk, part=share.part, expected_bytes=share.expected_bytes)
            for disk, share in shares
        ),
    )
