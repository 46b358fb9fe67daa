"""
azure-mgmt-compute's pipeline, which carries every request to the Resource Manager and to sign-in.

Owns what the pipeline is made of, the bearer token's place and the bounds of what is read; decides
neither where requests go nor by which proxy.
Invariant: the bearer token is put on a request here and nowhere else, and only when the request
goes to the configured ARM host. Redirects are handed back, never followed.

The pipeline is used through its public ``send_request``; its generated operations are not used.
Tried with 39.0.0, they get in the way: a ``Retry-After`` that is an HTTP date, or garbage, raises
``ValueError`` after the stack accepted the operation, which loses track of a snapshot that now
exists; bodies are read whole, whatever their size; and pagers follow ``nextLink`` wherever it
leads. One way for all resource providers is also one place for the rules.
"""

from collections.abc import Mapping
from typing import Any, cast

from azure.core.credentials import TokenCredential
from azure.core.exceptions import AzureError
from azure.core.pipeline import PipelineRequest
from azure.core.pipeline.policies import SansIOHTTPPolicy, UserAgentPolicy
from azure.core.rest import HttpRequest, HttpResponse
from azure.mgmt.compute import ComputeManagementClient

from airflow_provider_azstack.arm.addresses import origin
from airflow_provider_azstack.arm.answers import MAX_BODY_BYTES, MAX_ERROR_BYTES, Answer
from airflow_provider_azstack.arm.ways import CONNECT_TIMEOUT_SECONDS, unreachable
from airflow_provider_azstack.secret import Secret


class _Bearer(SansIOHTTPPolicy[HttpRequest, HttpResponse]):
    """Puts the token on requests to the ARM host, and takes any other off."""

    def __init__(self, arm_endpoint: str) -> None:
        self._origin = origin(arm_endpoint)

    def on_request(self, request: PipelineRequest[HttpRequest]) -> None:
        token: Secret | None = request.context.options.pop("token", None)
        request.http_request.headers.pop("Authorization", None)
        if token is not None and origin(request.http_request.url) == self._origin:
            request.http_request.headers["Authorization"] = f"Bearer {token.reveal()}"


class Pipeline:
    """
    Sends one request, once. Thread-safe.

    :param verify: the CAs that are trusted, in the words of requests.
    """

    def __init__(
        self, arm_endpoint: str, *, verify: str | bool, read_timeout_seconds: float
    ) -> None:
        self._verify = verify
        self._read_timeout = read_timeout_seconds
        self._client = ComputeManagementClient(
            credential=cast("TokenCredential", self),  # never asked: _Bearer authenticates
            subscription_id="none",  # never used: paths are whole
            base_url=arm_endpoint,
            policies=[
                UserAgentPolicy(base_user_agent="airflow-provider-azstack"),
                _Bearer(arm_endpoint),
            ],
        )

    def send(
        self,
        method: str,
        url: str,
        *,
        what: str,
        proxies: Mapping[str, str] | None,
        token: Secret | None,
        body: Mapping[str, Any] | None,
        form: Mapping[str, str] | None,
    ) -> Answer:
        """
        Send a request and read its answer within bounds.

        :param proxies: scheme -> address.
        :raises Unreachable: no connection, no answer in time, or an answer cut short.
        :raises ConfigurationError: the certificate of the host does not verify.
        """
        request = HttpRequest(
            method,
            url,
            headers={"Accept": "application/json"},
            json=body,
            data=form,  # type: ignore[arg-type]
        )
        try:
            with self._client.send_request(
                request,
                stream=True,
                token=token,
                # Per request: REQUESTS_CA_BUNDLE in the environment overrides a session's setting.
                connection_verify=self._verify,
                proxies=proxies,
                connection_timeout=CONNECT_TIMEOUT_SECONDS,
                read_timeout=self._read_timeout,
            ) as response:
                return _read(response, what)
        except AzureError as error:
            raise unreachable(error, url, what) from None

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()


def _read(response: HttpResponse, what: str) -> Answer:
    limit = MAX_BODY_BYTES if response.status_code < 400 else MAX_ERROR_BYTES
    content = bytearray()
    complete = True
    for chunk in response.iter_bytes():
        content += chunk
        if len(content) > limit:
            complete = False
            break
    return Answer(
        response.status_code,
        {name.lower(): value for name, value in response.headers.items()},
        bytes(content[:limit]),
        complete,
        what,
    )
