"""Disks as files and streams: every byte, sparse, whole or not there."""

import errno
import hashlib
import io
import os
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from uuid import UUID

import pytest
from support.disks import PAGE, SparseDisk, back_up, open_session
from support.mounts import tmpfs
from support.points import digest_of
from support.stores import MemoryStore

from airflow_provider_azstack.arm.vhd import build_footer, parse_footer
from airflow_provider_azstack.engine.export.disk import DiskExport
from airflow_provider_azstack.engine.export.new_file import rename_new, replaced_file
from airflow_provider_azstack.errors import (
    ConfigurationError,
    MissingBlock,
    Refused,
    StoreError,
    StoreFull,
)
from airflow_provider_azstack.model import Image
from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.sessions import Session

pytestmark = pytest.mark.tier1

MIB = 1024**2
NOW = datetime(2026, 1, 2, tzinfo=UTC)
FOOTER = build_footer(70 * MIB, UUID(int=7), NOW)


@pytest.fixture
def session() -> Iterator[Session]:
    with open_session(MemoryStore()) as opened:
        yield opened


def some_disk(size: int = 70 * MIB, footer: bytes = b"") -> SparseDisk:
    disk = SparseDisk(size, footer)
    noise = Random(1)
    disk.write(0, noise.randbytes(3 * MIB + 5))
    disk.write(40 * MIB, noise.randbytes(PAGE))
    disk.write(size - PAGE, noise.randbytes(PAGE))
    return disk


def export_of(session: Session, disk: SparseDisk, form: str, **options: object) -> DiskExport:
    image = back_up(disk, session)
    return DiskExport(image, ImageReader(image, session.reader()), form, **options)


