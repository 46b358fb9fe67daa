"""
Completion: from what is in the repository to restore points and the job's record.

Owns the decision what is a backup. It is made from the manifests and the repository alone, never
from what tasks say of themselves. Invariants: a restore point has an image of every disk of the
manifest, all of one snapshot set of this job's own session, and every block that this job added is
there; the record names every VM of the manifests. Doing it again changes nothing.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import NamedTuple

from msgspec.structs import replace

from airflow_provider_azstack.engine import names
from airflow_provider_azstack.engine.backup import signals, window
from airflow_provider_azstack.engine.backup.manifests import gathered
from airflow_provider_azstack.engine.backup.sets import covers, is_current, taken_at
from airflow_provider_azstack.errors import (
    AzStackError,
    ConfigurationError,
    IncompleteJob,
    IntegrityError,
    MissingBlock,
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
    SnapshotSet,
    Unprotected,
    VmStatus,
    WorkloadVm,
)
from airflow_provider_azstack.repo.runs import decode_runs, load_group
from airflow_provider_azstack.repo.sessions import Session

log = logging.getLogger(__name__)

THREADS = 8
SHOWN = 5  # VMs that an error names


class _Candidate(NamedTuple):
    """A VM of the manifests, and what the repository has of it."""

    vm: WorkloadVm
    host: str
    snapshot_set: SnapshotSet | None = None
    images: tuple[Image, ...] = ()  # of that set, in the order of its disks
    is_begun: bool = False  # there are images of it, of whatever set
    status: VmStatus = "done"
    reason: str = ""

    def but(self, status: VmStatus, reason: str) -> "_Candidate":
        return self._replace(status=status, reason=reason)


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
    candidates = _candidates(session, job, manifests)
    candidates = _with_blocks_there(session, candidates)
    with ThreadPoolExecutor(THREADS, "complete") as pool:
        vms = list(pool.map(lambda c: _finished(session, job, c, reasons or {}, clock), candidates))
    record = JobRecord(
        job=job,
        status=_status(vms, unprotected),
        started_at=started_at,
        ended_at=clock(),
        vms=tuple(vms),
        unprotected=tuple(unprotected),
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


def _candidates(session: Session, job: Job, manifests: Iterable[Manifest]) -> list[_Candidate]:
    """Match the VMs of the manifests with the job's sets and images."""
    repository = session.repository
    sets: dict[str, list[SnapshotSet]] = defaultdict(list)
    for snapshot_set in repository.sets(job.run):
        if is_current(snapshot_set, job):
            sets[snapshot_set.vm.key].append(snapshot_set)
    images: dict[str, list[Image]] = defaultdict(list)
    for image in repository.images(job.run):
        if names.is_of_session(image.set_id, job.session):
            images[image.vm_key].append(image)
    found: dict[str, _Candidate] = {}
    for manifest in gathered(repository, manifests):
        if manifest.job != job:
            raise ConfigurationError(
                f"the manifest of host {manifest.host} is of run {manifest.job.run}, session "
                f"{manifest.job.session}: completion is of {job.run}, {job.session}"
            )
        for vm in (vm for workload in manifest.workloads for vm in workload.vms):
            found[vm.key] = _matched(vm, manifest.host, sets[vm.key], images[vm.key])
    return list(found.values())


def _matched(
    vm: WorkloadVm, host: str, sets: Sequence[SnapshotSet], images: Sequence[Image]
) -> _Candidate:
    """Choose the newest set of which every disk has an image; else say what is missing."""
    bare = _Candidate(vm, host, is_begun=bool(images))
    whole = sorted(filter(covers(vm), sets), key=taken_at, reverse=True)
    for snapshot_set in whole:
        of_set = {image.snapshot: image for image in images if image.set_id == snapshot_set.id}
        if all(snapshot in of_set for snapshot in snapshot_set.snapshots):
            chosen = tuple(of_set[snapshot] for snapshot in snapshot_set.snapshots)
            return bare._replace(snapshot_set=snapshot_set, images=chosen)
    if not whole:
        return _without_set(bare, sets)
    imaged = {image.snapshot.disk_key for image in images}
    missing = [disk.key for disk in vm.disks if disk.key not in imaged]
    if missing:
        return bare.but("failed", f"no image of {', '.join(missing)}: see its stream's log")
    return bare.but(
        "failed",
        "its images are of different snapshot sets, which do not fit together: trigger a new run",
    )


def _without_set(bare: _Candidate, sets: Sequence[SnapshotSet]) -> _Candidate:
    for note in sets:
        if not note.snapshots and note.consistency == "required_stopped":
            state = note.vm.power_state
            return bare.but("skipped", f"it was {state}, and the policy requires it stopped")
    return bare.but("failed", "it has no snapshot set: see its snapshot's and stream's logs")


