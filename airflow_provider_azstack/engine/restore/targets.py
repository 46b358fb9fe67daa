"""
What a disk is written to: a managed disk that waits for its upload, or a page blob.

Owns how each comes into being, is granted, becomes usable, and is thrown away; knows nothing of
where the bytes come from.
Invariants: nothing is used, finished or deleted here that does not carry this plan's mark. A
managed disk becomes usable by ``finish`` only, which is called when every byte is there; an upload
that somebody else ended before that is thrown away, never taken for a disk.
"""

import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol

from airflow_provider_azstack.arm.blobs import BlobDisk
from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.arm.compute import Compute
from airflow_provider_azstack.arm.disk_writer import DiskWriter
from airflow_provider_azstack.arm.grants import Grant
from airflow_provider_azstack.arm.vhd import FOOTER_BYTES
from airflow_provider_azstack.engine.accounts import Accounts
from airflow_provider_azstack.engine.restore.bodies import TAG
from airflow_provider_azstack.engine.restore.records import PlannedDisk
from airflow_provider_azstack.errors import AccessDenied, Refused, SourceBusy
from airflow_provider_azstack.secret import Secret

log = logging.getLogger(__name__)

GRANT_SECONDS = 24 * 3600  # a write grant cannot be given up and asked for again
READ_SECONDS = 4 * 3600
TRY_SECONDS = 600  # of two grants at once, to see whether there is such a thing
_WAITING = {"readytoupload", "activeupload"}
_PLAN, _ATTEMPT = TAG.replace("-", "_"), f"{TAG}-attempt".replace("-", "_")

_COPY = "copy-"


def is_copy(attempt: str, mark: str = "") -> bool:
    """Tell whether a disk came into being as a copy, and of the snapshot of this mark."""
    return attempt.startswith(f"{_COPY}{mark}")


class Found(NamedTuple):
    """What is there of a disk: which very one, and what it is fit for."""

    attempt: str
    is_open: bool  # it can still be written
    is_whole: bool = False  # it holds everything by the way it came into being


class Target(Protocol):
    """One disk to write."""

    def found(self) -> Found | None:
        """
        Return what an earlier try left, or None.

        :raises Refused: something is there that this plan did not make.
        """

    def create(self) -> Found:
        """Create it, empty."""

    def admit(self) -> None:
        """
        Get access for going on with what an earlier try left.

        :raises SourceBusy: that try's access has not ended, and there is no second one.
        """

    def admits_several(self, first_page: Callable[[], bytes]) -> bool:
        """
        Tell whether several processes may write it at once; tried, where nobody knows.

        :param first_page: what the disk's first page shall be: a try may write it.
        """

    def grant(self) -> Grant:
        """Grant writing."""

    def finish(self) -> None:
        """Make it usable: every byte is there."""

    def read_grant(self, undo: ExitStack) -> Callable[[], Grant]:
        """Return what grants reading after ``finish``; what must be revoked goes on ``undo``."""

    def discard(self) -> None:
        """Delete it, if it is there and this plan's."""


class ManagedTarget:
    """A managed disk, uploaded directly."""

    def __init__(self, stack: Stack, plan: str, disk: PlannedDisk) -> None:
        self._stack = stack
        self._compute = Compute(stack)
        self._plan = plan
        self._disk = disk
        self._granted: Grant | None = None
        self._is_fresh = False

    def found(self) -> Found | None:
        body = self._body()
        if body is None:
            return None
        properties = body.get("properties") or {}
        is_sound = str(properties.get("provisioningState", "")).lower() == "succeeded"
        state = str(properties.get("diskState", "")).lower()
        creation = (properties.get("creationData") or {}).get("createOption")
        return Found(
            self._attempt(body),
            is_open=is_sound and state in _WAITING,
            is_whole=is_sound and creation == "Import",
        )

    def create(self) -> Found:
        creation = {
            "createOption": "Upload",
            "uploadSizeBytes": self._disk.size_bytes + FOOTER_BYTES,
        }
        made = self._compute.create_disk(self._disk.id, managed_body(self._disk, creation))
        return Found(self._attempt(made), is_open=True)

    def admit(self) -> None:
        self._granted = self._compute.grant_write(self._disk.id, GRANT_SECONDS)
        self._is_fresh = True

    def admits_several(self, first_page: Callable[[], bytes]) -> bool:
        try:
            grants = [self._compute.grant_write(self._disk.id, TRY_SECONDS) for _ in range(2)]
            for grant in grants:  # the first one must still do after the second was given
                with _writer(self._stack, partial(_same, grant), 1) as writer:
                    writer.write(0, first_page())
        except (SourceBusy, AccessDenied) as error:
            log.warning("%s: the stack lets only one host write it: %s", self._disk.id, error)
            return False
        return True

    def grant(self) -> Grant:
        if not self._is_fresh:
            try:
                self.admit()
            except SourceBusy:
                if (left := self._left()) is None:
                    raise
                return left
        self._is_fresh = False
        assert self._granted  # noqa: S101 - admit has set it
        return self._granted

    def _left(self) -> Grant | None:
        """Return what is left of our own access, where the stack gives no second one."""
        now = self._stack.clock()
        grant = self._granted
        if grant is None or (left := grant.granted_at + grant.duration_seconds - now) <= 0:
            return None
        self._granted = Grant(grant.url, now, left)
        return self._granted

    def finish(self) -> None:
        self._compute.revoke(self._disk.id)

    def read_grant(self, undo: ExitStack) -> Callable[[], Grant]:
        undo.callback(self._compute.revoke, self._disk.id)
        return lambda: self._compute.grant_read(self._disk.id, READ_SECONDS)

    def discard(self) -> None:
        if self._body() is not None:
            self._compute.delete_disk(self._disk.id)

    def _body(self) -> dict[str, Any] | None:
        body = self._stack.find(self._disk.id)
        if body is not None and (body.get("tags") or {}).get(TAG) != self._plan:
            raise Refused(f"{self._disk.id} exists and is not of this restore: left alone")
        return body

    def _attempt(self, body: Mapping[str, Any]) -> str:
        properties = body.get("properties") or {}
        unique_id = properties.get("uniqueId") or properties.get("timeCreated")
        return f"{self._disk.id.lower()} {unique_id}"


