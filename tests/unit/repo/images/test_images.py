"""Reading an image back: any bytes, in order, bounded, and refused when it cannot be."""

import itertools
import threading
import tracemalloc
from random import Random

import msgspec
import pytest
from support.disks import PAGE, SparseDisk, assert_same, back_up, open_session
from support.stores import MemoryStore

from airflow_provider_azstack.errors import MissingBlock, Tampered
from airflow_provider_azstack.model import Extent, Image
from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.sessions import Session

pytestmark = pytest.mark.tier1

MIB = 1024**2


class CountingStore(MemoryStore):
    """Remembers the lengths of the ranges that were read."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges: list[int] = []

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        self.ranges.append(length)
        return super().get_range(name, offset, length)


def some_disk() -> SparseDisk:
    disk = SparseDisk(300 * MIB + 512)
    noise = Random(1)
    disk.write(MIB + 100, noise.randbytes(2 * MIB))
    disk.write(260 * MIB, noise.randbytes(3 * PAGE))
    return disk


def days_of(disk: SparseDisk, session: Session, days: int = 3) -> Image:
    image = back_up(disk, session)
    for day in range(days):
        disk.freeze()
        for n in range(12):
            disk.write((n * 50 + day) * PAGE, bytes([day + 1, n]) * 2048)
        image = back_up(disk, session, image)
    return image


def test_any_range_reads_as_the_disk() -> None:
    """Ranges across runs, cells, regions, holes and the odd end."""
    with open_session() as session:
        disk = some_disk()
        reader = ImageReader(days_of(disk, session), session.reader())
        noise = Random(2)
        for _ in range(200):
            offset = noise.choice([0, MIB, 255 * MIB, disk.size_bytes - 9000]) + noise.randrange(
                9000
            )
            length = min(noise.choice([0, 1, PAGE, 2 * MIB]), disk.size_bytes - offset)
            assert reader.read(offset, length) == disk.read(offset, length)


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1), (300 * MIB, 1024), (2**62, 1)])
def test_reading_beyond_the_disk_is_refused(offset: int, length: int) -> None:
    """No bytes are made up."""
    with open_session() as session:
        reader = ImageReader(back_up(some_disk(), session), session.reader())
        with pytest.raises(ValueError, match="not on a disk"):
            reader.read(offset, length)


def test_the_stream_is_the_disk_in_order() -> None:
    """Every byte once, zeros in one piece however long, with any number of threads."""
    with open_session() as session:
        disk = some_disk()
        image = days_of(disk, session)
        assert_same(disk, image, session)
        for threads in (1, 7):
            pieces = list(ImageReader(image, session.reader()).stream(threads=threads))
            zeros = [piece.data is None for piece in pieces]
            assert not any(one and other for one, other in itertools.pairwise(zeros))
            assert sum(piece.length for piece in pieces) == disk.size_bytes


def test_a_stream_that_is_not_finished_leaves_no_thread() -> None:
    """A reader that stops half way ends its prefetching."""
    with open_session() as session:
        stream = ImageReader(back_up(some_disk(), session), session.reader()).stream()
        next(stream)
        stream.close()
        assert not [t for t in threading.enumerate() if t.name.startswith("image-reader")]


def test_extents_are_where_data_is() -> None:
    """What a restore has to write, neighbours joined across cells."""
    with open_session() as session:
        disk = SparseDisk(300 * MIB)
        disk.write(2 * MIB, b"x" * 2 * MIB)
        disk.write(256 * MIB, b"x" * MIB)
        image = back_up(disk, session)
        found = list(ImageReader(image, session.reader()).extents())
        assert found == [Extent(2 * MIB, 2 * MIB), Extent(256 * MIB, MIB)]
        empty = back_up(SparseDisk(MIB), session)
        assert list(ImageReader(empty, session.reader()).extents()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"size_bytes": 2**50},
        {"size_bytes": 0},
        {"size_bytes": 301 * MIB + 1024**3},
        {"region_bytes": 0},
        {"region_bytes": 1},
        {"region_bytes": 2**50},
        {"region_bytes": 128 * MIB},
        {"regions": ()},
        {"regions": (None,) * 3},
        {"regions": (b"short", None)},
    ],
)
def test_absurd_images_are_refused_before_allocation(changes: dict[str, object]) -> None:
    """F-H5: an image that claims more than its regions hold is not read at all."""
    with open_session() as session:
        image = msgspec.structs.replace(back_up(some_disk(), session), **changes)
        blocks = session.reader()
        tracemalloc.start()
        try:
            with pytest.raises(Tampered, match=image.name):
                ImageReader(image, blocks)
            assert tracemalloc.get_traced_memory()[1] < 100_000
        finally:
            tracemalloc.stop()


def test_a_group_of_another_region_is_refused() -> None:
    """F-H5: regions swapped by a key holder's mistake do not become bytes of the wrong length."""
    with open_session() as session:
        image = back_up(some_disk(), session)
        swapped = msgspec.structs.replace(image, regions=image.regions[::-1])
        with pytest.raises(Tampered, match="disk offset 0"):
            ImageReader(swapped, session.reader()).read(0, 1)


def two_days(session: Session, store: MemoryStore) -> tuple[SparseDisk, Image, set[str]]:
    """Return a disk with its second image, and the packs of the first."""
    disk = some_disk()
    first = back_up(disk, session)
    packs = store.names("packs/")
    disk.freeze()
    disk.write(200 * MIB, Random(3).randbytes(PAGE))
    return disk, back_up(disk, session, first), packs


