"""Which files damaged stretches of a disk cost, by the file systems' own account."""

import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import guest_trees
from support.guest_points import disk_of, repository_with

from airflow_provider_azstack.emulator.guests import PARTITION_START, GuestDisk
from airflow_provider_azstack.engine.guest.damaged_files import Damaged, damaged_files
from airflow_provider_azstack.engine.guest.file_systems import LibraryMissing
from airflow_provider_azstack.engine.guest.logical_volumes import _crc
from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.repository import Repository

pytestmark = pytest.mark.tier2
MIB, BLOCK = 2**20, 4096


class Case:
    """A disk in a repository."""

    def __init__(self, directory: Path, disk: Path) -> None:
        self.data = disk.read_bytes()
        self.repository, point = repository_with(directory, os=disk_of(disk))
        self.image = point.images[0].image

    def told(self, *ranges: tuple[int, int], **limits: int) -> list[Damaged]:
        return damaged_files(self.repository, self.image, ranges, **limits)

    def lose(self, offset: int) -> list[tuple[int, int]]:
        """Flip a bit of the pack where a block is; return what of the disk is in that block."""
        image, reader = self.repository.image(self.image), self.repository.reader()
        runs = list(ImageReader(image, reader)._runs_between(0, image.size_bytes))
        [lost] = [run.block_id for run in runs if run.offset <= offset < run.end]
        if lost is None:
            return []
        [where] = reader._index.locations(lost)
        _flip(self.repository, where.pack.hex(), where.entry.offset + where.entry.sealed // 2)
        return [(run.offset, run.length) for run in runs if run.block_id == lost]


def _flip(repository: Repository, pack: str, at: int) -> None:
    path = Path(repository.store.url.removeprefix("file://")) / "packs" / pack[:2] / pack
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.fixture
def guest(tmp_path: Path, guest_disk: Callable[..., GuestDisk]) -> GuestDisk:
    return guest_disk("web", size_bytes=24 << 20, content_bytes=4 << 20)


@pytest.fixture
def case(tmp_path: Path, guest: GuestDisk) -> Iterator[Case]:
    found = Case(tmp_path / "store", guest.path)
    yield found
    found.repository.close()


def blocks_of(guest: GuestDisk, directory: Path) -> dict[str, set[int]]:
    """Return which blocks each file and folder has, as debugfs sees it."""
    directory.mkdir()
    guest.extract(directory)
    found = {}
    for path in sorted(directory.rglob("*")):
        name = f"/{path.relative_to(directory)}"
        lines = guest._debugfs(f'blocks "{name}"').splitlines()
        words = next(line for line in lines if not line.startswith("debugfs:")).split()
        found[name + "/" * path.is_dir()] = {int(word) for word in words}
    return found


def test_what_is_told_is_what_debugfs_sees(case: Case, guest: GuestDisk, tmp_path: Path) -> None:
    """For a page out of every forty: the files there, and no others."""
    blocks = blocks_of(guest, tmp_path / "tree")
    count = 0
    for number in range(1, (guest.size_bytes - PARTITION_START) // BLOCK, 40):
        [told] = case.told((PARTITION_START + number * BLOCK + 7, 1))
        expected = {name for name, where in blocks.items() if number in where}
        assert set(told.paths) <= expected
        assert set(told.paths) == expected or told.unread
        count += bool(told.paths)
    assert count > 20


def test_every_lost_cell_is_survived(case: Case, guest: GuestDisk, tmp_path: Path) -> None:
    """Damage of directories, inodes, superblock or table: what could not be read is said."""
    blocks = blocks_of(guest, tmp_path / "tree")
    unread = 0
    for offset in range(0, guest.size_bytes, MIB):
        lost = case.lose(offset)
        hit = {
            number
            for start, length in lost
            for number in range(start // BLOCK, -(-(start + length) // BLOCK))
        }
        first = PARTITION_START // BLOCK
        expected = {name for name, where in blocks.items() if any(n + first in hit for n in where)}
        for told in case.told(*lost):
            assert set(told.paths) <= expected
            assert set(told.paths) == expected or told.unread
            unread += bool(told.unread)
        case.lose(offset)  # the same bit again: it is whole
    assert unread


def test_a_lost_superblock_is_said(case: Case) -> None:
    [told] = case.told(*case.lose(PARTITION_START))
    assert told.paths == ()
    assert told.unread == ("its beginning is damaged, so what it holds is not known",)


def test_many_files_are_counted_and_few_are_named(case: Case, guest: GuestDisk) -> None:
    whole = (PARTITION_START + 8 * MIB, 8 * MIB)
    [all_told] = case.told(whole, shown=10_000)
    [some] = case.told(whole, shown=3)
    assert len(some.paths) == 3
    assert len(some.paths) + some.more == len(all_told.paths)
    [early] = case.told((PARTITION_START + 8 * MIB, 1), entries=2)
    assert any("ended early" in reason for reason in early.unread)


@pytest.mark.parametrize("kind", ["ext-blocks", "ntfs"])
def test_other_file_systems_that_tell(tmp_path: Path, kind: str) -> None:
    """Files with block lists as ext2 has them, and NTFS."""
    tree = guest_trees.make_tree(tmp_path / "tree")
    if kind == "ntfs":
        image = guest_trees.ntfs(tmp_path / "image", tree)
    else:
        image = guest_trees.ext4(tmp_path / "image", tree, 32, "-O", "^extents,^64bit")
    case = Case(tmp_path / "store", image)
    content = (tree / "sub" / "big.bin").read_bytes()
    [told] = case.told((case.data.index(content[2 * MIB :][:512]), 1))
    assert told.paths == ("/big.bin" if kind == "ntfs" else "/sub/big.bin",)
    assert told.unread == ()


@pytest.mark.parametrize("kind", ["fat", "xfs"])
def test_a_file_system_that_does_not_tell_is_named(tmp_path: Path, kind: str) -> None:
    tree = guest_trees.make_tree(tmp_path / "tree")
    make = {"fat": guest_trees.fat, "xfs": guest_trees.xfs}[kind]
    case = Case(tmp_path / "store", make(tmp_path / "image", tree))
    [told] = case.told((8 * MIB, 1))
    assert (told.paths, told.unread) == ((), (f"files are not told for {kind}",))


def physical_volume(halves: tuple[bytes, bytes]) -> bytes:
    """Return an LVM disk with one volume, whose second half lies in front of its first."""
    identity = b"a" * 32
    text = """vg {
        extent_size = 8192
        physical_volumes { pv0 { id = "%s" pe_start = 2048 } }
        logical_volumes { root { status = ["READ", "WRITE", "VISIBLE"] segment_count = 2
            segment1 { start_extent = 0 extent_count = 1 type = "striped" stripe_count = 1
                stripes = ["pv0", 1] }
            segment2 { start_extent = 1 extent_count = 1 type = "striped" stripe_count = 1
                stripes = ["pv0", 0] } } } }
    """
    data = (text % identity.decode()).encode()
    areas = struct.pack("<8Q", MIB, 0, 0, 0, BLOCK, MIB - BLOCK, 0, 0)
    label = struct.pack("<I8s", 32, b"LVM2 001") + identity + bytes(8) + areas
    label = label.ljust(512 - 20, b"\0")
    header = struct.pack(
        "<16sIQQQQII", b" LVM2 x[5A%r0N*>", 1, BLOCK, MIB - BLOCK, 512, len(data), _crc(data), 0
    ).ljust(508, b"\0")
    head = bytes(512) + struct.pack("<8sQI", b"LABELONE", 1, _crc(label)) + label
    metadata = struct.pack("<I", _crc(header)) + header + data
    return (head.ljust(BLOCK, b"\0") + metadata).ljust(MIB, b"\0") + halves[1] + halves[0]


def test_files_of_a_logical_volume_in_pieces(tmp_path: Path) -> None:
    """What lies where on the disk goes by the volume's segments."""
    tree = guest_trees.make_tree(tmp_path / "tree")
    inside = guest_trees.ext4(tmp_path / "inside", tree, 8).read_bytes()
    (tmp_path / "disk").write_bytes(physical_volume((inside[: 4 * MIB], inside[4 * MIB :])))
    case = Case(tmp_path / "store", tmp_path / "disk")
    content = (tree / "sub" / "big.bin").read_bytes()
    pages = [content[at : at + 512] for at in range(0, len(content) - BLOCK, BLOCK)]
    for page in (pages[0], pages[-1]):
        [told] = case.told((case.data.index(page), 1))
        assert (told.volume, told.holds, told.unread) == ("vg/root", "ext", ())
        assert told.paths == ("/sub/big.bin",)


def test_without_the_library_it_is_said_which_extra(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyfsext", None)
    with pytest.raises(LibraryMissing, match=r"airflow-provider-azstack\[files\]"):
        case.told((PARTITION_START + 8 * MIB, 1))
