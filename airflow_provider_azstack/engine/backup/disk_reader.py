"""
One VM's disks, and parts of them, read from their snapshots into images.

Owns the choice of the reference, the access grants, and what becomes of a stack's lie; how bytes
become images is the pipeline's business.
Invariants: what an earlier try finished is used again only when it is of the very same set; every
grant that no other stream shares is revoked here, whatever happens; and no part that took over
pages on the word of a stack that was caught lying about that disk is the last one of its kind.

For the last: who catches the stack lying notes it, and looks then for the parts of that disk that
others have finished; who finishes a part looks then for the note. So at least one of two sees the
other, and the part is read again.
"""

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import NamedTuple

from airflow_provider_azstack.arm.blob_http import settings_of
from airflow_provider_azstack.arm.blobs import BlobDisk
from airflow_provider_azstack.arm.compute import Compute
from airflow_provider_azstack.arm.grants import Grant
from airflow_provider_azstack.engine.backup import window
from airflow_provider_azstack.engine.backup.access import GRANT_SECONDS, SharedAccess
from airflow_provider_azstack.engine.backup.disk import IN_FLIGHT, back_up_disk
from airflow_provider_azstack.engine.backup.join import called, is_doubtful, lied_topic
from airflow_provider_azstack.engine.backup.snapshots import Work
from airflow_provider_azstack.engine.pace import Pace
from airflow_provider_azstack.engine.progress import Progress
from airflow_provider_azstack.errors import (
    AzStackError,
    ChangesLied,
    IntegrityError,
    ObjectNotFound,
)
from airflow_provider_azstack.model import (
    ChangesKnown,
    DiskPart,
    DiskSnapshot,
    Image,
    RestorePoint,
    SnapshotSet,
    WorkloadVm,
)
from airflow_provider_azstack.repo.repository import Repository

log = logging.getLogger(__name__)

Tell = Callable[[str], None]


class Reference(NamedTuple):
    """What a disk's changes are counted from: the image, and the snapshot that it was read from."""

    image: Image
    snapshot: DiskSnapshot


class Conditions(NamedTuple):
    """How a stream reads: whom it tells, and what holds it back or stops it."""

    clock: Callable[[], datetime]
    progress: Tell | None = None
    cancel: threading.Event | None = None
    pace: Pace | None = None


