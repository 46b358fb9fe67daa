"""
Copies of restore points in another repository, with another key and another store.

Owns which points are copied, in which order they become visible, and repair from a copy; knows
nothing of policies.
Invariant: a point is published in the destination when all of its images are durable there, under
a living session, and not before: W1 to W7, as a backup does it. Nothing at the source changes but
in ``repair``, which only stores again what it lost.
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Literal, NamedTuple

from msgspec.structs import replace

from airflow_provider_azstack.errors import (
    AccessDenied,
    IncompleteJob,
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    PointForgotten,
    Refused,
    Tampered,
)
from airflow_provider_azstack.model import Image, PointImage, RestorePoint
from airflow_provider_azstack.repo.copies.image import THREADS, ImageCopier, Pair, image_blocks
from airflow_provider_azstack.repo.parallel import at_once, in_parallel
from airflow_provider_azstack.repo.points import census, flags
from airflow_provider_azstack.repo.prune import condemned
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sessions import Session
from airflow_provider_azstack.store.base import ObjectInfo

log = logging.getLogger(__name__)

PURPOSE = "sync"
_SHOWN = 10  # failures that an error names

Status = Literal["copied", "there", "forgotten", "repaired", "failed"]


class Outcome(NamedTuple):
    """What became of one restore point; ``repository`` is the id of the one that was written."""

    vm: str
    vm_key: str
    point: str
    repository: str
    status: Status
    read_bytes: int = 0
    stored_bytes: int = 0
    reason: str = ""


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
        copy = _Copy(ours, theirs, copier)
        points = _points(source)
        outcomes = [
            _unreadable(name, points.problems[name], destination) for name in points.problems
        ]
        for outcome in outcomes:
            report(outcome)
        for point in selection.of(points.readable):
            is_asked_for = point.id in selection.points
            if copy.is_forgotten(point) and not is_asked_for:
                outcomes.append(_outcome(point, destination, "forgotten"))
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
        copy = _Copy(theirs, ours, copier)
        outcomes = []
        for point in selection.of(_points(replica).readable):
            if damaged.store.exists(_name(point)):
                outcomes.append(_guarded(point, damaged, copy.heal))
                report(outcomes[-1])
        return outcomes


class _Points(NamedTuple):
    readable: list[RestorePoint]  # oldest first
    problems: dict[str, IntegrityError]  # by object name


def _points(repository: Repository) -> _Points:
    """Read all restore points: one that is damaged does not hide the others."""
    problems: dict[str, IntegrityError] = {}

    def read(info: ObjectInfo) -> RestorePoint | None:
        try:
            return repository.records.get(info.name, RestorePoint)
        except IntegrityError as error:
            problems[info.name] = error
        except ObjectNotFound:
            pass  # forgotten since it was listed
        return None

    infos = sorted(repository.store.list("points/"))
    found = filter(None, in_parallel(read, infos, min(at_once(repository.store), len(infos))))
    return _Points(sorted(found, key=lambda p: (p.taken_at, p.vm.key, p.id)), problems)


def _name(point: RestorePoint) -> str:
    return census.POINTS + _key(point)


def _key(point: RestorePoint) -> str:
    return f"{point.vm.key}/{point.id}"


def _unreadable(name: str, error: IntegrityError, written: Repository) -> Outcome:
    _, vm_key, point_id = name.split("/", 2)
    return Outcome("", vm_key, point_id, written.id, "failed", reason=str(error))


def require_done(outcomes: Sequence[Outcome]) -> None:
    """
    Check that no restore point failed.

    :raises IncompleteJob: some did; names them.
    """
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if failed:
        shown = "; ".join(f"{o.vm or o.vm_key} {o.point}: {o.reason}" for o in failed[:_SHOWN])
        more = f"; and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
        raise IncompleteJob(
            f"{len(failed)} of {len(outcomes)} restore points could not be copied: {shown}{more}"
        )


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
        return _outcome(point, written, "forgotten")
    except (IntegrityError, ObjectNotFound, ObjectExists) as error:
        log.error("%s of %s: %s", point.id, point.vm.name, error)  # noqa: TRY400 - says it all
        return _outcome(point, written, "failed", reason=str(error))


def _outcome(
    point: RestorePoint,
    written: Repository,
    status: Status,
    numbers: tuple[int, int] = (0, 0),
    reason: str = "",
) -> Outcome:
    return Outcome(point.vm.name, point.vm.key, point.id, written.id, status, *numbers, reason)


class _Copy:
    """The copying of restore points between two open sessions."""

    def __init__(self, source: Session, destination: Session, copier: ImageCopier) -> None:
        self._source = source.repository
        self._destination = destination.repository
        self._session = destination
        self._copier = copier
        self._going = {
            name
            for record in condemned.read(self._destination).records
            for name in record.objects
            if destination.id not in (record.alive or ())
        }
        self._flagged = flags.flagged(self._source)
        self._forgotten, self._withdrawn = census.noted(self._destination)
        self._there = {_name(point): point for point in _points(self._destination).readable}

    def is_forgotten(self, point: RestorePoint) -> bool:
        """Tell whether the destination had this point and it was taken away on purpose."""
        return _name(point) not in self._there and _key(point) in self._forgotten

    def point(self, point: RestorePoint) -> Outcome:
        """Copy a restore point, unless it is there."""
        if _name(point) in self._there:
            return _outcome(point, self._destination, "there")
        read_bytes = stored_bytes = 0
        new: list[Iterator[bytes]] = []
        for part in point.images:
            if part.image in self._going:  # W4: what is condemned is not counted on
                raise ObjectExists(
                    f"{part.image} of an earlier try is condemned in {self._destination.id}: "
                    "prune there to the end, then sync again"
                )
            image = self._source.image(part.image)
            own = self._pair(part)
            known = own or self._earlier(point, image)
            label = f"{point.vm.name} {part.disk_key}"
            copied = self._copier.copy(image, known, label=label, is_thorough=own is not None)
            self._session.put_image(copied.image, is_read_back=True)
            before = known.destination.regions if known and not own else ()
            new.append(image_blocks(self._session.reader(), copied.image, before))
            read_bytes += copied.read_bytes
            stored_bytes += copied.stored_bytes
        if stored_bytes:
            self._session.verify_present(chain.from_iterable(new))
        published = self._publish(point)
        # Another sync may have been faster, and may take it back: that we do not vouch for.
        status: Status = "copied" if published.session == self._session.id else "there"
        return _outcome(point, self._destination, status, (read_bytes, stored_bytes))

    def flag(self, point: RestorePoint) -> None:
        """Say of a point that is there now what the source says of it: the retention must know."""
        key = point.vm.key, point.id
        if key in self._flagged and _name(point) in self._there:
            why = flags.reasons(self._source, *key)
            flags.put_flag(self._destination, *key, why, self._destination.now())

    def recall(self, point: RestorePoint, *, is_asked_for: bool) -> None:
        """
        Take back what the destination noted of a point that is there again.

        Or nobody would miss it if it were not listed one day, and nobody could hold it. What was
        there all the time may be about to go: only who asks for it knows better.
        """
        key = _key(point)
        is_noted = is_asked_for if key in self._forgotten else key in self._withdrawn
        if is_noted and _name(point) in self._there:
            try:
                census.recall(self._destination, {key})
            except AccessDenied as error:  # whoever may not delete can copy all the same
                log.warning("%s is there, and still noted as forgotten: %s", key, error)

    def heal(self, point: RestorePoint) -> Outcome:
        """Store again what the destination lost of a point that it has."""
        read_bytes = stored_bytes = 0
        is_changed = False
        for part in point.images:
            own = self._own(part)
            if own and self._copier.is_whole(own):
                continue
            copied = self._copier.copy(
                self._source.image(part.image),
                self._pair(part),
                label=f"{point.vm.name} {part.disk_key}",
                is_thorough=True,
            )
            self._restore_record(copied.image, own)
            is_changed = True
            read_bytes += copied.read_bytes
            stored_bytes += copied.stored_bytes
        if _name(point) not in self._there:
            self._destination.store.delete(_name(point))
            is_changed = True
        self._publish(point)
        status: Status = "repaired" if is_changed else "there"
        return _outcome(point, self._destination, status, (read_bytes, stored_bytes))

    def _publish(self, point: RestorePoint) -> RestorePoint:
        """W6. One that is there and the same is fine, after the session was seen alive."""
        ours = replace(point, session=self._session.id, published_at=self._destination.now())
        published = self._session.publish(ours)
        self._there[_name(point)] = published
        return published

    def _restore_record(self, image: Image, own: Image | None) -> None:
        """Put an image's record where there is none that can be read."""
        if own and own != image:
            raise Tampered(f"{image.name} is not the same disk in both repositories")
        try:
            self._session.put_image(image, is_read_back=True)
        except Tampered:  # read for the second time now: it is not the way here
            self._destination.store.delete(image.name)
            self._session.put_image(image, is_read_back=True)

    def _own(self, part: PointImage) -> Image | None:
        try:
            return self._destination.image(part.image)
        except (IntegrityError, ObjectNotFound):
            return None

    def _pair(self, part: PointImage) -> Pair | None:
        """Return an image that both have and can read."""
        try:
            source, destination = (
                repository.image(part.image) for repository in (self._source, self._destination)
            )
        except (IntegrityError, ObjectNotFound):
            return None
        pair = Pair(source, destination)
        if not pair.is_same:
            raise ObjectExists(f"{part.image} is another image in {self._destination.id}")
        return pair

    def _earlier(self, point: RestorePoint, image: Image) -> Pair | None:
        """Return an image of the disk that both have, of the nearest earlier point if possible."""
        near = [other for other in self._there.values() if other.vm.key == point.vm.key]
        near.sort(key=lambda p: (p.taken_at <= point.taken_at, p.taken_at), reverse=True)
        for part in (part for other in near for part in other.images):
            if part.disk_key == image.snapshot.disk_key:
                pair = self._pair(part)
                if pair and pair.source.region_bytes == image.region_bytes:
                    return pair
        return None
