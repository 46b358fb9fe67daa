"""Disks of the random clients as their model keeps them: pages, and what changed since others."""

import hashlib
from collections.abc import Callable

from airflow_provider_azstack.model import Extent

PAGE = 4096
PAGES = 24  # of a disk: tiny, so that thousands of backups take minutes
Pages = tuple[bytes, ...]  # b"" is a page that was never written


class Disk:
    """A disk at one moment, and what changed since another one."""

    size_bytes = PAGE * PAGES

    def __init__(self, pages: Pages, before: Pages | None) -> None:
        self.pages = pages
        self.before = before

    def footer(self) -> bytes:
        return b""

    def allocated(self, offset: int, length: int) -> list[Extent]:
        return self._extents(offset, length, lambda n: bool(self.pages[n]))

    def changed(self, offset: int, length: int) -> list[Extent]:
        assert self.before is not None
        before = self.before
        return self._extents(offset, length, lambda n: self.pages[n] != before[n])

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = content(self.pages)[offset : offset + len(buffer)]

    def _extents(self, offset: int, length: int, is_in: Callable[[int], bool]) -> list[Extent]:
        inside = range(offset // PAGE, min(PAGES, -(-(offset + length) // PAGE)))
        return [Extent(n * PAGE, PAGE, not self.pages[n]) for n in inside if is_in(n)]


def content(pages: Pages) -> bytes:
    return b"".join(page or bytes(PAGE) for page in pages)


def digest(pages: Pages) -> str:
    return hashlib.sha256(content(pages)).hexdigest()