def _with_blocks_there(session: Session, candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """
    Fail the VMs of which a block is gone: an acknowledged write may have been lost.

    Only blocks in regions that differ from the image before are looked at: the others are those of
    a published point, which the collector keeps.
    """
    try:
        session.verify_present(_new_blocks(session, (c for c in candidates if c.images)))
    except (IntegrityError, ObjectNotFound) as error:
        log.error("%s: looking for the VMs that need it", error)  # noqa: TRY400 - says it all
        return [_checked_alone(session, candidate) for candidate in candidates]
    return list(candidates)


def _checked_alone(session: Session, candidate: _Candidate) -> _Candidate:
    try:
        session.verify_present(_new_blocks(session, [candidate]))
    except (IntegrityError, ObjectNotFound) as error:
        return candidate.but("failed", f"the repository lost what was stored: {error}")
    return candidate


def _new_blocks(session: Session, candidates: Iterable[_Candidate]) -> Iterator[bytes]:
    """Yield the ids of the blocks that the images have and their predecessors had not."""
    reader = session.reader()
    for image in (image for candidate in candidates for image in candidate.images):
        before = _regions_before(session, image)
        for number, group in enumerate(image.regions):
            if group is None or (number < len(before) and before[number] == group):
                continue
            offset = number * image.region_bytes
            length = min(image.region_bytes, image.size_bytes - offset)
            try:
                data, parts = load_group(reader, group)
                runs = decode_runs(data, offset, length)
            except IntegrityError as error:
                raise MissingBlock(f"{image.name}, region at {offset}: {error}") from None
            yield from (group, *parts)
            yield from {run.block_id for run in runs if run.block_id is not None}


def _regions_before(session: Session, image: Image) -> tuple[bytes | None, ...]:
    if not image.based_on:
        return ()
    try:
        before = session.repository.image(image.based_on)
    except (IntegrityError, ObjectNotFound):
        return ()
    return before.regions if before.region_bytes == image.region_bytes else ()


def _finished(
    session: Session,
    job: Job,
    candidate: _Candidate,
    reasons: Mapping[str, str],
    clock: Callable[[], datetime],
) -> JobVm:
    """Publish a complete VM's point; return how the VM fared."""
    if candidate.status == "done":
        try:
            point = _publish(session, job, candidate, clock)
        except IntegrityError as error:
            candidate = candidate.but("failed", f"its point could not be published: {error}")
        else:
            suspicious = signals.check(session.repository, point, clock=clock)
            return _job_vm(candidate, point.id, suspicious)
    told = reasons.get(candidate.vm.key, "")
    is_missing = candidate.status == "failed" and (told or not candidate.is_begun)
    left_out = window.left_out(job, clock(), told) if is_missing else ""
    reason = left_out or (f"{candidate.reason} ({told})" if told else candidate.reason)
    vm = _job_vm(candidate._replace(reason=reason[:1000], images=()), "")
    return replace(vm, is_waiting=bool(left_out))


def _publish(
    session: Session, job: Job, candidate: _Candidate, clock: Callable[[], datetime]
) -> RestorePoint:
    taken = candidate.snapshot_set
    if taken is None:
        raise AzStackError(f"{candidate.vm.name} has no snapshot set: this is a bug")
    point_id = names.point_id(taken_at(taken), taken.id)
    return session.publish(
        RestorePoint(
            id=point_id,
            run=job.run,
            session=job.session,
            policy=job.policy,
            stack=job.stack,
            set_id=taken.id,
            consistency=taken.consistency,
            taken_at=taken_at(taken),
            published_at=clock(),
            vm=taken.vm,
            images=tuple(_point_image(image) for image in candidate.images),
            previous=_previous(session, candidate.vm.key, point_id),
        )
    )


def _previous(session: Session, vm_key: str, point_id: str) -> str:
    """Return the id of the point before this one, also when this one is there already."""
    try:
        latest = session.repository.latest_point(vm_key)
    except IntegrityError as error:  # a damaged point must not keep all later ones from the VM
        log.warning("the point before %s of %s cannot be read: %s", point_id, vm_key, error)
        return ""
    if latest is None:
        return ""
    return latest.previous if latest.id == point_id else latest.id


def _point_image(image: Image) -> PointImage:
    return PointImage(
        image=image.name,
        disk_key=image.snapshot.disk_key,
        snapshot=image.snapshot,
        size_bytes=image.size_bytes,
        changes_known=image.changes_known,
        changed_bytes=image.changed_bytes,
        read_bytes=image.read_bytes,
        stored_bytes=image.stored_bytes,
        seconds=image.seconds,
    )


def _job_vm(candidate: _Candidate, point: str, suspicious: tuple[str, ...] = ()) -> JobVm:
    images = candidate.images
    return JobVm(
        key=candidate.vm.key,
        name=candidate.vm.name,
        host=candidate.host,
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
    )


def _status(vms: Sequence[JobVm], unprotected: Sequence[Unprotected]) -> JobStatus:
    """Return ``done`` when nothing is missing, ``failed`` when nothing at all was backed up."""
    if all(vm.status == "done" for vm in vms) and not unprotected:
        return "done"
    has_failed = any(vm.status == "failed" for vm in vms)
    return "failed" if has_failed and not any(vm.status == "done" for vm in vms) else "partial"
