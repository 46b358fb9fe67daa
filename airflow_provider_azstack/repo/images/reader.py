"""
Reading an image back: any bytes of a disk, or all of them in order.

Owns the way from a disk's offsets through its runs to bytes; knows nothing of packs or sources.
Invariant: bytes come only from blocks that the reader authenticated, in the length that the image
states; an image whose regions do not add up to its size is refused before anything is read.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from threading import Lock
from typing import NamedTuple

from airflow_provider_azstack.errors import IntegrityError, MissingBlock, Tampered
from airflow_provider_azstack.model import Extent, Image
from airflow_provider_azstack.repo.blocks.gather import Gathered, Gatherer
from airflow_provider_azstack.repo.blocks.packs import BLOCK_SIZE
from airflow_provider_azstack.repo.blocks.reader import BlockReader, CanRead
from airflow_provider_azstack.repo.images.overlay import between
from airflow_provider_azstack.repo.images.runs import BLOCK_ID_BYTES, Run, load_runs

_MAX_REGION_BYTES = 1024**3
_CACHED_REGIONS = 8
# Gathered blocks serve several cells near each other; whole-cell blocks serve one and pass by.
_CACHED_BLOCK_BYTES = 32 * 1024**2
# As many as the readers of a backup have in work at once: those lie mixed in one pack.
_WINDOW_CELLS = 32

OnDamage = Callable[[Extent, IntegrityError], None]


class Piece(NamedTuple):
    """A stretch of a disk in order; ``data`` is None where the disk is zero."""

    offset: int
    length: int
    data: bytes | None


class _Cell(NamedTuple):
    """A stretch within one block's length; without runs it is zero, and of any length."""

    offset: int
    length: int
    runs: list[Run]


