"""
Disks of the random clients as their model keeps them: pages, and what changed since others.

Sizes and places are those where a backup has something to decide: the borders of pages, cells,
regions and of the first question about changes, and an end that is none of these.
"""

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import cache
from random import Random
from typing import NamedTuple

from airflow_provider_azstack.errors import ChangesUnknown
from airflow_provider_azstack.model import Extent
from airflow_provider_azstack.repo.images.reader import ImageReader

SECTOR, PAGE, CELL, REGION = 512, 4096, 1024**2, 256 * 1024**2
WINDOW = 1024**3  # what the first question about changes covers
TINY = 24 * PAGE  # so small that samples of it find every lie
SIZES = (TINY, 2 * CELL + 5 * SECTOR, WINDOW + REGION + 3 * CELL + 5 * SECTOR)
GROWTH = (3 * SECTOR, 5 * PAGE, CELL)
EMPTY = bytes(PAGE)


class State(NamedTuple):
    """A disk at one moment: its size, and the pages that hold data by their offsets."""

    size_bytes: int
    pages: Mapping[int, bytes]

    def page(self, offset: int) -> bytes:
        return self.pages.get(offset, EMPTY)

    def read(self, offset: int, length: int) -> bytes:
        buffer = bytearray(length)
        first = offset - offset % PAGE
        inside: Iterator[int] | range = range(first, offset + length, PAGE)
        if len(inside) > len(self.pages):
            inside = (at for at in self.pages if first <= at < offset + length)
        for at in inside:
            start, end = max(at, offset), min(at + PAGE, offset + length)
            buffer[start - offset : end - offset] = self.page(at)[start - at : end - at]
        return bytes(buffer)

    def holds(self, offset: int, length: int) -> bool:
        touched = (at for at in self.pages if offset - PAGE < at < offset + length)
        spans = ((max(at, offset), min(at + PAGE, offset + length)) for at in touched)
        return any(any(self.read(start, end - start)) for start, end in spans)


class Disk:
    """A disk at one moment, and what changed since another one."""

    def __init__(
        self,
        state: State,
        before: State | None,
        *,
        told_until: int = 0,
        has_page_list: bool = True,
        hidden: int | None = None,
    ) -> None:
        """
        :param told_until: where the source stops to know what changed.
        :param hidden: the offset of a page that nothing is told of.
        """
        self.size_bytes = state.size_bytes
        self._state = state
        self._before = before
        self._told_until = told_until
        self._has_page_list = has_page_list
        self.hidden = hidden

    def footer(self) -> bytes:
        return b""

    def allocated(self, offset: int, length: int) -> list[Extent]:
        if not self._has_page_list:
            raise ChangesUnknown("no page list")
        pages = self._state.pages.keys() - {self.hidden}
        return self._extents(offset, length, pages, lambda _at, sector: any(sector))

    def changed(self, offset: int, length: int) -> list[Extent]:
        if self._before is None or offset >= self._told_until:
            raise ChangesUnknown("no reference")
        before = self._before
        pages = changed_pages(before, self._state) - {self.hidden}
        return self._extents(
            offset, length, pages, lambda at, sector: sector != before.read(at, len(sector))
        )

    def read_into(self, offset: int, buffer: memoryview) -> None:
        assert offset + len(buffer) <= self.size_bytes
        buffer[:] = self._state.read(offset, len(buffer))

    def _extents(
        self,
        offset: int,
        length: int,
        pages: AbstractSet[int],
        is_in: Callable[[int, bytes], bool],
    ) -> list[Extent]:
        """Tell sectors, as the stack does: one that is cleared may have a neighbour with data."""
        end = min(offset + length, self.size_bytes)
        found = []
        for page in sorted(pages):
            for at in range(page, page + PAGE, SECTOR):
                sector = self._state.read(at, SECTOR)
                if offset <= at < end and is_in(at, sector):
                    found.append(Extent(at, SECTOR, not any(sector)))
        return found


def changed_pages(before: State, now: State) -> set[int]:
    both = before.pages.keys() | now.pages.keys()
    return {at for at in both if before.page(at) != now.page(at)}


@cache
def places(size_bytes: int) -> tuple[int, ...]:
    """Return where a guest writes: offsets of pages, most of them in the first cell."""
    borders = (CELL, REGION, 2 * REGION, WINDOW, size_bytes - size_bytes % PAGE)
    near = {border + step * PAGE for border in borders for step in (-2, -1, 0, 1)}
    inside = {at for at in near if 0 <= at < size_bytes}
    return tuple(sorted(inside | set(range(0, min(size_bytes, 32 * PAGE), PAGE))))


@cache
def cells(size_bytes: int) -> tuple[int, ...]:
    """Return the offsets of the cells that a guest fills or clears as a whole."""
    last = (size_bytes - 1) // CELL * CELL
    return tuple(sorted({at - at % CELL for at in places(size_bytes)} | {last}))


def written(state: State, others: list[State], rng: Random) -> State:
    """Return the disk after a guest wrote: new content, some that was there before, or zeros."""
    pages, size_bytes = dict(state.pages), state.size_bytes
    for _ in range(rng.randrange(1, 8)):
        what = rng.choices(["fresh", "old", "zero", "sector", "cell", "grow"], [8, 4, 3, 3, 1, 0.3])
        match what[0]:
            case "fresh":
                pages[rng.choice(places(size_bytes))] = rng.randbytes(PAGE)
            case "old":
                pages[rng.choice(places(size_bytes))] = _somewhere(others, rng)
            case "zero":
                pages.pop(rng.choice(places(size_bytes)), None)
            case "sector":
                at, start = rng.choice(places(size_bytes)), rng.randrange(0, PAGE, SECTOR)
                page = bytearray(pages.get(at, EMPTY))
                page[start : start + SECTOR] = rng.choice([bytes(SECTOR), rng.randbytes(SECTOR)])
                pages[at] = bytes(page)
            case "cell":
                first = rng.choice(cells(size_bytes))
                end = min(first + CELL, size_bytes)
                page = rng.choice([EMPTY, rng.randbytes(PAGE), _somewhere(others, rng)])
                pages.update((at, page) for at in range(first, end, PAGE))
            case "grow" if size_bytes > TINY:
                size_bytes += rng.choice(GROWTH)
    for at in [at for at, page in pages.items() if page == EMPTY]:
        del pages[at]
    return _cut(State(size_bytes, pages))


def _cut(state: State) -> State:
    """What is behind the end of a disk is nowhere: it is zero when the disk grows."""
    last = state.size_bytes - state.size_bytes % PAGE
    rest = state.page(last)[: state.size_bytes - last]
    pages = {at: page for at, page in state.pages.items() if at != last}
    return state._replace(pages={**pages, last: rest.ljust(PAGE, b"\0")} if any(rest) else pages)


def _somewhere(others: list[State], rng: Random) -> bytes:
    pages = [page for state in others for page in state.pages.values()]
    return rng.choice(pages) if pages else EMPTY


def assert_is(reader: ImageReader, state: State) -> None:
    """Hold an image against what the disk was, zeros included."""
    assert reader.size_bytes == state.size_bytes
    done = 0
    for piece in reader.stream(threads=1):
        assert piece.offset == done
        done += piece.length
        if piece.data is None:
            assert not state.holds(piece.offset, piece.length), f"data lost at {piece.offset}"
        else:
            is_right = piece.data == state.read(piece.offset, piece.length)
            assert is_right, f"other bytes within {piece.length} at {piece.offset}"
    assert done == state.size_bytes
