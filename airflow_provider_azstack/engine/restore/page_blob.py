"""
A page blob that a restore writes: for an unmanaged disk, or to import a managed one from.

Owns its marks and its number; knows nothing of managed disks.
Invariants: nothing is used, finished or deleted that does not carry this plan's mark. No two blobs
have the same number, and whoever writes one insists on the number that he found: a process that
slept while another restore made its own blob in the same place writes nothing there. A blob that is
finished has a new number: nor does one that slept until others had finished it, and used it.
"""

import hashlib
import logging
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import NamedTuple

from airflow_provider_azstack.arm.grants import Grant
from airflow_provider_azstack.arm.storage import BlobProperties
from airflow_provider_azstack.arm.vhd import FOOTER_BYTES
from airflow_provider_azstack.engine.accounts import Accounts
from airflow_provider_azstack.engine.restore.bodies import TAG
from airflow_provider_azstack.errors import (
    Refused,
    SourceChanged,
    SourceGone,
    UnsupportedStack,
)
from airflow_provider_azstack.secret import Secret

log = logging.getLogger(__name__)

READ_SECONDS = 4 * 3600
_PLAN, _ATTEMPT = TAG.replace("-", "_"), f"{TAG}-attempt".replace("-", "_")
_COPY = "copy-"
_TRIES = 20  # a copy of the task that still writes changes the blob between two looks


def is_copy(attempt: str, mark: str = "") -> bool:
    """Tell whether a disk came into being as a copy, and of the snapshot of this mark."""
    return attempt.startswith(f"{_COPY}{mark}")


class Found(NamedTuple):
    """What is there of a disk: which very one, and what it is fit for."""

    attempt: str
    is_open: bool  # it can still be written
    is_whole: bool = False  # it holds everything by the way it came into being
    number: int | None = None  # a page blob's sequence number: whoever writes it insists on it


class BlobTarget:
    """A page blob, for an unmanaged disk or to import a managed one from."""

    def __init__(self, accounts: Accounts, plan: str, url: str, size_bytes: int) -> None:
        self._accounts = accounts
        self._plan = plan
        self._url = url
        self._size_bytes = size_bytes

    def found(self) -> Found | None:
        there = self._ours()
        if there is None:
            return None
        is_open = there.length == self._size_bytes + FOOTER_BYTES
        return Found(_attempt(there), is_open=is_open, number=there.sequence_number)

    def _ours(self) -> BlobProperties | None:
        there = self._accounts.properties(self._url)
        if there is not None and there.metadata.get(_PLAN) != self._plan:
            raise Refused(f"{self._url} exists and is not of this restore: left alone")
        return there

    def copy(self, source: Secret, mark: str, random: Callable[[], uuid.UUID] = uuid.uuid4) -> None:
        """
        Begin to create it as a copy of a snapshot.

        :param mark: of that very snapshot; :func:`is_copy` finds it in the attempt.
        """
        attempt = f"{_COPY}{mark}-{random().hex}"
        self._accounts.copy(self._url, source, {_PLAN: self._plan, _ATTEMPT: attempt})

    def is_copied(self) -> bool:
        """
        Tell whether the copy that was begun is done.

        :raises UnsupportedStack: it came to nothing; the states are those of "Copy Blob".
        """
        found = self._accounts.properties(self._url)
        if found is not None and found.copy_status in {"failed", "aborted"}:
            raise UnsupportedStack(f"{self._url}: the stack's copy of the snapshot has failed")
        return found is not None and found.copy_status == "success"

    def distinguished(self) -> Found | None:
        """Return the copy, with a number of its own: it came with that of its source."""
        there = self._ours()
        if there is not None:
            with suppress(SourceChanged):  # another try of the same task was faster
                self._give(there, _number_of(_attempt(there)))
        return self.found()

    def _give(self, there: BlobProperties, number: int) -> None:
        if there.sequence_number != number:
            self._accounts.number(self._url, there, number)

    def create(self, random: Callable[[], uuid.UUID] = uuid.uuid4) -> Found:
        attempt = random().hex
        metadata = {_PLAN: self._plan, _ATTEMPT: attempt}
        size_bytes, number = self._size_bytes + FOOTER_BYTES, _number_of(attempt)
        try:
            self._accounts.create(self._url, size_bytes, metadata, number)
        except Refused:
            if (first := self.found()) is None:
                raise
            return first  # another try of the same task was faster
        made = self.found()
        if made is None:
            raise SourceGone(f"{self._url} was deleted as soon as it was made: run again")
        if made.number != _number_of(made.attempt):
            log.warning(
                "%s: the stack keeps no sequence numbers of page blobs: end every process of other "
                "restores of this disk, nothing else keeps them from writing here",
                self._url,
            )
        return made

    def admit(self, found: Found) -> None:
        """Do nothing: we sign as often as we like."""

    def admits_several(self, first_page: Callable[[], bytes]) -> bool:  # noqa: ARG002 - not tried
        return True

    def grant(self, found: Found) -> Grant:  # noqa: ARG002 - the writer insists on its number
        return self._accounts.grant_write(self._url, READ_SECONDS)

    def finish(self, found: Found) -> None:
        """
        Give it another number: a copy of a task that still writes is refused from now on.

        :raises SourceChanged: such a copy writes without end: nobody may use it yet.
        """
        for left in reversed(range(_TRIES)):
            there = self._ours()
            if there is None or _attempt(there) != found.attempt:
                raise Refused(f"{self._url} was made again by another try: left alone")
            try:
                self._give(there, _number_of(f"{found.attempt} finished"))
            except SourceChanged:  # something was written since we looked
                if not left:
                    raise
            else:
                return

    def read_grant(self, undo: ExitStack) -> Callable[[], Grant]:  # noqa: ARG002 - it just ends
        return lambda: self._accounts.grant(self._url, "", READ_SECONDS)

    def discard(self) -> None:
        self._accounts.delete(self._url, {_PLAN: self._plan})


def _attempt(blob: BlobProperties) -> str:
    return blob.metadata.get(_ATTEMPT, "")


def _number_of(attempt: str) -> int:
    """Return the sequence number of the blob of that attempt: no other blob has it."""
    digest = hashlib.sha256(attempt.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # below 2^63, as the service wants it
