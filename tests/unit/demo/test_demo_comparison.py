"""The demo's verdict: it says "identical" of nothing else, wherever the difference is."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.disks import SparseDisk, back_up, open_session
from support.repositories import a_point

from airflow_provider_azstack.model import RestorePoint
from airflow_provider_azstack.repo.repository import Repository
from demo.comparison import Difference, differences
from demo.fleet import copy_sparse
from demo.pools import check_placement, most_at_once
from demo.processes import DemoFailed

pytestmark = pytest.mark.tier1

MIB = 1 << 20
Point = tuple[Repository, RestorePoint, Path]


@pytest.fixture
def point(tmp_path: Path) -> Iterator[Point]:
    """A disk with data, a hole and data, its restore point, and the copy of what it held."""
    disk = SparseDisk(6 * MIB)
    disk.write(0, b"first" * 1000)
    disk.write(4 * MIB, b"last" * 1000)
    copy = tmp_path / "os.img"
    with copy.open("wb") as file:
        file.truncate(disk.size_bytes)
        for page, data in disk.pages.items():
            file.seek(page * 4096)
            file.write(data)
    with open_session() as session:
        image = back_up(disk, session)
        yield session.repository, a_point(image, session), copy


def test_the_same_bytes_are_identical(point: Point) -> None:
    repository, published, copy = point
    assert differences(repository, published, {"os": copy}) == []


@pytest.mark.parametrize("offset", [0, 4999, MIB, 3 * MIB + 17, 4 * MIB + 1, 6 * MIB - 1])
def test_one_other_byte_is_found_in_data_and_in_holes(point: Point, offset: int) -> None:
    repository, published, copy = point
    with copy.open("r+b") as file:
        file.seek(offset)
        old = file.read(1)
        file.seek(offset)
        file.write(bytes([old[0] ^ 1]))
    (found,) = differences(repository, published, {"os": copy})
    assert found.disk == "os"
    assert found.offset <= offset


def test_data_that_should_be_there_and_is_not_is_found(point: Point) -> None:
    """A copy that is all holes is no excuse."""
    repository, published, copy = point
    size = copy.stat().st_size
    copy.write_bytes(b"")
    with copy.open("r+b") as file:
        file.truncate(size)
    assert differences(repository, published, {"os": copy}) == [Difference("os", 0)]


def test_another_size_is_a_difference(point: Point) -> None:
    repository, published, copy = point
    with copy.open("r+b") as file:
        file.truncate(6 * MIB + 4096)
    assert differences(repository, published, {"os": copy})


def test_a_disk_that_is_missing_or_too_many_is_a_difference(point: Point) -> None:
    repository, published, copy = point
    found = differences(repository, published, {"os": copy, "data-0": copy})
    assert found == [Difference("data-0", 0)]
    assert differences(repository, published, {}) == [Difference("os", 0)]


def test_a_sparse_copy_has_the_same_bytes(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(bytes(2 * MIB) + b"x" * 10 + bytes(MIB))
    copy_sparse(source, copy)
    assert copy.read_bytes() == source.read_bytes()
    assert copy.stat().st_blocks * 512 < 2 * MIB


def task(start: str, end: str, pool: str = "azstack_host-a") -> dict[str, str]:
    moments = {"start_date": f"2026-01-01T00:00:{start}Z", "end_date": f"2026-01-01T00:00:{end}Z"}
    return {**moments, "task_id": "host-a.workloads.stream", "pool": pool, "queue": "host-a"}


CONFIG = {"NO_OF_BACKUP_STREAMS_PER_NODE": 2, "hosts": {"host-a": {}}}


def test_streams_at_once_are_counted() -> None:
    assert most_at_once([task("01", "05"), task("05", "09"), task("02", "03")]) == 2
    assert most_at_once([]) == 0


def test_a_stream_outside_its_pool_or_beyond_its_slots_fails_the_demo() -> None:
    assert list(check_placement([task("01", "05"), task("02", "06")], CONFIG))
    with pytest.raises(DemoFailed, match="default_pool"):
        list(check_placement([task("01", "05", "default_pool")], CONFIG))
    with pytest.raises(DemoFailed, match="3 streams at once"):
        list(check_placement([task("01", "05"), task("02", "06"), task("03", "04")], CONFIG))
