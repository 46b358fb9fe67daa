"""The backup of a disk: what is read back is the disk, whatever was known of its changes."""

import threading
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.disks import PAGE, SparseDisk, assert_same, back_up, open_session
from support.repositories import prose
from support.stores import MemoryStore

from airflow_provider_azstack.engine.progress import Progress
from airflow_provider_azstack.errors import (
    Cancelled,
    ChangesLied,
    MissingBlock,
    SessionLost,
    Unreachable,
)
from airflow_provider_azstack.model import Extent
from airflow_provider_azstack.repo.blocks.packs import BLOCK_SIZE
from airflow_provider_azstack.repo.images.overlay import MAX_RUNS_PER_CELL
from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.images.runs import REGION_BYTES, load_runs

pytestmark = pytest.mark.tier1

MIB = 1024**2


def noisy_disk(size_bytes: int = 24 * MIB, seed: int = 1) -> SparseDisk:
    disk = SparseDisk(size_bytes)
    noise = Random(seed)
    for offset in range(0, min(size_bytes, 8 * MIB), MIB):
        disk.write(offset, noise.randbytes(MIB // 2))
    return disk


def test_all_change_sources_give_the_same_image() -> None:
    """Difference, allocated, everything: the same bytes, and the coarse two the same ids."""
    with open_session() as session:
        disk = noisy_disk()
        first = back_up(disk, session)
        disk.freeze()
        disk.write(3 * MIB + 8192, b"x" * 5000)
        disk.clear(5 * MIB, 64 * 1024)
        images = {
            known: back_up(disk, session, first, trust=known)
            for known in ("difference", "allocated", "everything")
        }
        for known, image in images.items():
            assert image.changes_known == known
            assert_same(disk, image, session)
        assert images["allocated"].regions == images["everything"].regions
        assert images["difference"].based_on == first.name
        assert images["allocated"].based_on == ""


def test_another_choice_of_compression_stores_nothing_again() -> None:
    """What the repository has is known by its raw bytes."""
    with open_session() as session:
        disk = SparseDisk(8 * MIB)
        for offset in range(0, 4 * MIB, MIB):
            disk.write(offset, offset.to_bytes(8, "big") + prose(MIB - 8))
        images = [back_up(disk, session, compression=c) for c in ("small", "fast", "standard")]
        assert images[0].stored_bytes > MIB
        assert [image.stored_bytes for image in images[1:]] == [0, 0]
        assert_same(disk, images[2], session)


def test_only_what_is_allocated_is_read_at_first() -> None:
    """Empty space costs no read, however much of it there is."""
    with open_session() as session:
        disk = noisy_disk(100 * 1024**3)
        image = back_up(disk, session)
        assert image.changes_known == "allocated"
        assert image.changed_bytes == 4 * MIB
        assert image.read_bytes < 8 * MIB
        assert image.stored_bytes >= 4 * MIB  # noise does not compress
        assert_same(disk, image, session)


def test_an_idle_disk_costs_nothing_but_the_audit() -> None:
    """Unchanged regions keep their groups and are not read again."""
    with open_session() as session:
        disk = noisy_disk()
        first = back_up(disk, session)
        disk.freeze()
        disk.reads.clear()
        second = back_up(disk, session, first)
        assert second.regions == first.regions
        assert second.stored_bytes == 0
        assert second.read_bytes == sum(length for _, length in disk.reads) <= 64 * 64 * 1024


def test_reading_everything_again_stores_nothing_again() -> None:
    """Without a change source, deduplication finds every block."""
    with open_session() as session:
        disk = noisy_disk()
        first = back_up(disk, session)
        again = back_up(disk, session, first, trust="everything")
        assert (again.stored_bytes, again.regions) == (0, first.regions)
        assert again.read_bytes >= disk.size_bytes


def test_scattered_changes_store_about_what_changed() -> None:
    """1% of single 4 KiB pages of noise: at most 1.2 times their bytes, metadata included."""
    with open_session() as session:
        disk = SparseDisk(32 * MIB)
        noise = Random(7)
        disk.write(0, noise.randbytes(32 * MIB))
        first = back_up(disk, session)
        disk.freeze()
        for page in noise.sample(range(32 * MIB // PAGE), 82):
            disk.write(page * PAGE, noise.randbytes(PAGE))
        second = back_up(disk, session, first)
        assert second.changed_bytes == 82 * PAGE
        assert second.stored_bytes <= 1.2 * second.changed_bytes
        assert_same(disk, second, session)


def test_the_image_before_stays_what_it_was() -> None:
    """Every image is complete by itself."""
    with open_session() as session:
        disk = noisy_disk()
        first = back_up(disk, session)
        before = bytes(disk.read(0, disk.size_bytes))
        disk.freeze()
        disk.write(0, b"changed" * 100_000)
        back_up(disk, session, first)
        assert ImageReader(first, session.reader()).read(0, disk.size_bytes) == before


@settings(max_examples=25)
@given(st.data())
def test_days_of_changes_equal_a_byte_array(data: st.DataObject) -> None:
    """Writes and clears of any size, day after day, told and untold: each image like its day."""
    sizes = [MIB, 2 * MIB, 3 * MIB + 512, 66 * MIB, REGION_BYTES + 2 * MIB]
    size = data.draw(st.sampled_from(sizes))
    ways = ["difference", "allocated", "everything"][: 2 if size > REGION_BYTES else 3]
    disk = SparseDisk(size)
    noise = Random(data.draw(st.integers(0, 2**32)))
    with open_session() as session:
        image = back_up(disk, session)
        for _ in range(data.draw(st.integers(1, 4))):
            disk.freeze()
            for _ in range(data.draw(st.integers(0, 6))):
                length = data.draw(st.sampled_from([1, PAGE, 9000, 300_000, 1_000_000]))
                offset = noise.randrange(max(0, size - 2 * MIB), size - length + 1)
                if data.draw(st.booleans()):
                    disk.write(offset, noise.randbytes(length))
                else:
                    start = offset // PAGE * PAGE
                    disk.clear(start, min(length, size - start))
            trust = data.draw(st.sampled_from(ways))
            image = back_up(disk, session, image, trust=trust)
            assert_same(disk, image, session)


def test_cleared_pages_become_zero_without_a_read() -> None:
    """A ClearRange is recorded: dropping it would bring deleted data back."""
    with open_session() as session:
        disk = noisy_disk()
        first = back_up(disk, session)
        disk.freeze()
        disk.clear(MIB, MIB)
        second = back_up(disk, session, first)
        assert_same(disk, second, session)
        assert Extent(MIB, MIB // 2) not in list(ImageReader(second, session.reader()).extents())


def test_zeros_that_are_written_are_recorded_not_stored() -> None:
    """All-zero data, whole cells or single pages, is no block."""
    with open_session() as session:
        disk = noisy_disk()
        first = back_up(disk, session)
        disk.freeze()
        disk.write(0, bytes(MIB))
        disk.write(2 * MIB, bytes(PAGE))
        second = back_up(disk, session, first)
        runs = load_runs(session.reader(), second.regions[0], 0, disk.size_bytes)
        assert [run for run in runs if run.end <= MIB or run.offset == 2 * MIB] == [
            run._replace(block_id=None, start=0)
            for run in runs
            if run.end <= MIB or run.offset == 2 * MIB
        ]
        assert second.stored_bytes < 1000  # the region's group, and nothing else
        assert_same(disk, second, session)


def test_cells_do_not_fragment_for_ever() -> None:
    """Hundreds of incrementals of single pages: a cell's runs stay bounded, the bytes right."""
    with open_session() as session:
        disk = SparseDisk(MIB)
        disk.write(0, Random(1).randbytes(MIB))
        image = back_up(disk, session)
        for day in range(12):
            disk.freeze()
            for n in range(14):
                disk.write((day * 14 + n) * 37 % 256 * PAGE, bytes([day + 1]) * PAGE)
            image = back_up(disk, session, image, readers=1)
            runs = load_runs(session.reader(), image.regions[0], 0, MIB)
            assert len(runs) <= MAX_RUNS_PER_CELL
        assert_same(disk, image, session)


def test_a_source_that_loses_its_reference_falls_back() -> None:
    """ChangesUnknown, at once or in the middle: the next source, and the image says so."""
    with open_session() as session:
        disk = noisy_disk(20 * 1024**3)
        disk.write(19 * 1024**3, b"far away")
        first = back_up(disk, session)
        disk.write(0, b"changed")
        image = back_up(disk, session, first)
        assert image.changes_known == "allocated"
        disk.freeze()
        disk.write(19 * 1024**3, b"changed")
        whole = disk.changed
        disk.changed = lambda offset, n: SparseDisk.changed(  # type: ignore[method-assign]
            disk if offset < 1024**3 else SparseDisk(0), offset, n
        )
        image = back_up(disk, session, image)
        assert image.changes_known == "allocated"
        assert_same(disk, image, session)
        disk.changed = whole  # type: ignore[method-assign]


def test_a_source_that_knows_nothing_is_read_whole() -> None:
    """No page list either: everything is read."""
    with open_session() as session:
        disk = noisy_disk()
        disk.knows_allocated = False
        image = back_up(disk, session)
        assert image.changes_known == "everything"
        assert image.read_bytes == disk.size_bytes
        assert_same(disk, image, session)


def test_a_resized_disk_is_no_incremental() -> None:
    """The image before covers another size: nothing of it is taken over."""
    with open_session() as session:
        disk = noisy_disk()
        first = back_up(disk, session)
        larger = SparseDisk(disk.size_bytes + MIB)
        larger.pages, larger.dirty = disk.pages, {}
        image = back_up(larger, session, first)
        assert (image.changes_known, image.based_on) == ("allocated", "")
        assert_same(larger, image, session)


def test_hints_that_lie_are_caught() -> None:
    """F-W10: a change that the source hides fails the disk, by offset; then everything is read."""
    with open_session() as session:
        disk = SparseDisk(4 * MIB)
        disk.write(0, Random(1).randbytes(4 * MIB))
        first = back_up(disk, session)
        disk.freeze()
        for page in range(0, 1024, 16):
            disk.write(page * PAGE, b"changed")
            disk.hide(page * PAGE)
        with pytest.raises(ChangesLied) as caught:
            back_up(disk, session, first, name="images/run-1/lied", rng=lambda: Random(3))
        assert caught.value.offsets
        assert all(str(offset) in str(caught.value) for offset in caught.value.offsets)
        assert all(offset // PAGE in disk.hidden for offset in caught.value.offsets)
        assert not session.repository.store.exists("images/run-1/lied")
        image = back_up(disk, session, first, trust="everything")
        assert_same(disk, image, session)


def test_one_hidden_page_is_caught_sooner_or_later() -> None:
    """F-W10: even the smallest lie shows within a few runs, whatever the seed."""
    with open_session() as session:
        disk = SparseDisk(64 * MIB)
        disk.write(0, b"data" * 4 * MIB)
        image = back_up(disk, session)
        disk.freeze()
        disk.write(40 * MIB, b"changed")
        disk.hide(40 * MIB)
        with pytest.raises(ChangesLied):
            for seed in range(200):
                image = back_up(disk, session, image, rng=lambda seed=seed: Random(seed))


def test_data_that_is_said_to_be_cleared_is_found() -> None:
    """F-W10: a clear that never was would put zeros in the place of data."""
    with open_session() as session:
        disk = SparseDisk(4 * MIB)
        disk.write(0, Random(1).randbytes(4 * MIB))
        first, content = back_up(disk, session), dict(disk.pages)
        disk.freeze()
        disk.clear(MIB, MIB // 2)
        disk.pages.update(content)
        with pytest.raises(ChangesLied) as caught:
            back_up(disk, session, first, rng=lambda: Random(3))
        assert all(MIB <= offset < MIB * 3 // 2 for offset in caught.value.offsets)


def test_a_page_list_that_leaves_data_out_is_found() -> None:
    """F-W10: what a list of allocated pages does not name is zero in the image."""
    with open_session() as session:
        disk = SparseDisk(4 * MIB)
        disk.write(0, Random(1).randbytes(3 * MIB))
        first = back_up(disk, session)
        disk.write(MIB, b"changed")
        assert_same(disk, back_up(disk, session, first), session)  # the rest is empty indeed
        for page in range(0, 768, 16):
            disk.hide(page * PAGE)
        with pytest.raises(ChangesLied) as caught:
            back_up(disk, session, first, rng=lambda: Random(3))
        assert all(offset // PAGE in disk.hidden for offset in caught.value.offsets)
        assert_same(disk, back_up(disk, session, first, trust="everything"), session)


def test_a_source_that_names_too_much_is_no_liar() -> None:
    """A stack that answers all ranges to a difference: what is known costs reads only."""
    with open_session() as session:
        disk = noisy_disk()
        disk.write(10 * MIB, Random(9).randbytes(10 * MIB))
        first = back_up(disk, session)
        disk.changed = disk.allocated  # type: ignore[method-assign]
        second = back_up(disk, session, first)
        third = back_up(disk, session, second)
        assert third.changes_known == "difference"
        assert second.stored_bytes < 4.1 * MIB  # the cells that are half empty, as pages, once
        assert third.stored_bytes == 0
        assert_same(disk, third, session)


def test_an_error_in_a_reader_is_the_error_of_the_backup() -> None:
    """The first cause is raised, the others stop, and no image is there."""
    with open_session() as session:
        disk = noisy_disk()
        read = disk.read_into

        def fail(offset: int, buffer: memoryview) -> None:
            if offset >= 4 * MIB:
                raise Unreachable("the blob service does not answer")
            read(offset, buffer)

        disk.read_into = fail  # type: ignore[method-assign]
        with pytest.raises(Unreachable, match="blob service"):
            back_up(disk, session, name="images/run-1/failed")
        assert not session.repository.store.exists("images/run-1/failed")
        disk.read_into = read  # type: ignore[method-assign]
        assert_same(disk, back_up(disk, session), session)


def test_cancel_stops_within_a_second() -> None:
    """Told to stop in the middle, the backup ends at once and puts no image."""
    with open_session() as session:
        disk, cancel = noisy_disk(), threading.Event()
        read = disk.read_into

        def slow(offset: int, buffer: memoryview) -> None:
            cancel.set()
            threading.Event().wait(0.3)
            read(offset, buffer)

        disk.read_into = slow  # type: ignore[method-assign]
        with pytest.raises(Cancelled):
            back_up(disk, session, cancel=cancel, readers=1, name="images/run-1/cancelled")
        assert not session.repository.store.exists("images/run-1/cancelled")


def test_a_fenced_session_puts_no_image() -> None:
    """F-K7 at this level: gone session, no image."""
    store = MemoryStore()
    with open_session(store) as session:
        disk = noisy_disk()
        read = disk.read_into

        def fence(offset: int, buffer: memoryview) -> None:
            store.objects.pop(f"sessions/{session.id}", None)
            read(offset, buffer)

        disk.read_into = fence  # type: ignore[method-assign]
        with pytest.raises(SessionLost):
            back_up(disk, session, name="images/run-1/fenced")
        assert not store.exists("images/run-1/fenced")


def test_progress_only_grows_and_ends_at_the_whole_disk() -> None:
    """Percent, speed, time to go and what deduplication saved, every few seconds."""
    seen: list[Progress] = []
    ticks = iter(range(0, 10_000_000, 2))
    with open_session() as session:
        disk = noisy_disk()
        back_up(disk, session)
        back_up(disk, session, progress=seen.append, clock=lambda: float(next(ticks)))
    assert seen[-1].percent == 100
    assert seen[-1].eta_seconds == 0
    assert seen[-1].deduplicated_bytes == 8 * MIB
    assert [look.done_bytes for look in seen] == sorted(look.done_bytes for look in seen)
    assert "%" in str(seen[-1])


def test_lost_blocks_of_the_image_before_are_stored_again() -> None:
    """An incremental heals what it touches: it never refers to a block that is in no pack."""
    store = MemoryStore()
    with open_session(store) as session:
        disk = noisy_disk()
        first = back_up(disk, session)
        store.lose(store.names("packs/"))
    with open_session(store) as session:
        disk.freeze()
        disk.write(MIB, b"changed")
        second = back_up(disk, session, first)
        assert_same(disk, second, session)
        disk.freeze()
        assert back_up(disk, session, second).stored_bytes == 0


def test_idle_regions_heal_too() -> None:
    """F-S7: a lost pack that holds an idle region's blocks, but not its group: stored again."""
    store = MemoryStore()
    with open_session(store) as session:
        disk = noisy_disk()
        first = back_up(disk, session)
        data = store.names("packs/")
        disk.freeze()
        disk.write(MIB, b"changed")
        second = back_up(disk, session, first)
        store.lose(data)
    with open_session(store) as session:
        disk.freeze()
        healed = back_up(disk, session, second)
        assert healed.changed_bytes == 0
        assert healed.stored_bytes > 4 * MIB
        assert_same(disk, healed, session)
        assert back_up(disk, session, healed).stored_bytes == 0


def test_a_lost_segment_costs_a_rebuild_of_the_index_and_no_data() -> None:
    """F-S8: an idle region is taken over by its group; who misses its blocks is told the cure."""
    store = MemoryStore()
    with open_session(store) as session:
        disk = noisy_disk()
        first = back_up(disk, session)
        lost = store.names("index/")
        disk.freeze()
        disk.write(MIB, b"changed")
        second = back_up(disk, session, first)
    store.lose(lost)
    with open_session(store) as session:
        disk.freeze()
        third = back_up(disk, session, second)
        with pytest.raises(MissingBlock, match="azstack rebuild-index"):
            assert_same(disk, third, session)
        session.repository.rebuild_index()
    with open_session(store) as session:
        assert_same(disk, third, session)


def test_large_groups_of_cells_use_whole_blocks() -> None:
    """A rewritten file is stored in aligned blocks, which its copies on other disks share."""
    with open_session() as session:
        disk, other = SparseDisk(64 * MIB), SparseDisk(64 * MIB)
        image, content = back_up(disk, session), Random(5).randbytes(10 * MIB)
        disk.freeze()
        disk.write(20 * MIB, content)
        other.write(50 * MIB, content)
        image = back_up(disk, session, image)
        copy = back_up(other, session)
        assert copy.stored_bytes < 5000
        runs = load_runs(session.reader(), image.regions[0], 0, 64 * MIB)
        assert sum(run.length == BLOCK_SIZE for run in runs) == 10
