"""Disks at the edges: every size and content comes back exactly."""

from random import Random

import msgspec
import pytest
from support.disks import PAGE, SparseDisk, assert_same, back_up, open_session

from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.images.runs import REGION_BYTES

pytestmark = pytest.mark.tier1

MIB = 1024**2
SIZES = [0, 1, PAGE - 1, PAGE, PAGE + 1, MIB - 1, MIB, MIB + 1, 5 * MIB + 512, REGION_BYTES + 1]


@pytest.mark.parametrize("size_bytes", SIZES)
@pytest.mark.parametrize("known", ["difference", "allocated", "everything"])
def test_any_size_comes_back(size_bytes: int, known: str) -> None:
    """F-W9: zero-size, one byte, a page and one more or less, odd ends: noise at both ends."""
    with open_session() as session:
        disk = SparseDisk(size_bytes, footer=b"conectix".ljust(512, b"\1"))
        for offset in {0, max(0, size_bytes - MIB)}:
            if size_bytes:
                disk.write(offset, Random(2).randbytes(min(MIB, size_bytes - offset)))
        first = back_up(disk, session, trust="everything" if known == "everything" else "allocated")
        assert_same(disk, first, session)
        assert first.footer == disk.footer()
        disk.freeze()
        if size_bytes:
            disk.write(size_bytes - 1, b"!")
        second = back_up(disk, session, first, trust=known)
        assert_same(disk, second, session)
        assert ImageReader(second, session.reader()).read(0, size_bytes)[-1:] == b"!"[:size_bytes]


def test_a_terabyte_that_is_nearly_empty() -> None:
    """F-W9: 1023 GiB sparse: few reads, a small image, the last page as exact as the first."""
    with open_session() as session:
        size_bytes = 1023 * 1024**3
        disk = SparseDisk(size_bytes)
        noise = Random(3)
        for offset in [0, 500 * 1024**3 - 100, size_bytes - PAGE]:
            disk.write(offset, noise.randbytes(PAGE))
        first = back_up(disk, session)
        assert first.read_bytes < 10 * PAGE
        assert_same(disk, first, session)
        disk.freeze()
        disk.write(700 * 1024**3, b"more")
        second = back_up(disk, session, first)
        assert_same(disk, second, session)
        assert sum(a != b for a, b in zip(first.regions, second.regions, strict=True)) == 1
        size = session.repository.store.info(second.name).size_bytes
        assert size < 10_000  # nearly all regions are null


def test_an_idle_terabyte_costs_kilobytes() -> None:
    """Every region holds data and is shared with the image before: the image stays small."""
    with open_session() as session:
        disk = SparseDisk(1023 * 1024**3)
        disk.write(0, b"data")
        image = back_up(disk, session)
        noise = Random(4)
        full = msgspec.structs.replace(
            image,
            name="images/run-1/full",
            regions=tuple(noise.randbytes(32) for _ in image.regions),
        )
        session.put_image(full)
        assert session.repository.store.info(full.name).size_bytes < 200 * 1024
        disk.freeze()
        assert back_up(disk, session, image).stored_bytes == 0


@pytest.mark.parametrize("content", ["zero", "random"])
def test_all_of_one_kind(content: str) -> None:
    """F-W9: all zero is no block at all; all noise is stored once and not compressed."""
    with open_session() as session:
        disk = SparseDisk(9 * MIB)
        disk.write(0, bytes(9 * MIB) if content == "zero" else Random(5).randbytes(9 * MIB))
        image = back_up(disk, session)
        assert_same(disk, image, session)
        if content == "zero":
            assert image.regions == (None,)
            assert image.stored_bytes == 0
        else:
            assert 9 * MIB <= image.stored_bytes < 9.1 * MIB
