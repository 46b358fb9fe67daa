"""A compound job without Airflow: the engine's steps in the DAG's order, on the emulator."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from airflow_provider_azstack.arm.client import Credentials, Stack
from airflow_provider_azstack.config import BackupHost
from airflow_provider_azstack.emulator import EmulatedDisk, EmulatedVm, Emulator
from airflow_provider_azstack.engine.backup.clean_up import clean_up
from airflow_provider_azstack.engine.backup.complete import complete
from airflow_provider_azstack.engine.backup.discover import Inventory, discover
from airflow_provider_azstack.engine.backup.distribute import distribute
from airflow_provider_azstack.engine.backup.manifests import spill
from airflow_provider_azstack.engine.backup.past import Past
from airflow_provider_azstack.engine.backup.siblings import siblings
from airflow_provider_azstack.engine.backup.stream import snapshot_workload, stream_workload
from airflow_provider_azstack.errors import StreamsFailed
from airflow_provider_azstack.model import (
    Job,
    JobRecord,
    JobVm,
    Manifest,
    Mode,
    RestorePoint,
    Workload,
)
from airflow_provider_azstack.policy import Policy, TriggerConf
from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sealing.crypto import Cost
from airflow_provider_azstack.repo.sessions import Session
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store.base import Store
from airflow_provider_azstack.store.local import LocalStore

SNAPSHOTS = "backup-snapshots"


def connect(emulator: Emulator, **settings: object) -> Stack:
    """Sign in to the emulator as its service principal."""
    secret = Secret(emulator.client_secret)
    credentials = Credentials(emulator.tenant_id, emulator.client_id, secret)
    return Stack(
        emulator.arm_url,
        credentials,
        ca_bundle=str(emulator.ca_file),
        **{"sleep": _no_wait} | settings,
    )


def _no_wait(_seconds: float) -> None:
    """Do not wait: the emulator's operations end when they are looked at."""


def new_repository(place: Path | Store) -> Repository:
    """Create a repository whose passphrase is cheap to guess, which tests do not mind."""
    store = place
    if isinstance(place, Path):
        place.mkdir()
        store = LocalStore(place)
    return Repository.create(store, Secret("passphrase"), kdf=Cost(2))[0]


@dataclass
class Run:
    """One run of a policy, step by step."""

    rig: "Rig"
    session: Session
    job: Job
    inventory: Inventory
    manifests: tuple[Manifest, ...]
    failures: dict[str, Exception] = field(default_factory=dict)

    @property
    def workloads(self) -> list[Workload]:
        return [workload for manifest in self.manifests for workload in manifest.workloads]

    def snapshot(self) -> None:
        self._each(lambda w: snapshot_workload(self.rig.stack, self.session, w))

    def stream(self, tries: int = 1) -> None:
        for _ in range(tries):
            self.failures.clear()
            self._each(lambda w: stream_workload(self.rig.stack, self.session, w))

    def _each(self, step) -> None:  # noqa: ANN001 - a function of a workload
        for workload in self.workloads:
            try:
                step(workload)
            except StreamsFailed as error:
                self.failures |= error.failures

    def complete(self) -> JobRecord:
        return complete(
            self.session,
            self.job,
            self.manifests,
            self.inventory.unprotected,
            started_at=datetime.now(UTC),
        )

    def clean_up(self) -> int:
        return clean_up(
            self.rig.stack,
            self.rig.repository,
            run=self.job.run,
            session_id=self.job.session,
            manifests=self.manifests,
        )

    def finish(self) -> dict[str, JobVm]:
        """Do all that is left, and return how each VM fared."""
        self.snapshot()
        self.stream()
        record = self.complete()
        self.clean_up()
        return {vm.name: vm for vm in record.vms}


@dataclass
class Rig:
    """A stack, a repository, and a policy for all of the stack."""

    emulator: Emulator
    stack: Stack
    repository: Repository
    policy: Policy = Policy(name="nightly", snapshot_resource_group=SNAPSHOTS)  # noqa: RUF009 - frozen
    hosts: tuple[BackupHost, ...] = (
        BackupHost(name="a", streams=2, queue="a", executor=None),
        BackupHost(name="b", streams=1, queue="b", executor=None),
    )
    runs: int = 0
    split_bytes: int | None = None

    def begin(self, *, mode: Mode = "incremental", trigger: TriggerConf | None = None) -> Run:
        """Open a session, discover and distribute."""
        self.runs += 1
        run = f"run-{self.runs}"
        session = self.repository.open_session("backup", run=run)
        job = Job(
            run=run,
            session=session.id,
            policy=self.policy.name,
            stack=self.stack.name,
            mode=mode,
            consistency=self.policy.consistency,
            compression=self.policy.compression,
            snapshot_group=self.policy.snapshot_resource_group or "",
        )
        inventory = discover(self.stack, self.policy, trigger)
        past = Past(self.repository.job_outlines())
        manifests = tuple(
            spill(session, manifest, limit_bytes=2000)
            for manifest in distribute(
                job,
                inventory.vms,
                self.hosts,
                siblings=siblings(
                    inventory.vms, past.done(), past.of_images(), session.repository.has_points
                ),
                split_bytes=self.split_bytes,
            )
        )
        return Run(self, session, job, inventory, manifests)

    def backup(self, **settings: object) -> dict[str, JobVm]:
        """Run the policy once, from the first step to the last."""
        return self.begin(**settings).finish()

    def point(self, vm: JobVm) -> RestorePoint:
        return self.repository.point(vm.key, vm.point)

    def digest(self, point: RestorePoint, disk_key: str) -> str:
        """Read a disk of a restore point back and digest it."""
        image = next(image for image in point.images if image.disk_key == disk_key)
        reader = ImageReader(self.repository.image(image.image), self.repository.reader())
        digest = hashlib.sha256()
        for piece in reader.stream():
            digest.update(bytes(piece.length) if piece.data is None else piece.data)
        return digest.hexdigest()


@contextmanager
def rig(emulator: Emulator, place: Path | Store, **settings: object) -> Iterator[Rig]:
    """Connect to a stack and create a repository."""
    emulator.add_group(SNAPSHOTS)
    repository = new_repository(place)
    with connect(emulator) as stack:
        yield Rig(emulator, stack, repository, **settings)
    repository.close()


def keyed(disks: list[EmulatedDisk]) -> dict[str, EmulatedDisk]:
    """Return a VM's disks by their keys."""
    return {"os" if n == 0 else f"data-{n - 1}": disk for n, disk in enumerate(disks)}


def require_point(it: Rig, vm: EmulatedVm, done: JobVm) -> None:
    """Check that a VM's backup is done, and that its disks read back as they are on the stack."""
    assert done.status == "done", done
    point, disks = it.point(done), keyed(vm.disks)
    assert {image.disk_key for image in point.images} == set(disks)
    for key, disk in disks.items():
        assert it.digest(point, key) == disk.sha256(), f"{vm.name} {key}"
