"""
Access to a snapshot that several streams read at the same time, perhaps on several hosts.

Owns how they share one grant; what is read with it is not its business.
Invariants: nobody ends an access that others may be using but to put a newer one in its place that
all of them find; and the signed URL, like everything that was read with it, leaves this process
only sealed. Access is ended by the clean-up, when nobody reads any more.

Whether a stack gives a second grant while one is active is documented nowhere, and to end a grant
ends all of them. So the first stream that needs access asks for it and leaves the grant as a note
of the session; the others take it from there. Grants are numbered, and whose turn it is to ask for
the next one is noted as well. A turn that is not used in time, because its stream was killed,
passes on to the next number; what comes of it late is refused by the stack, and who is refused
looks for a newer grant first.
"""

import hashlib
import uuid

import msgspec

from airflow_provider_azstack.arm.compute import Compute
from airflow_provider_azstack.arm.grants import Grant
from airflow_provider_azstack.engine.backup.snapshots import Work
from airflow_provider_azstack.secret import Secret

GRANT_SECONDS = 4 * 3600
LOOKS, LOOK_EVERY_SECONDS = 60, 1.0


class _Noted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    url: str
    until: float  # by the stack's clock, in seconds since the epoch


class SharedAccess:
    """One stream's way to the grant of a managed snapshot that all streams of the job share."""

    def __init__(self, work: Work, vm_key: str, snapshot_id: str) -> None:
        digest = hashlib.sha256(snapshot_id.lower().encode()).hexdigest()[:16]
        self._topic = f"access-{digest}-"
        self._work = work
        self._vm_key = vm_key
        self._snapshot_id = snapshot_id
        self._last = 0  # the number of the grant that was returned last

    def __call__(self) -> Grant:
        """Return a grant that is newer than the one that was returned last."""
        number = max(self._last, self._newest()) + 1
        while True:
            if (newest := self._newest()) > self._last and (grant := self._found(newest)):
                return grant
            if self._work.session.leave_note(self._vm_key, self._turn(number), _anyone()):
                return self._asked_for(number)
            self._wait_for(number)
            if self._newest() < number:
                number += 1  # who had that turn has not used it

    def _asked_for(self, number: int) -> Grant:
        stack = self._work.stack
        grant = Compute(stack).grant_read(self._snapshot_id, GRANT_SECONDS)
        until = stack.now().timestamp() + GRANT_SECONDS
        data = msgspec.json.encode(_Noted(grant.url.reveal(), until))
        self._work.session.leave_note(self._vm_key, f"{self._topic}{number:06d}", data)
        self._last = number
        return grant

    def _found(self, number: int) -> Grant | None:
        """Take up what another stream asked for; None when its time is over."""
        self._last = number
        data = self._work.session.note(self._vm_key, f"{self._topic}{number:06d}")
        if data is None:
            return None
        stack = self._work.stack
        noted = msgspec.json.decode(data, type=_Noted)
        stack.on_secret(noted.url)
        left = noted.until - stack.now().timestamp()
        return Grant(Secret(noted.url), stack.clock(), left) if left > 0 else None

    def _wait_for(self, number: int) -> None:
        for _ in range(LOOKS):
            if self._newest() >= number:
                return
            self._work.stack.patience.sleep(LOOK_EVERY_SECONDS)

    def _newest(self) -> int:
        tails = (
            topic.removeprefix(self._topic)
            for topic in self._work.session.noted(self._vm_key, self._topic)
        )
        return max((int(tail) for tail in tails if tail.isdecimal()), default=0)

    def _turn(self, number: int) -> str:
        return f"{self._topic}{number:06d}-turn"


def _anyone() -> bytes:
    """Return a note's text that nobody else writes: a turn belongs to one process."""
    return uuid.uuid4().bytes
