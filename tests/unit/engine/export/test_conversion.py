"""qcow2 and VHDX, as the real qemu-img writes them."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from random import Random

import pytest
from support.disks import SparseDisk, back_up, open_session
from support.points import digest_of
from support.stores import MemoryStore

from airflow_provider_azstack.engine.export.conversion import convert
from airflow_provider_azstack.errors import ConfigurationError, MissingBlock, Refused
from airflow_provider_azstack.repo.images.reader import ImageReader

MIB = 1024**2
installed = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="no qemu-img here")


def qemu_img(*arguments: object) -> str:
    done = subprocess.run(
        ["qemu-img", *map(str, arguments)], capture_output=True, text=True, timeout=250, check=True
    )
    return done.stdout


def some_disk(size: int = 64 * MIB) -> SparseDisk:
    disk = SparseDisk(size)
    disk.write(MIB, Random(1).randbytes(5 * MIB))
    disk.write(50 * MIB, Random(2).randbytes(MIB))
    return disk


@pytest.mark.tier2
@installed
@pytest.mark.parametrize("form", ["qcow2", "vhdx"])
def test_a_converted_disk_is_the_disk(tmp_path: Path, form: str) -> None:
    """Read back by qemu-img it is bit-exact; its size is that of the data; nothing else is left."""
    target = tmp_path / f"out.{form}"
    with open_session(MemoryStore()) as session:
        disk = some_disk()
        reader = ImageReader(back_up(disk, session), session.reader())
        seen: list[int] = []
        exported = convert(reader, form, target, advance=seen.append)
    assert json.loads(qemu_img("info", "--output=json", target))["format"] == form
    qemu_img("convert", "-O", "raw", target, tmp_path / "back")
    assert hashlib.sha256((tmp_path / "back").read_bytes()).hexdigest() == digest_of(disk)
    assert exported.data_bytes < 20 * MIB
    assert max(seen) == 51 * MIB  # holes are not even asked for
    assert target.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", target.name]


@pytest.mark.tier2
@installed
def test_damage_fails_a_conversion_with_its_place_or_is_salvaged(tmp_path: Path) -> None:
    """F-R4: the error is ours, not qemu-img's; salvaged ranges are told once each."""
    store = MemoryStore()
    with open_session(store) as session:
        image = back_up(some_disk(), session)
        reader = ImageReader(image, session.reader())
        list(reader.extents())
        store.lose(store.names("packs/"))
        target = tmp_path / "out.qcow2"
        with pytest.raises(MissingBlock, match="disk offset"):
            convert(reader, "qcow2", target)
        assert list(tmp_path.iterdir()) == []
        exported = convert(reader, "qcow2", target, salvage=True)
        assert [(lost.offset, lost.length) for lost in exported.lost] == [
            (MIB, 5 * MIB),
            (50 * MIB, MIB),
        ]


@pytest.mark.tier1
def test_without_qemu_img_the_way_out_is_named(tmp_path: Path) -> None:
    """One line: what to install, or which formats need nothing."""
    with open_session(MemoryStore()) as session:
        reader = ImageReader(back_up(some_disk(), session), session.reader())
        with pytest.raises(ConfigurationError, match="or export raw or vhd"):
            convert(reader, "qcow2", tmp_path / "out", which=lambda _: None)


@pytest.mark.tier2
@installed
def test_a_taken_name_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    with open_session(MemoryStore()) as session:
        reader = ImageReader(back_up(some_disk(), session), session.reader())
        with pytest.raises(Refused, match="--force"):
            convert(reader, "qcow2", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "precious"
