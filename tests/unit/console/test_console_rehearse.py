"""``azstack rehearse``: restores on trial, and the evidence of them."""

import json
import os
import sys
from collections.abc import Callable
from fcntl import LOCK_EX, flock
from pathlib import Path
from random import Random

import pytest
from support.damage import flip_files
from support.disks import PASSPHRASE, SparseDisk
from support.guest_points import disk_of, repository_with
from support.points import back_up_vm, vm_key

from airflow_provider_azstack.console import main
from airflow_provider_azstack.emulator.guests import GuestDisk
from airflow_provider_azstack.engine.rehearse import due, rehearse
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.verify.rehearsals import rehearsals

pytestmark = pytest.mark.tier1

MIB = 1 << 20


@pytest.fixture
def repository(
    tmp_path: Path, guest_disk: Callable[..., GuestDisk], monkeypatch: pytest.MonkeyPatch
) -> Repository:
    """A repository with a guest's disk and one that is just data."""
    guest = guest_disk("web", size_bytes=16 * MIB, content_bytes=2 * MIB)
    other = SparseDisk(5 * MIB + 4096)
    other.write(MIB, Random(1).randbytes(MIB))
    repository, _ = repository_with(tmp_path / "store", os=disk_of(guest.path), data_0=other)
    monkeypatch.setenv("AZSTACK_REPOSITORY", str(tmp_path / "store"))
    monkeypatch.setenv("AZSTACK_PASSPHRASE", PASSPHRASE.reveal())
    (tmp_path / "scratch").mkdir()
    return repository


@pytest.mark.parametrize(
    ("command", "said"),
    [(["rehearse", "--scratch", "."], "vm-1"), (["prune", "--execute"], "pruning")],
)
def test_on_a_terminal_a_long_command_shows_that_it_goes_on(
    repository: Repository,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    said: str,
) -> None:
    """And elsewhere it does not: a log is no place for things that move."""
    assert main(command) == 0
    assert "\x1b" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert main(command) == 0
    shown = capsys.readouterr().err
    assert said in shown
    assert "\x1b" in shown
    if command[0] == "rehearse":
        size = sum(image.size_bytes for point in repository.points() for image in point.images)
        assert f"{size / 1e6:.1f}/{size / 1e6:.1f} MB" in shown, "it came to the end"


def test_a_rehearsal_restores_compares_looks_and_leaves_evidence(
    repository: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-R5: digests, file systems, what, when, how long, verdict; nothing stays in scratch."""
    assert main(["rehearse", "--scratch", str(tmp_path / "scratch"), "--json"]) == 0
    printed = capsys.readouterr()
    assert "vm-1 os 1: ext, " in printed.err
    [row] = json.loads(printed.out)
    assert (row["vm"], row["disks"], row["verdict"]) == ("vm-1", 2, "good")
    [text] = row["file_systems"]["os"]
    assert text.startswith("1: ext, ")
    assert int(text.split()[2]) > 12
    assert row["file_systems"]["data-0"] == ["0: unknown"]
    assert list((tmp_path / "scratch").iterdir()) == []
    [evidence] = rehearsals(repository.records)
    assert evidence.is_good
    assert main(["rehearse", "--list", "--json"]) == 0
    assert [one["digests"] for one in json.loads(capsys.readouterr().out)] == [row["digests"]]


def test_the_same_point_has_the_same_digests_and_another_has_others(
    repository: Repository, tmp_path: Path
) -> None:
    """F-R5: so evidence of one day can be held against that of another."""
    disk = SparseDisk(4 * MIB)
    disk.write(0, b"one day")
    first = back_up_vm(repository, {"os": disk}, number=2)
    disk.freeze()
    disk.write(0, b"another")
    second = back_up_vm(repository, {"os": disk}, number=2, day=1)
    scratch = tmp_path / "scratch"
    digests = [rehearse(repository, p, scratch).disks[0].digest for p in (first, first, second)]
    assert digests[0] == digests[1] != digests[2]


def test_damage_is_a_bad_verdict_with_evidence_and_nothing_left(
    repository: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-R5: state 1, the place on the disk, the other disk tried all the same."""
    [image] = [one for one in repository.points()[0].images if one.disk_key == "os"]
    reader = repository.reader()
    group = repository.image(image.image).regions[0]
    assert group is not None
    place = reader.locate(group)
    assert place is not None
    path = tmp_path / "store" / "packs" / place.pack.hex()[:2] / place.pack.hex()
    flip_files([path], place.entry.end - 1)
    assert main(["rehearse", "--scratch", str(tmp_path / "scratch"), "--json"]) == 1
    printed = capsys.readouterr()
    [row] = json.loads(printed.out)
    assert row["verdict"] == "bad"
    assert "disk offset 0" in row["problems"]["os"][0]
    assert row["problems"]["data-0"] == []
    assert "problem:" in printed.err
    assert list((tmp_path / "scratch").iterdir()) == []
    assert [one.is_good for one in rehearsals(repository.records)] == [False]


def test_all_vms_come_up_within_a_cycle(repository: Repository, tmp_path: Path) -> None:
    """F-R5: those first whose last trial is longest ago, or that had none."""
    for number in (2, 3):
        disk = SparseDisk(MIB)
        disk.write(0, bytes([number]) * 100)
        back_up_vm(repository, {"os": disk}, number=number)
    tried = []
    for _ in range(4):
        point = due(repository)[0]
        tried.append(point.vm.key)
        rehearse(repository, point, tmp_path / "scratch")
    assert sorted(tried[:3]) == [vm_key(number) for number in (1, 2, 3)]
    assert tried[3] == tried[0]


def test_what_a_killed_rehearsal_left_goes_and_a_living_ones_stays(
    repository: Repository, tmp_path: Path
) -> None:
    """F-R5: a disk in scratch is as secret as the guest, and as large."""
    scratch = tmp_path / "scratch"
    dead, living, other = (scratch / f"azstack-rehearsal-{n}" for n in ("dead", "live", "file"))
    dead.mkdir()
    living.mkdir()
    other.write_text("not ours")
    (dead / "os.img").write_text("half")
    held = os.open(living, os.O_RDONLY)
    try:
        flock(held, LOCK_EX)
        rehearse(repository, due(repository)[0], scratch)
    finally:
        os.close(held)
    assert sorted(scratch.iterdir()) == [other, living]


def test_where_to_is_asked(repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rehearse"]) == 2
    assert "Give --scratch" in capsys.readouterr().err
    assert main(["rehearse", "--scratch", "nowhere"]) == 2
    assert "nowhere is no directory" in capsys.readouterr().err


@pytest.mark.parametrize("count", ["0", "-1"])
def test_trying_nothing_is_no_success(repository: Repository, tmp_path: Path, count: str) -> None:
    assert main(["rehearse", "--scratch", str(tmp_path / "scratch"), "--vms", count]) == 2
    assert not list(rehearsals(repository.records))
