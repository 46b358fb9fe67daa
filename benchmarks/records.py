"""The repository, the VM, the disk and the restore points that the benchmarks' backups are of."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow_provider_azstack.model import (
    Disk,
    DiskSnapshot,
    Image,
    PointImage,
    RestorePoint,
    VirtualMachine,
)
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sessions import Session
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store import Store
from airflow_provider_azstack.store.local import LocalStore

VM = "00000000-0000-4000-8000-000000000000"
DISK = "os"
MIB = 1024**2
_PASSPHRASE = Secret("only the benchmark's")  # its repository is deleted with it


def create(directory: Path) -> None:
    """Create a repository, its passphrase at full cost."""
    Repository.create(LocalStore(directory), _PASSPHRASE)


def opened(where: Path | Store, **options: Any) -> Repository:
    """Open that repository, in its directory or from where else it can be reached."""
    store = where if isinstance(where, Store) else LocalStore(where)
    return Repository.open(store, _PASSPHRASE, **options)


def back_up(session: Session, disk: Any, run: str, based_on: str = "", **how: Any) -> Image:
    """Store the disk; ``based_on`` is the run of the image before."""
    from airflow_provider_azstack.engine.backup.disk import (  # noqa: PLC0415 - costs who backs up
        back_up_disk,
    )

    return back_up_disk(
        disk,
        session,
        name=image_name(run),
        run=run,
        vm_key=VM,
        set_id=run,
        snapshot=snapshot_of(disk.size_bytes),
        previous=session.repository.image(image_name(based_on)) if based_on else None,
        **how,
    )


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
