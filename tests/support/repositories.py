"""Small repositories for tests: a cheap passphrase, small packs, and one whole little backup."""

from collections.abc import Iterable
from datetime import UTC, datetime
from random import Random

from msgspec.structs import replace
from support.fleets import machine
from support.stores import MemoryStore

from airflow_provider_azstack.model import (
    DiskSnapshot,
    Image,
    PointImage,
    RestorePoint,
    SnapshotSet,
    VirtualMachine,
)
from airflow_provider_azstack.repo.blocks.packs import BLOCK_SIZE
from airflow_provider_azstack.repo.blocks.writer import BlockWriter
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sealing.crypto import Cost
from airflow_provider_azstack.repo.sessions import Session
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store.base import Store

PASSPHRASE = Secret("correct horse")
CHEAP = Cost(2)
SMALL_PACK = BLOCK_SIZE + 4096  # so that one or two blocks fill a pack
VM_KEY = "11111111-2222-3333-4444-555555555555"
MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def new_repository(store: Store | None = None) -> Repository:
    return Repository.create(store or MemoryStore(), PASSPHRASE, kdf=CHEAP)[0]


def reopen(repository: Repository, store: Store | None = None) -> Repository:
    """As another process would: nothing is remembered."""
    return Repository.open(store or repository.store, PASSPHRASE)


def small_writer(session: Session) -> BlockWriter:
    writer = session.writer()
    writer._pack_bytes = SMALL_PACK
    return writer


def small_packs(session: Session) -> Session:
    """Let the session's writers fill packs soon, so that there are many to collect."""
    writer = session.writer

    def small(*compression: object) -> object:
        one = writer(*compression)  # type: ignore[arg-type]
        one._pack_bytes = SMALL_PACK
        return one

    session.writer = small  # type: ignore[assignment, method-assign]
    return session


def noise(seed: int, size: int = 3000) -> bytes:
    return Random(seed).randbytes(size)


def prose(size: int = BLOCK_SIZE) -> bytes:
    """Words of which some are common and some are not: what any compression tells itself by."""
    rng = Random(4)
    words = [rng.randbytes(rng.randrange(2, 7)).hex().encode() for _ in range(3000)]
    picked = (words[int(len(words) * rng.random() ** 3)] for _ in range(size // 5))
    return b" ".join(picked)[:size]


def store_blocks(session: Session, blocks: Iterable[bytes]) -> list[bytes]:
    """Store blocks durably, in small packs, and return their ids."""
    with small_writer(session) as writer:
        ids = [writer.add(block).block_id for block in blocks]
        writer.flush()
    return ids


def a_vm(key: str = VM_KEY) -> VirtualMachine:
    return replace(machine(1), id="/subscriptions/s/vm", key=key, name="web")


def a_snapshot() -> DiskSnapshot:
    return DiskSnapshot(
        disk_key="os",
        kind="managed",
        id="/subscriptions/s/snapshot",
        size_bytes=BLOCK_SIZE,
        unique_id="u",
        taken_at=MOMENT,
    )


def a_set(run: str = "run-1") -> SnapshotSet:
    return SnapshotSet(
        id="set-1", run=run, vm=a_vm(), consistency="crash", snapshots=(a_snapshot(),)
    )


def an_image(ids: Iterable[bytes], run: str = "run-1", attempt: str = "1") -> Image:
    """Return an image whose regions are the blocks themselves: no disk is needed here."""
    return Image(
        name=f"images/{run}/{VM_KEY}.os/{attempt}",
        run=run,
        vm_key=VM_KEY,
        set_id="set-1",
        snapshot=a_snapshot(),
        size_bytes=BLOCK_SIZE,
        region_bytes=BLOCK_SIZE,
        regions=tuple(ids),
        changes_known="allocated",
        changed_bytes=0,
        read_bytes=0,
        stored_bytes=0,
        seconds=1.0,
    )


def a_point(
    image: Image, session: Session, point: str = "p-1", *, published_at: datetime = MOMENT
) -> RestorePoint:
    return RestorePoint(
        id=point,
        run=image.run,
        session=session.id,
        policy="nightly",
        stack="stack.example",
        set_id=image.set_id,
        consistency="crash",
        taken_at=MOMENT,
        published_at=published_at,
        vm=a_vm(image.vm_key),
        images=(PointImage.of(image),),
    )


def bare_point(key: str, taken_at: datetime, name: str) -> RestorePoint:
    """Return a point for what looks at whose it is and from when, and reads none."""
    return RestorePoint(
        id=name,
        run="run",
        session="s",
        policy="nightly",
        stack="stack.example",
        set_id="set",
        consistency="crash",
        taken_at=taken_at,
        published_at=taken_at,
        vm=a_vm(key),
        images=(),
    )


def back_up(repository: Repository, blocks: list[bytes], run: str = "run-1") -> RestorePoint:
    """Do everything a run does with the repository, W1 to W7, and return the published point."""
    session = repository.open_session("backup", run=run)
    session.claim(VM_KEY)
    session.put_set(a_set(run))
    image = an_image(store_blocks(session, blocks), run, session.id)
    session.put_image(image)
    session.verify_present(image.regions)
    point = session.publish(a_point(image, session, f"p-{run}"))
    session.close()
    return point


def restore(repository: Repository, point: RestorePoint) -> list[bytes]:
    """Return the blocks of a point, read back."""
    reader = repository.reader()
    images = [repository.image(image.image) for image in point.images]
    return [reader.read(block) for image in images for block in image.regions if block]