def only(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_raw_file_is_the_disk_and_sparse(session: Session, tmp_path: Path) -> None:
    """Bit-exact; holes stay holes; nobody else may read it; nothing else is left."""
    disk = some_disk()
    seen: list[int] = []
    exported = export_of(session, disk, "raw", advance=seen.append).to_file(tmp_path / "out")
    data = (tmp_path / "out").read_bytes()
    assert hashlib.sha256(data).hexdigest() == digest_of(disk)
    found = (tmp_path / "out").stat()
    assert found.st_blocks * 512 < 8 * MIB
    assert found.st_mode & 0o777 == 0o600
    assert exported.size_bytes == disk.size_bytes
    assert exported.lost == ()
    assert seen == sorted(seen)
    assert seen[-1] == disk.size_bytes
    assert only(tmp_path) == ["out"]


def test_a_stream_has_every_byte_in_order(session: Session) -> None:
    """Zeros are written as well: the other end cannot seek."""
    disk = some_disk()
    stream = io.BytesIO()
    export_of(session, disk, "raw").to_stream(stream)
    assert hashlib.sha256(stream.getvalue()).hexdigest() == digest_of(disk)


def test_a_vhd_keeps_the_footer_that_the_disk_had(session: Session, tmp_path: Path) -> None:
    """The VHD is the disk and then its own 512 bytes, as they were."""
    disk = some_disk(footer=FOOTER)
    export_of(session, disk, "vhd").to_file(tmp_path / "out.vhd")
    data = (tmp_path / "out.vhd").read_bytes()
    assert data[-512:] == FOOTER
    assert hashlib.sha256(data[:-512]).hexdigest() == digest_of(disk)


@pytest.mark.parametrize("kept", [b"", b"x" * 512, build_footer(MIB, UUID(int=1), NOW)])
def test_a_vhd_without_a_fitting_footer_gets_one(session: Session, kept: bytes) -> None:
    """A managed disk has none; one of another size would lie."""
    disk = some_disk(footer=kept)
    stream = io.BytesIO()
    exported = export_of(session, disk, "vhd", clock=lambda: NOW).to_stream(stream)
    footer = stream.getvalue()[-512:]
    parsed = parse_footer(footer)
    assert parsed
    assert parsed.disk_bytes == disk.size_bytes
    assert footer[28:32] == b"win "
    [checksum] = struct.unpack(">I", footer[64:68])
    assert checksum == ~(sum(footer) - sum(footer[64:68])) & 0xFFFFFFFF
    assert exported.size_bytes == len(stream.getvalue()) == disk.size_bytes + 512


def test_a_disk_that_ends_inside_a_sector_is_no_vhd(session: Session) -> None:
    with pytest.raises(ConfigurationError, match="export it as raw"):
        export_of(session, some_disk(MIB + 4097), "vhd")


def test_what_is_there_is_not_touched(session: Session, tmp_path: Path) -> None:
    """Without --force no name is taken; with it a file is replaced, but nothing else is."""
    export = export_of(session, some_disk(), "raw")
    target = tmp_path / "out"
    target.write_text("precious")
    with pytest.raises(Refused, match="--force"):
        export.to_file(target)
    assert target.read_text() == "precious"
    (tmp_path / "link").symlink_to(target)
    for name, overwrite in (("link", False), ("link", True), (".", True)):
        with pytest.raises(Refused):
            export.to_file(tmp_path / name, overwrite=overwrite)
    assert target.read_text() == "precious"
    export.to_file(target, overwrite=True)
    assert target.stat().st_size == 70 * MIB


def test_a_name_that_is_taken_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(Refused, match="meanwhile"), replaced_file(target, overwrite=False):
        target.write_text("precious")
    assert target.read_text() == "precious"
    assert only(tmp_path) == ["out"]


def test_an_interrupted_export_leaves_nothing(session: Session, tmp_path: Path) -> None:
    """F-C5: interrupted anywhere, no file of that name is there, nor of another."""
    calls = 0

    def interrupt(_position: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_of(session, some_disk(), "raw", advance=interrupt).to_file(tmp_path / "out")
    assert only(tmp_path) == []


def test_what_a_killed_export_left_is_used_again(session: Session, tmp_path: Path) -> None:
    """F-C5: the half file never has the final name, and its bytes never get into the next one."""
    disk = some_disk()
    (tmp_path / ".out.azstack-part").write_bytes(b"half" * 30 * MIB)
    export_of(session, disk, "raw").to_file(tmp_path / "out")
    assert hashlib.sha256((tmp_path / "out").read_bytes()).hexdigest() == digest_of(disk)
    assert only(tmp_path) == ["out"]


def test_two_exports_to_one_name_do_not_mix(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with replaced_file(target, overwrite=False) as file:
        file.write(b"mine")
        with (
            pytest.raises(Refused, match="another export"),
            replaced_file(target, overwrite=False),
        ):
            pass
    assert target.read_bytes() == b"mine"


def test_a_full_output_says_how_much_is_needed(session: Session) -> None:
    export = export_of(session, some_disk(), "raw")
    with (
        Path("/dev/full").open("wb", buffering=0) as full,
        pytest.raises(StoreFull, match=r"the 73\.4 MB that"),
    ):
        export.to_stream(full)


def test_a_full_disk_says_how_much_is_needed(session: Session, tmp_path: Path) -> None:
    """No room: the bytes that the disk takes without its holes are named; nothing is left."""
    with tmpfs(tmp_path, 2) as place:
        with pytest.raises(StoreFull, match=r"out: no room for the 6\.3 MB that"):
            export_of(session, some_disk(), "raw").to_file(place / "out")
        assert only(place) == []


def test_a_reader_that_goes_away_is_an_error(session: Session) -> None:
    """Half a disk down a pipe is not a success."""
    reading, writing = os.pipe()
    os.close(reading)
    with (
        os.fdopen(writing, "wb", buffering=0) as stream,
        pytest.raises(StoreError, match="was closed by its reader"),
    ):
        export_of(session, some_disk(), "raw").to_stream(stream)


def damaged(session: Session) -> tuple[SparseDisk, Image]:
    """A disk whose second backup can be read, and whose first one's blocks are gone."""
    disk = some_disk()
    first = back_up(disk, session)
    store = session.repository.store
    assert isinstance(store, MemoryStore)
    packs = store.names("packs/")
    disk.freeze()
    disk.write(40 * MIB, Random(9).randbytes(MIB))
    second = back_up(disk, session, first)
    store.lose(packs)
    return disk, second


def test_damage_fails_an_export_unless_it_shall_be_salvaged(
    session: Session, tmp_path: Path
) -> None:
    """F-R4: no file by default; with salvage the rest, and the ranges that are zero."""
    disk, image = damaged(session)
    reader = ImageReader(image, session.reader())
    with pytest.raises(MissingBlock, match="disk offset 0:"):
        DiskExport(image, reader, "raw").to_file(tmp_path / "out")
    assert only(tmp_path) == []
    exported = DiskExport(image, reader, "raw", salvage=True).to_file(tmp_path / "out")
    assert [(lost.offset, lost.length) for lost in exported.lost] == [
        (0, 4 * MIB),
        (69 * MIB, MIB),
    ]
    data = (tmp_path / "out").read_bytes()
    assert not any(data[: 4 * MIB])
    assert data[40 * MIB : 41 * MIB] == disk.read(40 * MIB, MIB)


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_is_renamed_to_a_new_name_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_links: bool
) -> None:
    """Where the file system has no hard links as well, as on a stick with FAT."""

    def no_link(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not has_links:
        monkeypatch.setattr(os, "link", no_link)
    for name in ("old", "taken"):
        (tmp_path / name).write_text(name)
    folder = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(FileExistsError):
        rename_new("old", "taken", folder)
    rename_new("old", "new", folder)
    os.close(folder)
    assert only(tmp_path) == ["new", "taken"]
    assert [(tmp_path / name).read_text() for name in ("new", "taken")] == ["old", "taken"]
