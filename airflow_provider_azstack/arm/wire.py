"""
The one way requests leave for the Resource Manager and the sign-in service.

Owns the bearer token's place and the bounds of what is read; does not retry.
Invariant: the bearer token is put on a request here and nowhere else, and only when the request
goes to the configured ARM host. Redirects are handed back, never followed.

No generated client is used. azure-mgmt-compute 39.0.0 takes each task 0.2 CPU-seconds to load, and
its operations get in the way: a ``Retry-After`` that is an HTTP date, or garbage, raises
``ValueError`` after the stack accepted the operation, which loses track of a snapshot that now
exists; bodies are read whole, whatever their size; and pagers follow ``nextLink`` wherever it
leads. One way for all resource providers is also one place for the rules.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec
import urllib3
from urllib3.exceptions import HTTPError

from airflow_provider_azstack import __version__
from airflow_provider_azstack.arm.addresses import ca_context, origin, require_tls
from airflow_provider_azstack.arm.answers import MAX_BODY_BYTES, MAX_ERROR_BYTES, Answer
from airflow_provider_azstack.arm.ways import Ways, unreachable
from airflow_provider_azstack.secret import Secret

READ_TIMEOUT_SECONDS = 120.0
_CONNECTIONS = 16
_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "gzip",
    "User-Agent": f"airflow-provider-azstack/{__version__}",
}
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_JSON = {"Content-Type": "application/json"}


class Wire:
    """Sends one request, once. Thread-safe."""

    def __init__(
        self,
        arm_endpoint: str,
        *,
        ca_bundle: str | None,
        read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
    ) -> None:
        self._origin = origin(require_tls(arm_endpoint, "the ARM endpoint"))
        # A bundle that cannot be used is said so now, not as a TLS error.
        context = ca_context(ca_bundle)
        self._ways = Ways(
            context, connections=_CONNECTIONS, read_timeout_seconds=read_timeout_seconds
        )

    def send(
        self,
        method: str,
        url: str,
        *,
        what: str,
        token: Secret | None = None,
        body: Mapping[str, Any] | None = None,
        form: Mapping[str, str] | None = None,
    ) -> Answer:
        """
        Send a request and read its answer within bounds.

        :param what: the request as messages name it, without a query string.
        :param token: goes along when, and only when, ``url`` is on the ARM host.
        :raises Unreachable: no connection, no answer in time, or an answer cut short.
        :raises ConfigurationError: the certificate of the host does not verify.
        """
        headers, data = dict(_HEADERS), None
        if body is not None:
            headers, data = headers | _JSON, msgspec.json.encode(body)
        elif form is not None:
            headers, data = headers | _FORM, urlencode(form).encode()
        if token is not None and origin(url) == self._origin:
            headers["Authorization"] = f"Bearer {token.reveal()}"
        try:
            with self._ways.answer(method, url, headers=headers, body=data) as response:
                return _read(response, what)
        except (HTTPError, OSError) as error:
            raise unreachable(error, url, what) from None

    def close(self) -> None:
        """Close idle connections."""
        self._ways.close()


def _read(response: urllib3.BaseHTTPResponse, what: str) -> Answer:
    limit = MAX_BODY_BYTES if response.status < 400 else MAX_ERROR_BYTES
    content = response.read(limit + 1, decode_content=True)
    complete = len(content) <= limit
    if not complete:
        response.close()  # or the rest would be read, to use the connection again
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status, headers, content[:limit], complete, what)
