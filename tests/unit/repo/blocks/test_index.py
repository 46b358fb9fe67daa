"""The index: derived data that nobody has to trust."""

import contextlib
import multiprocessing
import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.damage import flipped
from support.mounts import tmpfs
from support.repositories import CHEAP, PASSPHRASE, new_repository, noise, reopen, store_blocks
from support.stores import LostWrites, MemoryStore

from airflow_provider_azstack.errors import MissingBlock, StoreError, Tampered
from airflow_provider_azstack.repo.blocks import index as index_module
from airflow_provider_azstack.repo.blocks import segments
from airflow_provider_azstack.repo.blocks.index import Index
from airflow_provider_azstack.repo.blocks.packs import Entry, PackContents
from airflow_provider_azstack.repo.prune import compaction
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sealing.records import (
    AliveSessions,
    BadBlock,
    BadBlocks,
    CondemnedPacks,
)
from airflow_provider_azstack.store.base import MOST_BYTES, ObjectInfo
from airflow_provider_azstack.store.guard import StoreWrapper
from airflow_provider_azstack.store.local import LocalStore

pytestmark = pytest.mark.tier1


class CountingStore(StoreWrapper):
    def __init__(self, inner: MemoryStore) -> None:
        super().__init__(inner)
        self.got: list[str] = []

    def get(self, name: str, most_bytes: int = MOST_BYTES) -> bytes:
        self.got.append(name)
        return super().get(name, most_bytes)


def names(store: MemoryStore, prefix: str) -> list[str]:
    return sorted(name for name in store.objects if name.startswith(prefix))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def repository(store: MemoryStore) -> Repository:
    return new_repository(store)


def with_cache(store: MemoryStore | CountingStore, directory: Path) -> Repository:
    return Repository.open(store, PASSPHRASE, cache_directory=directory)


def load(repository: Repository) -> Index:
    index = Index(repository.records, repository.cache_directory)
    index.refresh()
    return index


def test_a_warm_cache_fetches_only_new_segments(
    store: MemoryStore, repository: Repository, tmp_path: Path
) -> None:
    store_blocks(repository.open_session("a"), [noise(1)])
    load(with_cache(store, tmp_path)).close()
    [block] = store_blocks(repository.open_session("b"), [noise(2)])
    counting = CountingStore(store)
    index = load(with_cache(counting, tmp_path))
    assert len([name for name in counting.got if name.startswith("index/")]) == 1
    assert index.locations(block)


def test_entries_of_a_segment_that_is_gone_do_not_count(
    store: MemoryStore, repository: Repository, tmp_path: Path
) -> None:
    [block] = store_blocks(repository.open_session("a"), [noise(1)])
    load(with_cache(store, tmp_path)).close()
    for name in names(store, "index/"):
        store.delete(name)
    index = load(with_cache(store, tmp_path))
    assert index.locations(block) == []
    assert not index.usable(block)


