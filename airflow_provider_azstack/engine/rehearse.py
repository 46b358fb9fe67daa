"""
Restores on trial: a restore point into a scratch directory, checked, and taken away again.

Owns what is tried, compared and written down; knows no stack.
Invariant: what was made is removed however the trial ends, and its evidence is in the repository
whether it went well or not.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import partial
from itertools import accumulate
from pathlib import Path

from airflow_provider_azstack.engine.export.disk import Advance, DiskExport
from airflow_provider_azstack.engine.rehearse_check import checked, failed
from airflow_provider_azstack.errors import IntegrityError, ObjectNotFound
from airflow_provider_azstack.model import PointImage, RestorePoint
from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.verify.rehearsals import (
    PURPOSE,
    Rehearsal,
    RehearsedDisk,
    put,
    rehearsals,
)

_PREFIX = "azstack-rehearsal-"


def due(repository: Repository) -> list[RestorePoint]:
    """Return the newest point of every VM, those first whose last rehearsal is longest ago."""
    newest = {point.vm.key: point for point in repository.points()}
    last: dict[str, datetime] = {}
    for one in rehearsals(repository.records):
        last[one.vm_key] = max(one.started_at, last.get(one.vm_key, one.started_at))
    never = datetime.min.replace(tzinfo=UTC)
    return sorted(newest.values(), key=lambda p: (last.get(p.vm.key, never), p.taken_at, p.vm.key))


def rehearse(
    repository: Repository,
    point: RestorePoint,
    scratch: Path,
    *,
    purpose: str = PURPOSE,
    advance: Advance = lambda _position: None,
    timer: Callable[[], float] = time.monotonic,
) -> Rehearsal:
    """
    Restore all disks of a point into ``scratch``, one after the other, and put the evidence.

    :param purpose: what our session says of itself.
    :param advance: is told how many bytes of the point's disks are behind us.
    :raises StoreFull: the scratch directory has no room; that says nothing of the backup.
    """
    started_at, started = repository.now(), timer()
    session = repository.open_session(purpose)
    try:
        with _place_in(scratch) as place:
            disks = tuple(
                _rehearse_disk(repository, image, place, _beyond(advance, before))
                for image, before in zip(point.images, _positions(point), strict=False)
            )
        rehearsal = Rehearsal(
            vm_key=point.vm.key,
            vm=point.vm.name,
            point=point.id,
            taken_at=point.taken_at,
            started_at=started_at,
            seconds=timer() - started,
            disks=disks,
        )
        put(repository.records, rehearsal)
    finally:
        session.close()
    return rehearsal


@contextmanager
def _place_in(scratch: Path) -> Iterator[Path]:
    """Lend a directory of our own; those that killed rehearsals left are removed first."""
    for left in scratch.glob(f"{_PREFIX}*"):
        with suppress(OSError), _locked(left):
            shutil.rmtree(left)
    with (
        tempfile.TemporaryDirectory(dir=scratch, prefix=_PREFIX) as name,
        _locked(Path(name)),
    ):
        yield Path(name)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold a directory as long as this process lives; an OSError when another one does."""
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        flock(file, LOCK_EX | LOCK_NB)
        yield
    finally:
        os.close(file)


def _positions(point: RestorePoint) -> Iterable[int]:
    """Return what is behind us when each of a point's disks begins, and when the last ends."""
    return accumulate((part.size_bytes for part in point.images), initial=0)


def _beyond(advance: Advance, before: int) -> Advance:
    return lambda position: advance(before + position)


def _rehearse_disk(
    repository: Repository, part: PointImage, place: Path, advance: Advance
) -> RehearsedDisk:
    key = part.disk_key
    target = place / f"{key}.img"
    size_bytes = 0
    try:
        image = repository.image(part.image)
        size_bytes = image.size_bytes
        reader = ImageReader(image, repository.reader())
        DiskExport(image, reader, "raw", advance=advance).to_file(target)
        with target.open("rb") as file:
            read = partial(_pread, file.fileno())
            return checked(key, reader, size_bytes, read)
    except (IntegrityError, ObjectNotFound) as error:
        return failed(key, size_bytes, error)
    finally:
        target.unlink(missing_ok=True)


def _pread(file: int, offset: int, length: int) -> bytes:
    return os.pread(file, length, offset)
