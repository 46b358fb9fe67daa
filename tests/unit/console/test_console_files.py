"""``azstack files``: a guest's files out of the repository, by the console."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support import guest_trees
from support.disks import PASSPHRASE
from support.guest_points import disk_of, repository_with
from support.guest_trees import contents
from support.mounts import tmpfs

from airflow_provider_azstack.console import main
from airflow_provider_azstack.emulator.guests import GuestDisk

FILES = ["files", "ls", "vm-1", "latest"]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the repository is."""
    monkeypatch.setenv("AZSTACK_REPOSITORY", str(tmp_path / "store"))
    monkeypatch.setenv("AZSTACK_PASSPHRASE", PASSPHRASE.reveal())
    return tmp_path / "store"


@pytest.fixture
def guest(tmp_path: Path, environment: Path, guest_disk: Callable[..., GuestDisk]) -> GuestDisk:
    """A disk with a partition table and ext4, backed up."""
    disk = guest_disk("web", size_bytes=24 << 20, content_bytes=4 << 20)
    repository, _ = repository_with(environment, os=disk_of(disk.path))
    repository.close()
    return disk


@pytest.mark.tier2
def test_all_files_of_a_guest_come_out_as_debugfs_sees_them(
    guest: GuestDisk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-R6: partition table, ext4, contents: from the repository alone."""
    target, expected = tmp_path / "out", tmp_path / "expected"
    command = ["files", "extract", "vm-1", "latest", "os", "/", "--to", str(target), "--json"]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    expected.mkdir()
    guest.extract(expected)
    assert contents(target) == contents(expected)
    assert report["files"] == sum(path.is_file() for path in expected.rglob("*")) > 12


@pytest.mark.tier1
def test_partitions_and_folders_are_listed(
    guest: GuestDisk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FILES, "os", "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["partition"], row["holds"], row["offset"]) == (1, "ext", 1 << 20)
    assert main([*FILES, "os", "/", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert {name for name, row in rows.items() if row["kind"] == "file"} == set(guest.files())
    assert rows["lost+found"]["mode"] == "drwx------"
    assert main([*FILES, "os", "/notes-00.txt"]) == 0
    assert "notes-00.txt" in capsys.readouterr().out


@pytest.mark.tier1
@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ([*FILES, "os", "/nowhere"], "in the backup has no 'nowhere'"),
        ([*FILES, "os", "/", "--partition", "7"], "no partition or volume fits"),
    ],
)
def test_what_is_not_there_is_one_line(
    guest: GuestDisk, arguments: list[str], advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert advice in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.tier2
def test_a_full_target_keeps_what_is_whole_and_says_how_much_room_it_takes(
    guest: GuestDisk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file system that is really full."""
    with tmpfs(tmp_path, 2) as small:
        target = small / "out"
        command = ["files", "extract", "vm-1", "latest", "os", "/", "--to", str(target)]
        assert main(command) == 2
        said = capsys.readouterr().err
        assert "no room for /" in said
        assert "all that was asked for takes about 4." in said
        expected = tmp_path / "expected"
        expected.mkdir()
        guest.extract(expected)
        whole = contents(expected)
        kept = {path: what for path, what in contents(target).items() if what != "/"}
        assert kept
        assert kept.items() <= whole.items()
        assert f"out has {len(kept)} whole files, " in said
        for folder in (path for path in target.rglob("*") if path.is_dir()):
            assert any(folder.iterdir()) or folder.name == "lost+found"


@pytest.mark.tier1
def test_what_was_left_out_makes_a_state_of_its_own_and_gives_no_orders_to_the_terminal(
    environment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-H4: a name with an escape sequence in a disk without a partition table."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "evil\x1b[2J").write_text("x")
    os.mkfifo(tree / "pipe\x1b]0;owned\x07")
    image = guest_trees.ext4(tmp_path / "disk.img", tree, 8)
    repository, _ = repository_with(environment, os=disk_of(image))
    repository.close()
    assert main([*FILES, "os", "/"]) == 0
    target = tmp_path / "out"
    assert main(["files", "extract", "vm-1", "latest", "os", "/", "--to", str(target)]) == 1
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert "evil\\x1b[2J" in printed.out
    assert "left out:" in printed.err
    assert (target / "evil\x1b[2J").read_text() == "x"
