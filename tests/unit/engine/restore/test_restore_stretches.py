"""What a restore sends: everything that is not zero, and nothing else."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_azstack.arm.disk_writer import MAX_WRITE_BYTES, PAGE_BYTES
from airflow_provider_azstack.engine.pages import nonzero
from airflow_provider_azstack.engine.restore.stretches import joined
from airflow_provider_azstack.repo.images.reader import Piece

pytestmark = pytest.mark.tier1

CELL = 1 << 20
FILLS = st.lists(st.sampled_from([None, 0, 1, 2]), max_size=14)  # per cell: a hole, or a byte


@given(FILLS)
def test_stretches_are_the_data_in_order(fills: list[int | None]) -> None:
    """Nothing is lost, doubled or moved, and no stretch is too long to be written at once."""
    pieces = [
        Piece(n * CELL, CELL, None if fill is None else bytes([fill]) * CELL)
        for n, fill in enumerate(fills)
    ]
    found = {
        stretch.offset + n * CELL: data[:1]
        for stretch in joined(pieces)
        for n, data in enumerate(stretch.data)
    }
    assert found == {n * CELL: bytes([f]) for n, f in enumerate(fills) if f is not None}
    assert all(sum(map(len, s.data)) <= MAX_WRITE_BYTES for s in joined(pieces))


def test_neighbours_go_together() -> None:
    pieces = [Piece(n * CELL, CELL, b"x" * CELL) for n in range(5)]
    assert [len(stretch.data) for stretch in joined(pieces)] == [4, 1]


@given(st.lists(st.booleans(), max_size=40), st.integers(0, PAGE_BYTES - 1))
def test_zero_pages_are_left_out_and_all_others_are_not(filled: list[bool], at: int) -> None:
    page = bytes(at) + b"x" + bytes(PAGE_BYTES - at - 1)
    data = b"".join(page if fill else bytes(PAGE_BYTES) for fill in filled)
    sent = bytearray(len(data))
    stretches = list(nonzero(data))
    for start, end in stretches:
        sent[start:end] = data[start:end]
    assert sent == data
    assert sum(end - start for start, end in stretches) == PAGE_BYTES * sum(filled)
    assert all(a[1] < b[0] for a, b in pairwise(stretches))