class DiskReader:
    """Makes the images of one VM's disks from one snapshot set."""

    def __init__(
        self,
        work: Work,
        vm: WorkloadVm,
        snapshot_set: SnapshotSet,
        point: RestorePoint | None,
        conditions: Conditions,
    ) -> None:
        """
        Read for one VM.

        :param point: what changes are counted from; None to read all that is allocated.
        """
        self._work = work
        self._compute = Compute(work.stack)
        self._repository = work.session.repository
        self._vm = vm
        self._set = snapshot_set
        self._point = point
        self._conditions = conditions

    def image(self, snapshot: DiskSnapshot, part: DiskPart | None = None) -> Image:
        """Return the image of a disk, or of a part of it: an earlier try's, else a new one."""
        earlier = [image for image in self._images(snapshot) if image.part == part]
        sure = [image for image in earlier if not self._is_doubtful(image)]
        if sure:
            log.info("%s is there already", sure[0].name)
            image = sure[0]
        else:
            image = self._made(snapshot, part)
            if self._is_doubtful(image):  # the lie came out while this part was read
                image = self._read_everything(snapshot, part)
        self._make_up_for_a_lie(snapshot)
        return image

    def _made(self, snapshot: DiskSnapshot, part: DiskPart | None) -> Image:
        if part is not None and self._liar(snapshot) is not None:
            return self._read_everything(snapshot, part)
        reference = _reference(self._repository, self._point, snapshot)
        trust: ChangesKnown = "difference" if reference else "allocated"
        sibling = None if reference else self._sibling(snapshot)
        try:
            return self._back_up(snapshot, part, reference, trust, sibling)
        except ChangesLied as lie:
            # What earlier images took over on the stack's word may be wrong as well; this one is
            # made right at once rather than by a next run that has to remember the lie.
            log.error(  # noqa: TRY400 - the message says it all
                "%s %s: the stack says of changed pages that they have not changed, or of pages "
                "with data that they are empty: %s: the whole disk is read; earlier restore points "
                "of it that relied on its word may hold stale pages: verify or replace them",
                self._vm.name,
                snapshot.disk_key,
                lie,
            )
            if part is not None:
                topic = lied_topic(self._set.id, snapshot.disk_key)
                self._work.session.leave_note(self._vm.key, topic, self._work.who.encode())
            return self._read_everything(snapshot, part)

    def _sibling(self, snapshot: DiskSnapshot) -> Image | None:
        """Return the image of a sibling's disk in the same place, if there is one by now."""
        key, place = self._vm.sibling, snapshot.disk_key
        if not key or self._work.job.mode == "full":
            return None
        try:
            point = self._repository.latest_point(key)
            for published in point.images if point else ():
                if published.disk_key == place:
                    return self._repository.image(published.image)
            made = self._repository.images(self._work.job.run, key, place)
            return next((image for image in made if image.part is None), None)
        except (IntegrityError, ObjectNotFound) as error:  # it would have saved work, no more
            log.debug("no sibling of %s %s: %s", self._vm.name, place, error)
            return None

    def _read_everything(self, snapshot: DiskSnapshot, part: DiskPart | None) -> Image:
        return self._back_up(snapshot, part, None, "everything")

    def _make_up_for_a_lie(self, snapshot: DiskSnapshot) -> None:
        """Read what others finished before it came out, if it was this stream that found out."""
        if self._liar(snapshot) != self._work.who.encode():
            return
        images = list(self._images(snapshot))
        sure = [image.part for image in images if not is_doubtful(image)]
        for part in {image.part: None for image in images if image.part not in sure}:
            self._read_everything(snapshot, part)

    def _is_doubtful(self, image: Image) -> bool:
        return is_doubtful(image) and self._liar(image.snapshot) is not None

    def _liar(self, snapshot: DiskSnapshot) -> bytes | None:
        """Return who found out that the stack lies about a disk that is read in parts."""
        if self._vm.pieces == 1:
            return None
        return self._work.session.note(self._vm.key, lied_topic(self._set.id, snapshot.disk_key))

    def _images(self, snapshot: DiskSnapshot) -> Iterator[Image]:
        run, disk = self._work.job.run, snapshot.disk_key
        for image in self._repository.images(run, self._vm.key, disk):
            if image.set_id == self._set.id and image.snapshot == snapshot:
                yield image

    def _back_up(
        self,
        snapshot: DiskSnapshot,
        part: DiskPart | None,
        reference: Reference | None,
        trust: ChangesKnown,
        sibling: Image | None = None,
    ) -> Image:
        name = self._name(snapshot, part)
        label = f"{self._vm.name} {called(snapshot.disk_key, part)}"
        wanted = self._conditions

        def tell(seen: Progress) -> None:
            if not seen.is_done:
                window.check_may_run(self._work.job, wanted.clock())
            if wanted.progress:
                wanted.progress(seen.told(name, label))

        with self._opened(snapshot, reference, is_shared=part is not None) as source:
            return back_up_disk(
                source,
                self._work.session,
                name=name,
                run=self._work.job.run,
                vm_key=self._vm.key,
                set_id=self._set.id,
                snapshot=snapshot,
                host=self._work.host,
                part=part,
                previous=reference.image if reference else None,
                sibling=sibling,
                trust=trust,
                compression=self._work.job.compression,
                progress=tell,
                cancel=wanted.cancel,
                pace=wanted.pace,
            )

    def _name(self, snapshot: DiskSnapshot, part: DiskPart | None) -> str:
        unique = uuid.uuid4().hex[:8]  # two copies of a task never write one name
        which = "" if part is None else f"part-{part.first}-{part.end}-"
        return (
            f"images/{self._work.job.run}/{self._vm.key}.{snapshot.disk_key}/"
            f"{self._set.id}-{which}{unique}"
        )

    @contextmanager
    def _opened(
        self, snapshot: DiskSnapshot, reference: Reference | None, *, is_shared: bool
    ) -> Iterator[BlobDisk]:
        """Open a snapshot for reading; what was granted to this stream alone is then revoked."""
        before = reference.snapshot if reference else None
        is_managed = snapshot.kind == "managed"
        with ExitStack() as undo:

            def grants(of: DiskSnapshot) -> Callable[[], Grant]:
                return self._shared(of) if is_shared else self._alone(of, undo)

            disk = BlobDisk(
                grants(snapshot),
                size_bytes=snapshot.size_bytes,
                previous_snapshot=before.blob_snapshot if before and not is_managed else "",
                previous_grant=grants(before) if before and is_managed else None,
                **settings_of(self._work.stack, connections=IN_FLIGHT),
            )
            undo.enter_context(disk)
            yield disk

    def _shared(self, snapshot: DiskSnapshot) -> Callable[[], Grant]:
        if snapshot.kind == "unmanaged":
            return self._signed(snapshot)
        return SharedAccess(self._work, self._vm.key, snapshot.id)

    def _alone(self, snapshot: DiskSnapshot, undo: ExitStack) -> Callable[[], Grant]:
        """Return what asks for access to a snapshot, having seen to it that it will be revoked."""
        if snapshot.kind == "unmanaged":
            return self._signed(snapshot)
        undo.callback(self._revoke, snapshot)
        return lambda: self._compute.grant_read(snapshot.id, GRANT_SECONDS)

    def _signed(self, snapshot: DiskSnapshot) -> Callable[[], Grant]:
        # Signed by us with the account's key: nothing to revoke, it ends by itself.
        accounts = self._work.accounts
        return lambda: accounts.grant(snapshot.id, snapshot.blob_snapshot, GRANT_SECONDS)

    def _revoke(self, snapshot: DiskSnapshot) -> None:
        try:
            self._compute.revoke(snapshot.id)
        except AzStackError as error:
            log.warning("access to %s is left for the clean-up: %s", snapshot.id, error)


def _reference(
    repository: Repository, point: RestorePoint | None, snapshot: DiskSnapshot
) -> Reference | None:
    """Return what to count changes from: the last image of the very same disk."""
    for image in point.images if point else ():
        if image.snapshot.unique_id == snapshot.unique_id:
            try:
                return Reference(repository.image(image.image), image.snapshot)
            except (IntegrityError, ObjectNotFound) as error:
                log.warning("%s: %s: reading everything that is allocated", image.image, error)
    return None
