"""File systems with known files in them, made by their own tools and without root."""

import os
import shutil
import subprocess
from pathlib import Path
from random import Random

import pytest

MOMENT_NS = 1_500_000_000 * 10**9
_PLACES = "/usr/sbin:/sbin:/usr/bin:/bin"


def _run(tool: str, *arguments: object) -> None:
    path = shutil.which(tool, path=_PLACES)
    if path is None:
        pytest.skip(f"{tool} is not installed")
    command = [path, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def _image(path: Path, mib: int) -> Path:
    with path.open("wb") as file:
        file.truncate(mib << 20)
    return path


def make_tree(directory: Path) -> Path:
    """Fill a directory with what a guest has: depth, holes, links, odd names, modes, times."""
    noise = Random(1)
    (directory / "sub" / "deep").mkdir(parents=True)
    (directory / "hello.txt").write_text("hello\n")
    (directory / "sub" / "big.bin").write_bytes(noise.randbytes(3_000_000))
    (directory / "sub" / "deep" / "a long name with spaces.txt").write_text("x")
    (directory / "sub" / "empty").write_text("")
    (directory / "hello.txt").chmod(0o640)
    os.utime(directory / "hello.txt", ns=(MOMENT_NS, MOMENT_NS))
    return directory


def add_unix(directory: Path) -> Path:
    """Add what only a Unix has: links, holes, set-user-id, a pipe, bytes that are no ASCII."""
    (directory / "sub" / "link").symlink_to("../hello.txt")
    (directory / "out").symlink_to("/etc/passwd")
    with (directory / "sparse").open("wb") as file:
        file.truncate(40 << 20)
        file.seek(30 << 20)
        file.write(b"mid" * 1000)
    (directory / "grüße.txt").write_text("ü")
    (directory / "run").write_text("#!/bin/sh\n")
    (directory / "run").chmod(0o4755)
    os.mkfifo(directory / "pipe")
    return directory


def ext4(path: Path, tree: Path, mib: int = 32, *options: str) -> Path:
    _run("mkfs.ext4", "-q", "-F", "-d", tree, *options, _image(path, mib))
    return path


def fat(path: Path, tree: Path, mib: int = 40, bits: int = 32) -> Path:
    _run("mkfs.vfat", "-F", bits, _image(path, mib))
    _run("mcopy", "-s", "-m", "-i", path, *sorted(tree.iterdir()), "::")
    return path


def ntfs(path: Path, tree: Path, mib: int = 32) -> Path:
    """Its tool copies single files into the root, and no folders."""
    _run("mkntfs", "-F", "-Q", "-q", "-L", "win", _image(path, mib))
    for file in sorted(p for p in tree.rglob("*") if p.is_file() and not p.is_symlink()):
        _run("ntfscp", "-f", "-q", path, file, file.name)
    return path


def xfs(path: Path, tree: Path, mib: int = 320) -> Path:
    """By a prototype, which knows names without spaces."""
    lines = ["/boot", "0 0", "d--755 0 0", *_prototype(tree), "$"]
    listing = path.with_suffix(".proto")
    listing.write_text("\n".join(lines) + "\n")
    _run("mkfs.xfs", "-q", "-f", "-p", listing, _image(path, mib))
    return path


def _prototype(directory: Path) -> list[str]:
    lines = []
    for entry in sorted(directory.iterdir()):
        mode = entry.lstat().st_mode & 0o777
        if " " in entry.name:
            continue
        if entry.is_symlink():
            lines.append(f"{entry.name} l--777 0 0 {entry.readlink()}")
        elif entry.is_dir():
            lines += [f"{entry.name} d--{mode:03o} 1000 100", *_prototype(entry), "$"]
        elif entry.is_file():
            lines.append(f"{entry.name} ---{mode:03o} 1000 100 {entry}")
    return lines


def contents(directory: Path) -> dict[str, bytes | str]:
    """Return everything below a directory: bytes of files, targets of links, "/" for folders."""
    found: dict[str, bytes | str] = {}
    for path in directory.rglob("*"):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            found[name] = path.read_bytes()
        else:
            found[name] = "/" if path.is_dir() else "?"
    return found