class ImageReader:
    """Bytes of one image. Thread-safe."""

    def __init__(self, image: Image, reader: BlockReader) -> None:
        """:raises Tampered: the image's regions do not add up to its size, or it is a part."""
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

    def runs(self, offset: int, length: int) -> list[Run]:
        """
        Return what ``length`` bytes from ``offset`` are made of, zeros included.

        :raises MissingBlock: a region's group is in no pack.
        """
        return list(self._runs_between(offset, offset + length))

    def extents(
        self, start: int = 0, length: int | None = None, *, on_damage: OnDamage | None = None
    ) -> Iterator[Extent]:
        """
        Yield where the image, or a stretch of it, holds data, in order, neighbours joined.

        :param on_damage: is told where that cannot be known; without it that raises.
        """
        offset = end = start
        stop = self.size_bytes if length is None else min(self.size_bytes, start + length)
        for run in self._runs_between(start, stop, on_damage):
            if run.block_id is None:
                continue
            if run.offset != end:
                if end > offset:
                    yield Extent(offset, end - offset)
                offset = run.offset
            end = run.end
        if end > offset:
            yield Extent(offset, end - offset)

    def stream(
        self,
        *,
        threads: int = 4,
        start: int = 0,
        length: int | None = None,
        on_damage: OnDamage | None = None,
    ) -> Iterator[Piece]:
        """
        Yield the disk, or a stretch of it, in order: data by the cell, zeros in one piece.

        What two windows of cells need is in memory, whatever the disk's size.

        :param on_damage: is told what cannot be read, which then is zero; without it that raises.
        """
        stop = self.size_bytes if length is None else start + length
        if not 0 <= start <= stop <= self.size_bytes:
            raise ValueError(f"{start} to {stop} is not on a disk of {self.size_bytes} bytes")
        ahead: deque[tuple[list[_Cell], Gathered]] = deque()
        with Gatherer(self._reader, threads) as gatherer:
            for window in _windows(self._cells(start, stop, on_damage)):
                runs = chain.from_iterable(cell.runs for cell in window)
                ahead.append((window, gatherer.gather(self._missing(runs))))
                if len(ahead) > 1:
                    yield from self._pieces(*ahead.popleft(), on_damage)
            while ahead:
                yield from self._pieces(*ahead.popleft(), on_damage)

    def _pieces(
        self, window: list[_Cell], gathered: Gathered, on_damage: OnDamage | None
    ) -> Iterator[Piece]:
        for offset, length, runs in window:
            yield Piece(offset, length, self._joined(runs, gathered, on_damage) if runs else None)

    def _joined(self, runs: list[Run], gathered: Gathered, on_damage: OnDamage | None) -> bytes:
        blocks: dict[bytes, bytes] = {}
        parts = []
        for run in runs:
            try:
                parts.append(self._part(run, blocks, gathered.block))
            except IntegrityError as error:
                if on_damage is None:
                    raise
                on_damage(Extent(run.offset, run.length, zero=True), error)
                parts.append(bytes(run.length))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _cells(self, start: int, stop: int, on_damage: OnDamage | None) -> Iterator[_Cell]:
        """Yield a stretch cell by cell, without runs where it is zero; zero neighbours joined."""
        for cell in self._cells_with_data(start, stop, on_damage):
            if start < cell.offset:
                yield _Cell(start, cell.offset - start, [])
            yield cell
            start = cell.offset + cell.length
        if start < stop:
            yield _Cell(start, stop - start, [])

    def _cells_with_data(
        self, start: int, stop: int, on_damage: OnDamage | None
    ) -> Iterator[_Cell]:
        step = self._image.region_bytes
        for number in range(start // step, -(-stop // step)):
            if self._image.regions[number] is None:
                continue
            try:
                region = self._region(number)
            except IntegrityError as error:
                if on_damage is None:
                    raise
                first, length = self._bounds(number)
                lost, end = max(start, first), min(stop, first + length)
                on_damage(Extent(lost, end - lost, zero=True), error)
            else:
                yield from _cells_of(region, start, stop)

    def _runs_between(
        self, offset: int, end: int, on_damage: OnDamage | None = None
    ) -> Iterator[Run]:
        step = self._image.region_bytes
        while offset < end:
            stop = min(end, offset + step - offset % step)
            try:
                region = self._region(offset // step)
            except IntegrityError as error:
                if on_damage is None:
                    raise
                on_damage(Extent(offset, stop - offset, zero=True), error)
            else:
                yield from between(region, offset, stop)
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
        missing = self._missing(runs)
        reader: CanRead = self._reader.read_ahead(missing) if len(missing) > 1 else self._reader
        parts = [self._part(run, blocks, reader.read) for run in runs]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _missing(self, runs: Iterable[Run]) -> list[bytes]:
        """Return the blocks that are not in memory, each once, in order."""
        ids = dict.fromkeys(run.block_id for run in runs if run.block_id)
        with self._lock:
            return [block_id for block_id in ids if block_id not in self._blocks]

    def _part(self, run: Run, blocks: dict[bytes, bytes], fetch: Callable[[bytes], bytes]) -> bytes:
        if run.block_id is None:
            return bytes(run.length)
        if run.block_id not in blocks:
            blocks[run.block_id] = self._block(run.block_id, run.offset, fetch)
        block = blocks[run.block_id]
        part = block[run.start : run.start + run.length]
        if len(part) != run.length:
            raise Tampered(f"{self._image.name}: the run at {run.offset} reaches past its block")
        return part

    def _block(self, block_id: bytes, offset: int, fetch: Callable[[bytes], bytes]) -> bytes:
        with self._lock:
            if block_id in self._blocks:
                self._blocks.move_to_end(block_id)
                return self._blocks[block_id]
        try:
            block = fetch(block_id)
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


def _cells_of(region: Sequence[Run], start: int, stop: int) -> Iterator[_Cell]:
    """Yield the cells with data; the zero ones between them cost nothing, however many."""
    for run in region:
        if run.block_id is None or run.end <= start:
            continue
        while start < min(run.end, stop):
            if run.offset >= stop:
                return
            offset = max(start, run.offset - run.offset % BLOCK_SIZE)
            start = min(offset - offset % BLOCK_SIZE + BLOCK_SIZE, region[-1].end, stop)
            yield _Cell(offset, start - offset, between(region, offset, start))


def _windows(cells: Iterator[_Cell]) -> Iterator[list[_Cell]]:
    window: list[_Cell] = []
    count = 0
    for cell in cells:
        window.append(cell)
        count += bool(cell.runs)
        if count == _WINDOW_CELLS:
            yield window
            window, count = [], 0
    if window:
        yield window


def _check(image: Image) -> None:
    size, step = image.size_bytes, image.region_bytes
    if image.part is not None:
        raise Tampered(f"{image.name} is a part of a disk, not a disk: completion joins it first")
    sound = 0 < step <= _MAX_REGION_BYTES and step % BLOCK_SIZE == 0
    if not sound or len(image.regions) != -(-size // step):
        raise Tampered(
            f"{image.name}: {len(image.regions)} regions of {step} bytes do not make {size} bytes"
        )
    if any(group is not None and len(group) != BLOCK_ID_BYTES for group in image.regions):
        raise Tampered(f"{image.name}: a region's block id has not {BLOCK_ID_BYTES} bytes")
