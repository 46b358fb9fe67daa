"""
Sessions: a run's presence in the repository, under which it writes and publishes.

Owns the write order W1 to W7 around the packs, fencing, claims, and the reading of condemned
lists; knows no disks and nothing of what a record means.
Invariant: ``publish`` returns only while the session's object was there after the point was.
Nothing here asks a clock whether anybody is alive.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated
from weakref import WeakSet

import msgspec
from msgspec import Meta

from airflow_provider_azstack.errors import (
    AzStackError,
    ObjectExists,
    ObjectNotFound,
    PointForgotten,
    SessionLost,
    SourceBusy,
    Tampered,
)
from airflow_provider_azstack.model import (
    Compression,
    Image,
    JobRecord,
    Manifest,
    Record,
    RestorePoint,
    SnapshotSet,
)
from airflow_provider_azstack.repo.blocks.index import Index
from airflow_provider_azstack.repo.blocks.packs import owner_of
from airflow_provider_azstack.repo.blocks.reader import BlockReader
from airflow_provider_azstack.repo.blocks.writer import BlockWriter
from airflow_provider_azstack.repo.parallel import at_once, in_parallel
from airflow_provider_azstack.repo.points import census
from airflow_provider_azstack.repo.points.holds import held_points
from airflow_provider_azstack.repo.sealing.records import (
    AliveSessions,
    BadBlock,
    BadBlocks,
    CondemnedPacks,
    ForgottenPoints,
    Records,
)

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository

log = logging.getLogger(__name__)

PREFIX = "sessions/"
CLAIMS = "claims/"
CONDEMNED = "condemned/"
BAD = "bad/"
MAX_SESSION_BYTES = 4096
_TRIES = 100
_FORGOTTEN = "was forgotten since an earlier try published it, and does not come back"
_DELETERS = 8  # a job of 10,000 VMs has as many claims

ShortText = Annotated[str, Meta(max_length=256)]


class SessionInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``sessions/<id>``: plain JSON. Only the name is the protocol; this is for people."""

    purpose: ShortText
    run: ShortText = ""
    host: ShortText = ""
    opened_at: datetime | None = None


def session_name(session: str) -> str:
    """Return the object name of a session."""
    return PREFIX + session


def condemned_packs(records: Records, session: str) -> frozenset[str]:
    """
    Return the object names of packs that may vanish while ``session`` lives.

    A condemned pack is kept for the sessions that are named in its record's ``alive``, so those
    may go on counting on it.

    :raises Tampered: a list is unreadable; going on might count on a pack that goes.
    """
    found = dict(records.under(CONDEMNED))
    names: set[str] = set()
    for name, data in found.items():
        record, _, part = name.rpartition("/")
        if part != "packs":
            continue
        alive = found.get(f"{record}/alive")
        if alive is not None and session in records.parse(AliveSessions, alive, name).sessions:
            continue
        packs = records.parse(CondemnedPacks, data, name).packs
        names.update(f"packs/{pack[:2]}/{pack}" for pack in packs)
    return frozenset(names)


def bad_blocks(records: Records) -> list[BadBlock]:
    """Return the copies of blocks that verifications found damaged."""
    return [block for bad in records.all(BAD, BadBlocks) for block in bad.blocks]


