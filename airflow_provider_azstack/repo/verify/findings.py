"""
What a verification reports.

Owns the report's form; knows not how anything was found.
Invariant: damage names what it costs: restore points, disks and the stretches of them.
"""

from collections.abc import Iterable
from typing import Annotated

from msgspec import Meta

from airflow_provider_azstack.model import Extent, Moment, Record, Size, Text
from airflow_provider_azstack.repo.verify.ledger import Mode, VerifiedPoint
from airflow_provider_azstack.speed import counted

MAX_RANGES = 1000  # that a report lists of one disk; the bytes are counted to the end
_SHOWN = 3  # objects that the verdict names
Count = Annotated[int, Meta(ge=0)]


class Finding(Record, frozen=True, kw_only=True):
    """An object that is not as it must be."""

    object: Text
    problem: str
    bad_blocks: Count = 0  # copies of blocks that are damaged in it
    lost_blocks: Count = 0  # that restore points need, and that no other pack has
    is_harmless: bool = False  # what was in it is stored again, or no restore point needs it


class LostRange(Record, frozen=True, kw_only=True):
    """A stretch of a disk that cannot be restored."""

    offset: Size
    length: Size


class Affected(Record, frozen=True, kw_only=True):
    """One disk of a restore point that cannot be restored as a whole."""

    vm: Text  # "" when the point itself is unreadable
    vm_key: Text
    point: Text
    disk_key: Text
    image: Text
    lost_bytes: Size
    ranges: tuple[LostRange, ...]  # joined, in order, the first MAX_RANGES
    reason: str = ""


class Cycle(Record, frozen=True, kw_only=True):
    """Whether a budget reads everything in time."""

    budget_bytes: Size
    days: Count
    needed_bytes: Size  # of every daily run, to read everything within the days
    overdue_packs: Count  # not read within the days, after this run
    is_enough: bool


class Report(Record, frozen=True, kw_only=True):
    """How a verification ended."""

    verification: Text
    repository: Text
    mode: Mode
    started_at: Moment
    ended_at: Moment
    points: Count
    groups: Count
    packs: Count
    pack_bytes: Size
    read_packs: Count
    read_bytes: Size
    unneeded_packs: Count  # that no restore point needs: the next prune looks at them
    unneeded_bytes: Size
    findings: tuple[Finding, ...]
    affected: tuple[Affected, ...]
    verified: tuple[VerifiedPoint, ...]
    cycle: Cycle | None = None

    @property
    def is_sound(self) -> bool:
        """Tell whether nothing is damaged that anybody needs."""
        return not self.affected and all(finding.is_harmless for finding in self.findings)

    @property
    def damaged_points(self) -> int:
        """How many restore points cannot be restored as a whole."""
        return len({(disk.vm_key, disk.point) for disk in self.affected})

    def summary(self) -> str:
        """Return the verdict in one line."""
        points = counted(self.points, "restore point")
        read = f"{points}, {self.read_packs} of {counted(self.packs, 'pack')} read"
        if self.is_sound:
            return f"sound: {read}"
        harmful = [finding for finding in self.findings if not finding.is_harmless]
        said = "".join(f"; {one.object} {one.problem}" for one in harmful[:_SHOWN])
        return f"{counted(self.damaged_points, 'restore point')} damaged ({read}){said}"


def joined(extents: Iterable[Extent]) -> tuple[int, tuple[LostRange, ...]]:
    """Return how many bytes the stretches have, and the first of them with neighbours joined."""
    total, ranges = 0, list[LostRange]()
    offset = end = 0
    for extent in extents:
        total += extent.length
        if extent.offset == end and end > offset:
            end += extent.length
            continue
        if end > offset:
            ranges.append(LostRange(offset=offset, length=end - offset))
        offset, end = extent.offset, extent.offset + extent.length
    if end > offset:
        ranges.append(LostRange(offset=offset, length=end - offset))
    return total, tuple(ranges[:MAX_RANGES])
