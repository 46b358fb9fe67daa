"""
Copies of restore points in another repository, with another key and another store.

Owns which points are copied or repaired, and that one that fails keeps no other from it; knows
nothing of policies.
Invariant: a session lives in both repositories as long as something is read or written. Nothing at
the source changes but in ``repair``, which only stores again what it lost.
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from airflow_provider_azstack.errors import (
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    PointForgotten,
    Refused,
)
from airflow_provider_azstack.model import RestorePoint
from airflow_provider_azstack.repo.copies.image import THREADS, ImageCopier
from airflow_provider_azstack.repo.copies.outcome import Outcome, outcome_of
from airflow_provider_azstack.repo.copies.point import PointCopier, name_of, read_points
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sessions import Session

log = logging.getLogger(__name__)

PURPOSE = "sync"

Report = Callable[[Outcome], None]


class Selection(NamedTuple):
    """
    Which restore points are meant; all of them by default.

    :param vms: names, keys or ids of VMs.
    :param points: ids of restore points.
    :param newest: of each VM only so many; 0 is all.
    """

    vms: Collection[str] = ()
    points: Collection[str] = ()
    newest: int = 0

    def of(self, points: Iterable[RestorePoint]) -> list[RestorePoint]:
        """Return those of ``points`` that are meant, in their order, which is oldest first."""
        chosen = [
            point
            for point in points
            if (not self.vms or {point.vm.name, point.vm.key, point.vm.id} & set(self.vms))
            and (not self.points or point.id in self.points)
        ]
        if not self.newest:
            return chosen
        by_vm: dict[str, list[RestorePoint]] = {}
        for point in chosen:
            by_vm.setdefault(point.vm.key, []).append(point)
        kept = {id(point) for vm in by_vm.values() for point in vm[-self.newest :]}
        return [point for point in chosen if id(point) in kept]


ALL = Selection()


def sync(
    source: Repository,
    destination: Repository,
    selection: Selection = ALL,
    *,
    threads: int = THREADS,
    run: str = "",
    purpose: str = PURPOSE,
    report: Report = lambda _: None,
    progress: Callable[[str], None] = lambda _: None,
    cancel: threading.Event | None = None,
) -> list[Outcome]:
    """
    Copy the restore points that the destination lacks, oldest first.

    A point that cannot be copied does not keep the others from it. What an interrupted sync has
    stored is used by the next one. What was forgotten in the destination on purpose is copied
    again only if its id is asked for.

    :param run: says in the sessions who this is, and ``purpose`` what for.
    :param report: told what became of each point; ``progress`` a line every few seconds.
    :raises Refused: both are the same repository.
    :raises SessionLost: we were fenced; what was reported as copied stays.
    """
    with _sessions(source, destination, run, purpose) as (ours, theirs):
        copier = ImageCopier(ours, theirs, threads=threads, cancel=cancel, progress=progress)
        copy = PointCopier(ours, theirs, copier)
        points = read_points(source)
        outcomes = [
            _unreadable(name, points.problems[name], destination) for name in points.problems
        ]
        for outcome in outcomes:
            report(outcome)
        for point in selection.of(points.readable):
            is_asked_for = point.id in selection.points
            if copy.is_forgotten(point) and not is_asked_for:
                outcomes.append(outcome_of(point, destination, "forgotten"))
            else:
                outcomes.append(_guarded(point, destination, copy.point))
                copy.flag(point)
                copy.recall(point, is_asked_for=is_asked_for)
            report(outcomes[-1])
        return outcomes


def repair(
    damaged: Repository,
    replica: Repository,
    selection: Selection = ALL,
    *,
    threads: int = THREADS,
    run: str = "",
    purpose: str = PURPOSE,
    report: Report = lambda _: None,
    progress: Callable[[str], None] = lambda _: None,
    cancel: threading.Event | None = None,
) -> list[Outcome]:
    """
    Store again what a repository lost of the restore points that a replica has as well.

    Blocks that a verification found bad, that are in no pack, or whose pack is gone are fetched
    from the replica and written into new packs; image records that are damaged are replaced.

    :returns: what became of each point that both have: ``repaired``, or ``there`` and whole.
    """
    with _sessions(replica, damaged, run, purpose) as (theirs, ours):
        copier = ImageCopier(theirs, ours, threads=threads, cancel=cancel, progress=progress)
        copy = PointCopier(theirs, ours, copier)
        outcomes = []
        for point in selection.of(read_points(replica).readable):
            if damaged.store.exists(name_of(point)):
                outcomes.append(_guarded(point, damaged, copy.heal))
                report(outcomes[-1])
        return outcomes


def _unreadable(name: str, error: IntegrityError, written: Repository) -> Outcome:
    _, vm_key, point_id = name.split("/", 2)
    return Outcome("", vm_key, point_id, written.id, "failed", reason=str(error))


@contextmanager
def _sessions(
    source: Repository, destination: Repository, run: str, purpose: str
) -> Iterator[tuple[Session, Session]]:
    """Open a session in both: no collector of either pulls packs from under the copy."""
    if source.id == destination.id:
        raise Refused(f"both are repository {source.id}: a copy inside itself is none")
    ours = source.open_session(purpose, run=run)
    try:
        theirs = destination.open_session(purpose, run=run)
        try:
            yield ours, theirs
        finally:
            theirs.close()
    finally:
        ours.close()


def _guarded(
    point: RestorePoint, written: Repository, work: Callable[[RestorePoint], Outcome]
) -> Outcome:
    """Let one point fail for itself; a store that is gone or full ends all of it."""
    try:
        return work(point)
    except PointForgotten:
        return outcome_of(point, written, "forgotten")
    except (IntegrityError, ObjectNotFound, ObjectExists) as error:
        log.error("%s of %s: %s", point.id, point.vm.name, error)  # noqa: TRY400 - says it all
        return outcome_of(point, written, "failed", reason=str(error))
