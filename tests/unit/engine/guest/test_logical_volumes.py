"""Logical volumes as the real LVM lays them out, and as it never would."""

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from support import guest_trees
from support.disks import PASSPHRASE
from support.guest_points import disk_of, repository_with
from support.guest_trees import contents, make_tree

from airflow_provider_azstack.console import main
from airflow_provider_azstack.engine.guest.extract import Extraction
from airflow_provider_azstack.engine.guest.file_systems import Volume
from airflow_provider_azstack.engine.guest.logical_volumes import LogicalVolume, logical_volumes
from airflow_provider_azstack.engine.guest.partitions import Partition
from airflow_provider_azstack.engine.guest.signatures import what_is_in

pytestmark = pytest.mark.tier2

MIB = 1 << 20
START = MIB  # of the partition on its disk


def reader(data: bytes | bytearray) -> Callable[[int, int], bytes]:
    def read(offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= len(data), "reads stay on the disk"
        return bytes(data[offset : offset + length])

    return read


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytearray, bytes]:
    """A disk with a volume in two segments that holds ext4, a plain one, and a striped one."""
    place = tmp_path_factory.mktemp("lvm")
    if shutil.which("lvm") is None or shutil.which("losetup") is None or os.geteuid() != 0:
        pytest.skip("no LVM here, or no right to use loop devices")
    physical = [place / "pv0", place / "pv1"]
    for path in physical:
        with path.open("wb") as file:
            file.truncate(64 * MIB)
    loops: list[str] = []
    try:
        loops.extend(_run("losetup", "-f", "--show", str(path)).strip() for path in physical)
        _make_group(loops)
    finally:
        for loop in loops:
            _run("losetup", "-d", loop)
    file_system = guest_trees.ext4(place / "ext4", make_tree(place / "tree"), 16).read_bytes()
    return bytearray(bytes(START) + physical[0].read_bytes()), file_system


def _make_group(loops: list[str]) -> None:
    devices = "".join(f'"a|^{loop}$|",' for loop in loops)
    settings = (
        f'devices{{filter=[{devices}"r|.*|"] use_devicesfile=0}} backup{{backup=0 archive=0}}'
    )
    options = ["--driverloaded", "n", "--config", settings]
    for loop in loops:
        _run("lvm", "pvcreate", *options, "-ff", "-y", loop)
    _run("lvm", "vgcreate", *options, "vg-0", *loops)
    new = ["lvm", "lvcreate", *options, "-an", "-Zn", "-Wn"]
    _run(*new, "-L", "8M", "-n", "root", "vg-0", loops[0])
    _run(*new, "-L", "8M", "-n", "plain", "vg-0", loops[0])
    _run("lvm", "lvextend", *options, "-L", "16M", "vg-0/root", loops[0])
    _run(*new, "-i", "2", "-L", "16M", "-n", "striped", "vg-0")
    _run(*new, "-L", "8M", "-n", "away", "vg-0", loops[1])


def _run(*command: str) -> str:
    environ = {**os.environ, "LVM_SUPPRESS_FD_WARNINGS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=250, check=False, env=environ
    )
    if done.returncode:
        pytest.skip(f"{' '.join(command[:2])} does not work here: {done.stderr.strip()[-300:]}")
    return done.stdout


Disk = tuple[bytearray, bytes]


def volumes_of(data: bytes | bytearray) -> dict[str, LogicalVolume]:
    partition = Partition(1, START, len(data) - START)
    return {volume.name: volume for volume in logical_volumes(reader(data), partition)}


def test_plain_volumes_are_offered_and_others_named(disk: Disk) -> None:
    """Striped, or on another disk: without segments, so nobody reads half of it."""
    data, _ = disk
    assert what_is_in(reader(data), Partition(1, START, len(data) - START)) == "LVM"
    found = volumes_of(data)
    shapes = {name: (volume.size_bytes, len(volume.segments)) for name, volume in found.items()}
    assert shapes == {
        "vg-0/root": (16 * MIB, 2),
        "vg-0/plain": (8 * MIB, 1),
        "vg-0/striped": (16 * MIB, 0),
        "vg-0/away": (8 * MIB, 0),
    }


def test_files_come_out_of_a_volume_in_two_segments(disk: Disk, tmp_path: Path) -> None:
    data, file_system = bytearray(disk[0]), disk[1]
    root = volumes_of(data)["vg-0/root"]
    for offset, length, place in root.segments:
        data[START + place : START + place + length] = file_system[offset : offset + length]
    read = root.reader(reader(data), Partition(1, START, len(data) - START))
    noise = Random(1)
    for _ in range(100):
        offset = noise.randrange(len(file_system))
        length = noise.randrange(len(file_system) - offset)
        assert read(offset, length) == file_system[offset : offset + length]
    volume = Volume(read, Partition(1, 0, root.size_bytes))
    extraction = Extraction(tmp_path / "out", partition_bytes=root.size_bytes, keep_owners=False)
    extraction.extract(volume.root())
    expected = make_tree(tmp_path / "tree")
    assert contents(tmp_path / "out") == contents(expected) | {"lost+found": "/"}


def test_altered_metadata_are_not_believed(disk: Disk) -> None:
    """F-H7: any flip in label, header or text: the same volumes or none, and reads stay inside."""
    data = disk[0]
    whole = volumes_of(data)
    used = [at for at in range(START, START + MIB) if data[at]]
    noise = Random(2)
    for at in noise.sample(used, 300):
        bit = 1 << noise.randrange(8)
        data[at] ^= bit
        assert volumes_of(data) in (whole, {})
        data[at] ^= bit


def test_the_console_finds_volumes_behind_a_partition(
    disk: Disk,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Through a backup: the only volume that holds files needs no name, others are listed."""
    data, file_system = bytearray(disk[0]), disk[1]
    table = struct.pack("<B3xB3xII", 0, 0x8E, START // 512, (len(data) - START) // 512)
    data[446:462], data[510:512] = table, b"\x55\xaa"
    for offset, length, place in volumes_of(data)["vg-0/root"].segments:
        data[START + place : START + place + length] = file_system[offset : offset + length]
    (tmp_path / "disk.img").write_bytes(data)
    repository, _ = repository_with(tmp_path / "store", os=disk_of(tmp_path / "disk.img"))
    repository.close()
    monkeypatch.setenv("AZSTACK_REPOSITORY", str(tmp_path / "store"))
    monkeypatch.setenv("AZSTACK_PASSPHRASE", PASSPHRASE.reveal())
    command = ["files", "ls", "vm-1", "latest", "os"]
    assert main([*command, "--json"]) == 0
    rows = {row["volume"]: row["holds"] for row in json.loads(capsys.readouterr().out)}
    assert rows[""] == "LVM"
    assert rows["vg-0/root"] == "ext"
    assert rows["vg-0/striped"] == "more than this partition has"
    assert main([*command, "/sub", "--json"]) == 0
    assert "big.bin" in capsys.readouterr().out
    assert main([*command, "/", "--volume", "vg-0/striped"]) == 2
    assert "vg-0/striped" in capsys.readouterr().err
