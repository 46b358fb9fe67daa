"""Blocks: stored once, verified before upload, durable before anyone is told."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.damage import flipped
from support.repositories import (
    new_repository,
    noise,
    prose,
    reopen,
    small_writer,
    store_blocks,
)
from support.stores import CrashingStore, FullStore, MemoryStore

from airflow_provider_azstack.errors import (
    IntegrityError,
    MissingBlock,
    StoreError,
    StoreFull,
    Tampered,
    Unreachable,
)
from airflow_provider_azstack.repo.blocks.packs import BLOCK_SIZE, Codec, PackBuffer, pack_name
from airflow_provider_azstack.repo.blocks.writer import BUFFERS
from airflow_provider_azstack.store.base import Buffer

pytestmark = pytest.mark.tier1

TEXT = prose(200_000)


class BrokenUploads(MemoryStore):
    """Packs cannot be put."""

    def put(self, name: str, data: object) -> None:
        if name.startswith("packs/"):
            raise Unreachable("no route to the store")
        super().put(name, data)  # type: ignore[arg-type]


def test_what_was_added_reads_back_after_a_flush() -> None:
    repository = new_repository()
    blocks = [noise(1), b"z" * BLOCK_SIZE, b"x", noise(2, BLOCK_SIZE)]
    session = repository.open_session("test")
    ids = store_blocks(session, blocks)
    for reader in (session.reader(), reopen(repository).reader()):
        assert [reader.read(block) for block in ids] == blocks


@pytest.mark.parametrize("size", [0, BLOCK_SIZE + 1])
def test_a_block_has_bounds(size: int) -> None:
    writer = new_repository().open_session("test").writer()
    with pytest.raises(ValueError, match="a block has"):
        writer.add(bytes(size))


def test_a_known_block_is_not_stored_again() -> None:
    """Neither in the same writer, nor from the index of an earlier session."""
    repository = new_repository()
    writer = small_writer(repository.open_session("test"))
    assert writer.add(noise(1)).new_bytes > 3000
    assert writer.add(noise(1)).new_bytes == 0
    writer.flush()
    assert writer.add(noise(1)).new_bytes == 0
    assert reopen(repository).open_session("next").writer().add(noise(1)).new_bytes == 0


def test_what_is_stored_is_known_however_it_was_compressed() -> None:
    """Ids are of the raw bytes: another choice of compression stores nothing again."""
    repository = new_repository()
    session = repository.open_session("test")
    with session.writer("fast") as writer:
        assert writer.add(TEXT).new_bytes > 0
        writer.flush()
    for compression in ("standard", "small"):
        later = reopen(repository).open_session("next").writer(compression)
        assert later.add(TEXT).new_bytes == 0


def test_a_block_that_is_handed_on_stays_compressed_as_it_was() -> None:
    """What is copied costs no compressing, and is checked like any other block."""
    first, second = new_repository(), new_repository()
    with first.open_session("test").writer("small") as writer:
        block_id = writer.add(TEXT).block_id
        writer.flush()
    data, packed = first.reader().read_packed(block_id)
    assert data == TEXT
    with second.open_session("test").writer("fast") as writer:
        stored = writer.add(data, packed)
        writer.flush()
        assert second.reader().read_packed(stored.block_id) == (data, packed)
        with pytest.raises(IntegrityError, match="check"):
            writer.add(noise(1), packed)


def test_threads_that_add_the_same_block_store_it_once() -> None:
    """In-flight deduplication: each of 30 contents from 8 threads is stored exactly once."""
    store = MemoryStore()
    session = new_repository(store).open_session("test")
    barrier = threading.Barrier(8)
    with small_writer(session) as writer:

        def add_all(_: int) -> list[int]:
            barrier.wait()
            return [writer.add(noise(seed, 200_000)).new_bytes for seed in range(30)]

        with ThreadPoolExecutor(8) as pool:
            counts = list(pool.map(add_all, range(8)))
        writer.flush()
    for seed in range(30):
        assert sum(count[seed] > 0 for count in counts) == 1
    stored = sum(len(data) for name, data in store.objects.items() if name.startswith("packs/"))
    assert stored < 31 * 200_000


def test_memory_is_bounded_however_much_is_added() -> None:
    """Never more pack buffers than two, with more threads than that."""
    session = new_repository().open_session("test")
    with small_writer(session) as writer, ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda seed: writer.add(noise(seed, BLOCK_SIZE // 2)), range(24)))
        writer.flush()
        assert 1 <= writer._allocated <= BUFFERS  # how many depends on who was slow


def test_pack_then_index_then_nothing_else() -> None:
    """W5: a segment is put only after every pack that it names."""
    store = CrashingStore(MemoryStore())
    session = new_repository(store).open_session("test")
    before = len(store.log)
    store_blocks(session, [noise(seed, BLOCK_SIZE) for seed in range(12)])
    kinds = [name.partition("/")[0] for _, name in store.log[before:]]
    assert kinds == ["packs"] * 8 + ["index"] + ["packs"] * 4 + ["index"]


def test_a_failed_upload_is_never_lost() -> None:
    """The thread that uploads hears of it, and so does every later call."""
    repository = new_repository(BrokenUploads())
    writer = small_writer(repository.open_session("test"))
    writer.add(noise(1))
    for _ in range(2):
        with pytest.raises(Unreachable):
            writer.flush()
    with pytest.raises(Unreachable):
        writer.add(noise(2))


def test_threads_waiting_for_a_buffer_hear_of_a_failed_upload() -> None:
    writer = small_writer(new_repository(BrokenUploads()).open_session("test"))

    def add(seed: int) -> bool:
        with pytest.raises(Unreachable):
            for part in range(8):
                writer.add(noise(100 * seed + part, BLOCK_SIZE))
        return True

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(add, range(6)))


def test_a_full_store_is_said_to_be_full() -> None:
    """F-S2: the error that reaches the caller is the store's."""
    inner = MemoryStore()
    repository = new_repository(inner)
    writer = small_writer(reopen(repository, FullStore(inner, 2000)).open_session("test"))
    writer.add(noise(1))
    with pytest.raises(StoreFull):
        writer.flush()


