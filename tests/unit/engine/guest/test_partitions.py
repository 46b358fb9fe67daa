"""Partition tables as tools write them, and as nobody should."""

import struct
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_azstack.emulator.guests import GuestDisk
from airflow_provider_azstack.engine.guest.partitions import Partition, partitions

pytestmark = pytest.mark.tier1

SECTOR = 512
SIZE = 64 * 1024 * SECTOR


def reader(data: bytes) -> Callable[[int, int], bytes]:
    def read(offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= len(data), "reads stay on the disk"
        return data[offset : offset + length]

    return read


def mbr(*entries: tuple[int, int, int]) -> bytes:
    table = b"".join(struct.pack("<B3xB3xII", 0, *entry) for entry in entries)
    return bytes(446) + table.ljust(64, b"\0") + b"\x55\xaa"


def disk(sectors: dict[int, bytes], size: int = SIZE) -> bytes:
    data = bytearray(size)
    for number, content in sectors.items():
        data[number * SECTOR : number * SECTOR + len(content)] = content
    return bytes(data)


def gpt(*parts: tuple[int, int, str]) -> dict[int, bytes]:
    """Return a protective MBR, both tables and both headers."""
    entries = b"".join(
        struct.pack("<16s16sQQQ72s", b"k" * 16, b"u" * 16, first, last, 0, name.encode("utf-16-le"))
        for first, last, name in parts
    ).ljust(128 * 128, b"\0")
    last = SIZE // SECTOR - 1

    def header(own: int, other: int, table: int) -> bytes:
        fields = (own, other, 34, last - 33, b"g" * 16, table, 128, 128, zlib.crc32(entries))
        body = struct.pack("<8sIII4xQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, *fields)
        return body[:16] + struct.pack("<I", zlib.crc32(body)) + body[20:]

    return {
        0: mbr((0xEE, 1, last)),
        1: header(1, last, 2),
        2: entries,
        last - 32: entries,
        last: header(last, 1, last - 32),
    }


def test_a_guests_own_table(guest_disk: Callable[..., GuestDisk]) -> None:
    made = guest_disk("web", size_bytes=24 << 20, content_bytes=1 << 20)
    data = made.path.read_bytes()
    assert partitions(reader(data), len(data)) == [Partition(1, 1 << 20, 23 << 20)]


def test_logical_partitions_follow_their_chain() -> None:
    data = disk({
        0: mbr((7, 64, 100), (0x0F, 1000, 9000)),
        1000: mbr((0x83, 10, 500), (5, 2000, 3000)),
        3000: mbr((0x83, 10, 700)),
    })  # fmt: skip
    found = [(part.number, part.offset // SECTOR) for part in partitions(reader(data), SIZE)]
    assert found == [(1, 64), (5, 1010), (6, 3010)]


def test_a_chain_that_bites_its_tail_ends() -> None:
    """A table that names itself, or goes past the disk, or past all sense, ends the list."""
    for following in (0, 2**32 - 1, 1):
        data = disk({0: mbr((5, 1000, 9000)), 1000: mbr((0x83, 10, 500), (5, following, 1))})
        assert [part.number for part in partitions(reader(data), SIZE)] == [5]


def test_gpt_by_name_and_from_its_copy() -> None:
    """A damaged header or table in front: the copy at the end tells the same."""
    sectors = gpt((2048, 4095, "EFI"), (4096, 50_000, "Grüße"))
    expected = [
        Partition(1, 2048 * SECTOR, 2048 * SECTOR, "EFI"),
        Partition(2, 4096 * SECTOR, 45_905 * SECTOR, "Grüße"),
    ]
    assert partitions(reader(disk(sectors)), SIZE) == expected
    for damaged in (1, 2):
        assert partitions(reader(disk({**sectors, damaged: b"\1" * SECTOR})), SIZE) == expected
    gone = {**sectors, 1: b"", SIZE // SECTOR - 1: b""}
    assert partitions(reader(disk(gone)), SIZE) == [Partition(0, 0, SIZE)]


def test_partitions_that_reach_past_the_disk_are_left_out() -> None:
    data = disk({0: mbr((7, 64, 100), (7, 64, 2**32 - 1), (7, 2**32 - 1, 2))})
    assert [part.number for part in partitions(reader(data), SIZE)] == [1]


@pytest.mark.parametrize("data", [b"", b"x" * 100, bytes(SECTOR), b"\xff" * 510 + b"\x55\xaa"])
def test_no_table_is_the_whole_disk(data: bytes) -> None:
    assert partitions(reader(data), len(data)) == [Partition(0, 0, len(data))]


NUMBER = st.integers(0, 2**32 - 1)


@given(st.lists(st.tuples(st.integers(0, 255), NUMBER, NUMBER), max_size=4), st.binary())
def test_no_table_leads_out_of_the_disk(entries: list[tuple[int, int, int]], rest: bytes) -> None:
    """Whatever a guest wrote: it ends, reads stay on the disk, and so do all partitions."""
    data = disk({0: mbr(*entries), 1: rest}, 64 * SECTOR)
    for part in partitions(reader(data), len(data)):
        assert 0 <= part.offset <= part.offset + part.length <= len(data)
