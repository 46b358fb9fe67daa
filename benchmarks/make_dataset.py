#!/usr/bin/env python3
"""
Make the disks that the benchmarks read: the same files in the same places for the same seed.

``base.img`` is an MBR-partitioned disk with an ext4 file system holding real files of this
machine. ``day.img`` is its state a day later: 3% of the bytes belong to files that were replaced.
``sibling.img`` is another VM of the same image, 15% of it replaced. ``scattered.img`` is a
database-like day and ``clustered.img`` one of large files: 1% of the allocated pages rewritten with
noise, one by one or in stretches. ``*.json`` names the changed extents, as a stack's page-range
difference would.
"""

import argparse
import json
import os
import random
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

PAGE = 4096
MIB = 1024**2
PARTITION_OFFSET = MIB
NOISY_DAYS = {"scattered": (1, 1), "clustered": (16, 512)}  # pages rewritten in one place
LIVES = {"day": 0.03, "sibling": 0.15}  # which part of the bytes is in files that were replaced
# Nothing random of mkfs's own, so that files lie where they lay the last time.
_UUID = "7a9e3f0c-58e1-4f5e-9d8e-2c6f1d0b4a77"
_PLAIN = re.compile(r"[A-Za-z0-9/._+-]+")  # what debugfs takes for one word


def regular_files(root: Path) -> Iterator[Path]:
    """Yield the regular files below ``root`` in an order that does not depend on the machine."""
    for directory, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = Path(directory) / name
            if path.is_file() and not path.is_symlink():
                yield path


def choose(files: Iterator[Path], size_bytes: int) -> list[Path]:
    """Take whole files that can be read until ``size_bytes`` are there."""
    chosen, total = [], 0
    for path in files:
        length = path.stat().st_size
        if 0 < length <= size_bytes - total and os.access(path, os.R_OK):
            chosen.append(path)
            total += length
            if total > size_bytes * 0.995:
                break
    return chosen


def copy(files: Sequence[Path], source: Path, target: Path) -> None:
    """Copy files to the same places below ``target``."""
    for path in files:
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


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
    extended = f"offset={PARTITION_OFFSET},lazy_itable_init=0,hash_seed={_UUID}"
    command = ["mkfs.ext4", "-q", "-F", "-b", "4096", "-U", _UUID, "-d", str(files)]
    subprocess.run([*command, "-E", extended, str(image), f"{sectors // 2}k"], check=True)


def make_life(base: Path, image: Path, replaced: Sequence[tuple[str, Path]]) -> int:
    """Copy ``base``, put other files where some were, and return how many bytes differ."""
    copy_sparse(base, image)
    orders = [f"rm /{old}\nwrite {new} /{old}.new" for old, new in replaced]
    subprocess.run(
        ["debugfs", "-w", "-f", "-", f"{image}?offset={PARTITION_OFFSET}"],
        input="\n".join(orders).encode(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return write_changes(image, list(differing_pages(base, image)))


def replacements(
    files: Sequence[Path], spare: Iterator[Path], source: Path, part: float, noise: random.Random
) -> list[tuple[str, Path]]:
    """Choose which files are replaced, and by which others, of ``part`` of all bytes."""
    plain = [path for path in files if _PLAIN.fullmatch(str(path))]
    noise.shuffle(plain)
    wanted = part * sum(path.stat().st_size for path in files)
    found, total = [], 0
    fresh = (path for path in spare if _PLAIN.fullmatch(str(path)))
    for old, new in zip(plain, fresh, strict=False):
        size = new.stat().st_size
        if size <= wanted - total and os.access(new, os.R_OK):
            found.append((str(old.relative_to(source)), new))
            total += size
            if total > wanted * 0.99:
                return found
    raise SystemExit(
        f"{source} has not files enough: give another --files, or a smaller --data-mib"
    )


def differing_pages(base: Path, image: Path) -> Iterator[int]:
    """Yield the pages that are not the same in two files."""
    with base.open("rb") as old, image.open("rb") as new:
        for offset, length in allocated(image):
            for start in range(offset, offset + length, MIB):
                old.seek(start)
                new.seek(start)
                size = min(MIB, offset + length - start)
                before, after = old.read(size), new.read(size)
                if before != after:
                    for page in range(0, size, PAGE):
                        if before[page : page + PAGE] != after[page : page + PAGE]:
                            yield (start + page) // PAGE


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file and its holes."""
    subprocess.run(["cp", "--sparse=always", str(source), str(target)], check=True)


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


def make_noisy_day(
    base: Path, image: Path, run_pages: tuple[int, int], noise: random.Random
) -> int:
    """Copy ``base`` and rewrite 1% of its allocated pages in runs of that many pages."""
    copy_sparse(base, image)
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
    return write_changes(image, sorted(changed))


def write_changes(image: Path, pages: Sequence[int]) -> int:
    """Write the list of changed extents beside an image; return how many bytes they are."""
    firsts = [page for before, page in pairwise([-2, *pages]) if page != before + 1]
    lasts = [page for page, after in pairwise([*pages, -2]) if after != page + 1]
    extents = [
        [first * PAGE, (last + 1 - first) * PAGE] for first, last in zip(firsts, lasts, strict=True)
    ]
    image.with_suffix(".json").write_text(json.dumps(extents))
    return len(pages) * PAGE


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
    files = list(regular_files(options.files))
    noise.shuffle(files)
    source = iter(files)
    base = options.directory / "base.img"
    with tempfile.TemporaryDirectory(dir=options.directory) as staging:
        chosen = choose(source, options.data_mib * MIB)
        copy(chosen, options.files, Path(staging))
        make_base(base, Path(staging), options.disk_mib * MIB)
    data = sum(length for _, length in allocated(base))
    print(f"{base}: {data / MIB:.0f} MiB of data in {len(chosen)} files")
    for name, part in LIVES.items():
        image = options.directory / f"{name}.img"
        replaced = replacements(chosen, source, options.files, part, noise)
        print(f"{image}: {make_life(base, image, replaced) / MIB:.1f} MiB changed")
    for name, run_pages in NOISY_DAYS.items():
        image = options.directory / f"{name}.img"
        print(f"{image}: {make_noisy_day(base, image, run_pages, noise) / MIB:.1f} MiB changed")


if __name__ == "__main__":
    main()
