"""
Litter: records of runs that are over and that nothing refers to any more.

Owns the rules by which images, snapshot sets, manifests, jobs' records, flags and the records of
restores go, and in which order; knows no packs and deletes nothing.
Invariant: nothing of a run that is not over, and nothing that a restore point refers to, is litter.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_azstack.errors import IntegrityError, ObjectNotFound
from airflow_provider_azstack.model import JobRecord
from airflow_provider_azstack.repo import restores
from airflow_provider_azstack.repo.points import census
from airflow_provider_azstack.repo.prune.marking import Marker
from airflow_provider_azstack.store.base import ObjectInfo

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository

# Jobs without restore points, most of them failures, that reports can still show.
JOBS_KEPT = 100  # of each policy
_STOPPING, _STARTED = ".stopping", ".started"


class Litter(NamedTuple):
    """An object that may go, and why."""

    info: ObjectInfo
    because: str


def find(
    repository: "Repository", marker: Marker, living: Collection[str] | None
) -> Iterator[Litter]:
    """
    Yield what nothing refers to.

    :param living: runs that are not over; None: unknown, then nothing of any run is litter.
    """
    yield from _flags(repository, marker)
    if living is None:
        return
    for info in repository.store.list("images/"):
        if _run(info) not in living and info.name not in marker.images:
            yield Litter(info, "no restore point has this image")
    for info in repository.store.list("manifests/"):
        if _run(info) not in living:
            yield Litter(info, "its run is over")
    yield from _sets(repository, marker, living)
    yield from _jobs(repository, marker, living)
    yield from _restores(repository, living)


def unneeded(
    repository: "Repository", names: Iterable[str], marker: Marker, living: Collection[str] | None
) -> list[str]:
    """Return which of the records that were litter still are."""
    of_restores, others = _parted(names)
    left = [name for name in others if not _is_needed(name, marker, living)]
    if of_restores and living is not None:
        needed = restores.judge(repository, living).needed
        left += [name for name in of_restores if restores.plan_of(name) not in needed]
    return left


def in_order(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return what must be gone before the others of its group go, and the others."""
    of_restores, others = _parted(names)
    first = [name for name in of_restores if restores.goes_first(name)]
    first += [name for name in others if name.endswith(_STOPPING)]
    return sorted(first), sorted({*of_restores, *others} - set(first))


def group(name: str) -> str:
    """Return what a record and those that go after it have in common."""
    if name.startswith(restores.PREFIX):
        return restores.plan_of(name)
    return name.removesuffix(_STOPPING).removesuffix(_STARTED)


def _parted(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the names of records of restores, and the others."""
    all_of_them = list(names)
    of_restores = [name for name in all_of_them if name.startswith(restores.PREFIX)]
    return of_restores, [name for name in all_of_them if not name.startswith(restores.PREFIX)]


def _is_needed(name: str, marker: Marker, living: Collection[str] | None) -> bool:
    kind, _, rest = name.partition("/")
    if kind == "flags":
        return rest in marker.points
    of_living = living is None or rest.partition("/")[0] in living
    return of_living or name in marker.images or name in marker.sets


def _restores(repository: "Repository", living: Collection[str]) -> Iterator[Litter]:
    because = f"its restore ended more than {restores.KEPT.days} days ago and left nothing"
    for infos in restores.judge(repository, living).over.values():
        yield from (Litter(info, because) for info in infos)


def _flags(repository: "Repository", marker: Marker) -> Iterator[Litter]:
    flags = list(repository.store.list("flags/"))
    gone = census.forgotten(repository) if flags else set()
    for info in flags:
        point = "/".join(info.name.split("/")[1:3])
        if point in gone and point not in marker.points:
            yield Litter(info, "its restore point was forgotten")


def _sets(repository: "Repository", marker: Marker, living: Collection[str]) -> Iterator[Litter]:
    by_vm: dict[str, list[ObjectInfo]] = defaultdict(list)
    for info in repository.store.list("sets/"):
        by_vm[info.name.rpartition("/")[0]].append(info)
    for infos in by_vm.values():
        if _run(infos[0]) in living:
            continue
        open_stops = _open_stops(info.name for info in infos)
        for info in infos:
            if info.name not in marker.sets and info.name not in open_stops:
                yield Litter(info, "no restore point has this snapshot set")


def _open_stops(names: Iterable[str]) -> set[str]:
    """Return the notes of stops without a note of the start: the janitor goes by them."""
    present = set(names)
    stops = {name.removesuffix(_STOPPING) for name in present if name.endswith(_STOPPING)}
    return {stop + _STOPPING for stop in stops if stop + _STARTED not in present}


def _jobs(repository: "Repository", marker: Marker, living: Collection[str]) -> Iterator[Litter]:
    tries: dict[str, list[ObjectInfo]] = defaultdict(list)
    for info in sorted(repository.store.list("jobs/")):
        if _run(info) not in living:
            tries[_run(info)].append(info)
    fruitless: dict[str, list[tuple[JobRecord, ObjectInfo]]] = defaultdict(list)
    for run, infos in tries.items():
        for info in infos[:-1]:
            yield Litter(info, "a later try of the job has its own record")
        if run in marker.runs:
            continue
        try:
            record = repository.records.get(infos[-1].name, JobRecord)
        except (IntegrityError, ObjectNotFound):
            continue  # verification names it
        fruitless[record.job.policy].append((record, infos[-1]))
    for of_policy in fruitless.values():
        of_policy.sort(key=lambda found: found[0].started_at, reverse=True)
        for _, info in of_policy[JOBS_KEPT:]:
            yield Litter(info, f"{JOBS_KEPT} later jobs of its policy without points are there")


def _run(info: ObjectInfo) -> str:
    return info.name.split("/")[1]
