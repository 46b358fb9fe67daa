"""
A backup host as a process of its own, which streams one disk out of a file.

The test that starts it says when it begins, and may kill it at any moment. ``FileDisk``, ``stream``
and ``publish`` are also for the test's own process, where a completion or the next run happens.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import msgspec
from support import points
from support.repositories import PASSPHRASE, small_packs

from airflow_provider_azstack.errors import ChangesUnknown
from airflow_provider_azstack.model import Extent, Image, RestorePoint
from airflow_provider_azstack.repo.blocks import segments
from airflow_provider_azstack.repo.copies.image import image_blocks
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sessions import Session
from airflow_provider_azstack.store.base import Buffer, Store
from airflow_provider_azstack.store.guard import StoreWrapper
from airflow_provider_azstack.store.local import LocalStore

PURPOSE = "backup of stack.example by nightly"
STEP = 64 * 1024  # disks are told about in extents of this size
TESTS = Path(__file__).parents[1]


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a host is to do with one VM of one disk."""

    store: str
    disk: str
    before: str = ""  # the disk at an earlier backup, "" when there was none
    run: str
    number: int
    day: int = 0
    session: str = ""  # to be joined; "": do the whole run, from a new session to its end
    pause: float = 0.0  # seconds, before and after each object that is put


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a host reports; the times are of the clock that all processes share."""

    begun: float
    ended: float
    image: str
    point: str = ""


class SlowStore(StoreWrapper):
    """A store that takes its time, so that a run has many moments that differ."""

    def __init__(self, inner: Store, pause: float) -> None:
        super().__init__(inner)
        self._pause = pause

    def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
        time.sleep(self._pause)
        self.inner.put(name, data)
        time.sleep(self._pause)


class FileDisk:
    """A disk in a file."""

    def __init__(self, task: Task) -> None:
        self.path = Path(task.disk)
        self.size_bytes = self.path.stat().st_size
        self._before = Path(task.before) if task.before else None

    def footer(self) -> bytes:
        return b""

    def allocated(self, offset: int, length: int) -> list[Extent]:
        return self._differing(None, offset, length)

    def changed(self, offset: int, length: int) -> list[Extent]:
        if self._before is None:
            raise ChangesUnknown("no reference snapshot")
        return self._differing(self._before, offset, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        with self.path.open("rb") as file:
            file.seek(offset)
            assert file.readinto(buffer) == len(buffer)

    def _differing(self, other: Path | None, offset: int, length: int) -> list[Extent]:
        """Return the steps that are not as in another file, or not zero."""
        content = self.path.read_bytes()
        old = other.read_bytes() if other else bytes(len(content))
        starts = range(offset - offset % STEP, offset + length, STEP)
        return [
            Extent(start, STEP, not any(content[start : start + STEP]))
            for start in starts
            if content[start : start + STEP] != old[start : start + STEP]
        ]


def stream(session: Session, task: Task) -> Image:
    """Claim the VM and back its disk up."""
    key = points.vm_key(task.number)
    session.claim(key)
    return points._image(
        small_packs(session),
        "os",
        FileDisk(task),
        run=task.run,
        key=key,
        day=task.day,
        incremental=bool(task.before),
    )


def publish(session: Session, image: Image, task: Task) -> RestorePoint:
    """Complete the VM's backup."""
    session.verify_present(image_blocks(session.reader(), image))
    latest = session.repository.latest_point(points.vm_key(task.number))
    point = points._point(
        session,
        [image],
        run=task.run,
        policy="nightly",
        number=task.number,
        day=task.day,
        previous=latest.id if latest else "",
    )
    return session.publish(point)


def whole_run(repository: Repository, task: Task) -> RestorePoint:
    """Do a run from its first step to its last; what an earlier one left is fenced."""
    for left, info in repository.sessions().items():
        if info and info.purpose == PURPOSE:
            repository.fence(left)
    session = repository.open_session(PURPOSE, run=task.run)
    try:
        point = publish(session, stream(session, task), task)
        session.put_job(points._job(session, point, task.number))
    finally:
        session.close()
    return point


class Host:
    """The process, as its parent sees it."""

    def __init__(self, task: Task) -> None:
        search = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "support.stream_host", msgspec.json.encode(task).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, search))},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def await_ready(self) -> None:
        assert self.process.stdout.readline() == b"ready\n"

    def begin(self) -> None:
        self.process.stdin.write(b"begin\n")
        self.process.stdin.flush()

    def result(self) -> Result | None:
        """Wait for its end and return what it reported, if it came to that."""
        reported, _ = self.process.communicate(timeout=240)
        return msgspec.json.decode(reported, type=Result) if reported else None


def main(task: Task) -> None:
    """Get ready, wait for the word, work, report."""
    segments.PACKS_PER_SEGMENT = 2  # more moments that differ
    repository = Repository.open(SlowStore(LocalStore(task.store), task.pause), PASSPHRASE)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    assert sys.stdin.readline() == "begin\n"
    begun, point = time.monotonic(), ""
    if task.session:
        image = stream(repository.join_session(task.session), task).name
    else:
        published = whole_run(repository, task)
        image, point = published.images[0].image, published.id
    result = Result(begun=begun, ended=time.monotonic(), image=image, point=point)
    sys.stdout.buffer.write(msgspec.json.encode(result))


if __name__ == "__main__":
    main(msgspec.json.decode(sys.argv[1], type=Task))
