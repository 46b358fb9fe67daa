"""Runs: what is stored comes back, and bytes that no region could have are refused."""

import struct
import tracemalloc
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.disks import open_session

from airflow_provider_azstack.errors import Tampered
from airflow_provider_azstack.repo.blocks.packs import BLOCK_SIZE
from airflow_provider_azstack.repo.images.runs import (
    REGION_BYTES,
    Run,
    decode_runs,
    encode_runs,
    join,
    load_runs,
    store_runs,
)

pytestmark = pytest.mark.tier1

IDS = [bytes([number]) * 32 for number in range(4)]
HEAD = struct.Struct("<4sIII")


@st.composite
def regions(draw: st.DrawFn) -> list[Run]:
    """Contiguous runs of a region that begins anywhere."""
    offset = draw(st.integers(0, 2**20)) * REGION_BYTES
    runs = []
    for _ in range(draw(st.integers(1, 12))):
        length = draw(st.integers(1, BLOCK_SIZE))
        block_id = draw(st.sampled_from([None, *IDS]))
        start = draw(st.integers(0, BLOCK_SIZE - length)) if block_id else 0
        runs.append(Run(offset, length, block_id, start))
        offset += length
    return runs


def span(runs: list[Run]) -> tuple[int, int]:
    return runs[0].offset, runs[-1].end - runs[0].offset


@given(regions())
def test_runs_come_back_as_they_were_stored(runs: list[Run]) -> None:
    """Encoding and decoding is the identity."""
    assert decode_runs(encode_runs(runs), *span(runs)) == runs


@given(regions(), st.integers(0, 2**20))
def test_equal_regions_are_equal_bytes_wherever_they_lie(runs: list[Run], number: int) -> None:
    """A region that moved, or is a clone's, is stored once: no absolute offset in its bytes."""
    shift = number * REGION_BYTES - runs[0].offset
    moved = [run._replace(offset=run.offset + shift) for run in runs]
    assert encode_runs(moved) == encode_runs(runs)


@given(regions())
def test_joining_keeps_the_content(runs: list[Run]) -> None:
    """Joined runs say the same of every byte, and none could be joined further."""
    joined = join(runs)
    assert join(joined) == joined
    assert span(joined) == span(runs)
    for run in runs:
        holder = next(j for j in joined if j.offset <= run.offset < j.end)
        assert holder.cut(run.offset, run.end) == run


@pytest.mark.parametrize(
    "runs",
    [
        [Run(0, 10), Run(5, 10)],  # overlapping
        [Run(0, 10), Run(20, 10)],  # missing
        [Run(0, 10), Run(0, 10)],  # duplicate
        [Run(10, 10), Run(0, 10)],  # out of order
        [Run(0, 0)],
        [Run(0, -1)],
        [Run(0, 10, IDS[0], -1)],
    ],
)
def test_runs_that_cover_no_region_are_never_written(runs: list[Run]) -> None:
    """F-H5: what reading would refuse, writing refuses too."""
    with pytest.raises(ValueError, match="follow"):
        encode_runs(runs)


def group(
    runs: list[tuple[int, int, int]], ids: list[bytes], *, count: int | None = None, length: int
) -> bytes:
    columns = [value for column in zip(*runs, strict=True) for value in column]
    head = HEAD.pack(b"runs", len(runs) if count is None else count, len(ids), length)
    return head + b"".join(ids) + struct.pack(f"<{len(columns)}I", *columns)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"runs",
        group([(100, 0, 0)], [], length=100)[:-1],
        group([(100, 0, 0)], [], length=100) + b"\0",
        group([(100, 0, 0)], [], length=99),
        group([(99, 0, 0)], [], length=100),
        group([(101, 0, 0)], [], length=100),
        group([(2**32 - 1, 0, 0), (101, 0, 0)], [], length=100),
        group([(0, 0, 0), (100, 0, 0)], [], length=100),
        group([(100, 1, 0)], [], length=100),
        group([(100, 0, 0)], [IDS[0]], length=100),
        group([(50, 1, 0), (50, 2, 0)], [IDS[0], IDS[0]], length=100),
        group([(100, 1, BLOCK_SIZE - 99)], [IDS[0]], length=100),
        group([(100, 1, 2**32 - 1)], [IDS[0]], length=100),
        group([(100, 0, 1)], [], length=100),
        HEAD.pack(b"runs", 0, 0, 100),
        group([(100, 0, 0)], [], count=2**32 - 1, length=100),
        HEAD.pack(b"runs", 2**32 - 1, 2**32 - 1, 100),
        b"nope" + group([(100, 0, 0)], [], length=100)[4:],
    ],
)
def test_malformed_groups_are_refused_before_allocation(data: bytes) -> None:
    """F-H5: overlapping, missing, out-of-range and absurd sizes, in every field."""
    tracemalloc.start()
    try:
        with pytest.raises(Tampered):
            decode_runs(data, 0, 100)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=300) | regions().map(encode_runs), st.data())
