#!/usr/bin/env python3
"""
Measure the backup of a disk into a local encrypted repository, and hold it to the bars.

Every measurement is a process of its own, so that its CPU time and its peak memory are honest;
both include opening the repository with a passphrase at full cost. ``make_dataset.py`` makes the
disks. The server of the HTTP source is another process, and not counted.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

MIB = 1024**2
TIB = 1024**4
PASSPHRASE = "only the benchmark's"  # noqa: S105 - its repository is deleted with it
STEPS = (
    # name, disk, based on
    ("first", "base", None),
    ("unchanged", "base", "first"),
    ("everything", "base", "first"),
    ("scattered", "scattered", "first"),
    ("clustered", "clustered", "first"),
    ("again", "base", None),  # another disk of the same content,
    ("terabyte", "base", None),  # and one on which it is the first of 1 TiB
)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Back up one disk in this process, and return what it cost."""
    from records import VM, image_name, snapshot_of  # noqa: PLC0415 - they belong to the measurement
    from sources import FileDisk, HttpDisk  # noqa: PLC0415

    from airflow_provider_azstack.engine.backup.disk import back_up_disk  # noqa: PLC0415
    from airflow_provider_azstack.repo.repository import Repository  # noqa: PLC0415
    from airflow_provider_azstack.secret import Secret  # noqa: PLC0415
    from airflow_provider_azstack.store.local import LocalStore  # noqa: PLC0415

    path = options.data / f"{options.disk}.img"
    url = f"http://127.0.0.1:{options.port}/"
    disk = HttpDisk(path, url, options.readers) if options.port else FileDisk(path)
    if options.step == "unchanged":
        disk._changes = []  # noqa: SLF001 - a reference that says "nothing"
    if options.step == "terabyte":
        disk.size_bytes = TIB
    repository = Repository.open(LocalStore(options.repository), Secret(PASSPHRASE))
    session = repository.open_session("benchmark")
    started, cpu = time.perf_counter(), time.process_time()
    image = back_up_disk(
        disk,
        session,
        name=image_name(options.step),
        run=options.step,
        vm_key=VM,
        set_id=options.step,
        snapshot=snapshot_of(disk.size_bytes),
        previous=repository.image(image_name(options.based_on)) if options.based_on else None,
        trust="everything" if options.step == "everything" else "difference",
        readers=options.readers,
    )
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    session.close()
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_mib": peak_mib(),
        "known": image.changes_known,
        "changed": image.changed_bytes,
        "read": image.read_bytes,
        "stored": image.stored_bytes,
    }


def peak_mib() -> float:
    """Return this process's peak resident memory; ``ru_maxrss`` would count its parent's too."""
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@contextmanager
def server(image: Path) -> Iterator[int]:
    """Serve an image's ranges from another process, and yield the port."""
    script = Path(__file__).with_name("sources.py")
    command = [sys.executable, str(script), str(image)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def environment() -> dict[str, str]:
    """Return the environment of the processes that are measured."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}


def create(directory: Path) -> None:
    """Create the repository, in a process of its own like everything else."""
    code = (
        "import sys; from pathlib import Path\n"
        "from airflow_provider_azstack.repo.repository import Repository\n"
        "from airflow_provider_azstack.secret import Secret\n"
        "from airflow_provider_azstack.store.local import LocalStore\n"
        "Repository.create(LocalStore(Path(sys.argv[1])), Secret(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", code, str(directory), PASSPHRASE]
    subprocess.run(command, check=True, env=environment())


def stored_bytes(directory: Path) -> int:
    """Return the size of everything in the repository, metadata included."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def run_steps(options: argparse.Namespace, source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure every step from one kind of source into a fresh repository."""
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="backup-") as name:
        directory = Path(name)
        create(directory)
        for step, disk, based_on in STEPS:
            before = stored_bytes(directory)
            command = [sys.executable, __file__, str(options.data), "--step", step, "--disk", disk]
            command += ["--repository", name, "--readers", str(options.readers)]
            command += ["--based-on", based_on or ""]
            with server(options.data / f"{disk}.img") as port:
                command += ["--port", str(port if source == "http" else 0)]
                done = subprocess.run(
                    command, check=True, stdout=subprocess.PIPE, env=environment()
                )
            result = json.loads(done.stdout)
            yield step, {**result, "grown": stored_bytes(directory) - before}


def report(source: str, results: dict[str, dict[str, Any]]) -> list[str]:
    """Print one source's table, and return the bars that do not hold."""
    print(
        f"\n{source:<11}{'known':>11}{'data MiB':>10}{'seconds':>9}{'MiB/s':>7}"
        f"{'CPU s':>7}{'CPU-s/GiB':>11}{'read MiB':>10}"
        f"{'grown MiB':>11}{'ratio':>7}{'peak MiB':>10}"
    )
    for step, r in results.items():
        data = r["changed"] / MIB
        print(
            f"{step:<11}{r['known']:>11}{data:>10.1f}{r['seconds']:>9.2f}"
            f"{data / r['seconds']:>7.0f}{r['cpu_seconds']:>7.2f}"
            f"{r['cpu_seconds'] / max(data, 1) * 1024:>11.2f}{r['read'] / MIB:>10.1f}"
            f"{r['grown'] / MIB:>11.2f}{r['grown'] / max(r['changed'], 1):>7.2f}"
            f"{r['peak_mib']:>10.0f}"
        )
    first, scattered = results["first"], results["scattered"]
    bars = {
        "first backup >= 400 MiB/s": first["changed"] / MIB / first["seconds"] >= 400,
        "first backup <= 6 CPU-s/GiB": first["cpu_seconds"] <= 6 * first["changed"] / 1024**3,
        "peak memory < 300 MiB": max(r["peak_mib"] for r in results.values()) < 300,
        "scattered stores <= 1.2x": scattered["grown"] <= 1.2 * scattered["changed"],
        "1 TiB costs what its data cost": results["terabyte"]["cpu_seconds"]
        < 1.25 * results["again"]["cpu_seconds"],
        "scattered < half the time": scattered["seconds"] < first["seconds"] / 2,
    }
    for bar, holds in bars.items():
        print(f"  {'holds ' if holds else 'MISSED'}  {bar}")
    return [f"{source}: {bar}" for bar, holds in bars.items() if not holds]


def main() -> int:
    """Measure, print, and fail when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="directory that make_dataset.py filled")
    parser.add_argument("--directory", type=Path, help="where repositories are made and deleted")
    parser.add_argument("--readers", type=int, default=8)
    for name in ("step", "disk", "based-on"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    parser.add_argument("--repository", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(measure(options)))
        return 0
    missed = []
    for source in ("file", "http"):
        missed += report(source, dict(run_steps(options, source)))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
