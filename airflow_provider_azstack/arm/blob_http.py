"""
Requests to page blobs by signed URL: tries, renewal, pace.

Owns the HTTP of the blob service; knows neither page lists nor disks.
Invariant: an answer counts only when its reader vouched for it; any doubt throws it away and asks
again. No signed URL reaches a log or a message.

azure-storage-blob is not used: it retries no 429, ignores ``Retry-After`` and speaks versions that
a stack refuses.
"""

import random
import re
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypedDict, TypeVar, Unpack

import urllib3
from urllib3.exceptions import HTTPError

from airflow_provider_azstack.arm.addresses import ca_context
from airflow_provider_azstack.arm.answers import one_line
from airflow_provider_azstack.arm.grants import Grant, GrantKeeper
from airflow_provider_azstack.arm.retry import (
    RETRIED,
    THROTTLING,
    Patience,
    retry_after_seconds,
)
from airflow_provider_azstack.arm.versions import DEFAULT_PROFILE, PROFILES
from airflow_provider_azstack.arm.ways import Ways, unreachable
from airflow_provider_azstack.errors import (
    AccessDenied,
    AzStackError,
    ConfigurationError,
    IntegrityError,
    Refused,
    SourceBusy,
    SourceChanged,
    SourceGone,
    Throttled,
    Unreachable,
    UnsupportedStack,
)

if TYPE_CHECKING:
    from airflow_provider_azstack.arm.client import Stack

READ_TIMEOUT_SECONDS = 60.0
MAX_DOUBTS = 5  # answers thrown away for one request before we say that something is wrong
RAISE_AFTER = 32  # good answers between two steps back up after throttling
MAX_ERROR_BYTES = 16 * 2**10

_MEANINGS: dict[int, tuple[type[AzStackError], str]] = {
    401: (AccessDenied, "access refused"),
    403: (AccessDenied, "access refused"),
    404: (SourceGone, "the disk or its snapshot no longer exists"),
    409: (SourceBusy, "try again when the other operation has ended"),
    412: (SourceChanged, "the disk is not what it was when reading began"),
    416: (SourceChanged, "the disk is not what it was when reading began"),
}
_CODES: dict[str, tuple[type[AzStackError], str]] = {
    "SequenceNumberConditionNotMet": (
        Refused,
        (
            "this is no longer the page blob that was made to be written here, another restore "
            "has made its own in its place: that one is left alone; let one restore at a time go "
            "there, then start this one again"
        ),
    ),
}
_CODE = re.compile(rb"<Code>([A-Za-z0-9]{1,100})</Code>")
T = TypeVar("T")


class Doubt(Exception):
    """An answer is not exactly what was asked for. Never leaves this package's blob modules."""


class TooMuch(Exception):
    """The service could not finish in time: ask for less. Never leaves the blob modules."""

    def __init__(self, failure: AzStackError) -> None:
        super().__init__(str(failure))
        self.failure = failure


class Refusal(Exception):
    """A refusal that the caller said it would handle itself."""

    def __init__(self, what: str, status: int, code: str) -> None:
        super().__init__(f"{what}: status {status} {code}".rstrip())
        self.status = status


class _Again(Exception):
    def __init__(self, failure: AzStackError, pause: float | None = None) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.pause = pause


class _Request(NamedTuple):
    method: str
    query: str
    headers: Mapping[str, str]
    refusals: Collection[int]
    body: bytes | memoryview | None = None


