"""Disks and repositories for tests of the data path: sources that tell the truth, or lie."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from typing import Any

from airflow_provider_azstack.errors import ChangesUnknown
from airflow_provider_azstack.model import DiskSnapshot, Extent, Image
from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sealing.crypto import Cost
from airflow_provider_azstack.repo.sessions import Session
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store.base import Store

from .stores import MemoryStore

PAGE = 4096
PASSPHRASE = Secret("correct horse battery staple")
CHEAP = Cost(16)  # the passphrase is not what these tests are about
VM = "11111111-2222-3333-4444-555555555555"
_numbers = count(1)


def new_repository(store: Store | None = None) -> Repository:
    return Repository.create(store or MemoryStore(), PASSPHRASE, kdf=CHEAP)[0]


@contextmanager
def open_session(store: Store | None = None) -> Iterator[Session]:
    """A session of a new repository, or of the one that ``store`` holds."""
    if store is not None and store.exists("config"):
        repository = Repository.open(store, PASSPHRASE)
    else:
        repository = new_repository(store)
    session = repository.open_session("test")
    try:
        yield session
    finally:
        session.close()
        repository.close()


class SparseDisk:
    """
    A disk of any size as a dictionary of pages, and what changed of it since ``freeze``.

    Pages that were never written are not allocated. ``hide`` makes it keep quiet about a page.
    """

    def __init__(self, size_bytes: int, footer: bytes = b"") -> None:
        self.size_bytes = size_bytes
        self.pages: dict[int, bytes] = {}
        self.dirty: dict[int, bool] | None = None  # page -> holds data; None: no reference
        self.hidden: set[int] = set()
        self.knows_allocated = True
        self.reads: list[tuple[int, int]] = []
        self._footer = footer

    def write(self, offset: int, data: bytes) -> None:
        first, last = offset // PAGE, (offset + len(data) - 1) // PAGE
        for page in range(first, last + 1):
            start = page * PAGE
            old = bytearray(self.pages.get(page, bytes(PAGE)))
            begin, end = max(offset, start), min(offset + len(data), start + PAGE)
            old[begin - start : end - start] = data[begin - offset : end - offset]
            self.pages[page] = bytes(old)
            if self.dirty is not None:
                self.dirty[page] = True

    def clear(self, offset: int, length: int) -> None:
        for page in range(offset // PAGE, (offset + length) // PAGE):
            self.pages.pop(page, None)
            if self.dirty is not None:
                self.dirty[page] = False

    def freeze(self) -> None:
        """What is written from now on counts as changed."""
        self.dirty = {}

    def hide(self, offset: int) -> None:
        self.hidden.add(offset // PAGE)

    def read(self, offset: int, length: int) -> bytes:
        first = offset // PAGE
        last = (offset + length - 1) // PAGE
        data = b"".join(self.pages.get(page, bytes(PAGE)) for page in range(first, last + 1))
        return data[offset - first * PAGE :][:length]

    def footer(self) -> bytes:
        return self._footer

    def allocated(self, offset: int, length: int) -> list[Extent]:
        if not self.knows_allocated:
            raise ChangesUnknown("no page list")
        shown = self.pages.keys() - self.hidden
        return self._extents((page, True) for page in self._within(shown, offset, length))

    def changed(self, offset: int, length: int) -> list[Extent]:
        if self.dirty is None:
            raise ChangesUnknown("no reference snapshot")
        shown = [page for page in self.dirty if page not in self.hidden]
        return self._extents((p, self.dirty[p]) for p in self._within(shown, offset, length))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.reads.append((offset, len(buffer)))
        buffer[:] = self.read(offset, len(buffer))

    def _within(self, pages: Iterable[int], offset: int, length: int) -> list[int]:
        return sorted(p for p in pages if offset <= p * PAGE < offset + length)

    def _extents(self, pages: Iterable[tuple[int, bool]]) -> list[Extent]:
        found: list[Extent] = []
        for page, holds_data in pages:
            start = page * PAGE
            length = min(PAGE, self.size_bytes - start)
            last = found[-1] if found else None
            if last and last.offset + last.length == start and last.zero is not holds_data:
                found[-1] = Extent(last.offset, last.length + length, last.zero)
            else:
                found.append(Extent(start, length, not holds_data))
        return found


def snapshot_of(disk: Any) -> DiskSnapshot:
    return DiskSnapshot(
        disk_key="os",
        kind="managed",
        id="/subscriptions/s/snapshots/one",
        size_bytes=disk.size_bytes,
        unique_id="unique",
        taken_at=datetime(2026, 1, 2, tzinfo=UTC),
    )


def back_up(disk: Any, session: Session, previous: Image | None = None, **options: Any) -> Image:
    """Back a disk up with arguments that do not matter to most tests."""
    from airflow_provider_azstack.engine.backup.disk import back_up_disk

    options.setdefault("name", f"images/run-1/{VM}.os/{next(_numbers)}")
    options.setdefault("readers", 3)
    return back_up_disk(
        disk,
        session,
        run="run-1",
        vm_key=VM,
        set_id="set-1",
        snapshot=snapshot_of(disk),
        previous=previous,
        **options,
    )


def assert_same(disk: Any, image: Image, session: Session) -> None:
    """The image has the disk's bytes, all of them and in order."""
    offset = 0
    for piece in ImageReader(image, session.reader()).stream():
        assert piece.offset == offset
        offset += piece.length
        if piece.data is not None:
            assert len(piece.data) == piece.length
            assert piece.data == disk.read(piece.offset, piece.length), piece.offset
        else:
            pages = range(piece.offset // PAGE, -(-(piece.offset + piece.length) // PAGE))
            for page in pages if len(pages) < len(disk.pages) else disk.pages:
                if page in pages:
                    assert not any(disk.pages.get(page, b"")), page * PAGE
    assert offset == disk.size_bytes == image.size_bytes