def test_a_missing_block_names_image_and_offset() -> None:
    """F-S7: what is lost is said by image, disk offset and block or pack; the rest still reads."""
    store = MemoryStore()
    with open_session(store) as session:
        disk, second, packs = two_days(session, store)
        reader = ImageReader(second, session.reader())
        reader.read(200 * MIB, 1)
        store.lose(packs)
        assert reader.read(200 * MIB, PAGE) == disk.read(200 * MIB, PAGE)
        with pytest.raises(MissingBlock, match=rf"{second.name}, disk offset {MIB + 100}: .*block"):
            reader.read(MIB + 100, 10)


def test_streaming_needs_memory_for_a_few_cells_only() -> None:
    """48 MiB of data in a stream of 2 threads: never more than a fraction of it in memory."""
    with open_session() as session:
        disk = SparseDisk(48 * MIB)
        disk.write(0, b"data" * 12 * MIB)
        image = back_up(disk, session)
        reader = ImageReader(image, session.reader())
        tracemalloc.start()
        try:
            for _ in reader.stream(threads=2):
                pass
            assert tracemalloc.get_traced_memory()[1] < 16 * MIB
        finally:
            tracemalloc.stop()


def streamed(reader: ImageReader, start: int, length: int) -> bytes:
    pieces = list(reader.stream(start=start, length=length))
    assert [piece.offset for piece in pieces] == [
        start + sum(before.length for before in pieces[:n]) for n in range(len(pieces))
    ]
    return b"".join(bytes(p.length) if p.data is None else p.data for p in pieces)


def test_any_stretch_streams_as_the_disk() -> None:
    """One disk's ranges over several readers: borders inside runs, cells, regions, and holes."""
    with open_session() as session:
        disk = some_disk()
        reader = ImageReader(days_of(disk, session), session.reader())
        noise = Random(5)
        for _ in range(60):
            start = noise.choice([0, MIB, 2 * MIB, 255 * MIB, 259 * MIB]) + noise.randrange(MIB)
            length = noise.choice([0, 1, PAGE, 3 * MIB + 1])
            assert streamed(reader, start, length) == disk.read(start, length or 1)[:length]
        with pytest.raises(ValueError, match="is not on a disk"):
            next(reader.stream(start=disk.size_bytes, length=1))


def test_a_stream_reads_packs_in_few_large_ranges() -> None:
    """32 blocks that lie in one pack are not 32 requests."""
    store = CountingStore()
    with open_session(store) as session:
        disk = SparseDisk(32 * MIB)
        disk.write(0, Random(6).randbytes(24 * MIB))
        image = back_up(disk, session)
        store.ranges.clear()
        for _ in ImageReader(image, session.reader()).stream():
            pass
        assert len(store.ranges) < 12
        assert max(store.ranges) <= 4 * MIB


def test_noise_streams_in_bounded_memory() -> None:
    """More data than two windows hold: what passed by is let go."""
    with open_session() as session:
        disk = SparseDisk(128 * MIB)
        for n in range(128):
            disk.write(n * MIB, Random(n).randbytes(PAGE) * 256)  # every cell is another
        image = back_up(disk, session)
        reader = ImageReader(image, session.reader())
        tracemalloc.start()
        try:
            for _ in reader.stream():
                pass
            assert tracemalloc.get_traced_memory()[1] < 90 * MIB
        finally:
            tracemalloc.stop()


def test_a_damaged_block_is_zero_when_the_rest_shall_be_saved() -> None:
    """F-R4: what cannot be read is zero and told by its range; all other bytes are right."""
    store = MemoryStore()
    with open_session(store) as session:
        disk, second, packs = two_days(session, store)
        reader = ImageReader(second, session.reader())
        list(reader.extents())  # the groups of both regions are in memory, their blocks are not
        store.lose(packs)
        with pytest.raises(MissingBlock, match=f"disk offset {MIB}:"):
            list(reader.stream())
        lost: list[Extent] = []
        saved = bytearray()
        for piece in reader.stream(on_damage=lambda extent, _: lost.append(extent)):
            saved += piece.data or bytes(piece.length)
        assert sum(extent.length for extent in lost) == 4 * MIB  # the cells that were touched
        zeroed = bytearray(disk.read(0, disk.size_bytes))
        for extent in lost:
            assert extent.zero
            zeroed[extent.offset : extent.offset + extent.length] = bytes(extent.length)
        assert saved == zeroed
        assert saved[200 * MIB : 200 * MIB + PAGE] == disk.read(200 * MIB, PAGE)


def test_a_region_without_its_runs_is_zero_when_the_rest_shall_be_saved() -> None:
    """F-R4: the list of a region's runs may be what is lost; then all of the region is."""
    with open_session() as session:
        image = back_up(some_disk(), session)
        image = msgspec.structs.replace(image, regions=(b"\1" * 32, image.regions[1]))
        lost: list[Extent] = []
        pieces = list(
            ImageReader(image, session.reader()).stream(on_damage=lambda e, _: lost.append(e))
        )
        assert lost == [Extent(0, 256 * MIB, zero=True)]
        assert pieces[0].data is None
        assert sum(piece.length for piece in pieces) == image.size_bytes
