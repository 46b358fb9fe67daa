"""``azstack verify`` names the files that damage costs."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from support.damage import flip_files
from support.disks import PASSPHRASE
from support.guest_points import disk_of, repository_with

from airflow_provider_azstack.console import main
from airflow_provider_azstack.console.damage import _newest
from airflow_provider_azstack.emulator.guests import GuestDisk
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.verify.findings import Affected, LostRange

pytestmark = pytest.mark.tier2
MIB = 2**20


@pytest.fixture
def place(
    tmp_path: Path, guest_disk: Callable[..., GuestDisk], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A repository in which a block is damaged that holds a piece of ``ledger.db`` and no more."""
    disk = guest_disk("web", size_bytes=32 << 20, content_bytes=4 << 20)
    content = Random(1).randbytes(4 * MIB)
    disk.write({"ledger.db": content, "beside.db": Random(2).randbytes(2 * MIB)})
    store = tmp_path / "store"
    repository, _ = repository_with(store, os=disk_of(disk.path))
    data = disk.path.read_bytes()
    cells = (data[start : start + MIB] for start in range(0, len(data), MIB))
    damage(repository, store, next(cell for cell in cells if cell in content))
    repository.close()
    monkeypatch.setenv("AZSTACK_REPOSITORY", str(store))
    monkeypatch.setenv("AZSTACK_PASSPHRASE", PASSPHRASE.reveal())
    return store


def damage(repository: Repository, store: Path, block: bytes) -> None:
    """Flip a bit of the pack that holds a block, within that block."""
    block_id, reader = repository.keys.block_id(block), repository.reader()
    assert reader.read(block_id) == block
    [where] = reader._index.locations(block_id)
    [pack] = store.glob(f"packs/*/{where.pack.hex()}")
    flip_files([pack], where.entry.offset + where.entry.sealed // 2)


def test_the_damaged_file_is_named_and_no_other(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the table and in JSON; and no session is left."""
    assert main(["verify", "--full"]) == 2
    text = capsys.readouterr()
    [row] = [line.split() for line in text.out.splitlines() if "/ledger.db" in line]
    assert (row[0], *row[2:]) == ("vm-1", "os", "1", "/ledger.db")
    assert not [line for line in text.out.splitlines() if "beside" in line or "notes" in line]
    assert main(["verify", "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    [told] = report["damaged_files"]
    assert told["paths"] == ["/ledger.db"]
    assert (told["more"], told["unread"], told["holds"]) == (0, [], "ext")
    assert told["point"] == report["affected"][0]["point"]
    assert not list((place / "sessions").glob("*"))


def test_of_several_damaged_points_the_newest_is_looked_into() -> None:
    """For each disk; points of which it is not known what is lost do not count."""
    lost = LostRange(offset=0, length=1)
    affected = [
        Affected(
            vm="web",
            vm_key="key",
            point=point,
            disk_key=disk,
            image="images/x",
            lost_bytes=1,
            ranges=ranges,
            reason=reason,
        )
        for point, disk, ranges, reason in (
            ("20260102t000000-a", "os", (lost,), ""),
            ("20260103t000000-a", "os", (lost,), ""),
            ("20260101t000000-a", "os", (lost,), ""),
            ("20260104t000000-a", "os", (lost,), "its image is damaged"),
            ("20260105t000000-a", "", (), "the point itself"),
            ("20260101t000000-a", "data-0", (lost,), ""),
        )
    ]
    found = {disk.disk_key: disk.point for disk in _newest(affected)}
    assert found == {"os": "20260103t000000-a", "data-0": "20260101t000000-a"}


def test_without_the_library_one_line_says_which_extra(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report is the same without it."""
    assert place.exists()
    monkeypatch.setitem(sys.modules, "pyfsext", None)
    assert main(["verify", "--full", "--json"]) == 2
    text = capsys.readouterr()
    assert [line for line in text.err.splitlines() if "airflow-provider-azstack[files]" in line]
    report = json.loads(text.out)
    assert report["damaged_files"] == []
    assert report["affected"][0]["lost_bytes"] == MIB


def test_a_sound_repository_costs_no_search(
    tmp_path: Path,
    guest_disk: Callable[..., GuestDisk],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    disk = guest_disk("web", size_bytes=24 << 20, content_bytes=1 << 20)
    repository_with(tmp_path / "store", os=disk_of(disk.path))[0].close()
    monkeypatch.setenv("AZSTACK_REPOSITORY", str(tmp_path / "store"))
    monkeypatch.setenv("AZSTACK_PASSPHRASE", PASSPHRASE.reveal())
    monkeypatch.setitem(sys.modules, "pyfsext", None)
    assert main(["verify", "--json"]) == 0
    text = capsys.readouterr()
    assert json.loads(text.out)["damaged_files"] == []
    assert "extra" not in text.err
