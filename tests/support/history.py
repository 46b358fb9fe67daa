"""Repositories with a past: points, jobs, images and manifests as records, without any data."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from msgspec.structs import replace
from support.points import vm_key
from support.repositories import a_vm

from airflow_provider_azstack.model import (
    DiskPart,
    DiskSnapshot,
    HostForecast,
    Image,
    Job,
    JobRecord,
    JobVm,
    PointImage,
    RestorePoint,
    Unprotected,
)
from airflow_provider_azstack.repo.images.runs import REGION_BYTES
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.verify import ledger
from airflow_provider_azstack.repo.verify.ledger import Outcome, Verified, VerifiedPoint

GIB = 2**30


class Night:
    """One compound job, put together VM by VM and then recorded."""

    def __init__(
        self, repository: Repository, began: datetime, *, policy: str = "nightly", **job: Any
    ) -> None:
        self.repository = repository
        self.began = began
        run = f"{policy}-{began:%Y%m%dt%H%M%S}"
        self.job = Job(run=run, session="s" * 32, policy=policy, stack="stack.example", **job)
        self.vms: list[JobVm] = []
        self.points: list[RestorePoint] = []

    def done(
        self,
        number: int,
        *,
        name: str = "",
        host: str = "host-a",
        more_hosts: tuple[str, ...] = (),
        at: float = 60.0,
        seconds: float = 120.0,
        read: int = GIB,
        disks: Sequence[str] = ("os",),
        parts: Sequence[DiskPart | None] = (None,),
        read_by: Sequence[str] = (),
        is_kept: bool = True,
    ) -> RestorePoint:
        """
        Record a VM that was backed up, its disks one after another.

        :param at: seconds from the job's begin until the first disk was begun.
        :param read_by: the hosts that images tell, in their order; older images tell none.
        :param is_kept: its point is still there.
        """
        name = name or f"vm-{number}"
        images = []
        for disk in disks:
            for part in parts:
                at += seconds
                ended = self.began + timedelta(seconds=at)
                image = self._image(number, disk, part, ended=ended, seconds=seconds, read=read)
                if read_by:
                    image = replace(image, host=read_by[len(images)])
                self.repository.records.put(image.name, image)
                images.append(image)
        point = self._point(number, name, images)
        if is_kept:
            self.repository.records.put(f"points/{point.vm.key}/{point.id}", point)
            self.points.append(point)
        self.vms.append(
            JobVm(
                key=vm_key(number),
                name=name,
                host=host,
                more_hosts=more_hosts,
                status="done",
                point=point.id,
                disks=len(disks),
                read_bytes=sum(image.read_bytes for image in images),
                stored_bytes=sum(image.stored_bytes for image in images),
                seconds=sum(image.seconds for image in images),
            )
        )
        return point

    def failed(self, number: int, reason: str, *, name: str = "", host: str = "host-a") -> None:
        name = name or f"vm-{number}"
        vm = JobVm(key=vm_key(number), name=name, host=host, status="failed", reason=reason)
        self.vms.append(vm)

    def end(
        self,
        minutes: float = 60,
        *,
        expected_minutes: float = 0,
        unprotected: Iterable[Unprotected] = (),
    ) -> JobRecord:
        """Record the job."""
        forecast = HostForecast(
            host="host-a",
            made_at=self.began,
            streams=2,
            workloads=2,
            vms=len(self.vms),
            expected_bytes=GIB,
            busy_seconds=120.0,
            end_seconds=expected_minutes * 60,
        )
        record = JobRecord(
            job=self.job,
            status="partial" if any(vm.status == "failed" for vm in self.vms) else "done",
            started_at=self.began,
            ended_at=self.began + timedelta(minutes=minutes),
            vms=tuple(self.vms),
            unprotected=tuple(unprotected),
            forecast=(forecast,) if expected_minutes else (),
        )
        self.repository.records.put(f"jobs/{self.job.run}/0001", record)
        return record

    def _image(
        self,
        number: int,
        disk: str,
        part: DiskPart | None,
        *,
        ended: datetime,
        seconds: float,
        read: int,
    ) -> Image:
        which = "" if part is None else f"part-{part.first}-"
        return Image(
            name=f"images/{self.job.run}/{vm_key(number)}.{disk}/{which}1",
            run=self.job.run,
            vm_key=vm_key(number),
            set_id="set-1",
            snapshot=DiskSnapshot(
                disk_key=disk,
                kind="managed",
                id=f"/snapshots/{disk}",
                size_bytes=4 * GIB,
                unique_id="u",
                taken_at=self.began,
            ),
            size_bytes=4 * GIB,
            region_bytes=REGION_BYTES,
            regions=(),
            changes_known="allocated",
            changed_bytes=read,
            read_bytes=read,
            stored_bytes=read // 3,
            seconds=seconds,
            ended_at=ended,
            part=part,
        )

    def _point(self, number: int, name: str, images: Sequence[Image]) -> RestorePoint:
        return RestorePoint(
            id=f"{self.began:%Y%m%dt%H%M%S}z-{number:010d}",
            run=self.job.run,
            session=self.job.session,
            policy=self.job.policy,
            stack=self.job.stack,
            set_id="set-1",
            consistency="crash",
            taken_at=self.began,
            published_at=self.began + timedelta(minutes=10),
            vm=replace(a_vm(vm_key(number)), id=f"/vms/{number}", name=name),
            images=tuple(map(PointImage.of, images)),
        )


def verified(
    repository: Repository, at: datetime, points: Iterable[RestorePoint], *, damaged: int = 0
) -> None:
    """Record a verification that came to its end, and found these points good."""
    good = tuple(
        VerifiedPoint(vm_key=p.vm.key, vm=p.vm.name, point=p.id, taken_at=p.taken_at, read_since=at)
        for p in points
    )
    outcome = Outcome(points=len(good), damaged_points=damaged, findings=damaged, verified=good)
    entry = Verified(verification="0" * 32, mode="cycle", started_at=at, at=at, outcome=outcome)
    ledger.put(repository.records, entry)
