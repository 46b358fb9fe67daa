"""What the blob service does to page lists and differences, and what we make of it."""

import pytest
from support.blob_reads import RANGE, Setup, read
from support.stacks import MIB, granting

from airflow_provider_azstack.emulator import DiskSpec
from airflow_provider_azstack.emulator.http import Answer
from airflow_provider_azstack.errors import (
    AccessDenied,
    ChangesUnknown,
    IntegrityError,
    Unreachable,
)
from airflow_provider_azstack.model import Extent

pytestmark = pytest.mark.tier1


def test_a_window_that_times_out_is_asked_for_in_parts(setup: Setup) -> None:
    """F-N6, page lists: a time-out or 500 means "too much": a quarter, down to 128 MiB."""
    spec = DiskSpec(size_bytes=8 * 1024 * MIB)
    setup.disk = setup.emulator.add_vm("big", "group", [spec]).disks[0]
    setup.disk.write(0, b"a" * 4096)
    setup.disk.write(5 * 1024 * MIB - 4096, b"a" * 8192)  # across a border of windows
    second = setup.snapshot("second")
    expected = [Extent(0, 4096), Extent(5 * 1024 * MIB - 4096, 8192)]
    for limit in (512 * MIB, 128 * MIB):
        setup.emulator.behaviour.page_list_limit_bytes = limit
        with setup.reader(second, size_bytes=None) as disk:
            assert disk.allocated(0, disk.size_bytes) == expected
    assert setup.clock.slept == []
    setup.emulator.behaviour.page_list_limit_bytes = 64 * MIB
    with setup.reader(second, size_bytes=None) as disk, pytest.raises(Unreachable):
        disk.allocated(0, disk.size_bytes)
    assert setup.clock.slept != []


def test_a_page_list_without_end_is_bounded(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """F-N15, page lists: too long is "too much" as well, and in the smallest window an error."""
    monkeypatch.setattr("airflow_provider_azstack.arm.page_lists.MAX_PAGE_LIST_BYTES", 10)
    with setup.reader() as disk, pytest.raises(Unreachable, match="does not end"):
        disk.allocated(0, disk.size_bytes)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<PageList>",
        b"<PageList><PageRange><Start>0</Start><End>511</End></PageRange>",
        b"<PageList><PageRange><Start>0</Start></PageRange></PageList>",
        b"<PageList><PageRange><Start>-1</Start><End>511</End></PageRange></PageList>",
        b"<PageList><PageRange><Start>512</Start><End>0</End></PageRange></PageList>",
        b"<PageList><ClearRange><Start>0</Start><End>511</End></PageRange></PageList>",
        b"<PageList><NextMarker>x</NextMarker></PageList>",
        b"<html>no blob service</html>",
    ],
)
def test_a_page_list_that_is_not_understood_is_none(setup: Setup, text: bytes) -> None:
    """F-N2, page lists: a list cut short would lose pages: asked for again, then an error."""
    with setup.reader() as disk:
        disk.footer()
        good = disk.allocated(0, disk.size_bytes)
        wrong = setup.faults.answer("GET", "comp=pagelist", 200, body=text, times=4)
        wrong.instead = lambda _: Answer(200, {}, text)
        assert disk.allocated(0, disk.size_bytes) == good
        assert wrong.struck == 4
        wrong.times += 1000
        with pytest.raises(IntegrityError, match="page list"):
            disk.allocated(0, disk.size_bytes)


@pytest.mark.parametrize("status", [404, 409, 400, 501])
def test_a_refused_difference_is_changes_unknown(setup: Setup, status: int) -> None:
    """The reference is missing or refused: fall back to what is allocated."""
    second = setup.snapshot("second")
    with setup.reader(second, previous_grant=granting(setup.compute, setup.first)) as disk:
        setup.faults.answer("GET", "comp=pagelist", status)
        with pytest.raises(ChangesUnknown):
            disk.changed(0, disk.size_bytes)
        assert disk.allocated(0, disk.size_bytes) == [Extent(0, len(setup.content))]


def test_a_service_that_ignores_the_reference_is_found_out(setup: Setup) -> None:
    """A list of what is allocated, taken for a difference, would lose the cleared pages."""
    setup.disk.clear(0, RANGE)
    second = setup.snapshot("second")
    setup.emulator.behaviour.managed_differences = "ignored"
    with setup.reader(second, previous_grant=granting(setup.compute, setup.first)) as disk:
        for _ in range(2):
            with pytest.raises(ChangesUnknown, match="ignores the reference"):
                disk.changed(0, disk.size_bytes)
        reads = setup.reads()
        with pytest.raises(ChangesUnknown):
            disk.changed(0, disk.size_bytes)
        assert setup.reads() == reads, "found out once, and asked no more"


def test_a_reference_that_is_gone_is_changes_unknown(setup: Setup) -> None:
    second = setup.snapshot("second")
    setup.compute.delete_snapshot(setup.first)
    disk = setup.reader(second, previous_grant=granting(setup.compute, setup.first))
    with disk, pytest.raises(ChangesUnknown, match="reference snapshot"):
        disk.changed(0, disk.size_bytes)
    with setup.reader(second) as disk, pytest.raises(ChangesUnknown, match="no reference"):
        disk.changed(0, disk.size_bytes)


@pytest.mark.parametrize("status", [403, 405])
def test_a_page_list_that_is_refused_to_whom_may_read_is_done_without(
    setup: Setup, status: int
) -> None:
    """No page says that the access of a stack's managed disks knows page lists."""
    setup.faults.answer("GET", "comp=pagelist", status, times=99)
    with setup.reader() as disk:
        with pytest.raises(ChangesUnknown, match="no page list"):
            disk.allocated(0, disk.size_bytes)
        assert read(disk, 0, RANGE) == setup.content[:RANGE]
    setup.emulator.behaviour.denied = {"Microsoft.Compute/snapshots/beginGetAccess/action"}
    with setup.reader() as disk, pytest.raises(AccessDenied):
        disk.allocated(0, RANGE)