class Session:
    """One run's session; every process of the run has its own object for it."""

    def __init__(self, repository: "Repository", session: str) -> None:
        self.id = session
        self.repository = repository
        self._records = repository.records
        self._store = repository.store
        self._index: Index | None = None
        self._writers = WeakSet[BlockWriter]()  # weak: each holds its packs' buffers
        self._is_admitted = False
        self._words = dict[str, frozenset[str]]()  # what we were told, by object name

    def check(self) -> None:
        """
        Check that the session is still there.

        :raises SessionLost: it was fenced; nothing more can be committed under it.
        """
        if not self._store.exists(session_name(self.id)):
            raise SessionLost(
                f"session {self.id} of {self._store.url} is gone: it was fenced or closed; "
                "a retry starts with a new one"
            )

    def writer(self, compression: Compression = "standard") -> BlockWriter:
        """
        Return a writer of one's own: when it is aborted, those of other disks go on.

        W2 and W3 happen when the first one is asked for.

        :param compression: of what it stores.
        :raises SessionLost: there is nothing to write under.
        """
        if not self._is_admitted:
            self._admit()
        writer = BlockWriter(
            self._records, self._own_index(), owner=owner_of(self.id), compression=compression
        )
        self._writers.add(writer)
        return writer

    def reader(self) -> BlockReader:
        """Return a reader that also knows what this session has written."""
        return BlockReader(self._records, self._own_index())

    def verify_present(self, block_ids: Iterable[bytes]) -> None:
        """
        Check that a point may rely on these blocks: indexed, their packs there and whole.

        To be done before a point is published, and before an image of an earlier session is used
        again.

        :raises MissingBlock: one cannot be relied on.
        """
        self.presence()(block_ids)

    def presence(self) -> Callable[[Iterable[bytes]], None]:
        """
        List ``index/`` and ``packs/`` once, and return the check for any number of points.

        It reads no block. What is stored afterwards by another process counts as missing.
        """
        self._admit()
        return self._own_index().require

    def put_manifest(self, manifest: Manifest) -> str:
        """Store a manifest that is too large for XCom, and return its object name."""
        return self._put_next(f"manifests/{manifest.job.run}/{manifest.host}", manifest)

    def put_set(self, snapshot_set: SnapshotSet) -> None:
        """Store a snapshot set; one that is there already and the same is fine."""
        vm = snapshot_set.vm.key
        self._put_same(f"sets/{snapshot_set.run}/{vm}/{snapshot_set.id}", snapshot_set)

    def put_image(self, image: Image, *, is_read_back: bool = False) -> None:
        """
        Store an image; its blocks were flushed before (W5).

        :param is_read_back: nobody else reads it before a point refers to it.
        :raises ObjectNotFound: the store acknowledged it and has it not.
        """
        self._put_same(image.name, image)
        if is_read_back:
            self.repository.image(image.name)

    def publish(self, point: RestorePoint) -> RestorePoint:
        """
        W6: publish a restore point, then look for the session again.

        :returns: the point as it is in the repository: an earlier try of the same may have
            published it.
        :raises SessionLost: we were fenced; the point was withdrawn.
        :raises ObjectExists: another point has this id.
        :raises PointForgotten: an earlier try published it, and somebody has forgotten it since.
        """
        name = f"points/{point.vm.key}/{point.id}"
        # Neither is needed for the proof: it spares a point that would be withdrawn.
        self.check()
        if self._is_forgotten(point) and not self._store.exists(name):
            raise PointForgotten(f"{name} {_FORGOTTEN}")
        try:
            self._records.put(name, point)
        except ObjectExists:
            published = self._records.get(name, RestorePoint)
            if not _is_same_point(point, published):
                raise ObjectExists(f"{name} is another restore point of that id") from None
            self.check()
            return published
        is_forgotten = self._is_forgotten(point)  # before the session is looked for: see ``close``
        try:
            self.check()
        except SessionLost as lost:
            raise SessionLost(f"{lost}; {self._withdraw(name)}") from None
        if is_forgotten and (point.vm.key, point.id) not in held_points(self.repository):
            raise PointForgotten(f"{name} {_FORGOTTEN}; {self._withdraw(name, is_noted=True)}")
        return point

    def put_job(self, record: JobRecord) -> None:
        """Store the record of a compound job, behind those of earlier tries."""
        self._put_next(f"jobs/{record.job.run}", record)

    def claim(self, vm_key: str) -> None:
        """
        Keep other runs off a VM until this session ends.

        Each claimant puts an object of its own and then looks for others: of two that come at
        once, at least one sees the other and steps back, and nobody ever removes a living claim.

        :raises SourceBusy: another living session holds it.
        """
        self.check()
        mine = f"{CLAIMS}{vm_key}/{self.id}"
        with contextlib.suppress(ObjectExists):
            self._store.put(mine, b"claimed")
        for info in self._store.list(f"{CLAIMS}{vm_key}/"):
            other = info.name.rpartition("/")[2]
            if other == self.id:
                continue
            if self._store.exists(session_name(other)):
                self.release(vm_key)
                raise SourceBusy(f"VM {vm_key} is being backed up under session {other}")
            self._delete(info.name)  # void: its session is gone

    def release(self, vm_key: str) -> None:
        """Give up this session's claim on a VM, if it has one."""
        self._delete(f"{CLAIMS}{vm_key}/{self.id}")

    def leave_note(self, vm_key: str, topic: str, data: bytes) -> bool:
        """
        Leave a sealed note about a VM for the other processes of this session.

        Notes stand among the claims and go with them.

        :returns: False when there is one of that topic: of several, the first counts.
        """
        try:
            self._records.put_bytes(self._note_name(vm_key, topic), data)
        except ObjectExists:
            return False
        return True

    def note(self, vm_key: str, topic: str) -> bytes | None:
        """Return what this session noted of that topic about a VM."""
        name = self._note_name(vm_key, topic)
        try:
            return self._records.get_bytes(name)
        except ObjectNotFound:
            return None

    def noted(self, vm_key: str, beginning: str = "") -> list[str]:
        """Return the topics of this session's notes about a VM, sorted."""
        prefix = f"{CLAIMS}{vm_key}/"
        names = (info.name.removeprefix(prefix) for info in self._store.list(prefix))
        topics = (n.removesuffix(f"/{self.id}") for n in names if n.endswith(f"/{self.id}"))
        return sorted(topic for topic in topics if topic.startswith(beginning))

    def close(self) -> None:
        """W7: give up all claims and notes, end the session; closing a closed one is fine."""
        for writer in list(self._writers):
            writer.abort()
        if self._index is not None:
            self._index.close()
        self._index, self._is_admitted = None, False
        names = [info.name for info in self._store.list(CLAIMS)]
        mine = [name for name in names if name.endswith(f"/{self.id}")]
        words = [name for name in mine if name.startswith(census.WORDS)]
        others = [name for name in mine if name not in words]
        # Who misses a word that we delete must miss the session as well: that goes first.
        for some in (others, [session_name(self.id)], words):
            for _ in in_parallel(self._delete, some, at_once(self._store, _DELETERS)):
                pass

    def _note_name(self, vm_key: str, topic: str) -> str:
        return f"{CLAIMS}{vm_key}/{topic}/{self.id}"

    def _own_index(self) -> Index:
        if self._index is None:
            self._index = Index(self._records, self.repository.cache_directory)
        return self._index

    def _admit(self) -> None:
        self.check()  # W1 was before this, in this process or in another of the run
        condemned = condemned_packs(self._records, self.id)  # W2
        bad = bad_blocks(self._records)
        index = self._own_index()
        index.refresh()  # W3: what the segments say ...
        index.admit(condemned, bad)  # ... of packs that are there
        self._is_admitted = True

    def _put_same(self, name: str, record: Record) -> None:
        try:
            self._records.put(name, record)
        except ObjectExists:
            if self._records.get(name, type(record)) != record:
                raise

    def _put_next(self, prefix: str, record: Record) -> str:
        for _ in range(_TRIES):
            tails = [info.name.rpartition("/")[2] for info in self._store.list(f"{prefix}/")]
            name = f"{prefix}/{max((int(t) for t in tails if t.isdecimal()), default=0) + 1:04d}"
            with contextlib.suppress(ObjectExists):  # another try was faster
                self._records.put(name, record)
                return name
        raise ObjectExists(f"no free name under {prefix}/")

    def _is_forgotten(self, point: RestorePoint) -> bool:
        """Tell whether somebody left word that he forgot that very point."""
        names = (info.name for info in self._store.list(census.WORDS))
        for name in names:
            if name.endswith(f"/{self.id}") and name not in self._words:
                with contextlib.suppress(ObjectNotFound):
                    self._words[name] = frozenset(self._records.get(name, ForgottenPoints).points)
        return any(f"{point.vm.key}/{point.id}" in points for points in self._words.values())

    def _withdraw(self, name: str, *, is_noted: bool = False) -> str:
        try:
            if not is_noted:
                point = name.removeprefix(census.POINTS)
                census.put_forgotten(self.repository, [point], is_withdrawn=True)
            self._delete(name)
        except AzStackError as error:
            return f"{name} could not be withdrawn: {error}"
        return f"{name} was withdrawn"

    def _delete(self, name: str) -> None:
        with contextlib.suppress(ObjectNotFound):
            self._store.delete(name)


def parse_session(data: bytes, name: str) -> SessionInfo:
    """
    Parse a session's object.

    :raises Tampered: it is not one.
    """
    try:
        return msgspec.json.decode(data[: MAX_SESSION_BYTES + 1], type=SessionInfo)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Tampered(f"{name} is not a session: {error}") from None


def _is_same_point(one: RestorePoint, other: RestorePoint) -> bool:
    """Compare all but who published it when: a retry does that again, perhaps in a new session."""
    return one == msgspec.structs.replace(other, published_at=one.published_at, session=one.session)
