"""The VM, the disk and the restore points that the benchmarks' backups are of."""

from datetime import UTC, datetime

from airflow_provider_azstack.model import (
    Disk,
    DiskSnapshot,
    Image,
    PointImage,
    RestorePoint,
    VirtualMachine,
)
from airflow_provider_azstack.repo.sessions import Session

VM = "00000000-0000-4000-8000-000000000000"
DISK = "os"


def image_name(run: str) -> str:
    """Return the object name of the disk's image in a run."""
    return f"images/{run}/{VM}.{DISK}/1"


def snapshot_of(size_bytes: int) -> DiskSnapshot:
    """Return the snapshot of a disk of that size."""
    return DiskSnapshot(
        disk_key=DISK,
        kind="managed",
        id="benchmark",
        size_bytes=size_bytes,
        unique_id="benchmark",
        taken_at=datetime.now(UTC),
    )


def machine(size_bytes: int) -> VirtualMachine:
    """Return the VM that has the disk."""
    return VirtualMachine(
        id="/subscriptions/s/benchmark",
        key=VM,
        name="benchmark",
        subscription_id="s",
        resource_group="g",
        location="local",
        size="Standard_A1",
        os_type="Linux",
        power_state="running",
        disks=(
            Disk(
                key=DISK,
                name=DISK,
                kind="managed",
                source="benchmark",
                size_bytes=size_bytes,
                unique_id="benchmark",
            ),
        ),
    )


def publish(session: Session, image: Image) -> RestorePoint:
    """Publish the restore point that has this image."""
    taken_at = image.snapshot.taken_at
    point = RestorePoint(
        id=f"{taken_at:%Y%m%dt%H%M%S%f}",
        run=image.run,
        session=session.id,
        policy="benchmark",
        stack="benchmark",
        set_id=image.set_id,
        consistency="crash",
        taken_at=taken_at,
        published_at=datetime.now(UTC),
        vm=machine(image.size_bytes),
        images=(PointImage.of(image),),
    )
    return session.publish(point)