class Gate:
    """Lets a number of requests run at once: halved when throttled, raised slowly after that."""

    def __init__(self, limit: int) -> None:
        self._most = self.limit = limit
        self._running = self._good = self._halvings = 0
        self._changed = threading.Condition()

    def enter(self) -> int:
        """Wait for a place; return a ticket that says what the pace was."""
        with self._changed:
            self._changed.wait_for(lambda: self._running < self.limit)
            self._running += 1
            return self._halvings

    def leave(self) -> None:
        """Give the place back."""
        with self._changed:
            self._running -= 1
            self._changed.notify()

    def throttled(self, ticket: int) -> None:
        """Halve what runs, once for all requests that were refused together."""
        with self._changed:
            if ticket == self._halvings:
                self._halvings += 1
                self._good = 0
                self.limit = max(1, min(self.limit, self._running) // 2)

    def succeeded(self) -> None:
        """Count a good answer; enough of them raise the limit by one."""
        if self.limit == self._most:
            return
        with self._changed:
            self._good += 1
            if self._good >= RAISE_AFTER and self.limit < self._most:
                self._good = 0
                self.limit += 1
                self._changed.notify()


class Settings(TypedDict, total=False):
    """How a blob is reached: what is left out is as a stack usually wants it."""

    blob_version: str  # x-ms-version of the requests: the profile's
    ca_bundle: str | None
    connections: int
    read_timeout_seconds: float
    retry_budget_seconds: float
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    rng: random.Random


def settings_of(stack: "Stack", **more: Unpack[Settings]) -> Settings:
    """Return how the blobs of a stack are reached."""
    return {
        "blob_version": stack.profile.blob,
        "ca_bundle": stack.ca_bundle,
        "clock": stack.clock,
        **more,
    }


def blob_client(**settings: Unpack[Settings]) -> "BlobClient":
    """Return what sends the requests to one blob."""
    return BlobClient(
        version=settings.get("blob_version", PROFILES[DEFAULT_PROFILE].blob),
        ca_bundle=settings.get("ca_bundle"),
        connections=settings.get("connections", 8),
        read_timeout_seconds=settings.get("read_timeout_seconds", READ_TIMEOUT_SECONDS),
        patience=Patience(
            settings.get("retry_budget_seconds", 900.0),
            settings.get("clock", time.monotonic),
            settings.get("sleep", time.sleep),
            settings.get("rng") or random.Random(),  # noqa: S311 - jitter
        ),
    )


class BlobClient:
    """Sends requests to blobs. Thread-safe."""

    def __init__(
        self,
        *,
        version: str,
        ca_bundle: str | None = None,
        connections: int = 16,
        read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
        patience: Patience | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._version = version
        self._patience = patience or Patience()
        self._wall_clock = wall_clock
        self._ways = Ways(
            ca_context(ca_bundle),
            connections=connections,
            read_timeout_seconds=read_timeout_seconds,
        )
        self.gate = Gate(connections)

    def keeper(self, grant: Callable[[], Grant]) -> GrantKeeper:
        """Return what renews a grant in time, by the clock that waiting goes by."""
        return GrantKeeper(grant, clock=self._patience.clock)

    def exchange(
        self,
        method: str,
        keeper: GrantKeeper,
        read: Callable[[urllib3.BaseHTTPResponse], T],
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        refusals: Collection[int] = (),
        splittable: bool = False,
        body: bytes | memoryview | None = None,
    ) -> T:
        """
        Send a request until ``read`` vouches for the answer; return what it returns.

        :param read: takes a 2xx answer with its body unread; raises :class:`Doubt` to ask again.
        :param query: goes behind the signed URL's own, already encoded.
        :param refusals: statuses to raise as :class:`Refusal`, before any renewal.
        :param splittable: raise :class:`TooMuch` on a time-out or 500 instead of trying again.
        :param body: is sent anew with every try: what it asks for must be harmless twice.
        """
        request = _Request(
            method, query, {"x-ms-version": self._version, **(headers or {})}, refusals, body
        )
        tries = self._patience.start()
        doubts: list[Doubt] = []
        while True:
            grant = keeper.current()
            what = f"{method} {grant.place}"
            try:
                result = self._attempt(request, grant, read, what)
            except _Again as again:
                if splittable and isinstance(again.failure, Unreachable) and again.pause is None:
                    raise TooMuch(again.failure) from None
                tries.wait(again.failure, again.pause)
            except Doubt as doubt:
                doubts.append(doubt)
                _require_few(doubts, what)
            except AccessDenied:
                keeper.refused(grant)
            else:
                keeper.worked(grant)
                return result

    def close(self) -> None:
        """Close idle connections."""
        self._ways.close()

    def _attempt(
        self,
        request: _Request,
        grant: Grant,
        read: Callable[[urllib3.BaseHTTPResponse], T],
        what: str,
    ) -> T:
        url = grant.url.reveal() + (f"&{request.query}" if request.query else "")
        ticket = self.gate.enter()
        try:
            with self._ways.answer(
                request.method, url, headers=request.headers, body=request.body
            ) as response:
                if not 200 <= response.status < 300:
                    raise self._refusal(response, what, request.refusals, ticket)
                result = read(response)
        except (HTTPError, OSError) as error:  # OSError: from a socket read directly
            failure = unreachable(error, url, what)
            raise (_Again(failure) if isinstance(failure, Unreachable) else failure) from None
        finally:
            self.gate.leave()
        self.gate.succeeded()
        return result

    def _refusal(
        self,
        response: urllib3.BaseHTTPResponse,
        what: str,
        refusals: Collection[int],
        ticket: int,
    ) -> Exception:
        status = response.status
        code = response.headers.get("x-ms-error-code", "")
        if not code and (found := _CODE.search(response.read(MAX_ERROR_BYTES))):
            code = found[1].decode()
        code = one_line(code)[:100]
        if status in THROTTLING:
            self.gate.throttled(ticket)
        if status in RETRIED:
            pause = retry_after_seconds(response.headers.get("retry-after"), self._wall_clock())
            return _Again(_patience_over(what, status, code, pause), pause)
        if code == "Md5Mismatch":
            return Doubt("the service got other bytes than were sent")
        if status in refusals and code != "InvalidHeaderValue":
            return Refusal(what, status, code)
        return error_for(what, status, code, self._version)


def error_for(what: str, status: int, code: str, version: str) -> AzStackError:
    """Return the error for a refusal that trying again would not change."""
    said = f"{what}: status {status} {code}".rstrip()
    if code == "InvalidHeaderValue":
        return UnsupportedStack(
            f"{said}: the blob service does not speak x-ms-version {version}: "
            "choose the connection's API profile to match the stack"
        )
    unknown = ConfigurationError, "the service refuses the request"
    kind, advice = _CODES.get(code) or _MEANINGS.get(status, unknown)
    if status < 400:
        kind, advice = Refused, "an answer that leads elsewhere is not followed"
    return kind(f"{said}: {advice}")


def require_same(response: urllib3.BaseHTTPResponse, etag: str) -> None:
    """
    Check that an answer is of the state of the disk that all others were of.

    :raises SourceChanged: it is of another.
    """
    has = response.headers.get("etag", etag)
    if has != etag:
        raise SourceChanged(
            f"the ETag became {has[:80]} while the disk was read, it was {etag[:80]}"
        )


def _require_few(doubts: list[Doubt], what: str) -> None:
    if len(doubts) == MAX_DOUBTS:
        raise IntegrityError(
            f"{what}: {doubts[-1]}, {MAX_DOUBTS} times: check proxies and the network between "
            "this host and the stack"
        ) from None


def _patience_over(what: str, status: int, code: str, pause: float | None) -> AzStackError:
    said = f"{what}: status {status} {code}".rstrip() + " for longer than we wait"
    if status in THROTTLING:
        return Throttled(f"{said}: run fewer streams, or try again later", pause or 0.0)
    return Unreachable(f"{said}: check the health of the stack's storage")
