"""
Checking a source's word that a range need not be read: it did not change, or holds nothing (more).

Owns which ranges are looked at; knows neither how changes are found nor how they are stored.
Invariant: a range is compared only where the source said what it holds, so a difference is a lie
and never a coincidence.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from operator import attrgetter
from random import Random

from airflow_provider_azstack.errors import ChangesLied
from airflow_provider_azstack.model import Extent, Image
from airflow_provider_azstack.repo.images.overlay import PAGE_BYTES
from airflow_provider_azstack.repo.images.runs import Run

# 64 ranges of 64 KiB: a source that hides 1% of scattered pages is caught in the same run with
# more than 99.9%, for 4 MiB of reading.
SAMPLES = 64
SAMPLE_BYTES = 64 * 1024


def sample_offsets(previous: Image, rng: Random, first: int, end: int) -> list[int]:
    """
    Return sorted offsets to look at: half anywhere, half where the image before holds data.

    :param first: where to look from, up to ``end``; at a region's beginning.
    """
    lowest, pages = first // PAGE_BYTES, -(-end // PAGE_BYTES)
    step = previous.region_bytes // PAGE_BYTES
    numbers = range(first // previous.region_bytes, -(-end // previous.region_bytes))
    held = [number for number in numbers if previous.regions[number] is not None]
    offsets = []
    for turn in range(SAMPLES if lowest < pages else 0):
        page = rng.randrange(lowest, pages)
        if held and turn % 2:
            start = rng.choice(held) * step
            page = rng.randrange(start, min(start + step, pages))
        offsets.append(page * PAGE_BYTES)
    return sorted(offsets)


def unread_ranges(offsets: Iterable[int], changed: Sequence[Extent], end: int) -> Iterator[Extent]:
    """
    Yield a range that is not read for each of ``offsets`` that has one before ``end``.

    An offset inside a change moves to the end of it: what was written next to it is hidden most
    easily.

    :param changed: what is read, sorted and joined.
    """
    for offset in offsets:
        at = bisect_right(changed, offset, key=lambda extent: extent.offset)
        start = offset
        if at:
            start = max(offset, changed[at - 1].offset + changed[at - 1].length)
        stop = changed[at].offset if at < len(changed) else end
        length = min(stop - start, SAMPLE_BYTES)
        if length > 0:
            yield Extent(start, length)


def within(empty: Sequence[Run], sample: Extent) -> list[Run]:
    """
    Return what of ``empty`` is in a sample.

    :param empty: sorted, without overlaps.
    """
    end = sample.offset + sample.length
    first = bisect_right(empty, sample.offset, key=attrgetter("end"))
    runs = takewhile(lambda run: run.offset < end, map(empty.__getitem__, range(first, len(empty))))
    return [run.cut(max(run.offset, sample.offset), min(run.end, end)) for run in runs]


def cleared(sample: Extent, before: bytes, empty: Iterable[Run]) -> bytes:
    """Return what a sample holds that was ``before`` and then cleared."""
    now = bytearray(before)
    for run in empty:
        start = run.offset - sample.offset
        now[start : start + run.length] = bytes(run.length)
    return bytes(now)


def compare(sample: Extent, now: memoryview, before: bytes, image: str) -> None:
    """:raises ChangesLied: the bytes differ; names the offsets of the pages that do."""
    if bytes(now) == before:
        return
    offsets = tuple(
        sample.offset + start
        for start in range(0, sample.length, PAGE_BYTES)
        if now[start : start + PAGE_BYTES] != before[start : start + PAGE_BYTES]
    )
    listed = ", ".join(map(str, offsets))
    raise ChangesLied(
        f"the source said unchanged since {image}, or empty, but is neither at these offsets: "
        f"{listed}; the next backup of the disk must read everything",
        offsets,
    )
