"""
Completion: from what is in the repository to restore points and the job's record.

Owns the decision what is a backup. It is made from the manifests and the repository alone, never
from what tasks say of themselves. Invariants: a restore point has an image of every disk of the
manifest, all of one snapshot set of this job's own session, and every block that this job added is
there; the record names every VM of the manifests. Doing it again changes nothing.

VMs are done independently of each other, some at once, and nothing of them is kept but their line
in the record: ten thousand take no more memory than a few.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from itertools import chain, islice, repeat
from typing import NamedTuple

from msgspec.structs import replace

from airflow_provider_azstack.engine import names
from airflow_provider_azstack.engine.backup import signals, window
from airflow_provider_azstack.engine.backup.candidates import Candidate, Matcher, Wanted, wanted
from airflow_provider_azstack.engine.backup.sets import taken_at
from airflow_provider_azstack.errors import (
    AzStackError,
    IncompleteJob,
    IntegrityError,
    MissingBlock,
    ObjectExists,
    ObjectNotFound,
)
from airflow_provider_azstack.model import (
    Image,
    Job,
    JobRecord,
    JobStatus,
    JobVm,
    Manifest,
    PointImage,
    RestorePoint,
    Unprotected,
)
from airflow_provider_azstack.repo.blocks.reader import CanRead
from airflow_provider_azstack.repo.images.runs import block_ids, load_group
from airflow_provider_azstack.repo.parallel import in_parallel
from airflow_provider_azstack.repo.sessions import Session

log = logging.getLogger(__name__)


class _Threads(NamedTuple):
    looking: int
    publishing: int


# To look at a VM is to read, which waits for a store that is far away and for nothing but this one
# processor where it is near: there, more threads would only take it from each other. To publish is
# to wait until a point is durable, wherever that is.
FAR, NEAR = _Threads(32, 16), _Threads(1, 4)
AHEAD = 16  # changed regions whose groups are read together: at most 32 MiB
SHOWN = 5  # VMs that an error names


def _utc_now() -> datetime:
    return datetime.now(UTC)


def complete(
    session: Session,
    job: Job,
    manifests: Iterable[Manifest],
    unprotected: Sequence[Unprotected] = (),
    *,
    started_at: datetime,
    reasons: Mapping[str, str] | None = None,
    clock: Callable[[], datetime] = _utc_now,
) -> JobRecord:
    """
    Publish a restore point for each VM that is complete, and put and return the job's record.

    :param reasons: by VM key, why a VM failed as far as its stream told; only shown, never relied
        on.
    :raises SessionLost: we were fenced: nothing counts that was not published before.
    """
    session.check()
    publisher = _Publisher(session, job, reasons or {}, clock)
    whole = tuple(manifests)
    of_job = wanted(session, job, whole)
    threads = NEAR if session.repository.store.is_near else FAR
    with closing(in_parallel(publisher.looked_at, of_job, threads.looking)) as candidates:
        vms = tuple(in_parallel(publisher.finished, candidates, threads.publishing))
    record = JobRecord(
        job=job,
        status=_status(vms, unprotected),
        started_at=started_at,
        ended_at=clock(),
        vms=vms,
        unprotected=tuple(unprotected),
        forecast=tuple(manifest.forecast for manifest in whole if manifest.forecast),
    )
    session.check()
    session.put_job(record)
    return record


def require_done(record: JobRecord) -> None:
    """
    Check that no VM failed; a VM that the policy had skipped is no failure.

    :raises IncompleteJob: some did; names them.
    """
    failed = [vm for vm in record.vms if vm.status == "failed"]
    if failed:
        shown = "; ".join(f"{vm.name}: {vm.reason}" for vm in failed[:SHOWN])
        more = f"; and {len(failed) - SHOWN} more" if len(failed) > SHOWN else ""
        raise IncompleteJob(
            f"{len(failed)} of {len(record.vms)} VMs have no restore point of run "
            f"{record.job.run}: {shown}{more}"
        )


class _Change(NamedTuple):
    """A region that is not what it was in the image before."""

    image: Image
    number: int
    group: bytes
    before: bytes | None

    def blocks(self, reader: CanRead) -> set[bytes]:
        """
        Return what the region refers to.

        :raises MissingBlock: that cannot be read.
        """
        try:
            return _blocks_of(reader, self.group)
        except IntegrityError as error:
            offset = self.number * self.image.region_bytes
            raise MissingBlock(f"{self.image.name}, region at {offset}: {error}") from None

    def blocks_before(self, reader: CanRead) -> set[bytes]:
        """Return what the region referred to: most is the same, and to look it up costs more."""
        if self.before is None:
            return set()
        try:
            return _blocks_of(reader, self.before)
        except (IntegrityError, ObjectNotFound):
            return set()


def _blocks_of(reader: CanRead, group: bytes) -> set[bytes]:
    data, parts = load_group(reader, group)
    return {group, *parts, *block_ids(data)}


class _Publisher:
    """Makes restore points of one job. Thread-safe."""

    def __init__(
        self,
        session: Session,
        job: Job,
        reasons: Mapping[str, str],
        clock: Callable[[], datetime],
    ) -> None:
        self._session = session
        self._job = job
        self._reasons = reasons
        self._clock = clock
        # The images are listed before the index and the packs: what they need was there then.
        self._matcher = Matcher(session, job)
        self._require = session.presence()
        self._reader = session.reader()

    def looked_at(self, vm: Wanted) -> Candidate:
        """
        Return what the repository has of a VM.

        It is failed if a block is gone: an acknowledged write may have been lost. Only blocks that
        the images before had not are looked at: the others are those of a published point, which
        the collector keeps.
        """
        candidate = self._matcher.match(vm)
        try:
            self._require(self._new_blocks(candidate.images))
        except (IntegrityError, ObjectNotFound) as error:
            return candidate.but("failed", f"the repository lost what was stored: {error}")
        return candidate

    def finished(self, candidate: Candidate) -> JobVm:
        """Publish a complete VM's point; return how the VM fared."""
        if candidate.status == "done":
            try:
                point = self._publish(candidate)
            except (IntegrityError, ObjectNotFound) as error:
                candidate = candidate.but("failed", f"its point could not be published: {error}")
            else:
                suspicious = signals.check(self._session.repository, point, clock=self._clock)
                return _job_vm(candidate, point.id, suspicious)
        return self._unfinished(candidate)

    def _unfinished(self, candidate: Candidate) -> JobVm:
        told = self._reasons.get(candidate.vm.key, "")
        is_missing = candidate.status == "failed" and (told or not candidate.is_begun)
        left_out = window.left_out(self._job, self._clock(), told) if is_missing else ""
        reason = left_out or (f"{candidate.reason} ({told})" if told else candidate.reason)
        vm = _job_vm(candidate._replace(reason=reason[:1000], images=(), shares=()), "")
        return replace(vm, is_waiting=bool(left_out))

    def _new_blocks(self, images: Iterable[Image]) -> Iterator[bytes]:
        """Yield the ids of the blocks that images have and their predecessors had not."""
        changes = chain.from_iterable(map(self._changes, images))
        while some := list(islice(changes, AHEAD)):
            groups = (group for change in some for group in (change.group, change.before) if group)
            reader = self._reader.read_ahead(groups)
            for change in some:
                yield from change.blocks(reader) - change.blocks_before(reader)

    def _changes(self, image: Image) -> Iterator[_Change]:
        before = chain(self._regions_before(image), repeat(None))
        for number, (group, old) in enumerate(zip(image.regions, before, strict=False)):
            if group is not None and group != old:
                yield _Change(image, number, group, old)

    def _regions_before(self, image: Image) -> tuple[bytes | None, ...]:
        if not image.based_on:
            return ()
        try:
            before = self._session.repository.image(image.based_on)
        except (IntegrityError, ObjectNotFound):
            return ()
        return before.regions if before.region_bytes == image.region_bytes else ()

    def _publish(self, candidate: Candidate) -> RestorePoint:
        taken, job = candidate.snapshot_set, self._job
        if taken is None:
            raise AzStackError(f"{candidate.vm.name} has no snapshot set: this is a bug")
        for image in candidate.joined:
            self._session.put_image(image, is_read_back=True)  # before the point that refers to it
        point_id = names.point_id(taken_at(taken), taken.id)
        point = RestorePoint(
            id=point_id,
            run=job.run,
            session=job.session,
            policy=job.policy,
            stack=job.stack,
            set_id=taken.id,
            consistency=taken.consistency,
            taken_at=taken_at(taken),
            published_at=self._clock(),
            vm=taken.vm,
            images=tuple(PointImage.of(image) for image in candidate.images),
            previous=self._previous(candidate.vm.key, point_id),
        )
        try:
            return self._session.publish(point)
        except ObjectExists:
            return self._published(point)

    def _published(self, point: RestorePoint) -> RestorePoint:
        """
        Return what an earlier try published of the same set.

        A second copy of a stream may have ended since: its images are as good, and not needed.
        """
        there = self._session.repository.point(point.vm.key, point.id)
        if (there.session, there.set_id) != (point.session, point.set_id):
            raise ObjectExists(f"{point.vm.key}/{point.id} is a restore point of another session")
        self._session.check()
        return there

    def _previous(self, vm_key: str, point_id: str) -> str:
        """Return the id of the point before this one, also when this one is there already."""
        repository = self._session.repository
        prefix = f"points/{vm_key}/"
        latest = max(
            (info.name.removeprefix(prefix) for info in repository.store.list(prefix)), default=""
        )
        return repository.point(vm_key, latest).previous if latest == point_id else latest


