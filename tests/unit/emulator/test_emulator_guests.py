"""Guest disks: real partition tables, real file systems, and disks that follow them."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_azstack.emulator import DiskSpec, Emulator, guests
from airflow_provider_azstack.emulator.layers import PAGE

Build = Callable[..., guests.GuestDisk]
pytestmark = pytest.mark.tier1


def test_a_guest_disk_is_a_partitioned_ext4_disk_with_files(
    tmp_path: Path, guest_disk: Build
) -> None:
    """The boot record names one Linux partition to the end, and the file system in it is sound."""
    disk = guest_disk("web", content_bytes=4 << 20)
    (tmp_path / "out").mkdir()
    raw = disk.path.read_bytes()
    assert raw[510:512] == b"\x55\xaa"
    assert raw[450] == 0x83
    assert int.from_bytes(raw[454:458], "little") * 512 == guests.PARTITION_START
    assert raw[guests.PARTITION_START + 1024 + 0x38 :][:2] == b"\x53\xef"  # ext4's magic
    assert len(disk.files()) == 12  # texts in the root; the rest is in folders
    disk.extract(tmp_path / "out")
    extracted = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    total = sum(path.stat().st_size for path in extracted)
    assert 0.95 * (4 << 20) < total <= 4 << 20
    assert disk.problems() == ""
    assert disk.path.stat().st_blocks * 512 < disk.size_bytes  # sparse


def test_a_guest_writes_replaces_and_deletes_files(guest_disk: Build) -> None:
    """What was written is read back; the file system stays sound."""
    disk = guest_disk(content_bytes=2 << 20)
    disk.write({"notes.txt": b"first"})
    disk.write({"notes.txt": b"second", "more.bin": bytes(10_000)})
    assert disk.read("notes.txt") == b"second"
    assert disk.files()["more.bin"] == 10_000
    disk.delete(["more.bin"])
    assert "more.bin" not in disk.files()
    with pytest.raises(FileNotFoundError):
        disk.read("more.bin")
    assert disk.problems() == ""


def test_damage_is_a_problem(guest_disk: Build) -> None:
    """``problems`` is no rubber stamp."""
    disk = guest_disk(content_bytes=1 << 20)
    with disk.path.open("r+b") as file:
        file.seek(guests.PARTITION_START + 1024)
        file.write(b"\xff" * 512)
    assert disk.problems() != ""


def test_names_cannot_carry_commands(guest_disk: Build) -> None:
    """A name goes into a debugfs script: nothing but plain names does."""
    disk = guest_disk(content_bytes=1 << 20)
    with pytest.raises(ValueError, match="plain"):
        disk.write({"x\nrm /notes-00.txt": b""})


def test_the_same_seed_gives_the_same_files(guest_disk: Build) -> None:
    """Runs can be repeated."""
    one, two = guest_disk("one", seed=5), guest_disk("two", seed=5)
    assert {n: one.read(n) for n in one.files()} == {n: two.read(n) for n in two.files()}


def test_a_disk_follows_its_guest_by_the_pages_that_differ(
    tmp_path: Path, guest_disk: Build
) -> None:
    """After a sync the disk equals the image, and only pages that differ were written."""
    image = guest_disk(content_bytes=8 << 20)
    stack = Emulator(tmp_path / "stack", tls=False)
    vm = stack.add_vm("web", "prod", [DiskSpec(content=image.path)])
    disk = vm.disks[0]
    expected = hashlib.sha256(image.path.read_bytes()).hexdigest()
    assert disk.sha256() == expected
    before = disk.volume.freeze()
    names = image.change(seed=7, count=2, size_bytes=50_000)
    changed_bytes = disk.sync_from(image.path)
    assert len(names) == 5
    assert disk.sha256() == hashlib.sha256(image.path.read_bytes()).hexdigest() != expected
    listed = disk.volume.freeze().changed(before, 0, disk.size_bytes)
    assert sum(end - start for start, end, _ in listed) == changed_bytes
    assert 100_000 < changed_bytes < 1 << 20
    assert disk.sync_from(image.path) == 0
    stack.close()


def test_holes_and_zeros_become_unallocated(tmp_path: Path) -> None:
    """A guest that frees pages leaves cleared pages, not written zeros."""
    image = tmp_path / "image"
    image.write_bytes(b"x" * PAGE * 8)
    stack = Emulator(tmp_path / "stack", tls=False)
    disk = stack.add_vm("v", "g", [DiskSpec(size_bytes=1 << 20, content=image)]).disks[0]
    with image.open("r+b") as file:
        file.seek(PAGE * 2)
        file.write(bytes(PAGE * 3))
        file.truncate(PAGE * 7)
    assert disk.sync_from(image) == PAGE * 4
    allocated = [(s.start, s.end) for s in disk.volume.content().allocated(0, disk.size_bytes)]
    assert allocated == [(0, PAGE * 2), (PAGE * 5, PAGE * 7)]
    stack.close()


def test_a_disk_can_be_saved_as_a_file(tmp_path: Path, guest_disk: Build) -> None:
    """The saved file has the disk's bytes and is sparse."""
    image = guest_disk(content_bytes=1 << 20)
    stack = Emulator(tmp_path / "stack", tls=False)
    disk = stack.add_vm("v", "g", [DiskSpec(content=image.path)]).disks[0]
    disk.save(tmp_path / "saved")
    assert (tmp_path / "saved").read_bytes() == image.path.read_bytes()
    stack.close()
