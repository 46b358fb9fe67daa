"""
Marking: every block and every record that a restore point, or a run that is not over, needs.

Owns the way from roots to blocks; knows no packs and deletes nothing.
Invariant: what was marked once stays marked, so marking again only adds. A root that cannot be
read stops everything: what it needs is unknown.
"""

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_azstack.errors import (
    IntegrityError,
    ObjectNotFound,
    Refused,
    ShortRead,
)
from airflow_provider_azstack.model import Image, RestorePoint
from airflow_provider_azstack.repo.blocks.reader import BlockReader
from airflow_provider_azstack.repo.images.runs import block_ids, load_group
from airflow_provider_azstack.repo.parallel import in_parallel
from airflow_provider_azstack.repo.points import census
from airflow_provider_azstack.repo.prune.liveness import Liveness

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository

_UNREADABLE = (IntegrityError, ObjectNotFound, ShortRead)


class _Root(NamedTuple):
    """What a point refers to, without all else that it says: there may be many."""

    point: str  # "<vm>/<point>"
    run: str
    set: str  # object name
    images: tuple[str, ...]


class Marker:
    """What is needed, as far as it was marked."""

    def __init__(
        self, repository: "Repository", reader: BlockReader, liveness: Liveness, threads: int
    ) -> None:
        self.points: set[str] = set()  # "<vm>/<point>"
        self.images: set[str] = set()  # object names
        self.sets: set[str] = set()
        self.runs: set[str] = set()  # of points
        self._repository = repository
        self._reader = reader
        self._liveness = liveness
        self._threads = threads
        self._groups: set[bytes] = set()

    def mark(self, living: Collection[str] | None) -> None:
        """
        C2: mark from every point and from every image of a living run.

        :param living: runs that are not over; None: unknown, then no image is left out.
        :raises Refused: a root is unreadable, or points are missing.
        """
        listed = census.listed_points(self._repository)
        wanted = dict.fromkeys(self._images_of(living), "")  # image -> the point that has it
        unread = sorted(listed - self.points)
        read = in_parallel(self._read_point, unread, self._threads)
        roots = [root for root in read if root is not None]
        for root in roots:
            wanted.update(dict.fromkeys(root.images, root.point))
        new = [(image, of) for image, of in wanted.items() if image not in self.images]
        groups: set[bytes] = set()
        for image in in_parallel(self._read_image, new, self._threads, ahead_of_each=2):
            if image is not None:
                groups.update(group for group in image.regions if group is not None)
        groups -= self._groups
        for ids in in_parallel(self._read_group, sorted(groups), self._threads):
            self._liveness.need(ids)
        # Only now: who marks again after an error must not take for read what was not.
        for root in roots:
            self.points.add(root.point)
            self.sets.add(root.set)
            self.runs.add(root.run)
        self.images |= wanted.keys()
        self._groups |= groups

    def _images_of(self, living: Collection[str] | None) -> Iterator[str]:
        if living is None:
            yield from (info.name for info in self._repository.store.list("images/"))
            return
        for run in sorted(living):
            yield from (info.name for info in self._repository.store.list(f"images/{run}/"))

    def _read_point(self, name: str) -> _Root | None:
        """Return a root, or None for a point that was forgotten since it was listed."""
        try:
            point = self._repository.records.get(census.POINTS + name, RestorePoint)
        except _UNREADABLE as error:
            if isinstance(error, ObjectNotFound) and name in census.forgotten(self._repository):
                return None
            raise _refused(f"restore point {name}", error) from error
        of_set = f"sets/{point.run}/{point.vm.key}/{point.set_id}"
        return _Root(name, point.run, of_set, tuple(image.image for image in point.images))

    def _read_image(self, wanted: tuple[str, str]) -> Image | None:
        name, point = wanted
        try:
            return self._repository.image(name)
        except _UNREADABLE as error:
            # Gone because its run is over, or its point was forgotten, since we listed them.
            if isinstance(error, ObjectNotFound) and not self._is_there(point):
                return None
            raise _refused(f"{name} of {point or 'a living run'}", error) from error

    def _is_there(self, point: str) -> bool:
        return bool(point) and self._repository.store.exists(census.POINTS + point)

    def _read_group(self, group: bytes) -> list[bytes]:
        try:
            data, parts = load_group(self._reader, group)
            return [group, *parts, *block_ids(data)]
        except _UNREADABLE as error:
            raise _refused("what a restore point consists of", error) from error


def _refused(what: str, error: Exception) -> Refused:
    return Refused(
        f"{what} cannot be read: {error}. Nothing was deleted, because what it needs is unknown: "
        "verify, and repair or forget it"
    )
