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
from airflow_provider_azstack.repo.images import ImageReader
from airflow_provider_azstack.repo.sessions import Session

pytestmark = pytest.mark.tier1

MIB = 1024**2


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


def test_a_missing_block_names_image_and_offset() -> None:
    """F-S7: what is lost is said by image, disk offset and block or pack; the rest still reads."""
    store = MemoryStore()
    with open_session(store) as session:
        disk = some_disk()
        first = back_up(disk, session)
        packs = {name for name in store.objects if name.startswith("packs/")}
        disk.freeze()
        disk.write(200 * MIB, Random(3).randbytes(PAGE))
        second = back_up(disk, session, first)
        reader = ImageReader(second, session.reader())
        reader.read(200 * MIB, 1)
        for name in packs:
            del store.objects[name]
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
