"""
What of a disk is written, noted, and written again, as a whole; and its cut into shares for hosts.

Owns the arithmetic of regions; reads no blocks, writes nothing, knows neither hosts nor stacks.
Invariants: a part's name says which regions it covers, so whoever reads the notes knows what is on
the disk, however the writer cut it. Shares cover every region that holds data and is not noted,
each exactly once.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

from airflow_provider_azstack.engine.restore.records import FOOTER
from airflow_provider_azstack.model import Image

PART_BYTES = 256 << 20  # of data: what a killed process has to write again at most

_NAME = re.compile(r"part-(\d{6,10})-(\d{6,10})")

DataBytes = Callable[[int], int]  # of a region, by its number


class Regions(NamedTuple):
    """Regions of an image in a row: a part, or a host's share."""

    first: int
    end: int


class Share(NamedTuple):
    """Regions that one task writes."""

    regions: Regions
    data_bytes: int


def part_name(part: Regions) -> str:
    """Return what a part is noted as."""
    return f"part-{part.first:06d}-{part.end:06d}"


def unwritten(image: Image, done: Collection[str], within: Regions | None = None) -> Iterator[int]:
    """
    Yield the regions that hold data and are in no part that is noted.

    :param done: the names of what is noted.
    """
    first, end = within or (0, len(image.regions))
    gaps = _gaps(sorted(_noted(done)), first, min(end, len(image.regions)))
    for start, stop in gaps:
        yield from (number for number in range(start, stop) if image.regions[number] is not None)


def is_written(image: Image, done: Collection[str]) -> bool:
    """Tell whether everything is noted, the footer too."""
    return FOOTER in done and next(unwritten(image, done), None) is None


def parts(
    image: Image,
    done: Collection[str],
    data_bytes: DataBytes,
    within: Regions | None = None,
) -> Iterator[Regions]:
    """
    Yield what is not noted, in order, in parts of about ``PART_BYTES``.

    Regions that hold little go together, with the empty ones between them.
    """
    noted = sorted(_noted(done))
    first, held, last = -1, 0, -1
    for number in unwritten(image, done, within):
        if first >= 0 and (held >= PART_BYTES or _cuts(noted, last, number)):
            yield Regions(first, last + 1)
            first, held = -1, 0
        first = number if first < 0 else first
        held += data_bytes(number)
        last = number
    if first >= 0:
        yield Regions(first, last + 1)


def shares(
    image: Image, done: Collection[str], data_bytes: DataBytes, most: int, least_bytes: int
) -> list[Share]:
    """
    Cut what is not noted into shares of about the same number of bytes of data.

    :param most: how many there may be.
    :param least_bytes: of data, in each: a share costs a task.
    """
    held = [(number, data_bytes(number)) for number in unwritten(image, done)]
    whole = sum(size for _, size in held)
    count = max(1, min(most, whole // max(1, least_bytes)))
    cut: list[Share] = []
    first, before, so_far = 0, 0, 0
    for number, size in held:
        so_far += size
        is_last = number == held[-1][0]
        if is_last or so_far * count >= whole * (len(cut) + 1):
            cut.append(Share(Regions(first, number + 1), so_far - before))
            first, before = number + 1, so_far
    return cut


def _noted(done: Iterable[str]) -> Iterator[Regions]:
    for name in done:
        if found := _NAME.fullmatch(name):
            yield Regions(int(found[1]), int(found[2]))


def _gaps(noted: Iterable[Regions], first: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield what lies between regions that are sorted, and may overlap."""
    for part in noted:
        if first < min(part.first, end):
            yield first, min(part.first, end)
        first = max(first, part.end)
    if first < end:
        yield first, end


def _cuts(noted: Iterable[Regions], last: int, number: int) -> bool:
    """Tell whether something noted lies between two regions: then no part spans them."""
    return any(last < part.first < number for part in noted)
