"""File systems that a kernel really mounts; where that may not be done, the test is skipped."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MIB = 1 << 20


@contextmanager
def mounted(place: Path, *command: object) -> Iterator[Path]:
    """Mount at ``place``, which ``command`` lacks as its last word, and unmount in the end."""
    place.mkdir()
    if trouble := _trouble(*command, place):
        pytest.skip(f"may not mount here: {trouble}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@contextmanager
def tmpfs(directory: Path, mib: int) -> Iterator[Path]:
    """Lend a file system in memory that is full when so much is in it."""
    command = ("mount", "-t", "tmpfs", "-o", f"size={mib}m", "none")
    with mounted(directory / "small", *command) as place:
        yield place


@contextmanager
def ext4(directory: Path, mib: int) -> Iterator[Path]:
    """Lend a file system that is really full when it is full, as most are."""
    image = new_image(directory / "small.img", mib, "mkfs.ext4", "-q", "-m0")
    with mounted(directory / "small", "mount", "-o", "loop", image) as place:
        yield place


def new_image(path: Path, mib: int, *make: object) -> Path:
    """Return a file with a file system, which ``make`` and the file's path make."""
    path.touch()
    os.truncate(path, mib * MIB)
    trouble = _trouble(*make, path)
    if "No such file" in trouble:
        pytest.skip(trouble)
    assert not trouble or "mkntfs" in str(make[0]), trouble
    return path


def _trouble(*command: object) -> str:
    """Run a command; return what is wrong with that."""
    try:
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, timeout=60, check=False
        )
    except FileNotFoundError as error:
        return str(error)
    return done.stderr or "failed" if done.returncode else ""
