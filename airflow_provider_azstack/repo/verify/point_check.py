"""
What a verification has to do with restore points: which blocks they need, and what they lose.

Owns the way from points through images to the survey and back; knows no packs.
Invariant: a point counts as verified only when every pack that it needs was read whole, and as
whole only when nothing that it needs is missing.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import NamedTuple

from airflow_provider_azstack.errors import (
    IncompatibleRepository,
    IntegrityError,
    StoreError,
)
from airflow_provider_azstack.model import Image, RestorePoint
from airflow_provider_azstack.repo.blocks.reader import BlockReader
from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.parallel import in_parallel
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.verify.findings import Affected, Finding, LostRange, joined
from airflow_provider_azstack.repo.verify.ledger import VerifiedPoint
from airflow_provider_azstack.repo.verify.record_check import POINTS, missing_points, read_points
from airflow_provider_azstack.repo.verify.survey import NEVER, State, Survey

# Of each VM, newest first. A repository whose first cycle goes on has few verified points: looking
# for them in all of its history would take longer than the cycle's reading.
_NEWEST = 30


class _Disk(NamedTuple):
    key: str
    image: str  # object name
    size_bytes: int


class _Point(NamedTuple):
    """What has to be remembered of a restore point."""

    vm: str
    vm_key: str
    id: str
    taken_at: datetime
    disks: tuple[_Disk, ...]


class PointCheck:
    """The restore points of one verification."""

    def __init__(
        self, repository: Repository, survey: Survey, reader: BlockReader, threads: int
    ) -> None:
        self.findings: list[Finding] = []
        self._repository = repository
        self._reader = reader
        self._records = repository.records
        self._survey = survey
        self._threads = threads
        self._points: list[_Point] = []
        self._unreadable: list[Affected] = []
        self._problems: dict[str, str] = {}  # image -> why it cannot be used
        # By VM and disk, of its newest point: nearly always the one that is asked for again.
        self._newest: dict[tuple[str, str], Image] = {}

    @property
    def count(self) -> int:
        """How many restore points there are."""
        return len(self._points) + len(self._unreadable)

    def image_names(self) -> frozenset[str]:
        """Return the names of all images that points refer to."""
        return frozenset(disk.image for point in self._points for disk in point.disks)

    def take(self) -> None:
        """Read all points and images, and give what they need to the survey."""
        self._points.extend(self._readable_points())
        names = (disk.image for point in self._points for disk in point.disks)
        images = in_parallel(self._image, names, self._threads, ahead_of_each=2)
        with closing(images):
            for image in filter(None, images):
                self._survey.add(image)
                self._newest[image.vm_key, image.snapshot.disk_key] = image
        for which in missing_points(self._repository):
            self._note_lost(f"{POINTS}{which}", "is gone, and nobody took it away on purpose")

    def affected(self) -> list[Affected]:
        """Return the disks of restore points that cannot be restored as a whole."""
        found = list(self._unreadable)
        if not self._problems and not self._survey.has_losses():
            return found
        for point in self._points:
            for disk in point.disks:
                image = self._image(disk.image)
                if image is None:
                    whole = LostRange(offset=0, length=disk.size_bytes)
                    reason = f"its image: {self._problems[disk.image]}"
                    found.append(_affected(point, disk, disk.size_bytes, (whole,), reason))
                elif not self._survey.state(image).is_whole:
                    lost = joined(self._survey.lost_ranges(image))
                    found.append(_affected(point, disk, *lost))
        return found

    def verified(self, now: datetime) -> Iterator[VerifiedPoint]:
        """Yield every VM's newest point of which all was read and found good."""
        by_vm = defaultdict[str, list[_Point]](list)
        for point in self._points:
            by_vm[point.vm_key].append(point)
        with closing(in_parallel(self._newest_good, by_vm.values(), self._threads)) as found:
            for point, at in filter(None, found):
                yield _verified(point, min(at, int(now.timestamp())))

    def _newest_good(self, points: list[_Point]) -> tuple[_Point, int] | None:
        """Return a VM's newest point of which all was read, and since when that is so."""
        newest = sorted(points, key=lambda point: point.taken_at, reverse=True)
        for point in newest[:_NEWEST]:
            state = self._state(point)
            if state.is_whole and state.at != NEVER:
                return point, state.at
        return None

    def _state(self, point: _Point) -> State:
        images = [self._image_again(point, disk) for disk in point.disks]
        states = [State(False, NEVER) if i is None else self._survey.state(i) for i in images]
        return State(
            all(state.is_whole for state in states),
            min((state.at for state in states), default=NEVER),
        )

    def _readable_points(self) -> Iterator[_Point]:
        for name, point, problem in read_points(self._records, self._threads):
            if point is not None:
                yield _remembered(point)
                continue
            self._note_lost(name, problem)

    def _note_lost(self, name: str, problem: str) -> None:
        self.findings.append(Finding(object=name, problem=problem))
        vm_key, _, point_id = name.removeprefix(POINTS).partition("/")
        self._unreadable.append(
            Affected(
                vm="",
                vm_key=vm_key,
                point=point_id,
                disk_key="",
                image="",
                lost_bytes=0,
                ranges=(),
                reason=f"the point itself: {problem}",
            )
        )

    def _image_again(self, point: _Point, disk: _Disk) -> Image | None:
        newest = self._newest.get((point.vm_key, disk.key))
        return newest if newest and newest.name == disk.image else self._image(disk.image)

    def _image(self, name: str) -> Image | None:
        if name in self._problems:
            return None
        try:
            image = self._records.get(name, Image)
            ImageReader(image, self._reader)  # refuses one that does not add up
        except (IntegrityError, StoreError, IncompatibleRepository) as error:
            self._problems[name] = str(error)
            self.findings.append(Finding(object=name, problem=str(error)))
            return None
        return image


def _remembered(point: RestorePoint) -> _Point:
    disks = tuple(_Disk(i.disk_key, i.image, i.size_bytes) for i in point.images)
    return _Point(point.vm.name, point.vm.key, point.id, point.taken_at, disks)


def _affected(
    point: _Point, disk: _Disk, lost_bytes: int, ranges: tuple[LostRange, ...], reason: str = ""
) -> Affected:
    return Affected(
        vm=point.vm,
        vm_key=point.vm_key,
        point=point.id,
        disk_key=disk.key,
        image=disk.image,
        lost_bytes=lost_bytes,
        ranges=ranges,
        reason=reason,
    )


def _verified(point: _Point, at: int) -> VerifiedPoint:
    return VerifiedPoint(
        vm_key=point.vm_key,
        vm=point.vm,
        point=point.id,
        taken_at=point.taken_at,
        read_since=datetime.fromtimestamp(at, UTC),
    )
