"""
Reading an image back: any bytes of a disk, or all of them in order.

Owns the way from a disk's offsets through its runs to bytes; knows nothing of packs or sources.
Invariant: bytes come only from blocks that the reader authenticated, in the length that the image
states; an image whose regions do not add up to its size is refused before anything is read.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import NamedTuple

from airflow_provider_azstack.errors import IntegrityError, MissingBlock, Tampered
from airflow_provider_azstack.model import Extent, Image
from airflow_provider_azstack.repo.blocks import BlockReader
from airflow_provider_azstack.repo.overlay import between
from airflow_provider_azstack.repo.packs import BLOCK_SIZE
from airflow_provider_azstack.repo.runs import BLOCK_ID_BYTES, Run, load_runs

_MAX_REGION_BYTES = 1024**3
_CACHED_REGIONS = 8
# Gathered blocks serve several cells near each other; whole-cell blocks serve one and pass by.
_CACHED_BLOCK_BYTES = 32 * 1024**2


class Piece(NamedTuple):
    """A stretch of a disk in order; ``data`` is None where the disk is zero."""

    offset: int
    length: int
    data: bytes | None


class ImageReader:
    """Bytes of one image. Thread-safe."""

    def __init__(self, image: Image, reader: BlockReader) -> None:
        """:raises Tampered: the image's regions do not add up to its size."""
        _check(image)
        self._image = image
        self._reader = reader
        self._regions: OrderedDict[int, list[Run]] = OrderedDict()
        self._blocks: OrderedDict[bytes, bytes] = OrderedDict()
        self._cached_bytes = 0
        self._lock = Lock()

    @property
    def size_bytes(self) -> int:
        """Size of the disk, without its VHD footer."""
        return self._image.size_bytes

    def read(self, offset: int, length: int) -> bytes:
        """
        Return ``length`` bytes from ``offset``.

        :raises MissingBlock: a block is in no pack; names image, offset and pack.
        """
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise ValueError(f"{length} bytes at {offset} are not on a disk of {self.size_bytes}")
        return self._assemble(list(self._runs_between(offset, offset + length)))

    def extents(self) -> Iterator[Extent]:
        """Yield where the image holds data, in order, neighbours joined."""
        offset = end = 0
        for run in self._runs_between(0, self.size_bytes):
            if run.block_id is None:
                continue
            if run.offset != end:
                if end > offset:
                    yield Extent(offset, end - offset)
                offset = run.offset
            end = run.end
        if end > offset:
            yield Extent(offset, end - offset)

    def stream(self, *, threads: int = 4) -> Iterator[Piece]:
        """
        Yield the whole disk in order: data by the cell, zeros in one piece however long.

        At most twice ``threads`` cells are read ahead, so memory is bounded.
        """
        ahead: deque[tuple[Piece, Future[bytes] | None]] = deque()
        pool = ThreadPoolExecutor(threads, "image-reader")
        try:
            for offset, length, runs in self._cells():
                future = pool.submit(self._assemble, runs) if runs else None
                ahead.append((Piece(offset, length, None), future))
                if len(ahead) > 2 * threads:
                    yield _finished(*ahead.popleft())
            while ahead:
                yield _finished(*ahead.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _cells(self) -> Iterator[tuple[int, int, list[Run]]]:
        """Yield the disk cell by cell, without runs where it is zero; zero neighbours joined."""
        zero_from = 0
        for offset, end, runs in self._cells_with_data():
            if zero_from < offset:
                yield zero_from, offset - zero_from, []
            yield offset, end - offset, runs
            zero_from = end
        if zero_from < self.size_bytes:
            yield zero_from, self.size_bytes - zero_from, []

    def _cells_with_data(self) -> Iterator[tuple[int, int, list[Run]]]:
        for number, group in enumerate(self._image.regions):
            if group is None:
                continue
            first, length = self._bounds(number)
            region = self._region(number)
            for offset in range(first, first + length, BLOCK_SIZE):
                end = min(offset + BLOCK_SIZE, first + length)
                runs = list(between(region, offset, end))
                if any(run.block_id for run in runs):
                    yield offset, end, runs

    def _runs_between(self, offset: int, end: int) -> Iterator[Run]:
        step = self._image.region_bytes
        while offset < end:
            stop = min(end, offset + step - offset % step)
            yield from between(self._region(offset // step), offset, stop)
            offset = stop

    def _bounds(self, number: int) -> tuple[int, int]:
        offset = number * self._image.region_bytes
        return offset, min(self._image.region_bytes, self.size_bytes - offset)

    def _region(self, number: int) -> list[Run]:
        with self._lock:
            if number in self._regions:
                self._regions.move_to_end(number)
                return self._regions[number]
        offset, length = self._bounds(number)
        try:
            runs = load_runs(self._reader, self._image.regions[number], offset, length)
        except IntegrityError as error:
            raise self._located(error, offset) from error
        with self._lock:
            self._regions[number] = runs
            while len(self._regions) > _CACHED_REGIONS:
                self._regions.popitem(last=False)
        return runs

    def _assemble(self, runs: Sequence[Run]) -> bytes:
        blocks: dict[bytes, bytes] = {}  # a fragmented cell refers to one block many times
        parts = [self._part(run, blocks) for run in runs]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _part(self, run: Run, blocks: dict[bytes, bytes]) -> bytes:
        if run.block_id is None:
            return bytes(run.length)
        if run.block_id not in blocks:
            blocks[run.block_id] = self._block(run.block_id, run.offset)
        part = blocks[run.block_id][run.start : run.start + run.length]
        if len(part) != run.length:
            raise Tampered(f"{self._image.name}: the run at {run.offset} reaches past its block")
        return part

    def _block(self, block_id: bytes, offset: int) -> bytes:
        with self._lock:
            if block_id in self._blocks:
                self._blocks.move_to_end(block_id)
                return self._blocks[block_id]
        try:
            block = self._reader.read(block_id)
        except IntegrityError as error:
            raise self._located(error, offset) from error
        if len(block) < BLOCK_SIZE:
            self._cache(block_id, block)
        return block

    def _cache(self, block_id: bytes, block: bytes) -> None:
        with self._lock:
            if block_id not in self._blocks:
                self._cached_bytes += len(block)
            self._blocks[block_id] = block
            while self._cached_bytes > _CACHED_BLOCK_BYTES:
                self._cached_bytes -= len(self._blocks.popitem(last=False)[1])

    def _located(self, error: IntegrityError, offset: int) -> IntegrityError:
        kind = MissingBlock if isinstance(error, MissingBlock) else Tampered
        return kind(f"{self._image.name}, disk offset {offset}: {error}")


def _finished(piece: Piece, future: "Future[bytes] | None") -> Piece:
    return piece._replace(data=future.result()) if future else piece


def _check(image: Image) -> None:
    size, step = image.size_bytes, image.region_bytes
    sound = 0 < step <= _MAX_REGION_BYTES and step % BLOCK_SIZE == 0
    if not sound or len(image.regions) != -(-size // step):
        raise Tampered(
            f"{image.name}: {len(image.regions)} regions of {step} bytes do not make {size} bytes"
        )
    if any(group is not None and len(group) != BLOCK_ID_BYTES for group in image.regions):
        raise Tampered(f"{image.name}: a region's block id has not {BLOCK_ID_BYTES} bytes")
