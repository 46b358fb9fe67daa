"""
Access grants: signed URLs of disks and blobs, for a time.

Owns the shape of a grant and the renewal of one that many readers share; knows neither ARM nor the
blob protocol.
Invariant: one renewal per expiry, however many readers notice it at once; and no signed URL in
any message or log.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from airflow_provider_azstack.errors import AccessDenied, TransientError
from airflow_provider_azstack.secret import Secret, without_query

RENEW_AT = 0.8  # of the duration: an expiry is a hint, and clocks differ
RETRY_RENEWAL = 0.02  # of the duration: when a renewal in good time failed for a passing reason


@dataclass(frozen=True)
class Grant:
    """
    A signed URL.

    :param granted_at: by the clock (``time.monotonic``) of the process that asked for it.
    """

    url: Secret
    granted_at: float
    duration_seconds: float

    @property
    def place(self) -> str:
        """What it gives access to, for messages: the URL without its signature."""
        return without_query(self.url.reveal())


class GrantKeeper:
    """Hands out a grant that holds. Thread-safe."""

    def __init__(
        self, ask: Callable[[], Grant], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._lock = threading.Lock()
        self._grant: Grant | None = None
        self._renew_at = 0.0
        self._was_refused = False  # and nothing has worked since

    @property
    def place(self) -> str:
        """What the grants give access to, for messages."""
        return self.current().place

    def current(self) -> Grant:
        """
        Return a grant that holds, renewed at 80% of its time.

        :raises AccessDenied: the stack grants no access (any more).
        """
        with self._lock:
            grant = self._grant
            if grant is None:
                return self._renew()
            if self._clock() < self._renew_at:
                return grant
            try:
                return self._renew()
            except TransientError:
                if self._clock() >= grant.granted_at + grant.duration_seconds:
                    raise
                self._renew_at = self._clock() + RETRY_RENEWAL * grant.duration_seconds
                return grant

    def worked(self, grant: Grant) -> None:
        """Note that ``grant`` let somebody in."""
        if self._was_refused and grant is self._grant:
            self._was_refused = False

    def refused(self, grant: Grant) -> None:
        """
        Renew because the store refused ``grant``, unless somebody else has done so.

        :raises AccessDenied: it was the renewal after a refusal, and never let anybody in.
        """
        with self._lock:
            if grant is not self._grant:
                return
            if self._was_refused:
                raise AccessDenied(
                    f"{grant.place}: access refused with a new grant too: "
                    "check the role of the application and whether somebody revoked the access"
                )
            self._was_refused = True
            self._renew()

    def _renew(self) -> Grant:
        self._grant = self._ask()
        self._renew_at = self._grant.granted_at + RENEW_AT * self._grant.duration_seconds
        return self._grant