def test_what_is_read_ahead_hides_no_damage() -> None:
    """A block that is damaged, or in no pack, costs no other, and is an error when asked for."""
    store = MemoryStore()
    session = new_repository(store).open_session("test")
    blocks = [noise(n) for n in range(4)]
    ids = store_blocks(session, blocks)
    reader = session.reader()
    places = list(filter(None, map(reader.locate, ids)))
    name, end = pack_name(places[0].pack), places[2].entry.end
    store.objects[name] = flipped(store.objects[name], end - 1)
    ahead = reader.read_ahead([*ids, *ids, b"u" * 32])
    assert [ahead.read(ids[n]) for n in (0, 1, 3)] == [blocks[n] for n in (0, 1, 3)]
    with pytest.raises(Tampered, match=ids[2].hex()):
        ahead.read(ids[2])
    with pytest.raises(MissingBlock):
        ahead.read(b"u" * 32)
    del store.objects[name]
    assert ahead.read(ids[0]) == blocks[0], "it was there already"


def test_an_aborted_writer_stops_other_threads_and_keeps_nothing() -> None:
    store = MemoryStore()
    session = new_repository(store).open_session("test")
    writer = small_writer(session)
    block = writer.add(noise(1)).block_id
    writer.abort()
    writer.abort()
    with pytest.raises(StoreError, match="stopped"):
        writer.add(noise(2))
    assert not [name for name in store.objects if name.startswith(("packs/", "index/"))]
    with pytest.raises(MissingBlock, match=block.hex()):
        session.reader().read(block)


def spoil(monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes]) -> None:
    honest = Codec.compress

    def compress(self: Codec, data: memoryview) -> Buffer:
        return change(bytes(honest(self, data)))

    monkeypatch.setattr(Codec, "compress", compress)


@pytest.mark.parametrize(
    "change",
    [
        lambda packed: b"garbage" * 10,
        lambda packed: packed[:-1],
        lambda packed: flipped(packed, 0),
    ],
)
@pytest.mark.parametrize("block", [b"compressible " * 500, noise(1)])
def test_a_compressor_that_returns_garbage_is_caught(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes], block: bytes
) -> None:
    """F-S16: the block is decoded again before its pack is uploaded; nothing reaches the store."""
    store = MemoryStore()
    writer = small_writer(new_repository(store).open_session("test"))
    spoil(monkeypatch, change)
    with pytest.raises(IntegrityError, match="check"):
        writer.add(block)
    with pytest.raises(IntegrityError):
        writer.flush()
    assert not any(name.startswith("packs/") for name in store.objects)


@pytest.mark.parametrize("block", [b"compressible " * 500, noise(1)])
def test_memory_that_changes_after_the_id_was_taken_is_caught(
    monkeypatch: pytest.MonkeyPatch, block: bytes
) -> None:
    """F-S17: one bit flips in the read buffer between hashing and encrypting."""
    data = bytearray(block)
    honest = Codec.compress

    def compress(self: Codec, view: memoryview) -> Buffer:
        data[len(data) // 2] ^= 4
        return honest(self, view)

    monkeypatch.setattr(Codec, "compress", compress)
    writer = small_writer(new_repository().open_session("test"))
    with pytest.raises(IntegrityError, match="memory"):
        writer.add(data)


def test_memory_that_changes_in_the_pack_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """F-S17: the check reads what will be uploaded, not what it was made from."""
    honest = PackBuffer.seal

    def seal(self: PackBuffer, entry: object, packed: Buffer) -> None:
        honest(self, entry, packed)  # type: ignore[arg-type]
        self.buffer[entry.end - 1] ^= 1  # type: ignore[attr-defined]

    monkeypatch.setattr(PackBuffer, "seal", seal)
    writer = small_writer(new_repository().open_session("test"))
    with pytest.raises(IntegrityError, match="does not decode"):
        writer.add(noise(1))
