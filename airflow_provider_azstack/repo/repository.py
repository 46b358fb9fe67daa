"""
The repository: create it, open it, and read its records.

Owns the config and the keys' objects, and hands out sessions; knows no Azure and no Airflow.
Invariant: a repository is created only where there is none, and never because opening one failed.
Nothing is written before format and features of the config are known to be ours.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Self

import msgspec
from msgspec import Meta

from airflow_provider_azstack.errors import (
    AccessDenied,
    ConfigurationError,
    IncompatibleRepository,
    ObjectExists,
    ObjectHeld,
    ObjectNotFound,
    Refused,
    SessionLost,
    Tampered,
)
from airflow_provider_azstack.model import (
    Image,
    JobOutline,
    JobRecord,
    Manifest,
    RestorePoint,
    SnapshotSet,
)
from airflow_provider_azstack.repo import sessions
from airflow_provider_azstack.repo.blocks import segments
from airflow_provider_azstack.repo.blocks.index import Index
from airflow_provider_azstack.repo.blocks.reader import BlockReader
from airflow_provider_azstack.repo.parallel import at_once, in_parallel
from airflow_provider_azstack.repo.sealing import crypto, keyring
from airflow_provider_azstack.repo.sealing.crypto import STRONG, Cost, Keys, Random
from airflow_provider_azstack.repo.sealing.records import Records
from airflow_provider_azstack.repo.sessions import Session, SessionInfo
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store.base import Store

log = logging.getLogger(__name__)

FORMAT = 1
FEATURES = frozenset[str]()  # mandatory features that this version knows
MAX_CONFIG_BYTES = 4096
THREADS = 16  # that read small records at once: they may be far away
JOB_THREADS = 4  # the record of a job of ten thousand VMs has megabytes
_CONFIG = "config"


class _Format(msgspec.Struct, frozen=True):
    """The part of ``config`` that every version must be able to read."""

    format: int
    mandatory: tuple[str, ...] = ()


class _Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    mandatory: tuple[str, ...]
    id: Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
    tag: str = ""  # proves that a key holder wrote the rest

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    def tagged(self, keys: Keys) -> Self:
        untagged = msgspec.structs.replace(self, tag="")
        return msgspec.structs.replace(self, tag=keys.config_tag(untagged.encode()))


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Repository:
    """An open repository."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        *,
        cache_directory: Path | None = None,
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        """Use ``create`` or ``open``."""
        self.id = keys.repository_id.hex()
        self.store = store
        self.keys = keys
        self.records = Records(store, keys)
        self.cache_directory = cache_directory / self.id if cache_directory else None
        self.now = clock
        self._index: Index | None = None

    @classmethod
    def create(
        cls,
        store: Store,
        passphrase: Secret,
        *,
        kdf: Cost = STRONG,
        random: Random = os.urandom,
        clock: Callable[[], datetime] = _utc_now,
    ) -> tuple[Self, Secret]:
        """
        Create a repository in an empty store.

        :param kdf: what a guess at the passphrase shall cost.
        :returns: the repository and its recovery key, which opens it like the passphrase does and
            is not stored anywhere.
        :raises Refused: there is a repository, or a part of one.
        """
        if not passphrase:
            raise ConfigurationError("the passphrase is empty: choose one before creating")
        if store.exists(_CONFIG) or any(store.list("packs/")) or any(store.list("points/")):
            raise Refused(
                f"{store.url} already holds a repository, or what is left of one: nothing was "
                "changed; open it with its passphrase, or give an empty place"
            )
        keys = Keys(random(crypto.ID_BYTES), random(crypto.KEY_BYTES), random)
        recovery = crypto.recovery_passphrase(random)
        for secret, label in ((passphrase, keyring.PASSPHRASE), (recovery, keyring.RECOVERY)):
            keyring.put_key(store, keys, secret, label, cost=kdf, now=clock())
        # Last: a store with keys and no config is not a repository yet, and creating starts again.
        config = _Config(FORMAT, (), keys.repository_id.hex()).tagged(keys)
        try:
            store.put(_CONFIG, config.encode())
        except ObjectExists:
            raise Refused(f"{store.url} was made a repository by someone else just now") from None
        return cls(store, keys, clock=clock), recovery

    @classmethod
    def open(
        cls,
        store: Store,
        passphrase: Secret,
        *,
        expected_id: str = "",
        cache_directory: Path | None = None,
        random: Random = os.urandom,
        clock: Callable[[], datetime] = _utc_now,
    ) -> Self:
        """
        Open a repository. Nothing is written.

        :param expected_id: refuses a repository with another id: it was swapped.
        :param cache_directory: local directory that keeps indexes between runs.
        :raises ConfigurationError: there is no repository.
        :raises IncompatibleRepository: a newer version made it.
        :raises WrongKey: the passphrase opens none of its keys.
        """
        config = _read_config(store)
        if expected_id and config.id != expected_id:
            raise Refused(
                f"{store.url} holds repository {config.id}, expected is {expected_id}: "
                "it was swapped, or the connection points elsewhere"
            )
        repository_id = bytes.fromhex(config.id)
        keys = Keys(repository_id, keyring.unlock(store, passphrase, repository_id), random)
        if config.tagged(keys) != config:
            raise Tampered(f"config of {store.url} was altered")
        return cls(store, keys, cache_directory=cache_directory, clock=clock)

    def open_session(self, purpose: str, *, run: str = "", host: str = "") -> Session:
        """W1: make this run visible to collectors."""
        session = self.keys.random(crypto.ID_BYTES).hex()
        info = SessionInfo(purpose=purpose, run=run, host=host, opened_at=self.now())
        self.store.put(sessions.session_name(session), msgspec.json.encode(info))
        return Session(self, session)

    def join_session(self, session_id: str) -> Session:
        """
        Work under a session that another process of the same run opened.

        :raises SessionLost: it is gone.
        """
        session = Session(self, session_id)
        session.check()
        return session

    def sessions(self) -> dict[str, SessionInfo | None]:
        """Return the living sessions by id, with what they say about themselves if readable."""
        names = [info.name for info in self.store.list(sessions.PREFIX)]
        threads = min(at_once(self.store), len(names))
        with closing(in_parallel(self._session_info, names, threads)) as found:
            return {
                name.removeprefix(sessions.PREFIX): info
                for name, (is_there, info) in zip(names, found, strict=True)
                if is_there
            }

    def _session_info(self, name: str) -> tuple[bool, SessionInfo | None]:
        """Tell whether a session is there still, and what it says of itself."""
        try:
            data = self.store.get(name, sessions.MAX_SESSION_BYTES)
            return True, sessions.parse_session(data, name)
        except Tampered as error:
            log.warning("%s", error)
            return True, None
        except ObjectNotFound:
            return False, None

    def fence(self, session_id: str) -> None:
        """C1: end a session that is believed dead. If it lives, its run fails; nothing is lost."""
        try:
            self.store.delete(sessions.session_name(session_id))
        except ObjectNotFound:
            log.info("session %s was gone already", session_id)

    def points(self, vm_key: str | None = None) -> list[RestorePoint]:
        """
        Return restore points, oldest first.

        :raises Tampered: one is unreadable; a list without it would look complete.
        """
        prefix = f"points/{vm_key}/" if vm_key else "points/"
        found = self.records.all(prefix, RestorePoint)
        return sorted(found, key=lambda point: (point.taken_at, point.vm.key, point.id))

    def point(self, vm_key: str, point_id: str) -> RestorePoint:
        """
        Return one restore point.

        :raises ObjectNotFound: there is none.
        """
        return self.records.get(f"points/{vm_key}/{point_id}", RestorePoint)

    def has_points(self, vm_key: str) -> bool:
        """Tell whether a VM has any restore point, without reading one."""
        return any(self.store.list(f"points/{vm_key}/"))

    def latest_point(self, vm_key: str) -> RestorePoint | None:
        """
        Return the VM's newest restore point by the stack's time.

        Reads that one only: a point's id begins with the time of its snapshots, so names tell.
        """
        names = [info.name for info in self.store.list(f"points/{vm_key}/")]
        return self.records.get(max(names), RestorePoint) if names else None

    def image(self, name: str) -> Image:
        """Return the image with that object name."""
        return self.records.get(name, Image)

    def images(
        self, run: str, vm_key: str | None = None, disk_key: str | None = None
    ) -> Iterator[Image]:
        """Yield the images of a run, of one VM in it or of one disk of that, published or not."""
        start = f"images/{run}/"
        if vm_key and disk_key:
            return self.records.all(f"{start}{vm_key}.{disk_key}/", Image)
        start += f"{vm_key}." if vm_key else ""
        return self.records.all(f"images/{run}/", Image, start=start)

    def sets(self, run: str, vm_key: str | None = None) -> Iterator[SnapshotSet]:
        """Yield a run's snapshot sets."""
        if vm_key:
            return self.records.all(f"sets/{run}/{vm_key}/", SnapshotSet)
        return self.records.all(f"sets/{run}/", SnapshotSet, threads=THREADS)

    def snapshot_set(self, run: str, vm_key: str, set_id: str) -> SnapshotSet:
        """Return one snapshot set."""
        return self.records.get(f"sets/{run}/{vm_key}/{set_id}", SnapshotSet)

    def manifest(self, name: str) -> Manifest:
        """Return the manifest with that object name."""
        return self.records.get(name, Manifest)

    def each_job(self) -> Iterator[JobRecord]:
        """Yield the newest record of every compound job, one at a time, in no order."""
        held: JobRecord | None = None
        for record in self.records.all("jobs/", JobRecord, threads=JOB_THREADS):
            if held is not None and held.job.run != record.job.run:  # its tries are neighbours
                yield held
            held = record
        if held is not None:
            yield held

    def jobs(self) -> list[JobRecord]:
        """Return the newest record of every compound job, oldest job first."""
        return sorted(self.each_job(), key=lambda record: (record.started_at, record.job.run))

    def job_outlines(self) -> Iterator[JobOutline]:
        """Yield what the records of all jobs, every try, say of how much was moved; in no order."""
        return self.records.all("jobs/", JobOutline, threads=THREADS)

    def job(self, run: str) -> JobRecord | None:
        """Return the newest record of one compound job."""
        tries = list(self.records.all(f"jobs/{run}/", JobRecord))
        return tries[-1] if tries else None

    def reader(self) -> BlockReader:
        """Return a reader of blocks; its index is loaded when it is first used."""
        if self._index is None:
            self._index = Index(self.records, self.cache_directory)
        return BlockReader(self.records, self._index)

    def rebuild_index(self) -> segments.Rebuilt:
        """
        Put segments for packs that no readable segment names, from what the packs say themselves.

        Only then unreadable segments are removed, so the old index serves until the new one is
        complete. Runs in a session of its own, so no pack that it names is collected meanwhile.
        """
        session = self.open_session("rebuild-index")
        try:
            condemned = sessions.condemned_packs(self.records, session.id)
            rebuilt, names = segments.rebuild(self.records, condemned)
            try:
                session.check()
            except SessionLost:
                for name in names:
                    self.store.delete(name)
                raise
            for name in rebuilt.unreadable:
                self._remove_segment(name)
        finally:
            session.close()
        return rebuilt

    def _remove_segment(self, name: str) -> None:
        try:
            self.store.delete(name)
        except ObjectNotFound:
            log.info("%s is gone already", name)
        except (AccessDenied, ObjectHeld) as error:  # harmless where it is
            log.warning("%s stays: %s", name, error)

    def close(self) -> None:
        """Let go of the local index."""
        if self._index is not None:
            self._index.close()
            self._index = None


def _read_config(store: Store) -> _Config:
    try:
        data = store.get(_CONFIG, MAX_CONFIG_BYTES)
    except ObjectNotFound:
        raise ConfigurationError(
            f"{store.url} holds no repository: check the address, or create one there"
        ) from None
    try:
        version = msgspec.json.decode(data, type=_Format)
        unknown = sorted(set(version.mandatory) - FEATURES)
        if version.format != FORMAT or unknown:
            what = f"format {version.format}" + f" with {', '.join(unknown)}" * bool(unknown)
            raise IncompatibleRepository(
                f"{store.url} has {what[:200]}, we know {FORMAT}: update this package"
            )
        config = msgspec.json.decode(data, type=_Config)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Tampered(f"config of {store.url} is not a config: {error}") from None
    if config.encode() != data:
        raise Tampered(f"config of {store.url} was altered")
    return config
