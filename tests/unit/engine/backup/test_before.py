"""Incrementals by content: what is stored is what changed, though nobody told what did."""

import threading
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.disks import PAGE, SparseDisk, assert_same, back_up, open_session
from support.stores import MemoryStore

from airflow_provider_azstack.engine.backup.before import changed_pages
from airflow_provider_azstack.engine.progress import Progress
from airflow_provider_azstack.model import Image
from airflow_provider_azstack.repo.blocks.packs import BLOCK_SIZE
from airflow_provider_azstack.repo.images.overlay import MAX_RUNS_PER_CELL
from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.images.runs import load_runs
from airflow_provider_azstack.repo.sessions import Session

pytestmark = pytest.mark.tier1

MIB = 1024**2


class CountingStore(MemoryStore):
    """Counts the cells of noise that are read back."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = 0

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        self.cells += length >= MIB
        return super().get_range(name, offset, length)


def full_disk(size_bytes: int = 16 * MIB, seed: int = 3) -> SparseDisk:
    disk = SparseDisk(size_bytes)
    disk.write(0, Random(seed).randbytes(size_bytes))
    return disk


def blocks_of(session: Session, image: Image) -> list[bytes]:
    """The blocks of the first region's runs, as often as runs refer to them."""
    runs = load_runs(session.reader(), image.regions[0], 0, image.size_bytes)
    return [run.block_id for run in runs if run.block_id]


