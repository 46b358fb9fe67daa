"""Whole restore points of small disks: published, read back, digested by the test itself."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import replace
from support.repositories import a_vm

from airflow_provider_azstack.model import (
    Compression,
    Disk,
    DiskSnapshot,
    Image,
    Job,
    JobRecord,
    JobVm,
    PointImage,
    RestorePoint,
    VirtualMachine,
)
from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sessions import Session

DAY_ONE = datetime(2026, 1, 2, tzinfo=UTC)
CHUNK = bytes(1024**2)


def vm_key(number: int) -> str:
    return f"{number:08x}-2222-3333-4444-555555555555"


def digest_of(disk: Any) -> str:
    """Return the SHA-256 of what the disk itself says that it holds."""
    digest = hashlib.sha256()
    for offset in range(0, disk.size_bytes, len(CHUNK)):
        digest.update(disk.read(offset, min(len(CHUNK), disk.size_bytes - offset)))
    return digest.hexdigest()


def restored_digest(repository: Repository, image: str) -> str:
    """Return the SHA-256 of a disk that is read back."""
    digest = hashlib.sha256()
    for piece in ImageReader(repository.image(image), repository.reader()).stream():
        if piece.data is not None:
            digest.update(piece.data)
            continue
        for start in range(0, piece.length, len(CHUNK)):
            digest.update(CHUNK[: piece.length - start])
    return digest.hexdigest()


def back_up_vm(
    repository: Repository,
    disks: Mapping[str, Any],
    *,
    number: int = 1,
    day: int = 0,
    run: str = "",
    policy: str = "nightly",
    incremental: bool = True,
    compression: Compression = "standard",
) -> RestorePoint:
    """
    Do a whole run over one VM: W1 to W7, the job's record included.

    :param disks: disk key -> a ``SparseDisk`` or anything else that a backup can read.
    :param number: which VM, of the tests' making.
    """
    run = run or f"{policy}-{number}-{day}"
    session = repository.open_session("backup", run=run)
    try:
        key = vm_key(number)
        session.claim(key)
        how: dict[str, Any] = {"incremental": incremental, "compression": compression}
        images = [
            _image(session, disk_key, disk, run=run, key=key, day=day, **how)
            for disk_key, disk in disks.items()
        ]
        session.verify_present(group for image in images for group in image.regions if group)
        latest = repository.latest_point(key)
        point = session.publish(
            _point(
                session,
                images,
                run=run,
                policy=policy,
                number=number,
                day=day,
                previous=latest.id if latest else "",
            )
        )
        session.put_job(_job(session, point, number))
    finally:
        session.close()
    return point


def _image(
    session: Session,
    disk_key: str,
    disk: Any,
    *,
    run: str,
    key: str,
    day: int,
    incremental: bool,
    compression: Compression = "standard",
) -> Image:
    from airflow_provider_azstack.engine.backup.disk import back_up_disk

    snapshot = DiskSnapshot(
        disk_key=disk_key,
        kind="managed",
        id=f"/subscriptions/s/snapshots/{disk_key}",
        size_bytes=disk.size_bytes,
        unique_id=f"{key}-{disk_key}",
        taken_at=DAY_ONE + timedelta(days=day),
    )
    latest = session.repository.latest_point(key) if incremental else None
    before = (
        [image.image for image in latest.images if image.disk_key == disk_key] if latest else []
    )
    return back_up_disk(
        disk,
        session,
        name=f"images/{run}/{key}.{disk_key}/{session.id}",
        run=run,
        vm_key=key,
        set_id=f"set-{run}",
        snapshot=snapshot,
        previous=session.repository.image(before[0]) if before else None,
        compression=compression,
        readers=2,
    )


def _point(
    session: Session,
    images: list[Image],
    *,
    run: str,
    policy: str,
    number: int,
    day: int,
    previous: str,
) -> RestorePoint:
    taken_at = DAY_ONE + timedelta(days=day)
    return RestorePoint(
        id=f"{taken_at:%Y%m%dt%H%M%S}-{run}",
        run=run,
        session=session.id,
        policy=policy,
        stack="stack.example",
        set_id=f"set-{run}",
        consistency="crash",
        taken_at=taken_at,
        published_at=taken_at + timedelta(minutes=10),
        vm=_machine(number, images),
        images=tuple(map(PointImage.of, images)),
        previous=previous,
    )


def _machine(number: int, images: list[Image]) -> VirtualMachine:
    return replace(
        a_vm(vm_key(number)),
        id=f"/subscriptions/s/vm-{number}",
        name=f"vm-{number}",
        disks=tuple(
            Disk(
                key=image.snapshot.disk_key,
                name=f"vm-{number}-{image.snapshot.disk_key}",
                kind="managed",
                source="/subscriptions/s/disk",
                size_bytes=image.size_bytes,
                unique_id=image.snapshot.unique_id,
            )
            for image in images
        ),
    )


def _job(session: Session, point: RestorePoint, number: int) -> JobRecord:
    vm = JobVm(
        key=point.vm.key,
        name=f"vm-{number}",
        host="a",
        status="done",
        point=point.id,
        disk_bytes=sum(image.size_bytes for image in point.images),
        changed_bytes=sum(image.changed_bytes for image in point.images),
        read_bytes=sum(image.read_bytes for image in point.images),
        stored_bytes=sum(image.stored_bytes for image in point.images),
        seconds=sum(image.seconds for image in point.images),
    )
    job = Job(run=point.run, session=session.id, policy=point.policy, stack=point.stack)
    return JobRecord(
        job=job,
        status="done",
        started_at=point.taken_at,
        ended_at=point.published_at,
        vms=(vm,),
    )
