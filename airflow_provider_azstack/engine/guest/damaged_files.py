"""
Which files lie on the damaged stretches of a disk.

Owns the way from stretches of a disk to paths; knows neither how damage is found nor how it is
shown.
Invariant: only files whose own account of where they lie meets the damage are named. What had to
be read for that and is itself damaged is never taken for zeros: it is told as unread.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from airflow_provider_azstack.engine.cells import CellCache
from airflow_provider_azstack.engine.guest.file_systems import (
    LibraryMissing,
    Node,
    Volume,
    tells_extents,
)
from airflow_provider_azstack.engine.guest.places import Place, places
from airflow_provider_azstack.engine.guest.signatures import HEAD_BYTES
from airflow_provider_azstack.errors import AzStackError, IntegrityError
from airflow_provider_azstack.model import Extent
from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.repository import Repository

SHOWN = 20
ENTRIES = 500_000  # of one file system that are looked at: a dozen seconds
_NOTES = 5


class Damaged(NamedTuple):
    """What damage costs one partition or logical volume."""

    partition: int
    volume: str
    holds: str
    paths: tuple[str, ...]  # the first of them, directories with a slash at their end
    more: int
    unread: tuple[str, ...]  # why there may be others


class _Stretches:
    """Stretches in order, asked whether they meet another one."""

    def __init__(self, extents: Iterable[tuple[int, int]]) -> None:
        self._starts, self._ends = list[int](), list[int]()
        for offset, length in sorted(extents):
            self._starts.append(offset)
            self._ends.append(max(offset + length, *self._ends[-1:], 0))

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts, self._ends, strict=True))

    def meet(self, offset: int, length: int) -> bool:
        last = bisect_right(self._starts, offset + length - 1)
        return length > 0 and last > 0 and self._ends[last - 1] > offset


class _Disk:
    """A disk around its damage. What is damaged is zero until ``is_strict``, then it raises."""

    def __init__(self, reader: ImageReader, damage: _Stretches) -> None:
        self.is_strict = False
        self._damage = damage
        self._found = set[tuple[int, int]]()  # besides the damage that we were told of
        self.cells = CellCache(reader, on_damage=self._note)

    def read(self, offset: int, length: int) -> bytes:
        """
        Return a stretch of the disk.

        :raises IntegrityError: some of it is damaged.
        """
        data = self.cells.read(offset, length)
        if self.is_strict and self._is_damaged(offset, length):
            raise IntegrityError(f"it needs damaged bytes, {length} at {offset} of the disk")
        return data

    def _is_damaged(self, offset: int, length: int) -> bool:
        if self._damage.meet(offset, length):
            return True
        return any(at < offset + length and end > offset for at, end in list(self._found))

    def _note(self, extent: Extent, _: IntegrityError) -> None:
        if not self._damage.meet(extent.offset, extent.length):
            self._found.add((extent.offset, extent.offset + extent.length))


def damaged_files(
    repository: Repository,
    image: str,
    ranges: Iterable[tuple[int, int]],
    *,
    shown: int = SHOWN,
    entries: int = ENTRIES,
) -> list[Damaged]:
    """
    Return the files of a disk that lie on damaged stretches of it, by partition.

    :param image: its object name.
    :param ranges: offset and length of what is damaged.
    :param shown: so many paths of a file system are named, others counted.
    :param entries: so many entries of a file system are looked at.
    :raises LibraryMissing: the library that knows the file system is not installed.
    """
    damage = _Stretches(ranges)
    disk = _Disk(ImageReader(repository.image(image), repository.reader()), damage)
    with disk.cells:
        found = list(places(disk.read, disk.cells.size_bytes))
        disk.is_strict = True
        read_through = {place.partition.number for place in found if place.volume}
        hit = [(place, _inside(place, damage)) for place in found]
        return [
            _of_place(place, inside, shown, entries)
            for place, inside in hit
            if inside and (place.volume or place.partition.number not in read_through)
        ]


def _inside(place: Place, damage: _Stretches) -> _Stretches:
    """Return the damage of a place, by offsets from its beginning."""
    return _Stretches(
        (max(start, part.on_disk) - part.on_disk + part.offset, min(end, stop) - max(start, at))
        for part in place.stretches
        for at, stop in [(part.on_disk, part.on_disk + part.length)]
        for start, end in damage
        if start < stop and end > at
    )


def _of_place(place: Place, damage: _Stretches, shown: int, entries: int) -> Damaged:
    search = _Search(damage, shown, entries)
    if tells_extents(place.holds):
        search.run(place)
    elif not place.holds and damage.meet(0, HEAD_BYTES):
        search.note("its beginning is damaged, so what it holds is not known")
    else:
        search.note(f"files are not told for {place.holds or 'what it holds'}")
    return search.result(place)


class _Search:
    """A walk through one file system."""

    def __init__(self, damage: _Stretches, shown: int, entries: int) -> None:
        self._damage = damage
        self._shown = shown
        self._left = entries
        self._paths = list[str]()
        self._count = 0
        self._notes = list[str]()
        self._notes_count = 0

    def note(self, text: str) -> None:
        self._notes_count += 1
        if len(self._notes) < _NOTES:
            self._notes.append(text)

    def result(self, place: Place) -> Damaged:
        more = self._notes_count - len(self._notes)
        notes = [*self._notes, f"and {more} more"] if more else self._notes
        return Damaged(
            place.partition.number,
            place.volume,
            place.holds,
            tuple(self._paths),
            self._count - len(self._paths),
            tuple(notes),
        )

    def run(self, place: Place) -> None:
        try:
            above = [Volume(place.read, place.partition).root()]
        except LibraryMissing:
            raise
        except AzStackError as error:
            self.note(f"the file system: {error}")
            return
        seen = {above[0].identity}
        while above and self._left > 0:
            for node in self._look_into(above.pop()):
                if node.identity not in seen:  # a guest may have made a folder hold itself
                    seen.add(node.identity)
                    above.append(node)
        if above:
            self.note("the search ended early: there are too many files")

    def _look_into(self, folder: Node) -> Sequence[Node]:
        """Look at what a directory holds; return the directories among it."""
        below = list[Node]()
        try:
            for node in folder.children():
                self._left -= 1
                if self._left < 0:
                    break
                self._look_at(node)
                if node.kind == "directory":
                    below.append(node)
        except AzStackError as error:
            self.note(f"{folder.path}: {error}")
        return below

    def _look_at(self, node: Node) -> None:
        try:
            is_hit = any(self._damage.meet(*stretch) for stretch in node.stored())
        except AzStackError as error:
            self.note(f"{node.path}: {error}")
            return
        if is_hit:
            self._count += 1
            if len(self._paths) < self._shown:
                self._paths.append(node.path + "/" * (node.kind == "directory"))
