"""A pack describes itself, and its decoder allows no more than it was told."""

import tracemalloc
from typing import get_args

import pytest
import zstandard
from support.repositories import noise, prose

from airflow_provider_azstack.errors import Tampered
from airflow_provider_azstack.model import Compression
from airflow_provider_azstack.repo.blocks.packs import (
    BLOCK_SIZE,
    COMPRESSION,
    HEADER_BYTES,
    MAX_BLOCKS,
    TRAILER_BYTES,
    BlockCipher,
    Codec,
    PackBuffer,
    PackContents,
    pack_id,
    pack_name,
    parse_trailer,
    salvage,
    size_of_pack,
)
from airflow_provider_azstack.repo.sealing.crypto import Keys

pytestmark = pytest.mark.tier1

KEYS = Keys(b"r" * 16, bytes(32))
BLOCKS = [b"a" * 5000, noise(1), b"b", noise(2, 70_000), b"text " * 900]


def a_pack(blocks: list[bytes] = BLOCKS) -> tuple[bytes, PackContents]:
    pack, codec = PackBuffer(KEYS, bytearray(2 * BLOCK_SIZE)), Codec()
    for block in blocks:
        packed = codec.compress(memoryview(block))
        entry = pack.reserve(KEYS.block_id(block), len(packed), len(block))
        assert entry is not None
        pack.seal(entry, packed)
    data, contents = pack.finish()
    return b"".join(data), contents


def cipher_of(data: bytes, contents: PackContents) -> BlockCipher:
    return BlockCipher.from_header(KEYS, contents.pack, data[:HEADER_BYTES])


def test_every_block_decodes_alone() -> None:
    data, contents = a_pack()
    assert contents.size_bytes == len(data)
    cipher, view = cipher_of(data, contents), memoryview(data)
    for block, entry in zip(BLOCKS, contents.entries, strict=True):
        assert bytes(cipher.open(entry, view[entry.offset : entry.end], Codec()).data) == block


def test_the_size_of_a_pack_follows_from_its_records() -> None:
    """A collector tells by it what a pack wastes, whether that has a thousand blocks or one."""
    for blocks in (BLOCKS, BLOCKS[:1], [b"b"]):
        data, contents = a_pack(blocks)
        records = sum(entry.end - entry.offset for entry in contents.entries)
        assert size_of_pack(records, len(blocks)) == len(data)


@pytest.mark.parametrize("compression", COMPRESSION)
def test_every_choice_of_compression_reads_back_by_any_codec(compression: Compression) -> None:
    """No choice needs a larger window, hence more memory to read, than one block."""
    codec = Codec(compression)
    for block in (*BLOCKS, prose(), prose(100_000), noise(3, BLOCK_SIZE)):
        packed = memoryview(codec.compress(memoryview(block)))
        assert bytes(Codec().decompress(packed, len(block))) == block
        if len(packed) < len(block):
            assert zstandard.get_frame_parameters(packed).window_size <= BLOCK_SIZE


def test_fast_stores_more_than_standard_and_small_less() -> None:
    stored = {choice: len(Codec(choice).compress(memoryview(prose()))) for choice in COMPRESSION}
    assert stored["fast"] > 1.05 * stored["standard"] > 1.1 * stored["small"]
    assert tuple(COMPRESSION) == get_args(Compression)


def test_what_does_not_compress_is_stored_as_it_is() -> None:
    _, contents = a_pack()
    stored = [entry.sealed - 16 for entry in contents.entries]
    assert stored[1] == len(BLOCKS[1])
    assert stored[0] < len(BLOCKS[0]) // 10


def test_the_directory_lists_exactly_the_records() -> None:
    data, contents = a_pack()
    offset, length = parse_trailer(data[-TRAILER_BYTES:], len(data), "it")
    entries = cipher_of(data, contents).open_directory(offset, data[offset : offset + length])
    assert entries == contents.entries


def test_a_directory_that_does_not_describe_its_pack_is_refused() -> None:
    """Also one that a key holder sealed: gaps and overlaps are somebody's bug."""
    data, contents = a_pack()
    cipher = cipher_of(data, contents)
    end = contents.entries[-1].end
    wrong = [
        contents.entries[1:],
        contents.entries[:-1],
        [contents.entries[0], *contents.entries],
        [entry._replace(raw=BLOCK_SIZE + 1) for entry in contents.entries],
    ]
    for entries in wrong:
        sealed = cipher.seal_directory(entries, end)[:-TRAILER_BYTES]
        with pytest.raises(Tampered, match="does not describe"):
            cipher.open_directory(end, sealed)


def test_salvage_finds_the_records_without_the_directory() -> None:
    data, contents = a_pack()
    cipher, entries = cipher_of(data, contents), contents.entries
    cut = data[: entries[-1].end]
    assert list(salvage(cipher, cut, Codec())) == entries
    damaged = bytearray(data)
    damaged[entries[1].offset + 40] ^= 1  # in its header: where it ends is unknown now
    damaged[entries[3].offset + 5000] ^= 1
    assert list(salvage(cipher, damaged, Codec())) == [entries[0], entries[2], entries[4]]


@pytest.mark.parametrize("states_its_size", [True, False])
def test_a_decompression_bomb_is_bounded(*, states_its_size: bool) -> None:
    """F-H3: a sealed frame of 256 MiB of zeros costs no more memory than a block."""
    frame = zstandard.ZstdCompressor(level=1, write_content_size=states_its_size)
    compressor = frame.compressobj(size=2**28 if states_its_size else -1)
    packed = b"".join(compressor.compress(bytes(2**22)) for _ in range(64)) + compressor.flush()
    pack = PackBuffer(KEYS, bytearray(2 * BLOCK_SIZE))
    entry = pack.reserve(b"i" * 32, len(packed), BLOCK_SIZE)
    assert entry is not None
    pack.seal(entry, packed)
    codec = Codec()
    tracemalloc.start()
    try:
        with pytest.raises(Tampered, match="does not decompress"):
            pack.read(entry, codec)
        assert tracemalloc.get_traced_memory()[1] < 2 * BLOCK_SIZE
    finally:
        tracemalloc.stop()


def test_a_pack_takes_no_more_than_its_buffer_and_its_directory_hold() -> None:
    pack = PackBuffer(KEYS, bytearray(2 * BLOCK_SIZE))
    assert pack.reserve(b"i" * 32, BLOCK_SIZE, BLOCK_SIZE) is not None
    assert pack.reserve(b"i" * 32, BLOCK_SIZE, BLOCK_SIZE) is None
    many = PackBuffer(KEYS, bytearray(2 * BLOCK_SIZE))
    taken = 0
    while many.reserve(b"i" * 32, 1, 1):
        taken += 1
    assert taken == MAX_BLOCKS


@pytest.mark.parametrize(
    "name", ["packs/aa/aa", "packs/ab/" + "aa" * 16, "packs/zz/" + "zz" * 16, "x/aa/" + "aa" * 16]
)
def test_only_a_packs_own_name_names_it(name: str) -> None:
    assert pack_id(name) is None
    assert pack_id(pack_name(b"p" * 16)) == b"p" * 16
