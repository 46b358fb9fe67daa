"""File systems that a kernel really mounts; where that may not be done, the test is skipped."""

import os
import shutil
import subprocess
import time
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
        _unmount(place)


@contextmanager
def ntfs_3g(place: Path, image: Path, *options: str) -> Iterator[Path]:
    """
    Mount an NTFS image at ``place``; its file is complete afterwards.

    Unmounting only tells the program to end, and it has something left to write then.
    """
    place.mkdir()
    command = ["ntfs-3g", "-o", ",".join(["no_detach", *options]), str(image), str(place)]
    if shutil.which(command[0]) is None:
        pytest.skip("ntfs-3g is not installed")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
        while not place.is_mount():
            if program.poll() is not None:
                pytest.skip(f"may not mount here: {program.communicate()[1]}")
            time.sleep(0.01)
        try:
            yield place
        finally:
            _unmount(place)


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


def _unmount(place: Path) -> None:
    """Take a file system away, though somebody who looks around holds it for a moment."""
    end = time.monotonic() + 60
    while trouble := _trouble("umount", place):
        assert time.monotonic() < end, trouble
        time.sleep(0.1)


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
            list(map(str, command)), capture_output=True, text=True, timeout=600, check=False
        )
    except FileNotFoundError as error:
        return str(error)
    return done.stderr or "failed" if done.returncode else ""
