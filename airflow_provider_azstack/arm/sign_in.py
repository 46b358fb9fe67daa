"""
Signing in to a stack: Azure AD and AD FS, by secret and by certificate, in two forms.

Owns the token and its renewal; knows no resource.
Invariant: a token is renewed before it ends, and a sign-in service that is down hurts only when
the token at hand has ended. Secrets go to the sign-in address of the stack and nowhere else.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from airflow_provider_azstack.arm.answers import Answer, error_fields, one_line
from airflow_provider_azstack.arm.endpoints import Endpoints
from airflow_provider_azstack.arm.retry import RETRIED
from airflow_provider_azstack.arm.wire import Wire
from airflow_provider_azstack.errors import (
    AccessDenied,
    AzStackError,
    ConfigurationError,
    TransientError,
    Unreachable,
)
from airflow_provider_azstack.secret import Secret

SignInForm = Literal["auto", "v1", "v2"]
RENEW_BEFORE_SECONDS = 300.0
# AD FS before hotfix 1.2108.2.130 does not take the .default scope and answers one of these; the
# older form, with resource= instead of scope=, then works, and is the one that the stack's pages
# show: github.com/Azure/azure-cli/issues/20177, github.com/Azure/azure-sdk-for-go/pull/19872,
# MicrosoftDocs/azure-stack-docs azure-stack/user/azure-stack-rest-api-use.md.
_WANTS_V1 = ("MSIS9601", "MSIS9602", "MSIS9605", "invalid_scope", "invalid_resource")
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True)
class Credentials:
    """An application of the stack's directory, with a secret or a certificate."""

    tenant_id: str  # not used on AD FS
    client_id: str
    secret: Secret | None = None
    certificate: Secret | None = None  # PEM: certificate and private key
    certificate_password: Secret | None = None

    def __post_init__(self) -> None:
        if not self.client_id or bool(self.secret) == bool(self.certificate):
            raise ConfigurationError(
                "the connection needs a client id and either a client secret or a certificate"
            )


_Ask = Callable[[], tuple[str, float]]  # returns a token and for how many seconds it holds


class SignIn:
    """Keeps a valid token for the Resource Manager. Thread-safe."""

    def __init__(
        self,
        credentials: Credentials,
        endpoints: Endpoints,
        wire: Wire,
        *,
        form: SignInForm,
        clock: Callable[[], float],
        on_secret: Callable[[str], None],
    ) -> None:
        self._forms = _forms(credentials, endpoints, wire, form)
        self._clock = clock
        self._on_secret = on_secret
        self._lock = threading.Lock()
        self._token = Secret("")
        self._renew_at = self._ends_at = 0.0

    def token(self) -> Secret:
        """
        Return a valid bearer token.

        :raises AccessDenied: the sign-in service refuses the application.
        :raises Unreachable: it cannot be asked, and no valid token is at hand.
        """
        with self._lock:
            if self._token and self._clock() < self._renew_at:
                return self._token
            try:
                self._renew()
            except TransientError:
                if not self._token or self._clock() >= self._ends_at:
                    raise
            return self._token

    def reject(self, token: Secret) -> None:
        """
        Forget ``token``: the Resource Manager did not take it.

        The next one is asked for in the older form: a directory can give out tokens for a scope
        that it does not understand.
        """
        with self._lock:
            if self._token == token:
                self._token = Secret("")
                self._forms = self._forms[1:] or self._forms

    def _renew(self) -> None:
        text, seconds = self._ask()
        self._on_secret(text)
        now = self._clock()
        self._token, self._ends_at = Secret(text), now + seconds
        self._renew_at = now + max(seconds - RENEW_BEFORE_SECONDS, seconds / 2)

    def _ask(self) -> tuple[str, float]:
        """Ask in the first form; the last form that worked stays."""
        while True:
            try:
                return self._forms[0]()
            except AccessDenied as error:
                if len(self._forms) == 1 or not any(sign in str(error) for sign in _WANTS_V1):
                    raise
                self._forms = self._forms[1:]


def _forms(
    credentials: Credentials, endpoints: Endpoints, wire: Wire, form: SignInForm
) -> list[_Ask]:
    """Return the ways to ask, the one to try first in front."""
    tenant = "adfs" if endpoints.uses_adfs else credentials.tenant_id
    if not tenant:
        raise ConfigurationError(
            "the connection needs a tenant id: the stack signs in with Azure AD"
        )
    authority = f"{endpoints.authority}/{tenant}/oauth2"
    scope = endpoints.audience.rstrip("/") + "/.default"
    v1 = f"{authority}/token", {"resource": endpoints.audience}
    # AD FS has one address for both forms.
    v2 = v1[0] if endpoints.uses_adfs else f"{authority}/v2.0/token", {"scope": scope}
    chosen = {"v1": [v1], "v2": [v2], "auto": [v2, v1]}[form]
    return [partial(_ask, credentials, wire, url, audience) for url, audience in chosen]


def _ask(
    credentials: Credentials, wire: Wire, url: str, audience: Mapping[str, str]
) -> tuple[str, float]:
    """Ask for a token by the client credentials grant (RFC 6749, 4.4)."""
    what = f"sign-in at {url}"
    form = {"grant_type": "client_credentials", "client_id": credentials.client_id, **audience}
    answer = wire.send("POST", url, what=what, form=form | _proof(credentials, url))
    if not answer.is_success:
        code, message = error_fields(_object_or_nothing(answer))
        raise _refused(what, answer.status, f"{code}: {message}")
    body = answer.object()
    token, seconds = body.get("access_token"), str(body.get("expires_in", ""))
    if not isinstance(token, str) or not token or not token.isprintable():
        raise Unreachable(f"{what}: the answer holds no access token")
    return token, float(seconds) if seconds.isdecimal() and len(seconds) < 7 else 600.0


def _proof(credentials: Credentials, url: str) -> dict[str, str]:
    if credentials.secret:
        return {"client_secret": credentials.secret.reveal()}
    assert credentials.certificate  # noqa: S101 (there is exactly one of the two)
    # Loads msal and X.509, for which who has a secret need not wait.
    from airflow_provider_azstack.arm.assertion import assertion  # noqa: PLC0415

    signed = assertion(
        credentials.client_id, credentials.certificate, credentials.certificate_password, url
    )
    return {"client_assertion_type": _ASSERTION, "client_assertion": signed}


def _object_or_nothing(answer: Answer) -> dict[str, object]:
    try:
        return answer.object()
    except Unreachable:
        return {}


def _refused(what: str, status: int, reason: str) -> AzStackError:
    shown = one_line(reason)
    if status in RETRIED:
        return Unreachable(f"{what}: status {status} ({shown}): the sign-in service is not well")
    return AccessDenied(
        f"{what}: {shown}: check tenant id, client id and secret or certificate of the connection"
    )
