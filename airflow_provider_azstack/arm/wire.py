"""
The one way requests leave for the Resource Manager and the sign-in service.

Owns the checks of the endpoint and of its CAs, and the choice of a proxy; does not retry.
Invariant: nothing is sent but through the pipeline, which is loaded with the first request: a task
that asks the stack nothing does not pay for what half of its start would be.
"""

import functools
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_azstack.arm.addresses import ca_context, ca_path, origin, require_tls
from airflow_provider_azstack.arm.answers import Answer
from airflow_provider_azstack.arm.ways import proxy_for
from airflow_provider_azstack.secret import Secret

if TYPE_CHECKING:
    from airflow_provider_azstack.arm.pipeline import Pipeline

READ_TIMEOUT_SECONDS = 120.0


class Wire:
    """Sends one request, once. Thread-safe."""

    def __init__(
        self,
        arm_endpoint: str,
        *,
        ca_bundle: str | None,
        read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
    ) -> None:
        self._endpoint = require_tls(arm_endpoint, "the ARM endpoint")
        ca_context(ca_bundle)  # a bundle that cannot be used is said so now, not as a TLS error
        self._verify = ca_bundle or ca_path()
        self._read_timeout = read_timeout_seconds
        # Once for each host: to look through the environment takes longer than that.
        self._proxy_for = functools.cache(proxy_for)
        self._pipeline: Pipeline | None = None
        self._lock = threading.Lock()

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
        scheme, host, _ = origin(url)
        proxy = self._proxy_for(scheme, host)
        return self._loaded().send(
            method,
            url,
            what=what,
            proxies={scheme: proxy} if proxy else None,
            token=token,
            body=body,
            form=form,
        )

    def close(self) -> None:
        """Close idle connections."""
        if self._pipeline is not None:
            self._pipeline.close()

    def _loaded(self) -> "Pipeline":
        with self._lock:
            if self._pipeline is None:
                # Loads azure: 0.14 CPU-s.
                from airflow_provider_azstack.arm.pipeline import Pipeline  # noqa: PLC0415

                self._pipeline = Pipeline(
                    self._endpoint, verify=self._verify, read_timeout_seconds=self._read_timeout
                )
            return self._pipeline