def test_any_bytes_decode_or_are_refused(data: bytes, more: st.DataObject) -> None:
    """F-H7: only our typed error, and what decodes covers the region exactly once."""
    damaged = bytearray(data)
    for _ in range(more.draw(st.integers(0, 3)) if damaged else 0):
        damaged[more.draw(st.integers(0, len(damaged) - 1))] = more.draw(st.integers(0, 255))
    length = struct.unpack_from("<I", damaged, 12)[0] if len(damaged) >= 16 else 100
    try:
        runs = decode_runs(bytes(damaged), 0, length)
    except Tampered:
        return
    assert span(runs) == (0, length)
    assert encode_runs(runs)  # contiguous, or this raises
    assert all(run.start + run.length <= BLOCK_SIZE for run in runs if run.block_id)


def test_a_region_without_data_is_no_block_at_all() -> None:
    """Zeros are recorded, never stored."""
    with open_session() as session:
        writer, reader = session.writer(), session.reader()
        assert store_runs(writer, [Run(0, 100), Run(100, 200)]) == (None, 0)
        assert load_runs(reader, None, 0, 300) == [Run(0, 300)]


def test_a_group_larger_than_a_block_comes_back() -> None:
    """The most fragmented region possible, every page from a block of its own, is still stored."""
    noise = Random(1)
    with open_session() as session:
        writer, reader = session.writer(), session.reader()
        runs = [
            Run(number * 4096, 4096, noise.randbytes(32)) for number in range(REGION_BYTES // 4096)
        ]
        root, new_bytes = store_runs(writer, runs)
        writer.flush()
        assert load_runs(reader, root, 0, REGION_BYTES) == runs
        assert new_bytes > BLOCK_SIZE


@pytest.mark.parametrize("damage", ["count", "size", "cut", "longer"])
def test_malformed_parts_are_refused(damage: str) -> None:
    """F-H5: a root that lists too many parts, or parts that do not add up."""
    with open_session() as session:
        writer, reader = session.writer(), session.reader()
        part = writer.add(b"x" * 100).block_id
        count, size, tail = 2, BLOCK_SIZE + 100, b""
        if damage == "count":
            count = 2**32 - 1
        elif damage == "cut":
            tail = b"y"
        elif damage == "longer":
            size = 2**32 - 1
        root = writer.add(HEAD.pack(b"part", 0, count, size) + part * 2 + tail).block_id
        writer.flush()
        with pytest.raises(Tampered):
            load_runs(reader, root, 0, 100)


def test_scattered_runs_cost_little() -> None:
    """5,000 scattered pages on 2 GiB: their groups stay under 1% of the 20 MB they changed."""
    with open_session() as session:
        writer = session.writer()
        stored, step = 0, 2 * 1024**3 // 5000 // 4096 * 4096
        for first in range(0, 2 * 1024**3, REGION_BYTES):
            runs, end = [], 0
            for offset in range(0, REGION_BYTES - step, step):
                while end < offset:
                    stop = min(offset, end + BLOCK_SIZE - end % BLOCK_SIZE)
                    block = (first + end) // BLOCK_SIZE
                    runs.append(Run(end, stop - end, block.to_bytes(32, "big"), end % BLOCK_SIZE))
                    end = stop
                runs.append(Run(offset, 4096, (2**40 + offset // 2**26).to_bytes(32, "big")))
                end += 4096
            stored += store_runs(writer, runs)[1]
        assert stored < 5000 * 4096 / 100
