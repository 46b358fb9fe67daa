"""
Checking every object that is not a pack.

Owns which kinds of objects there are and how each shows that it is whole; knows nothing of blocks.
Invariant: an object that vanishes while we look is no damage, an unreadable one always is, and
none stops the others from being looked at.
"""

from collections.abc import Callable, Container, Iterator
from contextlib import closing
from typing import NamedTuple

from airflow_provider_azstack.errors import (
    IncompatibleRepository,
    IntegrityError,
    ObjectNotFound,
    StoreError,
)
from airflow_provider_azstack.model import Image, JobRecord, Manifest, RestorePoint, SnapshotSet
from airflow_provider_azstack.repo import sessions
from airflow_provider_azstack.repo.blocks import segments
from airflow_provider_azstack.repo.parallel import in_parallel
from airflow_provider_azstack.repo.points import census, flags, holds
from airflow_provider_azstack.repo.repository import JOB_THREADS, Repository
from airflow_provider_azstack.repo.sealing.crypto import MAX_KEY_OBJECT_BYTES
from airflow_provider_azstack.repo.sealing.records import (
    BadBlocks,
    Census,
    ForgottenPoints,
    Hold,
    Records,
)
from airflow_provider_azstack.repo.verify.findings import Finding
from airflow_provider_azstack.repo.verify.ledger import PREFIX as LEDGER
from airflow_provider_azstack.repo.verify.ledger import Verified
from airflow_provider_azstack.store.base import ObjectInfo

_BROKEN = (IntegrityError, StoreError, IncompatibleRepository)
POINTS = "points/"
JOBS = "jobs/"


class Named(NamedTuple):
    """A restore point, or why it cannot be read."""

    name: str
    point: RestorePoint | None
    problem: str = ""


def check_others(
    records: Records, threads: int, seen: Container[str] = frozenset()
) -> Iterator[Finding]:
    """
    Yield the objects that are damaged, points and packs apart.

    :param seen: names of objects that were looked at already.
    """
    kinds = _kinds(records)
    infos = (
        info
        for prefix in kinds
        for info in sorted(records.store.list(prefix))
        if info.name not in seen
    )

    def check(info: ObjectInfo) -> Finding | None:
        return _problem(info, kinds[info.name.partition("/")[0] + "/"])

    with closing(in_parallel(check, infos, threads)) as found:
        yield from filter(None, found)


def missing_points(repository: Repository) -> Iterator[str]:
    """Yield, as ``<vm>/<point>``, points that were there and that nobody forgot on purpose."""
    try:
        expected = census.recorded(repository)
        for job in repository.records.all(JOBS, JobRecord, threads=JOB_THREADS):
            expected.update(f"{vm.key}/{vm.point}" for vm in job.vms if vm.point)
        listed = {info.name.removeprefix(POINTS) for info in repository.store.list(POINTS)}
        # Read last: who forgets puts the note before he deletes.
        yield from sorted(expected - listed - census.forgotten(repository))
    except _BROKEN:
        return  # the unreadable record is found with the others, and named there


def read_points(records: Records, threads: int) -> Iterator[Named]:
    """Yield all restore points by VM, each VM's oldest first."""

    def read(info: ObjectInfo) -> Named | None:
        try:
            point = records.get(info.name, RestorePoint)
        except ObjectNotFound:
            return None
        except _BROKEN as error:
            return Named(info.name, None, str(error))
        return Named(info.name, point)

    points = sorted(records.store.list(POINTS))
    with closing(in_parallel(read, points, threads, ahead_of_each=2)) as found:
        yield from filter(None, found)


def _kinds(records: Records) -> dict[str, Callable[[ObjectInfo], object]]:
    keys, store = records.keys, records.store

    def sealed(kind: type) -> Callable[[ObjectInfo], object]:
        return lambda info: records.get(info.name, kind)

    return {
        "keys/": lambda info: keys.read_wrapped(
            store.get(info.name, MAX_KEY_OBJECT_BYTES), info.name
        ),
        sessions.PREFIX: lambda info: sessions.parse_session(
            store.get(info.name, sessions.MAX_SESSION_BYTES), info.name
        ),
        segments.PREFIX: lambda info: segments.get(records, info.name),
        sessions.CONDEMNED: lambda info: records.get_bytes(info.name),
        sessions.BAD: sealed(BadBlocks),
        LEDGER: sealed(Verified),
        JOBS: sealed(JobRecord),
        "images/": sealed(Image),
        "sets/": sealed(SnapshotSet),
        "manifests/": sealed(Manifest),
        census.CENSUS: sealed(Census),
        census.FORGOTTEN: sealed(ForgottenPoints),
        holds.PREFIX: sealed(Hold),
        flags.PREFIX: sealed(flags.Flag),
    }


def _problem(info: ObjectInfo, check: Callable[[ObjectInfo], object]) -> Finding | None:
    try:
        check(info)
    except ObjectNotFound:
        return None
    except _BROKEN as error:
        return Finding(object=info.name, problem=str(error))
    return None
