#!/usr/bin/env python3
"""
What a repository of ten million blocks costs by the block, held to bars: ``blocks.py``.

Its blocks are those of disks of 1 TiB, 80 in a pack as real ones, and every one is needed by a
restore point. Their packs are files of holes and their segments are written directly, so that ten
terabytes take a minute and a gigabyte to make; only the groups of runs are real blocks. Every
measurement is a process of its own that opens the repository with a passphrase at full cost. Let
``--directory`` be in memory, or it is the disk that is measured.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from processes import answer, peak_mib
from records import MIB, VM, back_up, create, image_name, opened, publish, snapshot_of

from airflow_provider_azstack.model import Extent, Image
from airflow_provider_azstack.repo.blocks import segments
from airflow_provider_azstack.repo.blocks.packs import (
    BLOCK_SIZE,
    HEADER_BYTES,
    OWNER_BYTES,
    RECORD_BYTES,
    Entry,
    PackContents,
    owner_of,
    pack_name,
    size_of_pack,
)
from airflow_provider_azstack.repo.blocks.writer import BlockWriter
from airflow_provider_azstack.repo.images.runs import BLOCK_ID_BYTES, REGION_BYTES, Run, store_runs
from airflow_provider_azstack.repo.prune.collector import prune
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sealing.crypto import ID_BYTES
from airflow_provider_azstack.repo.sessions import Session
from airflow_provider_azstack.repo.verify.verification import verify

BLOCKS = 10_000_000
BLOCKS_OF_DISK = 2**20  # 1 TiB
SEALED_BYTES = 400 * 1024
BLOCKS_OF_PACK = 80
# What a collection leaves of them; a run's own segments are smaller.
PACKS_OF_SEGMENT = segments.BLOCKS_PER_SEGMENT // BLOCKS_OF_PACK
_CELLS = REGION_BYTES // BLOCK_SIZE
_RECORD_BYTES = RECORD_BYTES + SEALED_BYTES
CHANGED_BYTES = 64 * MIB
STREAM_MIB = 300
COLLECTOR_MIB = 1024


class Changes:
    """A disk of which a little changed."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    def footer(self) -> bytes:
        """Return no footer."""
        return b""

    def allocated(self, offset: int, length: int) -> list[Extent]:
        """Return that all of it holds data."""
        return [Extent(offset, length)]

    def changed(self, offset: int, length: int) -> list[Extent]:
        """Return 64 MiB, spread over all of it."""
        step = self.size_bytes // (CHANGED_BYTES // MIB) // MIB * MIB
        starts = range(-(-offset // step) * step, offset + length, step)
        return [Extent(start, MIB) for start in starts]

    def read_into(self, _offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with what was never there."""
        buffer[:] = os.urandom(len(buffer))


def fill(repository: Repository, blocks: int) -> None:
    """Store disks that have ``blocks`` blocks together, and publish a restore point of each."""
    directory = directory_of(repository)
    session = repository.open_session("benchmark", run="fill")
    for number, first in enumerate(range(0, blocks, BLOCKS_OF_DISK)):
        count = min(BLOCKS_OF_DISK, blocks - first)
        ids = store_packs(repository, directory, session, count)
        run = f"disk-{number}"
        with session.writer() as writer:
            regions = tuple(_regions(writer, ids, count))
            writer.flush()
        image = Image(
            name=image_name(run),
            run=run,
            vm_key=VM,
            set_id=run,
            snapshot=snapshot_of(count * BLOCK_SIZE),
            size_bytes=count * BLOCK_SIZE,
            region_bytes=REGION_BYTES,
            regions=regions,
            changes_known="allocated",
            changed_bytes=0,
            read_bytes=0,
            stored_bytes=0,
            seconds=0.0,
        )
        session.put_image(image)
        publish(session, image)
    session.close()


def store_packs(
    repository: Repository, directory: Path, session: Session, blocks: int
) -> memoryview:
    """Make packs of holes and the segments that list them; return the ids of their blocks."""
    ids = memoryview(os.urandom(blocks * BLOCK_ID_BYTES))
    owner = owner_of(session.id)
    gathered: list[PackContents] = []
    for first in range(0, blocks, BLOCKS_OF_PACK):
        entries = [
            Entry(
                bytes(ids[number * BLOCK_ID_BYTES : (number + 1) * BLOCK_ID_BYTES]),
                HEADER_BYTES + (number - first) * _RECORD_BYTES,
                SEALED_BYTES,
                BLOCK_SIZE,
            )
            for number in range(first, min(first + BLOCKS_OF_PACK, blocks))
        ]
        size = size_of_pack(len(entries) * _RECORD_BYTES, len(entries))
        contents = PackContents(os.urandom(ID_BYTES - OWNER_BYTES) + owner, size, entries)
        _put_holes(directory / pack_name(contents.pack), size)
        gathered.append(contents)
        if len(gathered) == PACKS_OF_SEGMENT:
            segments.put(repository.records, gathered)
            gathered = []
    if gathered:
        segments.put(repository.records, gathered)
    return ids


def _put_holes(path: Path, size_bytes: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.truncate(size_bytes)


def _regions(writer: BlockWriter, ids: memoryview, blocks: int) -> Iterator[bytes | None]:
    for first in range(0, blocks, _CELLS):
        numbers = range(first, min(first + _CELLS, blocks))
        runs = [
            Run(
                (number - first) * BLOCK_SIZE,
                BLOCK_SIZE,
                bytes(ids[number * BLOCK_ID_BYTES : (number + 1) * BLOCK_ID_BYTES]),
            )
            for number in numbers
        ]
        yield store_runs(writer, runs)[0]


def open_session(repository: Repository) -> dict[str, Any]:
    """Open a session as a stream does, up to the first writer."""
    session = repository.open_session("benchmark")
    session.writer().abort()
    session.close()
    return {}


def stream(repository: Repository) -> dict[str, Any]:
    """Back up a day of a disk of 1 TiB."""
    session = repository.open_session("benchmark", run="day")
    disk = Changes(repository.image(image_name("disk-0")).size_bytes)
    image = back_up(session, disk, "day", "disk-0", trust="difference")
    session.close()
    return {"changed": image.changed_bytes}


def ask(repository: Repository) -> dict[str, Any]:
    """Ask the index for blocks that it has not, as a backup by content does."""
    session = repository.open_session("benchmark")
    session.writer().abort()
    index = session._own_index()  # noqa: SLF001 - the part that is measured
    started = time.perf_counter()
    count = 20_000
    for _ in range(count):
        index.usable(os.urandom(BLOCK_ID_BYTES))
    a_second = count / (time.perf_counter() - started)
    session.close()
    return {"a_second": a_second}


def check(repository: Repository) -> dict[str, Any]:
    """Verify the structure."""
    report = verify(repository, "structure", progress=lambda _: None)
    if not report.is_sound:
        raise SystemExit(report.summary())
    return {"groups": report.groups}


def collect(repository: Repository) -> dict[str, Any]:
    """Delete the blocks that nobody needs."""
    report = prune(repository)
    return {"packs": report.packs, "freed_bytes": report.freed_bytes}


def litter(repository: Repository) -> dict[str, Any]:
    """Leave what a run that died leaves: a tenth of a disk, in no restore point."""
    session = repository.open_session("benchmark", run="died")
    blocks = len(repository.image(image_name("disk-0")).regions) * _CELLS // 10
    store_packs(repository, directory_of(repository), session, blocks)
    session.close()
    return {}


def directory_of(repository: Repository) -> Path:
    """Return where a local repository is."""
    return Path(repository.store.url.removeprefix("file://"))


class Step(NamedTuple):
    """Something that is measured, and what it may take."""

    work: Callable[[Repository], dict[str, Any]]
    seconds: float = float("inf")
    peak_mib: float = float("inf")


STEPS = {
    "cold": Step(open_session, peak_mib=STREAM_MIB),
    "warm": Step(open_session, seconds=1.5, peak_mib=STREAM_MIB),
    "ask": Step(ask, peak_mib=STREAM_MIB),
    "stream": Step(stream, peak_mib=STREAM_MIB),
    "structure": Step(check, peak_mib=COLLECTOR_MIB),
    "litter": Step(litter),
    "prune": Step(collect, peak_mib=COLLECTOR_MIB),
}


def measure(step: str, options: argparse.Namespace) -> dict[str, Any]:
    """Do a step in this process, and return what it took."""
    started = time.perf_counter()
    if step == "fill":
        fill(opened(options.repository), options.blocks)
        return {}
    repository = opened(options.repository, cache_directory=options.cache)
    found = STEPS[step].work(repository)
    repository.close()
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time(),
        "peak_mib": peak_mib(),
        **found,
    }


def in_a_process(step: str, directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Do a step in a process of its own."""
    where = ("--repository", directory / "repository", "--cache", directory / "cache")
    return answer(__file__, "--step", step, "--blocks", options.blocks, *where)


def main() -> int:
    """Measure, print, and fail when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="where the repository is made and deleted")
    parser.add_argument("--blocks", type=int, default=BLOCKS)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--repository", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(measure(options.step, options)))
        return 0
    missed = 0
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="blocks-") as name:
        directory = Path(name)
        (directory / "repository").mkdir()
        create(directory / "repository")
        in_a_process("fill", directory, options)
        print(f"{options.blocks:,} blocks\n{'':<10}{'seconds':>9}{'CPU s':>8}{'peak MiB':>10}")
        for what, step in STEPS.items():
            found = in_a_process(what, directory, options)
            seconds, cpu, peak = (found.pop(k) for k in ("seconds", "cpu_seconds", "peak_mib"))
            holds = seconds <= step.seconds and peak <= step.peak_mib
            missed += not holds
            more = "  ".join(f"{key}: {value:,.0f}" for key, value in found.items())
            print(
                f"{what:<10}{seconds:>9.2f}{cpu:>8.2f}{peak:>10.0f}  "
                f"{'' if holds else 'MISSED  '}{more}",
                flush=True,
            )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
