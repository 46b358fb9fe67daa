"""Files that a kernel or ntfs-3g wrote, as guests do: large folders, fragments, holes."""

import os
import struct
from pathlib import Path
from random import Random

import pytest
from support.guest_trees import contents
from support.mounts import MIB, mounted, new_image, ntfs_3g

from airflow_provider_azstack.engine.guest.extract import Extracted, Extraction
from airflow_provider_azstack.engine.guest.file_systems import Volume
from airflow_provider_azstack.engine.guest.partitions import Partition

pytestmark = pytest.mark.tier2

STAMP_NS = 10**18 + 123_456_700
WOF = 0x80000017  # files of the system that Windows compresses by itself


def extract(image: Path, target: Path) -> Extracted:
    data = image.read_bytes()
    volume = Volume(lambda o, n: data[o : o + n], Partition(0, 0, len(data)))
    extraction = Extraction(target, partition_bytes=len(data), keep_owners=os.geteuid() == 0)
    extraction.extract(volume.root())
    return extraction.result()


def fill(place: Path) -> None:
    """Write what any system writes."""
    noise = Random(3)
    (place / "big" / "sub").mkdir(parents=True)
    for number in range(600):
        name = f"file number {number:04d} {'x' * 60}"
        (place / "big" / name).write_bytes(noise.randbytes(noise.randrange(300)))
    with (place / "sparse").open("wb") as file:
        for number in range(60):
            file.seek(number * 300_000)
            file.write(noise.randbytes(3000))
    with (place / "one").open("wb") as one, (place / "other").open("wb") as other:
        for _ in range(40):  # in turns, so that both lie in fragments
            for file in (one, other):
                file.write(noise.randbytes(8192))
                file.flush()
                os.fsync(file.fileno())
    (place / "Grüße €.txt").write_text("ü")
    for number in range(20):
        (place / f"tiny{number}").write_bytes(b"a" * number * 7)
    os.link(place / "sparse", place / "hard")
    os.utime(place / "one", ns=(STAMP_NS, STAMP_NS))


def fill_unix(place: Path) -> None:
    with (place / "reserved").open("wb") as file:
        file.write(b"begin")
        os.posix_fallocate(file.fileno(), 0, MIB)  # allocated, never written, not zero on the disk
    (place / "long link").symlink_to("/very/long/" * 30)
    (place / "short link").symlink_to("sparse")
    os.chown(place / "other", 70_000, 80_000)


@pytest.mark.parametrize(
    "make",
    [
        ["mkfs.ext4", "-q", "-F"],
        ["mkfs.ext4", "-q", "-F", "-b", "1024", "-O", "meta_bg,^resize_inode"],
        ["mkfs.ext3", "-q", "-F", "-b", "4096"],
        ["mkfs.xfs", "-q", "-f"],
        ["mkfs.xfs", "-q", "-f", "-b", "size=1024", "-n", "size=8192", "-m", "rmapbt=1"],
    ],
    ids=" ".join,
)
def test_what_a_kernel_wrote_comes_out(tmp_path: Path, make: list[str]) -> None:
    """Bit-exact, all of it, with nanoseconds and owners."""
    is_xfs = make[0] == "mkfs.xfs"
    image = new_image(tmp_path / "image", 320 if is_xfs else 64, *make)
    with mounted(tmp_path / "mounted", "mount", "-o", "loop", image) as place:
        fill(place)
        fill_unix(place)
        expected = contents(place)
    result = extract(image, tmp_path / "out")
    assert result.problems == ()
    assert contents(tmp_path / "out") == expected
    is_fine = make[0] != "mkfs.ext3"  # whose times are whole seconds when its inodes are small
    assert not is_fine or (tmp_path / "out" / "one").stat().st_mtime_ns == STAMP_NS
    if os.geteuid() == 0:
        found = (tmp_path / "out" / "other").stat()
        assert (found.st_uid, found.st_gid) == (70_000, 80_000)


def test_what_ntfs_3g_wrote_comes_out(tmp_path: Path) -> None:
    """Folders with an index, compressed files and their holes, fragments, hard links."""
    image = new_image(tmp_path / "image", 64, "mkntfs", "-F", "-Q", "-q")
    with ntfs_3g(tmp_path / "mounted", image, "compression") as place:
        fill(place)
        (place / "packed").mkdir()
        os.setxattr(place / "packed", "system.ntfs_attrib_be", (0x810).to_bytes(4, "big"))
        (place / "packed" / "text").write_text("all work and no play " * 100_000)
        assert (place / "packed" / "text").stat().st_blocks * 512 < MIB
        with (place / "packed" / "holes").open("wb") as file:
            file.write(b"A" * 200_000)
            file.seek(900_000)
            file.write(Random(4).randbytes(300_000))
        expected = contents(place)
    result = extract(image, tmp_path / "out")
    assert result.problems == ()
    assert contents(tmp_path / "out") == expected
    assert (tmp_path / "out" / "one").stat().st_mtime_ns == STAMP_NS


def test_files_whose_bytes_are_not_their_content_are_left_out(tmp_path: Path) -> None:
    """What Windows keeps elsewhere would be zeros here: it is named, not made up."""
    image = new_image(tmp_path / "image", 16, "mkntfs", "-F", "-Q", "-q")
    with ntfs_3g(tmp_path / "mounted", image) as place:
        (place / "plain").write_text("plain")
        (place / "system.dll").write_bytes(bytes(5000))
        reparse = struct.pack("<IHH", WOF, 16, 0) + struct.pack("<IIII", 1, 2, 1, 0)
        os.setxattr(place / "system.dll", "system.ntfs_reparse_data", reparse)
    result = extract(image, tmp_path / "out")
    assert contents(tmp_path / "out") == {"plain": b"plain"}
    [problem] = result.problems
    assert problem.path == "/system.dll"
    assert "compressed by Windows" in problem.reason
