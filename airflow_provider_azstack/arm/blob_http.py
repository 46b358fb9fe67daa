"""
Requests to page blobs by signed URL: connections, tries, renewal, pace.

Owns the HTTP of the blob service; knows neither page lists nor disks.
Invariant: an answer counts only when its reader vouched for it; any doubt throws it away and asks
again. No signed URL reaches a log or a message.

urllib3 because a range read through it costs a third of azure-storage-blob's CPU, and because that
client retries no 429, ignores ``Retry-After`` and speaks versions that a stack refuses.
"""

import logging
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit, urlunsplit

import urllib3
from urllib3.exceptions import HTTPError, NewConnectionError, ProtocolError, ReadTimeoutError

from airflow_provider_azstack.arm.addresses import ca_context, origin, require_tls, untrusted
from airflow_provider_azstack.arm.answers import one_line
from airflow_provider_azstack.arm.grants import Grant, GrantKeeper
from airflow_provider_azstack.arm.retry import (
    RETRIED,
    THROTTLING,
    Patience,
    retry_after_seconds,
)
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
from airflow_provider_azstack.secret import without_query

CONNECT_TIMEOUT_SECONDS = 20.0
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


class _NoSignatures(logging.Filter):
    """urllib3 logs whole paths at DEBUG; ours hold signatures."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                re.sub(r"\?.*", "?***", a) if isinstance(a, str) and "sig=" in a else a
                for a in record.args
            )
        return True


logging.getLogger("urllib3.connectionpool").addFilter(_NoSignatures())


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
        self._context = ca_context(ca_bundle)
        self._connections = connections
        self._timeout = urllib3.Timeout(CONNECT_TIMEOUT_SECONDS, read_timeout_seconds)
        self._managers: dict[str, urllib3.PoolManager] = {}
        self._ways: dict[tuple[str, str], _Way] = {}
        self.gate = Gate(connections)

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
            what = f"{method} {without_query(grant.url.reveal())}"
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
        for manager in self._managers.values():
            manager.clear()

    def _attempt(
        self,
        request: _Request,
        grant: Grant,
        read: Callable[[urllib3.BaseHTTPResponse], T],
        what: str,
    ) -> T:
        url = grant.url.reveal() + (f"&{request.query}" if request.query else "")
        ticket = self.gate.enter()
        response = None
        clean = False
        try:
            way = self._way_to(url)
            response = way.urlopen(
                request.method,
                way.target(url),
                headers=request.headers,
                body=request.body,
                timeout=self._timeout,
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            if not 200 <= response.status < 300:
                raise self._refusal(response, what, request.refusals, ticket)
            result = read(response)
            clean = True
        except (HTTPError, OSError) as error:  # OSError: from a socket read directly
            refused = untrusted(error, urlsplit(url).hostname or "")
            raise refused or _Again(_unreachable(error, url, what)) from None
        finally:
            if response is not None:
                _give_back(response, clean=clean)
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
        if status in refusals and code != "InvalidHeaderValue":
            return Refusal(what, status, code)
        return error_for(what, status, code, self._version)

    def _way_to(self, url: str) -> "_Way":
        """Return the connections to use for ``url``: the environment's proxy, if it has one."""
        parts = urlsplit(url)
        way = self._ways.get((parts.scheme, parts.netloc))
        if way is None:
            way = self._ways.setdefault((parts.scheme, parts.netloc), self._new_way(url))
        return way

    def _new_way(self, url: str) -> "_Way":
        scheme, host, port = origin(require_tls(url, "the address of a disk"))
        proxy = ""
        if not urllib.request.proxy_bypass(host):
            proxy = urllib.request.getproxies().get(scheme, "")
        manager = self._managers.get(proxy)
        if manager is None:
            size, context = self._connections, self._context
            manager = (
                urllib3.ProxyManager(proxy, maxsize=size, ssl_context=context)
                if proxy
                else urllib3.PoolManager(maxsize=size, ssl_context=context)
            )
            manager = self._managers.setdefault(proxy, manager)
        if proxy:
            return _Way(manager.urlopen, is_direct=False)
        return _Way(manager.connection_from_host(host, port, scheme).urlopen, is_direct=True)


class _Way(NamedTuple):
    """How a host is reached: found once, because the environment takes longer than a request."""

    urlopen: Callable[..., urllib3.BaseHTTPResponse]
    is_direct: bool

    def target(self, url: str) -> str:
        """Return what to ask for: a proxy wants the whole URL."""
        if not self.is_direct:
            return url
        return urlunsplit(urlsplit(url)._replace(scheme="", netloc="")) or "/"


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


def _unreachable(error: Exception, url: str, what: str) -> Unreachable:
    parts = urlsplit(url)
    reason = one_line(str(error)) if isinstance(error, NewConnectionError | ProtocolError) else ""
    is_late = isinstance(error, ReadTimeoutError | TimeoutError)
    kind = "no answer in time" if is_late else type(error).__name__
    return Unreachable(
        f"{what}: connection to {parts.netloc} failed ({reason or kind}): "
        "check address, DNS, proxy and firewall"
    )


def _give_back(response: urllib3.BaseHTTPResponse, *, clean: bool) -> None:
    """Return the connection to the pool, unless something of an answer may still be in it."""
    if clean:
        response.drain_conn()
    else:
        response.close()
    response.release_conn()
