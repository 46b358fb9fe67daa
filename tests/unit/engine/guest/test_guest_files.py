"""Files out of real file systems, and out of ones that mean harm."""

import calendar
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import guest_trees
from support.guest_trees import MOMENT_NS, add_unix, contents, make_tree

import airflow_provider_azstack
from airflow_provider_azstack.engine.guest.extract import Extracted, Extraction, needed_bytes
from airflow_provider_azstack.engine.guest.file_systems import Unreadable, Volume
from airflow_provider_azstack.engine.guest.partitions import Partition
from airflow_provider_azstack.engine.guest.signatures import what_is_in
from airflow_provider_azstack.errors import ConfigurationError, MissingBlock, Refused

ROOT = Path(airflow_provider_azstack.__file__).parents[1]

Bytes = bytes | bytearray


def volume_of(data: Bytes) -> Volume:
    return Volume(lambda o, n: bytes(data[o : o + n]), Partition(0, 0, len(data)))


def extract(data: Bytes, target: Path, path: str = "/") -> Extracted:
    volume = volume_of(data)
    extraction = Extraction(target, partition_bytes=len(data), keep_owners=False)
    extraction.extract(volume.find(path))
    return extraction.result()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree")


@pytest.fixture
def ext(tmp_path: Path, tree: Path) -> bytearray:
    image = guest_trees.ext4(
        tmp_path / "ext.img", add_unix(tree), 32, "-O", "^metadata_csum,^dir_index"
    )
    return bytearray(image.read_bytes())


@pytest.mark.tier1
def test_all_of_an_ext4_comes_out_as_it_went_in(ext: bytearray, tree: Path, tmp_path: Path) -> None:
    """Contents, links, holes, names, modes, times; a pipe is left out and named."""
    result = extract(ext, tmp_path / "out")
    expected = contents(tree) | {"lost+found": "/"}
    del expected["pipe"]
    assert contents(tmp_path / "out") == expected
    assert [problem.path for problem in result.problems] == ["/pipe"]
    assert result.links == 2
    hello = (tmp_path / "out" / "hello.txt").stat()
    assert (hello.st_mode & 0o7777, hello.st_mtime_ns) == (0o640, MOMENT_NS)
    assert (tmp_path / "out" / "run").stat().st_mode & 0o7777 == 0o755  # not set-user-id as us
    sparse = (tmp_path / "out" / "sparse").stat()
    assert (sparse.st_size, sparse.st_blocks * 512 < 1 << 20) == (40 << 20, True)


@pytest.mark.tier1
@pytest.mark.skipif(os.geteuid() != 0, reason="owners are root's to give")
def test_root_keeps_owners(ext: bytearray, tmp_path: Path) -> None:
    """And then the set-user-id bit as well, which belongs to the owner."""
    volume = volume_of(ext)
    extraction = Extraction(tmp_path / "out", partition_bytes=len(ext), keep_owners=True)
    extraction.extract(volume.find("/run"))
    found = (tmp_path / "out" / "run").stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o4755)
    # A guest's file for everybody, perhaps out of a directory for one, is not for all of this host.
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700


@pytest.mark.tier2
def test_all_of_an_xfs_comes_out(tree: Path, tmp_path: Path) -> None:
    image = guest_trees.xfs(tmp_path / "xfs.img", add_unix(tree))
    result = extract(image.read_bytes(), tmp_path / "out")
    expected = {name: what for name, what in contents(tree).items() if " " not in name}
    del expected["pipe"]
    assert contents(tmp_path / "out") == expected
    assert result.problems == ()
    node = volume_of(image.read_bytes()).find("/hello.txt")
    assert (node.owner, node.mode) == ((1000, 100), 0o640)
    assert (tmp_path / "out" / "sparse").stat().st_size == 40 << 20


