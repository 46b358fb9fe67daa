#!/usr/bin/env python3
"""
Measure the pipeline against its primitives, in CPU-seconds per GiB of the same bytes.

A primitive is the bare call of the library that does the work, on buffers that are there already:
reading a range, looking for zeros, the block's id, compressing, encrypting, writing a pack with
fsync; and the check that a block decodes again before it leaves: decrypting, decompressing, the id
once more. The pipeline is what ``back_up_disk`` takes beside that, for everything. Reading back
likewise: reading packs, decrypting and decompressing, beside an ``ImageReader``'s stream.

Every measurement is a process of its own, in turn, and the median of the rounds counts: CPU-seconds
suffer from what else a machine does, but all of them alike. Let data and directory be in memory.

    python benchmarks/primitives.py /some/directory --directory /dev/shm
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import TypeVar, get_args

from processes import answer, measured, missed
from records import MIB, back_up, create, opened
from sources import FileDisk

from airflow_provider_azstack.model import Compression

BLOCK = 1024**2
READ = 4 * BLOCK
PACK = 32 * BLOCK
BAR = 1.3
WRITING = ("read", "zero check", "id", "compress", "encrypt", "write")
CHECKING = ("decrypt", "decompress", "id again")
READING = ("read packs", "decrypt", "decompress")

T = TypeVar("T")


def blocks(disk: FileDisk) -> list[tuple[int, int]]:
    """Return offset and length of every read that holds data, none longer than a range."""
    starts = {
        start
        for extent in disk.allocated(0, disk.size_bytes)
        for start in range(extent.offset // READ * READ, extent.offset + extent.length, READ)
    }
    return [(start, min(READ, disk.size_bytes - start)) for start in sorted(starts)]


class Primitives:
    """The bare calls, read by read, in one thread."""

    def __init__(self, path: Path, directory: Path, compression: Compression) -> None:
        from blake3 import blake3  # noqa: PLC0415 - the pipeline's own process imports its own
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415
        from zstandard import ZstdCompressor, ZstdDecompressor  # noqa: PLC0415

        from airflow_provider_azstack.repo.blocks.heap import keep_freed_memory  # noqa: PLC0415
        from airflow_provider_azstack.repo.blocks.packs import COMPRESSION, lazy_buffer  # noqa: PLC0415

        keep_freed_memory()
        self._disk = FileDisk(path)
        self._directory = directory
        self._hash = blake3
        self._cipher = AESGCM(bytes(32))
        self._compressor = ZstdCompressor(compression_params=COMPRESSION[compression])
        self._decompressor = ZstdDecompressor()
        self._zeros = bytearray(BLOCK)
        self._buffer = lazy_buffer(READ)
        self._sealed = lazy_buffer(READ + 4096)
        self._opened = lazy_buffer(BLOCK)
        self._pack = lazy_buffer(PACK)
        self._packed = 0
        self.spent: dict[str, float] = {}
        self.data_bytes = self.stored_bytes = 0

    def run(self) -> None:
        """Do everything to every block, and count the time of each call."""
        with tempfile.TemporaryDirectory(dir=self._directory) as name:
            for number, (offset, length) in enumerate(blocks(self._disk)):
                data = self._buffer[:length]
                self._timed("read", lambda: self._disk.read_into(offset, data))  # noqa: B023
                for start in range(0, length, BLOCK):
                    self._block(data[start : start + BLOCK], Path(name), number)
            self._write(Path(name) / "last")

    def _block(self, data: memoryview, directory: Path, number: int) -> None:
        if self._timed("zero check", lambda: self._zeros == data):
            return
        self.data_bytes += len(data)
        key = bytes(32)
        self._timed("id", lambda: self._hash(data, key=key).digest())
        packed = self._timed("compress", lambda: self._compressor.compress(data))
        if len(packed) >= len(data):
            packed = data
        nonce, sealed = bytes(12), self._sealed[: len(packed) + 16]
        self._timed("encrypt", lambda: self._cipher.encrypt_into(nonce, packed, b"", sealed))
        plain = self._opened[: len(packed)]
        self._timed("decrypt", lambda: self._cipher.decrypt_into(nonce, sealed, b"", plain))
        again = plain
        if packed is not data:
            again = self._timed("decompress", lambda: self._decompressor.decompress(plain))
        self._timed("id again", lambda: self._hash(again, key=key).digest())
        if self._packed + len(sealed) > PACK:
            self._write(directory / f"{number}")
        self._packed += len(sealed)
        self.stored_bytes += len(sealed)

    def _write(self, path: Path) -> None:
        def write() -> None:
            with path.open("wb", buffering=0) as file:
                file.write(self._pack[: self._packed])
                os.fsync(file.fileno())

        def read() -> None:
            with path.open("rb", buffering=0) as file:
                file.readinto(self._pack[: self._packed])

        self._timed("write", write)
        self._timed("read packs", read)
        self._packed = 0

    def _timed(self, stage: str, work: Callable[[], T]) -> T:
        began = time.thread_time()
        result = work()
        self.spent[stage] = self.spent.get(stage, 0.0) + time.thread_time() - began
        return result


def primitives(path: Path, directory: Path, compression: Compression) -> dict[str, float]:
    """Return the CPU-seconds of each primitive per GiB of data, and how many times less is left."""
    bare = Primitives(path, directory, compression)
    bare.run()
    found = {stage: spent * 1024 * MIB / bare.data_bytes for stage, spent in bare.spent.items()}
    return {**found, "ratio": bare.data_bytes / bare.stored_bytes}


def pipeline(path: Path, directory: Path, compression: Compression) -> dict[str, float]:
    """Return the CPU-seconds per GiB of a first backup, and of reading all of it."""
    from airflow_provider_azstack.repo.images.reader import ImageReader  # noqa: PLC0415

    session = opened(directory).open_session("benchmark")
    disk = FileDisk(path)
    image, stored = measured(lambda: back_up(session, disk, "first", compression=compression))

    def read() -> int:
        pieces = ImageReader(image, session.reader()).stream()
        return sum(piece.length for piece in pieces if piece.data is not None)

    data_bytes, streamed = measured(read)
    session.close()
    return {
        "pipeline": stored["cpu_seconds"] * 1024 * MIB / data_bytes,
        "stream": streamed["cpu_seconds"] * 1024 * MIB / data_bytes,
    }


def rounds(options: argparse.Namespace) -> Iterator[dict[str, float]]:
    """Yield what each round found."""
    for _ in range(options.rounds):
        found: dict[str, float] = {}
        for what in ("primitives", "pipeline"):
            with tempfile.TemporaryDirectory(dir=options.directory) as name:
                if what == "pipeline":
                    create(Path(name))
                how = ("--directory", name, "--compression", options.compression)
                found |= answer(__file__, options.data, "--what", what, *how)
        yield found


def table(title: str, stages: tuple[str, ...], found: dict[str, float]) -> float:
    """Print stages and their sum; return that."""
    print(f"\n{title:<44}CPU-s/GiB")
    for stage in stages:
        print(f"  {stage:<42}{found[stage]:>9.3f}")
    return sum(found[stage] for stage in stages)


def main() -> int:
    """Measure, print, and fail when the bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path, help="directory that make_dataset.py filled")
    parser.add_argument("--directory", type=Path, help="where repositories are made and deleted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compression", choices=get_args(Compression), default="standard")
    parser.add_argument("--what", choices=("primitives", "pipeline"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what:
        measure = primitives if options.what == "primitives" else pipeline
        disk = options.data / "base.img"
        print(json.dumps(measure(disk, options.directory, options.compression)))
        return 0
    runs = list(rounds(options))
    found = {stage: median(run[stage] for run in runs) for stage in runs[0]}
    print(f"{found['ratio']:.2f} times less is stored: {options.compression}")
    storing = table("to store a block", WRITING, found)
    checking = table("to check it before it leaves", CHECKING, found)
    print(f"\n{'sum':<44}{storing + checking:>9.3f}")
    print(f"{'a first backup':<44}{found['pipeline']:>9.3f}")
    ratio = median(run["pipeline"] / sum(run[s] for s in WRITING + CHECKING) for run in runs)
    bare = median(run["pipeline"] / sum(run[s] for s in WRITING) for run in runs)
    print(f"{'ratio':<44}{ratio:>9.2f}   (without the check in the sum: {bare:.2f})")
    reading = table("to read it back", READING, found)
    back = median(run["stream"] / sum(run[s] for s in READING) for run in runs)
    print(f"\n{'sum':<44}{reading:>9.3f}")
    print(f"{'a disk in order':<44}{found['stream']:>9.3f}")
    print(f"{'ratio':<44}{back:>9.2f}")
    return 1 if missed({f"pipeline <= {BAR} of its primitives": ratio <= BAR}) else 0


if __name__ == "__main__":
    sys.exit(main())