@pytest.mark.parametrize("trust", ["allocated", "everything"])
def test_scattered_changes_are_found_by_content(trust: str) -> None:
    """1% of single pages of noise, and nobody says which: at most 1.2 times their bytes."""
    with open_session() as session:
        disk = full_disk(32 * MIB)
        first = back_up(disk, session)
        noise = Random(7)
        for page in noise.sample(range(32 * MIB // PAGE), 82):
            disk.write(page * PAGE, noise.randbytes(PAGE))
        second = back_up(disk, session, first, trust=trust)
        assert second.changes_known == trust
        assert second.based_on == ""
        assert second.stored_bytes <= 1.2 * 82 * PAGE
        assert_same(disk, second, session)
        assert_same(full_disk(32 * MIB), first, session)


def test_pages_of_a_neighbourhood_share_blocks() -> None:
    """64 cells with a changed page each make one new block, not 64."""
    with open_session() as session:
        disk = full_disk(64 * MIB)
        first = back_up(disk, session)
        noise = Random(8)
        for cell in range(64):
            disk.write(cell * BLOCK_SIZE + 4 * PAGE, noise.randbytes(PAGE))
        second = back_up(disk, session, first, trust="allocated")
        assert len(set(blocks_of(session, second)) - set(blocks_of(session, first))) == 1
        assert_same(disk, second, session)


def test_a_cell_that_is_as_it_was_stores_nothing_even_if_it_is_in_pieces() -> None:
    """The pages of an earlier incremental are found again, though no block is the whole cell."""
    with open_session() as session:
        disk = full_disk()
        first = back_up(disk, session)
        disk.write(5 * PAGE, b"x" * PAGE)
        second = back_up(disk, session, first, trust="allocated")
        third = back_up(disk, session, second, trust="allocated")
        assert (third.stored_bytes, third.regions) == (0, second.regions)


def test_a_cell_of_which_most_changed_is_stored_whole() -> None:
    """Its pages would cost as much, and no other disk could share them."""
    with open_session() as session:
        disk = full_disk()
        first = back_up(disk, session)
        disk.write(MIB, Random(9).randbytes(MIB * 7 // 8))
        second = back_up(disk, session, first, trust="allocated")
        runs = load_runs(session.reader(), second.regions[0], 0, disk.size_bytes)
        assert [run.length for run in runs] == [MIB] * 16
        assert_same(disk, second, session)


def test_cells_do_not_fragment_for_ever() -> None:
    """A cell of too many pieces is stored whole again."""
    with open_session() as session:
        disk = full_disk(MIB)
        image = back_up(disk, session)
        noise = Random(10)
        most = 0
        for day in range(MAX_RUNS_PER_CELL):
            disk.write((2 * day % 256) * PAGE, noise.randbytes(PAGE))
            image = back_up(disk, session, image, trust="allocated")
            most = max(most, len(blocks_of(session, image)))
        assert_same(disk, image, session)
        assert most <= MAX_RUNS_PER_CELL
        assert len(blocks_of(session, image)) < most


def test_what_was_deleted_becomes_zero() -> None:
    """Pages that are zero now, or not allocated any more, in a cell that holds other data."""
    with open_session() as session:
        disk = full_disk(4 * MIB)
        first = back_up(disk, session)
        disk.clear(8 * PAGE, 3 * PAGE)
        disk.write(MIB, bytes(2 * PAGE))
        disk.clear(2 * MIB, MIB)
        second = back_up(disk, session, first, trust="allocated")
        assert second.stored_bytes < 4096  # the region's runs
        assert_same(disk, second, session)


def test_what_cannot_be_read_back_is_stored_anew() -> None:
    """Damage in the repository is no error of a backup, and heals where the disk still has it."""
    store = MemoryStore()
    with open_session(store) as session:
        disk = full_disk(4 * MIB)
        first = back_up(disk, session)
        for info in list(store.list("packs/")):
            damaged = bytearray(store.get(info.name))
            damaged[100:-4096:1000] = b"\0" * len(damaged[100:-4096:1000])
            store.delete(info.name)
            store.put(info.name, bytes(damaged))
        disk.write(PAGE, b"y" * PAGE)
        second = back_up(disk, session, first, trust="allocated")
        assert second.stored_bytes >= MIB
        assert ImageReader(second, session.reader()).read(0, MIB) == disk.read(0, MIB)


def clone_of(disk: SparseDisk, pages: int, seed: int = 21) -> SparseDisk:
    """Another disk with the same content, but for single pages of noise."""
    clone = SparseDisk(disk.size_bytes)
    clone.pages = dict(disk.pages)
    noise = Random(seed)
    for page in noise.sample(range(disk.size_bytes // PAGE), pages):
        clone.write(page * PAGE, noise.randbytes(PAGE))
    return clone


def test_the_first_image_of_a_sibling_stores_what_makes_it_another() -> None:
    """A VM made of the same image: the pages that differ, not the megabytes around them."""
    with open_session() as session:
        disk = full_disk(32 * MIB)
        first = back_up(disk, session)
        clone = clone_of(disk, 24)
        image = back_up(clone, session, sibling=first)
        assert image.stored_bytes <= 1.2 * 24 * PAGE
        assert_same(clone, image, session)


def test_a_sibling_that_became_another_costs_a_few_comparisons() -> None:
    """Half a disk alike, half of it not: of that half hardly a cell is read back."""
    store = CountingStore()
    with open_session(store) as session:
        disk = full_disk(64 * MIB)
        first = back_up(disk, session)
        other = full_disk(64 * MIB, seed=99)
        for page in range(8 * MIB // PAGE):
            other.pages[page] = disk.pages[page]
        store.cells = 0
        image = back_up(other, session, sibling=first)
        assert store.cells <= 16
        assert image.stored_bytes >= 56 * MIB
        assert_same(other, image, session)


def test_a_disk_that_only_has_the_image_in_common_is_hardly_compared() -> None:
    """Nothing alike was seen where it was tried: a part in four is read back, and no more."""
    store = CountingStore()
    with open_session(store) as session:
        first = back_up(full_disk(), session)
        store.cells = 0
        other = full_disk(seed=98)
        image = back_up(other, session, sibling=first)
        assert store.cells == 4
        assert_same(other, image, session)


class OneLags(SparseDisk):
    """Its second part is read last, where several read."""

    def __init__(self, like: SparseDisk) -> None:
        super().__init__(like.size_bytes)
        self.pages = dict(like.pages)
        self._is_last_read = threading.Event()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if offset == 4 * MIB:
            assert self._is_last_read.wait(60)
        super().read_into(offset, buffer)
        if offset + len(buffer) == self.size_bytes:
            self._is_last_read.set()


def differently_alike(disk: SparseDisk) -> SparseDisk:
    """Another disk: scattered pages of it differ, some cells altogether, and two are the same."""
    other = clone_of(disk, 600, seed=31)
    noise = Random(32)
    for cell in (2, 3, 9, 10, 13):
        other.write(cell * MIB, noise.randbytes(MIB))
    other.write(22 * MIB, other.read(5 * MIB, MIB))
    return other


@pytest.mark.parametrize("how", ["previous", "sibling"])
def test_what_is_stored_does_not_depend_on_which_thread_is_faster(how: str) -> None:
    """The same disk, the same image to compare with: the same runs of the same blocks."""
    store, other_store = MemoryStore(), MemoryStore()
    with open_session(store) as session:
        disk = full_disk(24 * MIB)
        first = back_up(disk, session)
    other_store.objects = dict(store.objects)
    now = differently_alike(disk)
    with open_session(store) as session:
        in_order = back_up(now, session, readers=1, trust="allocated", **{how: first})
        assert_same(now, in_order, session)
    with open_session(other_store) as session:
        lagging = OneLags(now)
        image = back_up(lagging, session, readers=2, trust="allocated", **{how: first})
        assert image.regions == in_order.regions
        assert image.stored_bytes == in_order.stored_bytes


def test_what_is_there_already_is_told_as_saved() -> None:
    """Whole cells as they were, and those of which pages changed: all but these pages."""
    seen: list[Progress] = []
    with open_session() as session:
        disk = full_disk(4 * MIB)
        first = back_up(disk, session)
        disk.write(PAGE, b"y" * PAGE)
        back_up(disk, session, first, trust="allocated", progress=seen.append)
    assert seen[-1].deduplicated_bytes == 4 * MIB - PAGE


@pytest.mark.parametrize("size_bytes", [8 * MIB, 64 * MIB])
def test_a_disk_that_was_resized_is_compared_where_both_are(size_bytes: int) -> None:
    """Neither what was cut off nor what was added is asked of the image before."""
    with open_session() as session:
        disk = full_disk(32 * MIB)
        first = back_up(disk, session)
        resized = SparseDisk(size_bytes)
        resized.pages = {n: page for n, page in disk.pages.items() if n * PAGE < size_bytes}
        resized.write(5 * PAGE, b"z" * PAGE)
        assert_same(resized, back_up(resized, session, first), session)
        assert_same(resized, back_up(resized, session, sibling=first), session)


def test_a_disk_is_compared_with_its_own_image_wherever_it_can_be() -> None:
    """Though it was resized, and its first stretch is another one altogether."""
    with open_session() as session:
        disk = full_disk()
        first = back_up(disk, session)
        shrunk = SparseDisk(8 * MIB)
        shrunk.pages = {n: page for n, page in disk.pages.items() if n * PAGE < 8 * MIB}
        shrunk.write(0, Random(41).randbytes(4 * MIB))
        shrunk.write(5 * MIB, b"z" * PAGE)
        image = back_up(shrunk, session, first)
        assert image.stored_bytes <= 4 * MIB + 2 * PAGE
        assert_same(shrunk, image, session)


@given(st.binary(min_size=1, max_size=40 * PAGE), st.data())
def test_changed_pages_are_all_that_differ_and_whole(before: bytes, data: st.DataObject) -> None:
    """Against the plain definition, with a last page that may be short."""
    now = bytearray(before)
    for at in data.draw(st.lists(st.integers(0, len(now) - 1), max_size=6)):
        now[at] ^= 1
    expected = {
        start
        for start in range(0, len(now), PAGE)
        if now[start : start + PAGE] != before[start : start + PAGE]
    }
    found = changed_pages(MIB, memoryview(now), before)
    pages = {
        page - MIB
        for extent in found
        for page in range(extent.offset, extent.offset + extent.length, PAGE)
    }
    assert pages == expected
    assert all(extent.offset + extent.length <= MIB + len(now) for extent in found)
    assert all(a.offset + a.length < b.offset for a, b in pairwise(found))