def _job_vm(candidate: Candidate, point: str, suspicious: tuple[str, ...] = ()) -> JobVm:
    images, pieces = candidate.images, candidate.wanted.pieces
    host, *more_hosts = candidate.wanted.hosts
    return JobVm(
        key=candidate.vm.key,
        name=candidate.vm.name,
        host=host,
        more_hosts=tuple(more_hosts),
        shares=candidate.shares,
        image=candidate.snapshot_set.vm.image if candidate.snapshot_set else "",
        status=candidate.status,
        reason=candidate.reason,
        point=point,
        disks=len(images),
        disk_bytes=sum(image.size_bytes for image in images),
        changed_bytes=sum(image.changed_bytes for image in images),
        read_bytes=sum(image.read_bytes for image in images),
        stored_bytes=sum(image.stored_bytes for image in images),
        seconds=sum(image.seconds for image in images),
        suspicious=suspicious,
        expected_bytes=sum(disk.expected_bytes for vm in pieces for disk in vm.streamed),
        expected_seconds=sum(vm.expected_seconds for vm in pieces),
        ended_at=max((image.ended_at for image in images if image.ended_at), default=None),
    )


def _status(vms: Sequence[JobVm], unprotected: Sequence[Unprotected]) -> JobStatus:
    """Return ``done`` when nothing is missing, ``failed`` when nothing at all was backed up."""
    if all(vm.status == "done" for vm in vms) and not unprotected:
        return "done"
    has_failed = any(vm.status == "failed" for vm in vms)
    return "failed" if has_failed and not any(vm.status == "done" for vm in vms) else "partial"
