"""
Random reads of an image at the price of sequential ones.

Owns a bounded cache of cells and the reading ahead; knows no protocol.
Invariant: at most so many cells are in memory, whoever reads how much; a cell that several readers
want at once is read once; one that failed is tried again by the next who wants it.
"""

from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Self

from airflow_provider_azstack.errors import IntegrityError
from airflow_provider_azstack.model import Extent
from airflow_provider_azstack.repo.blocks.packs import BLOCK_SIZE
from airflow_provider_azstack.repo.images.reader import ImageReader, OnDamage

CELLS = 64
_AHEAD = 4


class CellCache:
    """Bytes of one image for many readers. Thread-safe; ends its threads when it is left."""

    def __init__(
        self,
        reader: ImageReader,
        *,
        cells: int = CELLS,
        threads: int = 4,
        on_damage: OnDamage | None = None,
    ) -> None:
        """:param on_damage: is told what cannot be read, which then is zero."""
        self._reader = reader
        self._limit = cells
        self._on_damage = on_damage
        self._cells: OrderedDict[int, Future[bytes]] = OrderedDict()
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(threads, "cell-cache")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def size_bytes(self) -> int:
        """Size of the disk, without its VHD footer."""
        return self._reader.size_bytes

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``."""
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise ValueError(f"{length} bytes at {offset} are not on a disk of {self.size_bytes}")
        parts = []
        end = offset + length
        while offset < end:
            number, start = divmod(offset, BLOCK_SIZE)
            part = memoryview(self._cell(number))[start : start + end - offset]
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        """Yield where a stretch holds data; all of it, where that cannot be known any more."""
        try:
            yield from list(self._reader.extents(start, length))
        except IntegrityError:
            if self._on_damage is None:
                raise
            yield Extent(start, length)

    def _cell(self, number: int) -> bytes:
        future = self._wanted(number)
        try:
            return future.result()
        except BaseException:
            with self._lock:
                if self._cells.get(number) is future:
                    del self._cells[number]
            raise

    def _wanted(self, number: int) -> Future[bytes]:
        with self._lock:
            goes_on = number - 1 in self._cells
            future = self._begin(number)
            last = (self.size_bytes - 1) // BLOCK_SIZE
            for ahead in range(number + 1, min(number + _AHEAD, last) + 1) if goes_on else ():
                self._begin(ahead)
            while len(self._cells) > self._limit:
                self._cells.popitem(last=False)
        return future

    def _begin(self, number: int) -> Future[bytes]:
        if number not in self._cells:
            self._cells[number] = self._pool.submit(self._load, number)
        self._cells.move_to_end(number)
        return self._cells[number]

    def _load(self, number: int) -> bytes:
        offset = number * BLOCK_SIZE
        length = min(BLOCK_SIZE, self.size_bytes - offset)
        if self._on_damage is None:
            return self._reader.read(offset, length)
        pieces = self._reader.stream(
            threads=1, start=offset, length=length, on_damage=self._on_damage
        )
        return b"".join(bytes(p.length) if p.data is None else p.data for p in pieces)