def test_rows_that_do_not_fit_together_are_put_in_by_and_by(
    store: MemoryStore, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = []
    for number in range(5):
        blocks += store_blocks(repository.open_session("a"), [noise(number)])
    monkeypatch.setattr(index_module, "_ROWS", 2)
    index = load(with_cache(store, tmp_path))
    assert all(index.locations(block) for block in blocks)


def test_blocks_of_segments_that_are_gone_leave_the_cache_in_the_end(
    store: MemoryStore, repository: Repository, tmp_path: Path
) -> None:
    """They do not count at once; they are removed when that is worth reading all of the cache."""
    for number in range(8):
        store_blocks(repository.open_session("a"), [noise(number)])
    load(with_cache(store, tmp_path)).close()
    for left in range(7, -1, -1):
        store.delete(names(store, "index/")[0])
        load(with_cache(store, tmp_path)).close()
        index = load(with_cache(store, tmp_path))
        with index.database() as database:
            [(kept,)] = database.execute("SELECT COUNT(*) FROM blocks")
            [(live,)] = database.execute("SELECT COUNT(*) FROM blocks NATURAL JOIN seen")
        index.close()
        assert live == left
        assert left <= kept < max(left * 4 / 3 + 0.01, 1)


def test_blocks_of_segments_that_are_gone_stay_while_another_process_counts_on_them(
    store: MemoryStore, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-K14: a completion goes on for minutes; a prune and other runs work beside it."""
    session = with_cache(store, tmp_path).open_session("backup")
    blocks = [store_blocks(session, [noise(number)])[0] for number in range(6)]
    require, reader = session.presence(), session.reader()
    require(blocks)
    monkeypatch.setattr(compaction, "MANY_SMALL", 2)
    assert compaction.compact(repository, load(repository), (), names(store, "packs/")) == 6
    for _ in range(2):  # twice: what the first forgets, the second could take away
        load(with_cache(store, tmp_path)).close()
    require(blocks)
    assert [reader.read(block) for block in blocks] == [noise(number) for number in range(6)]
    session.close()
    index = load(with_cache(store, tmp_path))
    with index.database() as database:  # nobody counts on them now
        assert database.execute("SELECT COUNT(*) FROM blocks").fetchone() == (6,)


def test_a_stale_process_cannot_bring_back_a_segment(
    store: MemoryStore, repository: Repository, tmp_path: Path
) -> None:
    """What another process puts into the shared cache counts only for those who saw it listed."""
    [block] = store_blocks(repository.open_session("a"), [noise(1)])
    [gone] = names(store, "index/")
    contents = segments.get(repository.records, gone)
    store.delete(gone)
    fresh, stale = load(with_cache(store, tmp_path)), load(with_cache(store, tmp_path))
    stale.add(gone, contents)  # it listed before the segment was deleted, and writes only now
    assert stale.locations(block)
    assert fresh.locations(block) == []


def test_an_index_that_outlived_its_pack_is_not_believed(
    store: MemoryStore, repository: Repository
) -> None:
    """A fenced writer may put a segment after its pack was collected: nobody relies on it."""
    [block] = store_blocks(repository.open_session("a"), [noise(1)])
    for name in names(store, "packs/"):
        store.delete(name)
    session = reopen(repository).open_session("b")
    with pytest.raises(MissingBlock, match=r"gone"):
        session.verify_present([block])
    with session.writer() as writer:
        assert writer.add(noise(1)).new_bytes > 0
        writer.flush()
    session.verify_present([block])
    assert session.reader().read(block) == noise(1)


def test_a_reader_finds_what_was_moved_since_it_began(
    store: MemoryStore, repository: Repository
) -> None:
    """F-K4: a collector copies what is needed after all, and deletes; a restore ends well."""
    block = noise(1)
    with contextlib.closing(repository.open_session("backup")) as session:
        (block_id,) = store_blocks(session, [block])
    reader = reopen(repository).reader()
    assert reader.read(block_id) == block
    store.lose(store.names("packs/"))
    with contextlib.closing(repository.open_session("prune")) as session:
        assert store_blocks(session, [block]) == [block_id]
    assert reader.read(block_id) == block
    store.lose(store.names("packs/"))
    for _ in range(2):
        with pytest.raises(MissingBlock):
            reader.read(block_id)


def test_a_pack_of_another_size_is_not_believed(store: MemoryStore, repository: Repository) -> None:
    """F-S6: a truncated pack is stored again by the next backup."""
    store_blocks(repository.open_session("a"), [noise(1)])
    [pack] = names(store, "packs/")
    store.objects[pack] = store.objects[pack][:-1]
    assert reopen(repository).open_session("b").writer().add(noise(1)).new_bytes > 0


def test_a_condemned_pack_is_not_deduplicated_against(
    store: MemoryStore, repository: Repository
) -> None:
    """W4, unless the session is one that the collector promised to wait for."""
    [block] = store_blocks(repository.open_session("a"), [noise(1)])
    [pack] = names(store, "packs/")
    before = repository.open_session("before")
    repository.records.put("condemned/1/packs", CondemnedPacks(packs=(pack.rpartition("/")[2],)))
    between = repository.open_session("between")
    assert before.writer().add(noise(1)).new_bytes > 0  # not stamped yet: nothing is promised
    repository.records.put("condemned/1/alive", AliveSessions(sessions=(before.id,)))
    rejoined = repository.join_session(before.id)
    assert rejoined.writer().add(noise(1)).new_bytes == 0
    rejoined.verify_present([block])
    assert between.writer().add(noise(1)).new_bytes > 0
    with pytest.raises(MissingBlock, match="condemned"):
        between.verify_present([block])


def test_an_unreadable_condemned_list_stops_writers(
    store: MemoryStore, repository: Repository
) -> None:
    """F-S5: going on could count on a pack that is about to go."""
    repository.records.put("condemned/1/packs", CondemnedPacks(packs=("ab" * 16,)))
    store.objects["condemned/1/packs"] = store.objects["condemned/1/packs"][:-1]
    with pytest.raises(Tampered, match="condemned/1/packs"):
        repository.open_session("b").writer()


def test_a_bad_copy_is_stored_again_once(store: MemoryStore, repository: Repository) -> None:
    """The next backup heals a block that was found damaged, and the one after has nothing to do."""
    [block] = store_blocks(repository.open_session("a"), [noise(1)])
    [name] = names(store, "packs/")
    pack = name.rpartition("/")[2]
    store.objects[name] = bytes(len(store.objects[name]))
    repository.records.put("bad/1", BadBlocks(blocks=(BadBlock(block_id=block, pack=pack),)))
    healing = repository.open_session("b")
    with healing.writer() as writer:
        assert writer.add(noise(1)).new_bytes > 0
        writer.flush()
    again = repository.open_session("c")
    assert again.writer().add(noise(1)).new_bytes == 0
    assert again.reader().read(block) == noise(1)


def test_a_damaged_segment_costs_space_not_data(store: MemoryStore, repository: Repository) -> None:
    """F-S5: its blocks are unknown until the index is rebuilt; a writer stores them again."""
    [block] = store_blocks(repository.open_session("a"), [noise(1)])
    [segment] = names(store, "index/")
    store.objects[segment] = flipped(store.objects[segment], -1)
    other = reopen(repository)
    with pytest.raises(MissingBlock, match="rebuild the index"):
        other.reader().read(block)
    assert other.rebuild_index().blocks == 1
    assert reopen(repository).reader().read(block) == noise(1)
    assert reopen(repository).open_session("b").writer().add(noise(1)).new_bytes == 0


@pytest.mark.parametrize("damage", [b"no database at all" * 300, None])
def test_a_damaged_cache_is_thrown_away(
    store: MemoryStore, repository: Repository, tmp_path: Path, damage: bytes | None
) -> None:
    """Damaged from its start, or only where the rows are: a later opening makes it anew."""
    blocks = store_blocks(repository.open_session("a"), [noise(seed, 100) for seed in range(400)])
    load(with_cache(store, tmp_path)).close()
    [file] = tmp_path.glob("*/index-*.sqlite")
    data = file.read_bytes()
    assert len(data) > 20_000
    file.write_bytes(damage or data[:4096] + b"\xff" * (len(data) - 4096))
    found = 0
    for _ in range(3):
        index = Index(with_cache(store, tmp_path).records, file.parent)
        try:
            index.refresh()
            found += all(index.locations(block) for block in blocks)
        except StoreError:
            continue  # found late: the next try has a new file
        finally:
            index.close()
    assert found >= 2
    with sqlite3.connect(file) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("SELECT count(*) FROM blocks").fetchone() == (400,)
    database.close()


def test_a_byte_of_the_cache_that_flips_costs_one_try(store: MemoryStore, tmp_path: Path) -> None:
    """F-S21: SQLite notices some of them; of the others, blocks that cannot be read tell."""
    chance = Random(4).randbytes  # so that the cache, and what is flipped in it, is always the same
    repository, _ = Repository.create(store, PASSPHRASE, kdf=CHEAP, random=chance)
    contents = [noise(seed, 100) for seed in range(20)]
    blocks = store_blocks(repository.open_session("a"), contents)
    load(with_cache(store, tmp_path)).close()
    [file] = tmp_path.glob("*/index-*.sqlite")
    good = file.read_bytes()
    rng = Random(5)
    for offset in rng.sample([at for at, byte in enumerate(good) if byte], 150):
        for left in file.parent.iterdir():
            left.unlink()
        damaged = bytearray(good)
        damaged[offset] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged)
        found = 0
        for _ in range(2):
            cached = Repository(store, repository.keys, cache_directory=tmp_path)
            reader = cached.reader()
            try:
                assert [reader.read(block) for block in blocks] == contents
                found += 1
            except StoreError:
                continue  # found out: the next try has a new file
            finally:
                cached.close()
        assert found, f"byte {offset} keeps blocks from being read for ever"


def test_what_is_lost_is_not_blamed_on_the_cache(
    store: MemoryStore, repository: Repository, tmp_path: Path
) -> None:
    [block] = store_blocks(repository.open_session("a"), [noise(1)])
    store.lose(store.names("packs/"))
    for _ in range(2):
        with pytest.raises(MissingBlock, match="is gone"):
            with_cache(store, tmp_path).reader().read(block)
    assert not list(tmp_path.glob("*/*.damaged"))


def test_a_damaged_cache_that_others_have_open_is_left_alone(
    store: MemoryStore, repository: Repository, tmp_path: Path
) -> None:
    [block] = store_blocks(repository.open_session("a"), [noise(1)])
    first = load(with_cache(store, tmp_path))
    first._file.report_damage()
    second = load(with_cache(store, tmp_path))
    assert second.locations(block)
    assert first.locations(block)
    first.close()
    second.close()


def test_no_cache_directory_can_be_made(
    store: MemoryStore, repository: Repository, tmp_path: Path
) -> None:
    """A cache is never worth a failed backup."""
    [block] = store_blocks(repository.open_session("a"), [noise(1)])
    (tmp_path / "file").write_text("in the way")
    assert load(with_cache(store, tmp_path / "file")).locations(block)


def test_a_cache_on_a_network_file_system_is_not_used(
    store: MemoryStore,
    repository: Repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Several hosts would write to one file, and SQLite lets one host's processes do that only."""
    [block] = store_blocks(repository.open_session("a"), [noise(1)])
    monkeypatch.setattr(LocalStore, "file_system", lambda _: "nfs4")
    assert load(with_cache(store, tmp_path)).locations(block)
    assert not list(tmp_path.glob("*/index-*"))
    assert "network file system" in caplog.text


@pytest.mark.tier2
@pytest.mark.parametrize("room", [0, 40_000, 200_000, 600_000, 1_000_000])
def test_a_cache_that_has_no_more_room_fails_nothing(
    store: MemoryStore, repository: Repository, tmp_path: Path, room: int
) -> None:
    """F-S24: wherever it gets full, while the index is loaded or while blocks are added to it."""
    before = store_blocks(repository.open_session("a"), [noise(seed, 50) for seed in range(8000)])
    with tmpfs(tmp_path, 2) as place:
        fill(place / "in the way", room)
        cached = with_cache(store, place / "cache")
        session = cached.open_session("b")
        with session.writer() as writer:
            for number, seed in enumerate((*range(9000, 17_000), 1)):
                stored = writer.add(noise(seed, 50))
                if number % 3000 == 0:
                    writer.flush()
            assert stored == (before[1], 0)
            writer.flush()
            assert writer.add(noise(9001, 50)).new_bytes == 0
        session.verify_present(before)
        session.close()


def fill(file: Path, room: int) -> None:
    """Take all the room but so many bytes."""
    number = os.open(file, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(number, bytes(4096))
    os.ftruncate(number, max(0, os.fstat(number).st_size - room))
    os.close(number)


def _write_some(directory: str, cache: str, number: int) -> None:
    repository = Repository.open(
        LocalStore(Path(directory)), PASSPHRASE, cache_directory=Path(cache)
    )
    session = repository.open_session("child")
    store_blocks(session, [noise(1000 * number + part, 500) for part in range(40)])
    session.close()


@pytest.mark.tier2
def test_processes_share_a_cache(tmp_path: Path) -> None:
    """Several streams of one host load, write and read one cache file at once."""
    (tmp_path / "store").mkdir()
    repository = new_repository(LocalStore(tmp_path / "store"))
    context = multiprocessing.get_context("spawn")
    children = [
        context.Process(
            target=_write_some, args=(str(tmp_path / "store"), str(tmp_path / "cache"), number)
        )
        for number in range(4)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(250)
    assert [child.exitcode for child in children] == [0] * 4
    cached = Repository.open(repository.store, PASSPHRASE, cache_directory=tmp_path / "cache")
    session = cached.open_session("look")
    with session.writer() as writer:
        seeds = [1000 * number + part for number in range(4) for part in range(40)]
        assert all(writer.add(noise(seed, 500)).new_bytes == 0 for seed in seeds)
    session.close()


def test_threads_share_an_index(repository: Repository) -> None:
    session = repository.open_session("a")
    blocks = store_blocks(session, [noise(seed, 100) for seed in range(100)])
    index = session._own_index()
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(index.usable, blocks * 10))


class Vanishing(StoreWrapper):
    """Lists a segment that is replaced before it can be read."""

    def __init__(self, inner: MemoryStore, times: int) -> None:
        super().__init__(inner)
        self.times = times

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        yield from super().list(prefix)
        if prefix == "index/" and self.times:
            self.times -= 1
            yield ObjectInfo("index/replaced", 100)


def test_a_segment_replaced_while_loading_is_no_error(
    store: MemoryStore, repository: Repository
) -> None:
    [block] = store_blocks(repository.open_session("a"), [noise(1)])
    assert load(reopen(repository, Vanishing(store, 1))).locations(block)
    with pytest.raises(StoreError, match="changed"):
        load(reopen(repository, Vanishing(store, 99)))


def test_a_lost_pack_write_is_found_before_publishing(
    store: MemoryStore, repository: Repository
) -> None:
    """F-S15: the store acknowledged a pack and does not have it."""
    lossy = LostWrites(store, lambda name: name.startswith("packs/"))
    session = reopen(repository, lossy).open_session("a")
    ids = store_blocks(session, [noise(1), noise(2)])
    for checking in (session, repository.join_session(session.id)):
        with pytest.raises(MissingBlock):
            checking.verify_present(ids)


def content(repository: Repository) -> dict[bytes, set[tuple[bytes, Entry]]]:
    """Return the whole map that the segments spell."""
    found: dict[bytes, set[tuple[bytes, Entry]]] = {}
    for info in repository.store.list("index/"):
        for pack, _, entries in segments.get(repository.records, info.name):
            for entry in entries:
                found.setdefault(entry.block_id, set()).add((pack, entry))
    return found


@settings(max_examples=20)
@given(
    sessions=st.lists(
        st.lists(st.tuples(st.integers(0, 9), st.sampled_from((1, 50, 4000))), max_size=8),
        min_size=1,
        max_size=4,
    ),
    keep=st.sets(st.integers(0, 3)),
)
def test_a_rebuilt_index_is_the_same_map(
    sessions: list[list[tuple[int, int]]], keep: set[int]
) -> None:
    """F-S8: whatever part of index/ is lost, the packs tell it again, block for block."""
    store = MemoryStore()
    repository = new_repository(store)
    for blocks in sessions:
        store_blocks(repository.open_session("a"), [noise(*block) for block in blocks])
    before = content(repository)
    for number, name in enumerate(names(store, "index/")):
        if number not in keep:
            store.delete(name)
    repository.rebuild_index()
    assert content(repository) == before
    assert repository.rebuild_index().packs == 0
    assert len(names(store, "sessions/")) == len(sessions)  # its own is closed


def test_a_rebuild_leaves_condemned_packs_out(store: MemoryStore, repository: Repository) -> None:
    """Else it would make findable what a collector is about to delete."""
    store_blocks(repository.open_session("a"), [noise(1)])
    [pack] = names(store, "packs/")
    repository.records.put("condemned/1/packs", CondemnedPacks(packs=(pack.rpartition("/")[2],)))
    store.delete(names(store, "index/")[0])
    assert repository.rebuild_index().packs == 0


def test_a_rebuild_salvages_what_is_whole(store: MemoryStore, repository: Repository) -> None:
    ids = store_blocks(repository.open_session("a"), [noise(1), noise(2), noise(3)])
    [pack] = names(store, "packs/")
    store.objects[pack] = store.objects[pack][:-100]  # trailer and part of the directory
    store.delete(names(store, "index/")[0])
    rebuilt = repository.rebuild_index()
    assert rebuilt.damaged == (pack,)
    reader = reopen(repository).reader()
    assert [reader.read(block) for block in ids] == [noise(1), noise(2), noise(3)]


@pytest.mark.parametrize("cut", [1, 23, 24, 30, 67])
def test_a_segment_that_ends_early_is_refused(cut: int) -> None:
    entry = Entry(b"i" * 32, 40, 100, 84)
    data = segments.encode([PackContents(b"p" * 16, 1000, [entry])])
    with pytest.raises(Tampered):
        segments.decode(data[:cut], "index/x")
    assert segments.decode(data, "index/x")[0].entries == [entry]
