#!/usr/bin/env python3
"""
Measure what a repository costs that is far away: in a bucket that lets every answer wait.

Each step is a process of its own, from opening the repository (its passphrase at full cost) to its
end, through obstore against ``bucket_server.py``; that shares the machine and is not counted. What
the table shows of a step is its seconds at each latency, and how often it asked, by verb. There are
100 VMs with a backup of the day before, three disks each, besides the disks of ``make_dataset.py``,
of which 256 MiB of data are enough:

    python benchmarks/make_dataset.py /some/directory --data-mib 256 --disk-mib 640
    python benchmarks/far_store.py /some/directory --directory /dev/shm
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from bucket_server import bucket, reached
from processes import answer, measured
from records import VM, back_up, create, image_name, opened, publish
from scale import STARTED, Paths, prepare_job, require
from sources import FileDisk

from airflow_provider_azstack.engine.backup.complete import complete
from airflow_provider_azstack.engine.export.disk import DiskExport
from airflow_provider_azstack.model import Job, Manifest, from_json
from airflow_provider_azstack.repo.copies.sync import Selection, sync
from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.points.forget import forget
from airflow_provider_azstack.repo.prune.collector import prune
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.verify.verification import verify

VERBS = ("LIST", "HEAD", "GET", "PUT", "DELETE")

Step = Callable[[argparse.Namespace, Repository], object]


def backed_up(disk: str, run: str, based_on: str = "", *, is_told: bool = True) -> Step:
    """Return the backup of a disk, up to its restore point."""

    def step(options: argparse.Namespace, repository: Repository) -> None:
        source = FileDisk(options.data / f"{disk}.img")
        if not is_told:
            source._changes = None  # noqa: SLF001 - a stack that cannot tell
        with closing(repository.open_session("benchmark", run=run)) as session:
            publish(session, back_up(session, source, run, based_on))

    return step


def writing_begun(_: argparse.Namespace, repository: Repository) -> None:
    """Begin and end a session that could write: what each task does besides its work."""
    with closing(repository.open_session("benchmark")) as session, session.writer():
        pass


def completed(options: argparse.Namespace, repository: Repository) -> None:
    """Complete the job of the 100 VMs."""
    lines = (options.work / "job").read_bytes().splitlines()
    job = from_json(Job, lines[0], "job")
    manifests = tuple(from_json(Manifest, line, "manifest") for line in lines[1:])
    with closing(repository.join_session(job.session)) as session:
        record = complete(session, job, manifests, started_at=STARTED)
    require(record.status == "done", str(record.vms[0]))


def exported(options: argparse.Namespace, repository: Repository) -> None:
    """Write the disk into a file."""
    image = repository.image(image_name("day"))
    DiskExport(image, ImageReader(image, repository.reader()), "raw").to_file(options.work / "out")


def copied(options: argparse.Namespace, repository: Repository) -> None:
    """Copy the disk's restore points to a repository on this machine."""
    near = options.work / "copied"
    near.mkdir()
    create(near)
    with closing(opened(near)) as other:
        outcomes = sync(repository, other, Selection(vms=[VM]))
    require(len(outcomes) == 3, "copies")


def listed(_: argparse.Namespace, repository: Repository) -> None:
    """List all restore points."""
    require(len(repository.points()) > 100, "points")


def verified(mode: Any) -> Step:
    """Return a verification."""
    return lambda _, repository: require(
        verify(repository, mode, progress=lambda _: None).is_sound, "sound"
    )


def forgotten(_: argparse.Namespace, repository: Repository) -> None:
    """Forget the first point of the disk."""
    first = min(point.id for point in repository.points(VM))
    forget(repository, [(VM, first)])


def pruned(_: argparse.Namespace, repository: Repository) -> None:
    """Delete what nothing needs."""
    require(not prune(repository).dry_run, "pruned")


STEPS: dict[str, Step] = {
    "session, cold": writing_begun,
    "session, warm": writing_begun,
    "first backup": backed_up("base", "first"),
    "day, told": backed_up("day", "day", "first"),
    "day, compared": backed_up("scattered", "compared", "first", is_told=False),
    "completion": completed,
    "export": exported,
    "copy": copied,
    "points": listed,
    "structure": verified("structure"),
    "full": verified("full"),
    "forget": forgotten,
    "prune": pruned,
}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Do one step in this process, and return what it cost."""

    def work() -> None:
        cache = options.work / "cache" if "session" in options.step else None
        with closing(opened(reached(options.port), cache_directory=cache)) as repository:
            STEPS[options.step](options, repository)

    return measured(work)[1]


def run(latency_ms: int, options: argparse.Namespace, prepared: Path) -> dict[str, Any]:
    """Measure every step at one latency, in a copy of what was prepared."""
    results = {}
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="far-") as name:
        shutil.copytree(prepared, name, dirs_exist_ok=True)
        with bucket(Path(name) / "repository", latency_ms) as server:
            for step in options.steps:
                what = ("--work", name, "--port", server.port, "--step", step)
                found = answer(__file__, options.data, *what)
                results[step] = {**found, "asked": server.counts()}
    return results


def report(results: dict[int, dict[str, Any]]) -> None:
    """Print the table; the requests are those of the last latency."""
    print(f"{'seconds at ms':<15}" + "".join(f"{ms:>8}" for ms in results)
          + f"{'CPU-s':>8}{'MiB':>6}" + "".join(f"{verb:>8}" for verb in VERBS))  # fmt: skip
    for step, found in list(results.values())[-1].items():
        seconds = "".join(f"{steps[step]['seconds']:>8.2f}" for steps in results.values())
        asked = "".join(f"{found['asked'].get(verb, 0):>8}" for verb in VERBS)
        print(f"{step:<15}{seconds}{found['cpu_seconds']:>8.2f}{found['peak_mib']:>6.0f}{asked}")


def main() -> int:
    """Measure all, or be one of the processes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path, help="directory that make_dataset.py filled")
    parser.add_argument("--directory", type=Path, help="where repositories are made and deleted")
    parser.add_argument("--latency", type=int, nargs="+", default=[0, 10, 30], help="ms")
    parser.add_argument("--vms", type=int, default=100)
    parser.add_argument("--steps", choices=STEPS, nargs="+", default=list(STEPS), metavar="STEP")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(measure(options)))
        return 0
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="far-") as name:
        prepared = Path(name)
        prepare_job(options.vms, Paths(prepared / "repository", prepared / "job"), filled=0.0)
        shutil.rmtree(prepared / "repository/jobs")  # of points that never were
        report({ms: run(ms, options, prepared) for ms in options.latency})
    return 0


if __name__ == "__main__":
    sys.exit(main())
