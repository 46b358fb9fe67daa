"""
One restore point into another repository, or what that one lost of it.

Owns the order within a point, and which image there is built on; knows not which points are meant.
Invariant: a point is published in the destination when all of its images are durable there, under
a living session, and not before: W1 to W7, as a backup does it.
"""

import logging
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from msgspec.structs import replace

from airflow_provider_azstack.errors import (
    AccessDenied,
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    Tampered,
)
from airflow_provider_azstack.model import Image, PointImage, RestorePoint
from airflow_provider_azstack.repo.copies.image import ImageCopier, Pair, image_blocks
from airflow_provider_azstack.repo.copies.outcome import Outcome, Status, outcome_of
from airflow_provider_azstack.repo.parallel import at_once, in_parallel
from airflow_provider_azstack.repo.points import census, flags
from airflow_provider_azstack.repo.prune import condemned
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sessions import Session
from airflow_provider_azstack.store.base import ObjectInfo

log = logging.getLogger(__name__)


class Points(NamedTuple):
    """The restore points of a repository."""

    readable: list[RestorePoint]  # oldest first
    problems: dict[str, IntegrityError]  # by object name


def read_points(repository: Repository) -> Points:
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

    infos = sorted(repository.store.list(census.POINTS))
    found = filter(None, in_parallel(read, infos, min(at_once(repository.store), len(infos))))
    return Points(sorted(found, key=lambda p: (p.taken_at, p.vm.key, p.id)), problems)


def name_of(point: RestorePoint) -> str:
    """Return the object name of a restore point."""
    return census.POINTS + key_of(point)


def key_of(point: RestorePoint) -> str:
    """Return how censuses and notes name a restore point."""
    return f"{point.vm.key}/{point.id}"


class PointCopier:
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
        self._there = {name_of(point): point for point in read_points(self._destination).readable}

    def is_forgotten(self, point: RestorePoint) -> bool:
        """Tell whether the destination had this point and it was taken away on purpose."""
        return name_of(point) not in self._there and key_of(point) in self._forgotten

    def point(self, point: RestorePoint) -> Outcome:
        """Copy a restore point, unless it is there."""
        if name_of(point) in self._there:
            return outcome_of(point, self._destination, "there")
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
        return outcome_of(point, self._destination, status, (read_bytes, stored_bytes))

    def flag(self, point: RestorePoint) -> None:
        """Say of a point that is there now what the source says of it: the retention must know."""
        key = point.vm.key, point.id
        if key in self._flagged and name_of(point) in self._there:
            why = flags.reasons(self._source, *key)
            flags.put_flag(self._destination, *key, why, self._destination.now())

    def recall(self, point: RestorePoint, *, is_asked_for: bool) -> None:
        """
        Take back what the destination noted of a point that is there again.

        Or nobody would miss it if it were not listed one day, and nobody could hold it. What was
        there all the time may be about to go: only who asks for it knows better.
        """
        key = key_of(point)
        is_noted = is_asked_for if key in self._forgotten else key in self._withdrawn
        if is_noted and name_of(point) in self._there:
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
        if name_of(point) not in self._there:
            self._destination.store.delete(name_of(point))
            is_changed = True
        self._publish(point)
        status: Status = "repaired" if is_changed else "there"
        return outcome_of(point, self._destination, status, (read_bytes, stored_bytes))

    def _publish(self, point: RestorePoint) -> RestorePoint:
        """W6. One that is there and the same is fine, after the session was seen alive."""
        ours = replace(point, session=self._session.id, published_at=self._destination.now())
        published = self._session.publish(ours)
        self._there[name_of(point)] = published
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
