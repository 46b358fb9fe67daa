"""
Disk content as layers of sparse files: a snapshot freezes the top layer and costs nothing.

Owns bytes and which pages were written or cleared in which layer; knows nothing of VHDs or HTTP.
Invariant: a frozen layer never changes, so reading a snapshot needs no lock, and the difference of
two snapshots is the union of the layers between them.
"""

import itertools
import os
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from airflow_provider_azstack.emulator.intervals import IntervalMap, Stretch

PAGE = 4096


class Segment(NamedTuple):
    """``length`` bytes of a file, or zeros where ``fd`` is None."""

    length: int
    fd: int | None
    offset: int


class Layer:
    """One sparse file and what was written or cleared in it; the rest is its parent's."""

    def __init__(self, path: Path, parent: "Layer | None" = None) -> None:
        self.path = path
        self.parent = parent
        self.pages = IntervalMap()
        self._opened: list[int] = []
        weakref.finalize(self, _discard, self._opened, path)

    @property
    def fd(self) -> int:
        """The file; made by the first write, so that untouched disks cost no descriptor."""
        if not self._opened:
            self._opened.append(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600))
        return self._opened[0]

    def chain(self, until: "Layer | None" = None) -> Iterator["Layer"]:
        """Yield this layer and its ancestors, newest first, without ``until`` and those below."""
        layer: Layer | None = self
        while layer is not None and layer is not until:
            yield layer
            layer = layer.parent

    def resolve(
        self, start: int, end: int, until: "Layer | None" = None
    ) -> Iterator[tuple[Stretch, "Layer"]]:
        """Yield, unsorted, every stretch some layer knows, with the newest layer that knows it."""
        gaps = [(start, end)]
        for layer in self.chain(until):
            below: list[tuple[int, int]] = []
            for gap_start, gap_end in gaps:
                at = gap_start
                for stretch in layer.pages.within(gap_start, gap_end):
                    if at < stretch.start:
                        below.append((at, stretch.start))
                    yield stretch, layer
                    at = stretch.end
                if at < gap_end:
                    below.append((at, gap_end))
            gaps = below
            if not gaps:
                return


def _discard(opened: list[int], path: Path) -> None:
    for fd in opened:
        os.close(fd)
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Content:
    """The bytes of a disk or of a snapshot: a layer with all below it, cut at a size."""

    layer: Layer
    size_bytes: int

    def segments(self, offset: int, length: int) -> list[Segment]:
        """Say where each byte comes from, in order and without gaps."""
        end = min(offset + length, self.size_bytes)
        found: list[Segment] = []
        at = offset
        for stretch, layer in sorted(self.layer.resolve(offset, end), key=_start):
            if at < stretch.start:
                found.append(Segment(stretch.start - at, None, 0))
            fd = layer.fd if stretch.written else None
            found.append(Segment(stretch.end - stretch.start, fd, stretch.start))
            at = stretch.end
        if at < end:
            found.append(Segment(end - at, None, 0))
        return found

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes; fewer at the end of the disk."""
        return b"".join(map(segment_bytes, self.segments(offset, length)))

    def allocated(self, offset: int, length: int) -> list[Stretch]:
        """List the stretches that hold written pages, sorted and joined."""
        return [s for s in self._known(offset, length, None) if s.written]

    def changed(self, since: "Content", offset: int, length: int) -> list[Stretch]:
        """
        List what was written or cleared after ``since``, sorted and joined.

        :raises LookupError: ``since`` is not an ancestor.
        """
        if not any(layer is since.layer for layer in self.layer.chain()):
            raise LookupError("not a snapshot of the same disk taken earlier")
        return self._known(offset, length, since.layer)

    def _known(self, offset: int, length: int, until: Layer | None) -> list[Stretch]:
        end = min(offset + length, self.size_bytes)
        joined = IntervalMap()
        for stretch, _ in sorted(self.layer.resolve(offset, end, until), key=_start):
            joined.set(stretch.start, stretch.end, written=stretch.written)
        return list(joined)


def _start(item: tuple[Stretch, Layer]) -> int:
    return item[0].start


def segment_bytes(segment: Segment) -> bytes:
    """Return a segment's bytes: pages past the end of a sparse file read as zeros."""
    if segment.fd is None:
        return bytes(segment.length)
    return os.pread(segment.fd, segment.length, segment.offset).ljust(segment.length, b"\0")


@dataclass
class Volume:
    """A disk that can be written: its top layer, and the directory where layers are files."""

    directory: Path
    size_bytes: int
    parent: Layer | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self._numbers = itertools.count()
        self._top = self._new_layer(self.parent)

    def content(self) -> Content:
        """Return what the disk holds now; it goes on changing with the disk."""
        return Content(self._top, self.size_bytes)

    def freeze(self) -> Content:
        """Return what the disk holds now, for good. Freezing an unchanged disk adds no layer."""
        with self.lock:
            if not self._top.pages and self._top.parent is not None:
                return Content(self._top.parent, self.size_bytes)
            frozen = self._top
            self._top = self._new_layer(frozen)
            return Content(frozen, self.size_bytes)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write bytes; pages that are touched in part keep their other bytes."""
        end = offset + len(data)
        if not 0 <= offset <= end <= self.size_bytes:
            raise ValueError(f"a write of {offset}..{end} is outside the disk")
        with self.lock:
            start, stop = self._whole_pages(offset, end)
            if (start, stop) != (offset, end):
                head = self.content().read(start, offset - start)
                tail = self.content().read(end, stop - end)
                data, offset, end = head + data + tail, start, stop
            _pwrite_all(self._top.fd, data, offset)
            self._top.pages.set(offset, end, written=True)

    def clear(self, offset: int, length: int) -> None:
        """Make whole pages zeros that count as not allocated; other bytes are written as zeros."""
        end = offset + length
        start, stop = self._whole_pages(offset, end)
        if (start, stop) != (offset, end):
            self.write(offset, bytes(length))
            return
        with self.lock:
            self._top.pages.set(offset, end, written=False)

    def _whole_pages(self, offset: int, end: int) -> tuple[int, int]:
        stop = min(-(-end // PAGE) * PAGE, self.size_bytes)
        return offset // PAGE * PAGE, stop

    def _new_layer(self, parent: Layer | None) -> Layer:
        return Layer(self.directory / f"{id(self):x}-{next(self._numbers)}.layer", parent)


def _pwrite_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done