@pytest.mark.tier1
@pytest.mark.parametrize("bits", [16, 32])
def test_all_of_a_fat_comes_out(tree: Path, tmp_path: Path, bits: int) -> None:
    """Long names, folders, and the time to the even second."""
    image = guest_trees.fat(tmp_path / "fat.img", tree, bits=bits)
    result = extract(image.read_bytes(), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tree)
    assert result.problems == ()
    found = (tmp_path / "out" / "hello.txt").stat().st_mtime
    there = time.localtime(MOMENT_NS // 10**9)  # a FAT has the time of the clock on the wall
    assert found == calendar.timegm(there)


@pytest.mark.tier2
def test_files_of_an_ntfs_come_out(tree: Path, tmp_path: Path) -> None:
    """Its own files ($MFT and the like) are not the guest's, and stay."""
    began = int(time.time())
    image = guest_trees.ntfs(tmp_path / "ntfs.img", tree)
    ended = time.time() + 1
    result = extract(image.read_bytes(), tmp_path / "out")
    files = {Path(name).name: data for name, data in contents(tree).items() if data != "/"}
    assert contents(tmp_path / "out") == files
    assert result.problems == ()
    # Its tool gives each file the time of the copy.
    assert began <= (tmp_path / "out" / "hello.txt").stat().st_mtime <= ended


@pytest.mark.tier1
def test_one_folder_or_file_comes_out_under_its_name(ext: bytearray, tmp_path: Path) -> None:
    extract(ext, tmp_path / "out", "/sub/deep")
    extract(ext, tmp_path / "out", "sub/big.bin")
    assert sorted(contents(tmp_path / "out")) == [
        "big.bin", "deep", "deep/a long name with spaces.txt",
    ]  # fmt: skip


@pytest.mark.tier1
@pytest.mark.parametrize("path", ["/nowhere", "/hello.txt/x", "/sub/../hello.txt", "/sub/link/x"])
def test_what_is_not_there_is_said(ext: bytearray, path: str) -> None:
    """Links are not followed and dots mean nothing: a path is what the backup has."""
    with pytest.raises(ConfigurationError, match="in the backup has no"):
        volume_of(ext).find(path)


@pytest.mark.tier1
def test_nothing_that_is_there_is_replaced(ext: bytearray, tmp_path: Path) -> None:
    (tmp_path / "out" / "sub").mkdir(parents=True)
    (tmp_path / "out" / "hello.txt").write_text("precious")
    with pytest.raises(Refused, match="nothing is replaced"):
        extract(ext, tmp_path / "out", "/sub")
    result = extract(ext, tmp_path / "out", "/")
    assert (tmp_path / "out" / "hello.txt").read_text() == "precious"
    assert {"/hello.txt", "/sub"} <= {problem.path for problem in result.problems}


@pytest.mark.tier1
@pytest.mark.parametrize("path", ["/", "/sub", "/sub/big.bin"])
def test_what_is_interrupted_leaves_whole_files_and_no_empty_folder(
    ext: bytearray, tmp_path: Path, path: str
) -> None:
    """Until it is whole, a file has no name that anybody takes for it."""
    out = tmp_path / "out"
    big = (tmp_path / "tree" / "sub" / "big.bin").read_bytes()
    last = ext.index(big[1_000_000:1_000_100])

    def read(offset: int, length: int) -> bytes:
        if offset <= last < offset + length:
            assert not list(out.rglob("big.bin"))
            raise KeyboardInterrupt
        return bytes(ext[offset : offset + length])

    volume = Volume(read, Partition(0, 0, len(ext)))
    extraction = Extraction(out, partition_bytes=len(ext), keep_owners=False)
    with pytest.raises(KeyboardInterrupt):
        extraction.extract(volume.find(path))
    names = {file.name for file in out.rglob("*") if not file.is_dir()}
    assert not any("azstack" in name for name in names)
    assert "big.bin" not in names
    assert len(names - {"link"}) >= extraction.result().files
    for folder in [out, *(one for one in out.rglob("*") if one.is_dir())]:
        made = folder.exists() and folder.name != "lost+found"  # which is empty in the guest
        assert not made or any(folder.iterdir()), f"{folder} is empty"


@pytest.mark.tier1
def test_how_far_it_is_is_told(ext: bytearray, tmp_path: Path) -> None:
    """Over all that is extracted into one target."""
    volume, seen = volume_of(ext), list[int]()
    extraction = Extraction(tmp_path / "out", partition_bytes=len(ext), keep_owners=False)
    for path in ("/hello.txt", "/sub"):
        extraction.extract(volume.find(path), seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == extraction.result().data_bytes > 1_000_000


@pytest.mark.tier1
def test_how_much_room_is_needed_is_told(ext: bytearray, tree: Path) -> None:
    """Holes take none, and a file with two names is counted for each."""
    volume = volume_of(ext)
    big = needed_bytes(volume.find("/sub/big.bin"))
    assert 0 < big <= (tree / "sub" / "big.bin").stat().st_size + 4096
    assert big <= needed_bytes(volume.find("/sub")) < needed_bytes(volume.root())
    assert needed_bytes(volume.find("/pipe")) == 0


def renamed(data: bytearray, old: bytes, new: bytes) -> bytearray:
    """Change a name in its directory, as only an attacker can."""
    assert len(old) == len(new)
    assert data.count(old) == 1
    return bytearray(data.replace(old, new))


def attacked(tmp_path: Path, names: dict[str, str], **links: str) -> bytearray:
    """Return an ext4 with files of these names and contents, and links."""
    tree = tmp_path / "attack"
    for name, text in names.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    for name, target in links.items():
        (tree / name).symlink_to(target)
    options = ("-O", "^metadata_csum,^dir_index")
    return bytearray(guest_trees.ext4(tmp_path / "attack.img", tree, 8, *options).read_bytes())


@pytest.mark.tier1
@pytest.mark.parametrize("name", [b"../evil", b"/tmp/ev", b"a/../ev", b"......."[:2] + b"/..//"])
def test_a_name_that_leads_elsewhere_is_left_out(tmp_path: Path, name: bytes) -> None:
    """F-H4: names with slashes and dots, as no kernel writes them: nothing outside the target."""
    data = renamed(attacked(tmp_path, {"QQQQQQQ": "evil", "good": "x"}), b"QQQQQQQ", name)
    before = sorted(path.name for path in tmp_path.iterdir())
    result = extract(data, tmp_path / "out")
    assert sorted(contents(tmp_path / "out")) == ["good", "lost+found"]
    assert [problem.reason for problem in result.problems] == [
        "is no name that a file can have here"
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "out"])
    assert not Path("/tmp/ev").exists()


@pytest.mark.tier1
def test_a_link_is_not_walked_through(tmp_path: Path) -> None:
    """F-H4: a link to a place outside, and a folder of the same name whose files would go there."""
    outside = tmp_path / "outside"
    outside.mkdir()
    data = attacked(tmp_path, {"WWWW/evil": "evil"}, AAAA=str(outside))
    result = extract(renamed(data, b"WWWW", b"AAAA"), tmp_path / "out")
    assert list(outside.iterdir()) == []
    assert (tmp_path / "out" / "AAAA").is_symlink()
    assert [problem.path for problem in result.problems] == ["/AAAA"]


@pytest.mark.tier1
def test_a_folder_in_itself_ends(tmp_path: Path) -> None:
    """F-H4: a folder's entry that leads back to the root is not followed for ever."""
    data = attacked(tmp_path, {"LOOP/file": "x"})
    entry = data.index(b"LOOP") - 8  # inode 4, length 2, name length 1, type 1
    data[entry : entry + 4] = (2).to_bytes(4, "little")
    result = extract(data, tmp_path / "out")
    assert [problem.reason for problem in result.problems] == ["is nested too deep, or in itself"]


@pytest.mark.tier1
def test_what_the_repository_lost_is_told_as_that(ext: bytearray, tmp_path: Path) -> None:
    """F-R4: a file with a lost block is left out whole, with the image's error; others come."""
    big = (tmp_path / "tree" / "sub" / "big.bin").read_bytes()
    lost = ext.index(big[1_000_000:1_000_100])

    def read(offset: int, length: int) -> bytes:
        if offset <= lost < offset + length:
            raise MissingBlock("images/...: block 12 is missing")
        return bytes(ext[offset : offset + length])

    volume = Volume(read, Partition(0, 0, len(ext)))
    extraction = Extraction(tmp_path / "out", partition_bytes=len(ext), keep_owners=False)
    extraction.extract(volume.find("/sub"))
    [problem] = extraction.result().problems
    assert (problem.path, problem.reason) == ("/sub/big.bin", "images/...: block 12 is missing")
    assert sorted(contents(tmp_path / "out" / "sub")) == [
        "deep", "deep/a long name with spaces.txt", "empty", "link",
    ]  # fmt: skip


@pytest.mark.tier1
@pytest.mark.parametrize(
    ("offset", "signature", "kind"),
    [(0, b"LUKS\xba\xbe", "LUKS"), (3, b"-FVE-FS-", "BitLocker"), (512, b"LABELONE", "LVM")],
)
def test_what_cannot_be_read_is_named(offset: int, signature: bytes, kind: str) -> None:
    data = bytearray(1 << 20)
    data[offset : offset + len(signature)] = signature
    assert what_is_in(lambda o, n: bytes(data[o : o + n]), Partition(1, 0, len(data))) == kind
    with pytest.raises(ConfigurationError, match=f"holds {kind}; ext, XFS, NTFS and FAT"):
        volume_of(data)


@pytest.mark.tier1
def test_without_the_extra_the_way_to_it_is_named(ext: bytearray) -> None:
    def nothing(name: str) -> object:
        raise ImportError(name)

    with pytest.raises(ConfigurationError, match=r"azstack\[files\]"):
        Volume(lambda o, n: bytes(ext[o : o + n]), Partition(0, 0, len(ext)), load=nothing)


@pytest.mark.tier1
def test_a_broken_file_system_is_an_error_of_ours(ext: bytearray) -> None:
    ext[1024 + 24 : 1024 + 28] = b"\xff" * 4  # the size of its blocks
    with pytest.raises(Unreadable, match="the ext file system cannot be read"):
        volume_of(ext)


FUZZ = """
import sys, random, tempfile, pathlib
from airflow_provider_azstack.engine.guest.extract import Extraction
from airflow_provider_azstack.engine.guest.file_systems import Volume
from airflow_provider_azstack.engine.guest.partitions import Partition
from airflow_provider_azstack.errors import AzStackError
whole = pathlib.Path(sys.argv[1]).read_bytes()
for seed in range(int(sys.argv[2])):
    noise, data = random.Random(seed), bytearray(whole)
    used = [o for o in range(0, min(len(data), 4 << 20), 512) if any(data[o:o + 512])]
    for _ in range(20):
        data[noise.choice(used) + noise.randrange(512)] = noise.randrange(256)
    with tempfile.TemporaryDirectory() as place:
        try:
            volume = Volume(lambda o, n: bytes(data[o:o + n]), Partition(0, 0, len(data)))
            out = pathlib.Path(place) / "out"
            Extraction(out, partition_bytes=len(data), keep_owners=False).extract(volume.root())
        except AzStackError:
            pass
        assert [path.name for path in pathlib.Path(place).iterdir()] in ([], ["out"])
"""


@pytest.mark.tier2
@pytest.mark.parametrize("kind", ["ext4", "fat", "ntfs"])
def test_flipped_bytes_give_errors_of_ours_only(tree: Path, tmp_path: Path, kind: str) -> None:
    """F-H7: in a process of its own, since the readers are C: no crash, nothing outside."""
    make: Callable[[Path, Path], Path] = getattr(guest_trees, kind)
    image = make(tmp_path / "image", tree)
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(image), "25"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.tier1
def test_what_would_be_read_wrongly_is_refused(tree: Path, tmp_path: Path) -> None:
    """libfsext returns other bytes for files inside inodes: no bytes are better than wrong ones."""
    image = guest_trees.ext4(tmp_path / "inline.img", tree, 16, "-O", "inline_data")
    with pytest.raises(ConfigurationError, match="features 0x8000 that would be read wrongly"):
        volume_of(image.read_bytes())


@pytest.mark.tier1
def test_a_file_system_in_use_says_so(ext: bytearray) -> None:
    """A snapshot of a running guest: changes may be in the journal, which is not replayed."""
    assert not volume_of(ext).needs_recovery
    ext[1024 + 96] |= 4
    assert volume_of(ext).needs_recovery
