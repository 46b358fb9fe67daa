"""
What a disk is written to: a managed disk that waits for its upload, or a page blob.

Owns how each comes into being, is granted, becomes usable, and is thrown away; knows nothing of
where the bytes come from.
Invariants: nothing is used, finished or deleted here that does not carry this plan's mark, and
nothing is written but the very disk that was found with it. A managed disk becomes usable by
``finish`` only, which is called when every byte is there; an upload that somebody else ended before
that is thrown away, never taken for a disk.

A process may sleep for hours between two writes, while its disk is deleted and another restore
makes one of the same name. Access to a managed disk is granted by the stack for that very disk and
ends with it, and is asked for anew only while the disk is the one that was found. A page blob is
written by its URL, by whoever may sign for the account: so each has a sequence number of its own,
and a writer insists, with every page, on the one that it found.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol

from airflow_provider_azstack.arm.blob_http import settings_of
from airflow_provider_azstack.arm.blobs import BlobDisk
from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.arm.compute import Compute
from airflow_provider_azstack.arm.disk_writer import DiskWriter
from airflow_provider_azstack.arm.grants import Grant
from airflow_provider_azstack.arm.vhd import FOOTER_BYTES
from airflow_provider_azstack.engine.accounts import Accounts
from airflow_provider_azstack.engine.restore.bodies import TAG
from airflow_provider_azstack.engine.restore.page_blob import READ_SECONDS, BlobTarget, Found
from airflow_provider_azstack.engine.restore.records import PlannedDisk
from airflow_provider_azstack.errors import (
    AccessDenied,
    Refused,
    SourceBusy,
    SourceGone,
)

log = logging.getLogger(__name__)

GRANT_SECONDS = 24 * 3600  # a write grant cannot be given up and asked for again
TRY_SECONDS = 600  # of two grants at once, to see whether there is such a thing
_WAITING = {"readytoupload", "activeupload"}


class Target(Protocol):
    """One disk to write."""

    def found(self) -> Found | None:
        """
        Return what an earlier try left, or None.

        :raises Refused: something is there that this plan did not make.
        """

    def create(self) -> Found:
        """Create it, empty."""

    def admit(self, found: Found) -> None:
        """
        Get access for going on with what an earlier try left.

        :raises SourceBusy: that try's access has not ended, and there is no second one.
        :raises Refused: another disk is in its place.
        """

    def admits_several(self, first_page: Callable[[], bytes]) -> bool:
        """
        Tell whether several processes may write it at once; tried, where nobody knows.

        :param first_page: what the disk's first page shall be: a try may write it.
        """

    def grant(self, found: Found) -> Grant:
        """
        Grant writing.

        :raises Refused: another disk is in its place.
        """

    def finish(self, found: Found) -> None:
        """
        Make it usable: every byte is there.

        :raises Refused: another disk is in its place.
        """

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

    def admit(self, found: Found) -> None:
        self._require(found)
        granted = self._compute.grant_write(self._disk.id, GRANT_SECONDS)
        self._require(found)  # else this is access to what came into its place in between
        self._granted, self._is_fresh = granted, True

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

    def grant(self, found: Found) -> Grant:
        if not self._is_fresh:
            try:
                self.admit(found)
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

    def finish(self, found: Found) -> None:
        self._require(found)
        self._compute.revoke(self._disk.id)

    def read_grant(self, undo: ExitStack) -> Callable[[], Grant]:
        undo.callback(self._compute.revoke, self._disk.id)
        return lambda: self._compute.grant_read(self._disk.id, READ_SECONDS)

    def discard(self) -> None:
        if self._body() is not None:
            self._compute.delete_disk(self._disk.id)

    def _require(self, found: Found) -> None:
        body = self._body()
        if body is None:
            raise SourceGone(f"{self._disk.id} is not there (any more): run again")
        if self._attempt(body) != found.attempt:
            raise Refused(f"{self._disk.id} was made again by another try: left alone")

    def _body(self) -> dict[str, Any] | None:
        body = self._stack.find(self._disk.id)
        if body is not None and (body.get("tags") or {}).get(TAG) != self._plan:
            raise Refused(f"{self._disk.id} exists and is not of this restore: left alone")
        return body

    def _attempt(self, body: Mapping[str, Any]) -> str:
        properties = body.get("properties") or {}
        unique_id = properties.get("uniqueId") or properties.get("timeCreated")
        return f"{self._disk.id.lower()} {unique_id}"


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

    def admit(self, found: Found) -> None:
        self._blob.admit(found)

    def admits_several(self, first_page: Callable[[], bytes]) -> bool:
        return self._blob.admits_several(first_page)

    def grant(self, found: Found) -> Grant:
        return self._blob.grant(found)

    def finish(self, found: Found) -> None:  # noqa: ARG002 - staged under a name of this plan's own
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


def writer_of(stack: Stack, target: Target, found: Found | None, threads: int) -> DiskWriter:
    """
    Open a disk for writing; close it in the end.

    :param found: the very disk: what comes into its place is not written.
    """
    assert found is not None  # noqa: S101 - callers have looked
    return _writer(stack, partial(target.grant, found), threads, found.number)


def _writer(
    stack: Stack, grant: Callable[[], Grant], threads: int, number: int | None = None
) -> DiskWriter:
    return DiskWriter(
        grant,
        sequence_number=number,
        **settings_of(stack, connections=threads, sleep=stack.patience.sleep),
    )


def _same(grant: Grant) -> Grant:
    return grant


@contextmanager
def reader_of(stack: Stack, target: Target, size_bytes: int) -> Iterator[BlobDisk]:
    """Open a finished disk for reading; access is revoked at the end."""
    with ExitStack() as undo:
        grant = target.read_grant(undo)
        disk = BlobDisk(grant, size_bytes=size_bytes, **settings_of(stack))
        yield undo.enter_context(disk)