class BlobTarget:
    """A page blob, for an unmanaged disk or to import a managed one from."""

    def __init__(self, accounts: Accounts, plan: str, url: str, size_bytes: int) -> None:
        self._accounts = accounts
        self._plan = plan
        self._url = url
        self._size_bytes = size_bytes

    def found(self) -> Found | None:
        found = self._accounts.properties(self._url)
        if found is None:
            return None
        if found.metadata.get(_PLAN) != self._plan:
            raise Refused(f"{self._url} exists and is not of this restore: left alone")
        is_open = found.length == self._size_bytes + FOOTER_BYTES
        return Found(found.metadata.get(_ATTEMPT, ""), is_open=is_open)

    def copy(self, source: Secret, mark: str, random: Callable[[], uuid.UUID] = uuid.uuid4) -> None:
        """
        Begin to create it as a copy of a snapshot.

        :param mark: of that very snapshot; :func:`is_copy` finds it in the attempt.
        """
        attempt = f"{_COPY}{mark}-{random().hex}"
        self._accounts.copy(self._url, source, {_PLAN: self._plan, _ATTEMPT: attempt})

    def is_copied(self) -> bool:
        """Tell whether the copy that was begun is done."""
        found = self._accounts.properties(self._url)
        return found is not None and found.copy_status == "success"

    def create(self, random: Callable[[], uuid.UUID] = uuid.uuid4) -> Found:
        attempt = random().hex
        metadata = {_PLAN: self._plan, _ATTEMPT: attempt}
        try:
            self._accounts.create(self._url, self._size_bytes + FOOTER_BYTES, metadata)
        except Refused:
            if (first := self.found()) is None:
                raise
            return first  # another try of the same task was faster
        return Found(attempt, is_open=True)

    def admit(self) -> None:
        """Do nothing: we sign as often as we like."""

    def admits_several(self, first_page: Callable[[], bytes]) -> bool:  # noqa: ARG002 - not tried
        return True

    def grant(self) -> Grant:
        return self._accounts.grant_write(self._url, READ_SECONDS)

    def finish(self) -> None:
        """Do nothing: a blob is what its pages are."""

    def read_grant(self, undo: ExitStack) -> Callable[[], Grant]:  # noqa: ARG002 - it just ends
        return lambda: self._accounts.grant(self._url, "", READ_SECONDS)

    def discard(self) -> None:
        self._accounts.delete(self._url, {_PLAN: self._plan})


class ImportedTarget(ManagedTarget):
    """A managed disk that is made of a page blob, where the stack takes no direct uploads."""

    def __init__(self, stack: Stack, accounts: Accounts, plan: str, disk: PlannedDisk) -> None:
        super().__init__(stack, plan, disk)
        self._accounts = accounts
        self._blob = BlobTarget(accounts, plan, disk.staging, disk.size_bytes)

    def found(self) -> Found | None:
        whole = super().found()
        return whole or self._blob.found()

    def create(self) -> Found:
        return self._blob.create()

    def admit(self) -> None:
        self._blob.admit()

    def admits_several(self, first_page: Callable[[], bytes]) -> bool:
        return self._blob.admits_several(first_page)

    def grant(self) -> Grant:
        return self._blob.grant()

    def finish(self) -> None:
        if self._body() is None:
            creation = {
                "createOption": "Import",
                "sourceUri": self._disk.staging,
                "storageAccountId": self._accounts.account_id(self._disk.staging),
            }
            self._compute.create_disk(self._disk.id, managed_body(self._disk, creation))
        self._blob.discard()

    def discard(self) -> None:
        super().discard()
        self._blob.discard()


def managed_body(disk: PlannedDisk, creation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of a managed disk."""
    return {
        "location": disk.location,
        "tags": dict(disk.tags),
        "sku": {"name": disk.sku},
        "properties": {**disk.properties, "creationData": dict(creation)},
    }


def target_of(stack: Stack, accounts: Accounts, plan: str, disk: PlannedDisk) -> Target:
    """Return where a disk is written to."""
    if disk.way == "blob":
        return BlobTarget(accounts, plan, disk.id, disk.size_bytes)
    if disk.way == "import":
        return ImportedTarget(stack, accounts, plan, disk)
    return ManagedTarget(stack, plan, disk)


def writer_of(stack: Stack, target: Target, threads: int) -> DiskWriter:
    """Open a disk for writing; close it in the end."""
    return _writer(stack, target.grant, threads)


def _writer(stack: Stack, grant: Callable[[], Grant], threads: int) -> DiskWriter:
    return DiskWriter(
        grant,
        blob_version=stack.profile.blob,
        ca_bundle=stack.ca_bundle,
        connections=threads,
        clock=stack.clock,
        sleep=stack.patience.sleep,
    )


def _same(grant: Grant) -> Grant:
    return grant


@contextmanager
def reader_of(stack: Stack, target: Target, size_bytes: int) -> Iterator[BlobDisk]:
    """Open a finished disk for reading; access is revoked at the end."""
    with ExitStack() as undo:
        grant = target.read_grant(undo)
        disk = BlobDisk(
            grant,
            size_bytes=size_bytes,
            blob_version=stack.profile.blob,
            ca_bundle=stack.ca_bundle,
            clock=stack.clock,
        )
        yield undo.enter_context(disk)
