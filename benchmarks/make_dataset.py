#!/usr/bin/env python3
"""
Make the disks that the benchmarks read: the same bytes for the same files and seed.

``base.img`` is an MBR-partitioned disk with an ext4 file system holding real files of this
machine. ``scattered.img`` and ``clustered.img`` are its state a day later: 1% of the allocated
pages rewritten with noise, one by one or in stretches. ``*.json`` names the changed extents, as a
stack's page-range difference would.
"""

import argparse
import json
import os
import random
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

PAGE = 4096
MIB = 1024**2
PARTITION_OFFSET = MIB


def regular_files(root: Path) -> Iterator[Path]:
    """Yield the regular files below ``root`` in an order that does not depend on the machine."""
    for directory, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = Path(directory) / name
            if path.is_file() and not path.is_symlink():
                yield path


def fill(target: Path, source: Path, size_bytes: int, noise: random.Random) -> int:
    """Copy whole files, picked at random, until ``size_bytes`` are there."""
    files = list(regular_files(source))
    noise.shuffle(files)
    copied = 0
    for path in files:
        length = path.stat().st_size
        if not 0 < length <= size_bytes - copied:
            continue
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(path, copy)
        except PermissionError:
            continue
        copied += length
        if copied > size_bytes * 0.995:
            break
    return copied


def make_base(image: Path, files: Path, size_bytes: int) -> None:
    """Write a partition table and an ext4 file system that holds ``files``."""
    sectors = (size_bytes - PARTITION_OFFSET) // 512
    entry = struct.pack(
        "<B3sB3sII", 0x80, b"\0" * 3, 0x83, b"\0" * 3, PARTITION_OFFSET // 512, sectors
    )
    with image.open("wb") as file:
        file.truncate(size_bytes)
        file.seek(446)
        file.write(entry + bytes(48) + b"\x55\xaa")
    command = ["mkfs.ext4", "-q", "-F", "-b", "4096", "-d", str(files)]
    command += [
        "-E",
        f"offset={PARTITION_OFFSET},lazy_itable_init=0",
        str(image),
        f"{sectors // 2}k",
    ]
    subprocess.run(command, check=True)


def allocated(image: Path) -> list[tuple[int, int]]:
    """Return the stretches of a sparse file that hold data."""
    found: list[tuple[int, int]] = []
    with image.open("rb") as file:
        size, offset = image.stat().st_size, 0
        while offset < size:
            try:
                offset = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(file.fileno(), offset, os.SEEK_HOLE)
            found.append((offset, end - offset))
            offset = end
    return found


def make_next_day(base: Path, image: Path, run_pages: tuple[int, int], noise: random.Random) -> int:
    """Copy ``base`` and rewrite 1% of its allocated pages in runs of that many pages."""
    subprocess.run(["cp", "--sparse=always", str(base), str(image)], check=True)
    pages = [
        page
        for offset, length in allocated(base)
        for page in range(-(-offset // PAGE), (offset + length) // PAGE)
    ]
    wanted, changed = len(pages) // 100, set[int]()
    with image.open("r+b") as file:
        while len(changed) < wanted:
            first = noise.randrange(len(pages))
            for page in pages[first : first + noise.randint(*run_pages)]:
                file.seek(page * PAGE)
                file.write(noise.randbytes(PAGE))
                changed.add(page)
    extents = [[page * PAGE, PAGE] for page in sorted(changed)]
    image.with_suffix(".json").write_text(json.dumps(extents))
    return len(changed) * PAGE


def main() -> None:
    """Make the data set in a directory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--files", type=Path, default=Path("/usr"), help="where real files are")
    parser.add_argument("--data-mib", type=int, default=2048)
    parser.add_argument("--disk-mib", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    noise = random.Random(options.seed)
    base = options.directory / "base.img"
    with tempfile.TemporaryDirectory(dir=options.directory) as staging:
        copied = fill(Path(staging), options.files, options.data_mib * MIB, noise)
        make_base(base, Path(staging), options.disk_mib * MIB)
    print(f"{base}: {copied / MIB:.0f} MiB of files")
    for name, run_pages in (("scattered", (1, 1)), ("clustered", (16, 512))):
        image = options.directory / f"{name}.img"
        print(f"{image}: {make_next_day(base, image, run_pages, noise) / MIB:.1f} MiB changed")


if __name__ == "__main__":
    main()
