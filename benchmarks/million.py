"""
A repository of a million small blocks, for what costs by the block: ``million.py DIRECTORY N``.

Its one disk has a block of 64 random bytes in every megabyte, so every block is one of a million
that a restore point needs. All of it went through the writer, as a backup does.
"""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from airflow_provider_azstack.model import (
    DiskSnapshot,
    Image,
    PointImage,
    RestorePoint,
    VirtualMachine,
)
from airflow_provider_azstack.repo.packs import BLOCK_SIZE
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.runs import REGION_BYTES, Run, store_runs
from airflow_provider_azstack.repo.sessions import Session

VM = "00000000-0000-4000-8000-000000000000"
RUN = "million"
BLOCK_BYTES = 64
_CELLS = REGION_BYTES // BLOCK_SIZE


def fill(repository: Repository, blocks: int) -> RestorePoint:
    """Store a disk of ``blocks`` small blocks and publish its restore point."""
    session = repository.open_session("benchmark", run=RUN)
    taken_at = datetime.now(UTC)
    snapshot = DiskSnapshot(
        disk_key="os",
        kind="managed",
        id="benchmark",
        size_bytes=blocks * BLOCK_SIZE,
        unique_id="benchmark",
        taken_at=taken_at,
    )
    image = Image(
        name=f"images/{RUN}/{VM}.os/1",
        run=RUN,
        vm_key=VM,
        set_id=RUN,
        snapshot=snapshot,
        size_bytes=blocks * BLOCK_SIZE,
        region_bytes=REGION_BYTES,
        regions=tuple(_regions(session, blocks)),
        changes_known="allocated",
        changed_bytes=0,
        read_bytes=0,
        stored_bytes=0,
        seconds=0.0,
    )
    session.put_image(image)
    point = session.publish(_point(image, session, taken_at))
    session.close()
    return point


def _regions(session: Session, blocks: int) -> list[bytes | None]:
    regions = list[bytes | None]()
    with session.writer() as writer:
        for first in range(0, blocks, _CELLS):
            cells = min(_CELLS, blocks - first)
            noise = memoryview(os.urandom(cells * BLOCK_BYTES))
            runs = []
            for cell in range(cells):
                block = writer.add(noise[cell * BLOCK_BYTES : (cell + 1) * BLOCK_BYTES])
                runs.append(Run(cell * BLOCK_SIZE, BLOCK_BYTES, block.block_id))
                rest = BLOCK_SIZE - BLOCK_BYTES
                runs.append(Run(cell * BLOCK_SIZE + BLOCK_BYTES, rest))
            regions.append(store_runs(writer, runs)[0])
        writer.flush()
    return regions


def _point(image: Image, session: Session, taken_at: datetime) -> RestorePoint:
    vm = VirtualMachine(
        id="/subscriptions/s/benchmark",
        key=VM,
        name="benchmark",
        subscription_id="s",
        resource_group="g",
        location="local",
        size="Standard_A1",
        os_type="Linux",
        power_state="running",
        disks=(),
    )
    disk = PointImage(
        image=image.name,
        disk_key="os",
        snapshot=image.snapshot,
        size_bytes=image.size_bytes,
        changes_known="allocated",
        changed_bytes=0,
        read_bytes=0,
        stored_bytes=0,
        seconds=0.0,
    )
    return RestorePoint(
        id=f"{taken_at:%Y%m%dt%H%M%S}",
        run=RUN,
        session=session.id,
        policy="benchmark",
        stack="benchmark",
        set_id=RUN,
        consistency="crash",
        taken_at=taken_at,
        published_at=taken_at,
        vm=vm,
        images=(disk,),
    )


if __name__ == "__main__":
    from backup import PASSPHRASE

    from airflow_provider_azstack.secret import Secret
    from airflow_provider_azstack.store.local import LocalStore

    fill(Repository.open(LocalStore(Path(sys.argv[1])), Secret(PASSPHRASE)), int(sys.argv[2]))
