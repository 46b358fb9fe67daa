"""
What of a disk has to be read, best source first.

Owns the order of the sources and the falling back; knows nothing of images.
Invariant: whatever the sources can tell, every byte that may differ from the reference is inside
an extent that is yielded.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from airflow_provider_azstack.errors import ChangesUnknown
from airflow_provider_azstack.model import ChangesKnown, Extent

SOURCES: tuple[ChangesKnown, ...] = ("difference", "allocated", "everything")

# One question covers a window. It grows while answers are short, so that an idle terabyte is asked
# for in about 70 questions, and shrinks when they are long, so that they never fill the memory.
_FIRST_WINDOW = 1024**3
_LARGEST_WINDOW = 16 * 1024**3  # what the stack answers without a time-out
_SMALLEST_WINDOW = 256 * 1024**2  # one region of an image
_SHORT_ANSWER, _LONG_ANSWER = 4096, 32768


class DiskSource(Protocol):
    """A disk that does not change while it is read: a snapshot, or a file."""

    @property
    def size_bytes(self) -> int:
        """Size of the disk, without its VHD footer."""

    def footer(self) -> bytes:
        """Return the 512 bytes of the VHD footer, or none."""

    def allocated(self, offset: int, length: int) -> list[Extent]:
        """
        Return what may hold data there.

        :raises ChangesUnknown: the source cannot tell.
        """

    def changed(self, offset: int, length: int) -> list[Extent]:
        """
        Return what may differ there from the reference; ``zero`` for what was cleared.

        :raises ChangesUnknown: the source cannot tell.
        """

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with verified bytes from ``offset``. Thread-safe."""


class Window(NamedTuple):
    """A stretch of the disk, what to read of it, and how that is known."""

    offset: int
    length: int
    extents: list[Extent]
    known: ChangesKnown


def windows(source: DiskSource, best: ChangesKnown, first: int, end: int) -> Iterator[Window]:
    """
    Yield the disk from ``first`` to ``end`` in order, window by window; nothing else is asked for.

    A source that cannot tell is not asked again: the rest of the disk comes from the next one.

    :param best: the best source to believe.
    """
    known = best
    offset, step = first, _FIRST_WINDOW
    while offset < end:
        length = min(step, end - offset)
        known, extents = ask(source, known, offset, length)
        yield Window(offset, length, extents, known)
        offset += length
        if len(extents) < _SHORT_ANSWER:
            step = min(2 * step, _LARGEST_WINDOW)
        elif len(extents) > _LONG_ANSWER:
            step = max(step // 4, _SMALLEST_WINDOW)


def ask(
    source: DiskSource, known: ChangesKnown, offset: int, length: int
) -> tuple[ChangesKnown, list[Extent]]:
    """Return the extents of one window from the first source, from ``known`` on, that can tell."""
    questions: dict[ChangesKnown, Callable[[int, int], list[Extent]]] = {
        "difference": source.changed,
        "allocated": source.allocated,
    }
    for kind in SOURCES[SOURCES.index(known) :]:
        if kind in questions:
            try:
                return kind, questions[kind](offset, length)
            except ChangesUnknown:
                continue
    return "everything", [Extent(offset, length)]
