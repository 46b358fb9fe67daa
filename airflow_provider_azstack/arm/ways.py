"""
Ways to the hosts of blobs: connections that are kept, directly or by the environment's proxy.

Owns the pools, the choice of a proxy, and what a failure below HTTP means; knows no tokens and no
signatures, and tries nothing twice.
Invariant: each certificate is verified by the one context given. No redirect is followed, and no
connection is used again on which the rest of an answer may still come.

urllib3 because a range read through it costs a third of azure-storage-blob's CPU.
"""

import logging
import re
import ssl
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

import urllib3
from urllib3.exceptions import (
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
)

from airflow_provider_azstack.arm.addresses import (
    causes,
    is_unknown_name,
    origin,
    require_tls,
    untrusted,
)
from airflow_provider_azstack.arm.answers import one_line
from airflow_provider_azstack.errors import AzStackError, ConfigurationError, Unreachable

CONNECT_TIMEOUT_SECONDS = 20.0


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


class Ways:
    """
    Sends requests, each once. Thread-safe.

    :param connections: how many are kept to one host.
    """

    def __init__(
        self, context: ssl.SSLContext, *, connections: int, read_timeout_seconds: float
    ) -> None:
        self._context = context
        self._connections = connections
        self._timeout = urllib3.Timeout(CONNECT_TIMEOUT_SECONDS, read_timeout_seconds)
        self._managers: dict[str, urllib3.PoolManager] = {}
        self._ways: dict[tuple[str, str], _Way] = {}

    @contextmanager
    def answer(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | memoryview | None = None,
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """
        Send a request and lend the answer, its body unread.

        Whoever leaves without an error has read what he wants; a short rest is read for him.

        :raises HTTPError, OSError: there is no answer, or it breaks off; see ``unreachable``.
        """
        way = self._to(url)
        response = way.pool.urlopen(
            method,
            way.target(url),
            headers=headers,
            body=body,  # type: ignore[arg-type]  # any buffer will do
            timeout=self._timeout,
            retries=False,
            redirect=False,
            preload_content=False,
            decode_content=False,
        )
        try:
            yield response
            response.drain_conn()
        except BaseException:
            response.close()
            raise
        finally:
            response.release_conn()

    def close(self) -> None:
        """Close idle connections."""
        for manager in self._managers.values():
            manager.clear()

    def _to(self, url: str) -> "_Way":
        """Return the way to ``url``: found once, because the environment takes longer than that."""
        parts = urlsplit(url)
        way = self._ways.get((parts.scheme, parts.netloc))
        if way is None:
            way = self._ways.setdefault((parts.scheme, parts.netloc), self._new_way(url))
        return way

    def _new_way(self, url: str) -> "_Way":
        scheme, host, port = origin(require_tls(url, "the address"))
        proxy = proxy_for(scheme, host)
        manager = self._managers.get(proxy)
        if manager is None:
            manager = self._managers.setdefault(proxy, self._new_manager(proxy))
        if proxy:
            return _Way(manager, is_direct=False)
        return _Way(manager.connection_from_host(host, port, scheme), is_direct=True)

    def _new_manager(self, proxy: str) -> urllib3.PoolManager:
        size, context = self._connections, self._context
        if not proxy:
            return urllib3.PoolManager(maxsize=size, ssl_context=context)
        parts = urlsplit(proxy)
        credentials, _, place = parts.netloc.rpartition("@")
        headers = urllib3.make_headers(proxy_basic_auth=unquote(credentials) or None)
        return urllib3.ProxyManager(
            urlunsplit((parts.scheme, place, "", "", "")),
            maxsize=size,
            ssl_context=context,
            proxy_headers=headers,
        )


class _Way(NamedTuple):
    pool: urllib3.PoolManager | urllib3.HTTPConnectionPool
    is_direct: bool

    def target(self, url: str) -> str:
        """Return what to ask for: a proxy wants the whole URL."""
        if not self.is_direct:
            return url
        return urlunsplit(urlsplit(url)._replace(scheme="", netloc="")) or "/"


def unreachable(error: Exception, url: str, what: str) -> AzStackError:
    """Return what a failure below HTTP means."""
    parts = urlsplit(url)
    if refused := untrusted(error, parts.hostname or ""):
        return refused
    inner = list(causes(error))
    told = next((e for e in inner if isinstance(e, NewConnectionError | ProtocolError)), None)
    reason = one_line(str(told)) if told else ""
    is_late = any(isinstance(e, ReadTimeoutError | TimeoutError) for e in inner)
    kind = "no answer in time" if is_late else type(error).__name__
    return Unreachable(
        f"{what}: connection to {parts.netloc} failed ({reason or kind}): "
        "check address, DNS, proxy and firewall",
        is_silent=True,
        is_unknown=is_unknown_name(error),
    )


def proxy_for(scheme: str, host: str) -> str:
    """
    Return the address of the environment's proxy for a host, or nothing.

    :raises ConfigurationError: it is of a kind that we do not speak.
    """
    if urllib.request.proxy_bypass(host):
        return ""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(scheme) or proxies.get("all") or ""
    proxy = proxy if "://" in proxy or not proxy else f"http://{proxy}"
    parts = urlsplit(proxy)
    if parts.scheme not in ("", "http", "https"):
        place = parts.netloc.rpartition("@")[2]
        raise ConfigurationError(
            f"the environment's proxy at {place} is of kind {parts.scheme!r}: give an http or "
            "https proxy, or name the stack's hosts in NO_PROXY"
        )
    return proxy
