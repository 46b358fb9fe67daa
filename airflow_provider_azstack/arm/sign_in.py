"""
Signing in to a stack: Azure AD and AD FS, by secret and by certificate, in two forms.

Owns the token and its renewal; knows no resource.
Invariant: a token is renewed before it ends, and a sign-in service that is down hurts only when
the token at hand has ended. Secrets go to the sign-in address of the stack and nowhere else.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from azure.core.credentials import TokenCredential
from azure.core.exceptions import AzureError, ClientAuthenticationError
from azure.identity import CertificateCredential, ClientSecretCredential
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import load_pem_x509_certificate
from msal.oauth2cli import JwtAssertionCreator

from airflow_provider_azstack.arm.answers import Answer, error_fields, one_line
from airflow_provider_azstack.arm.endpoints import Endpoints
from airflow_provider_azstack.arm.retry import RETRIED
from airflow_provider_azstack.arm.wire import Wire, unreachable
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
# older form, with resource= instead of scope=, then works.
_WANTS_V1 = ("MSIS9605", "MSIS9602", "invalid_scope", "invalid_resource")
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


class _Form(Protocol):
    def __call__(self) -> tuple[str, float]:
        """Return a token and for how many seconds it holds."""


class SignIn:
    """Keeps a valid token for the Resource Manager. Thread-safe."""

    def __init__(
        self,
        credentials: Credentials,
        endpoints: Endpoints,
        wire: Wire,
        *,
        form: SignInForm,
        ca_bundle: str | None,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        on_secret: Callable[[str], None],
    ) -> None:
        self._forms = _forms(
            credentials, endpoints, wire, form, ca_bundle=ca_bundle, wall_clock=wall_clock
        )
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
        """Forget ``token``: the Resource Manager did not take it."""
        with self._lock:
            if self._token == token:
                self._token = Secret("")

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
    credentials: Credentials,
    endpoints: Endpoints,
    wire: Wire,
    form: SignInForm,
    *,
    ca_bundle: str | None,
    wall_clock: Callable[[], float],
) -> list[_Form]:
    tenant = "adfs" if endpoints.uses_adfs else credentials.tenant_id
    if not tenant:
        raise ConfigurationError(
            "the connection needs a tenant id: the stack signs in with Azure AD"
        )

    def v1() -> tuple[str, float]:
        return _ask_v1(credentials, endpoints, tenant, wire)

    # azure-identity takes no plain http, which only the emulator on this machine speaks.
    if form == "v1" or (form == "auto" and endpoints.authority.startswith("http:")):
        return [v1]
    v2 = _v2(credentials, endpoints, tenant, ca_bundle, wall_clock)
    return [v2] if form == "v2" else [v2, v1]


def _v2(
    credentials: Credentials,
    endpoints: Endpoints,
    tenant: str,
    ca_bundle: str | None,
    wall_clock: Callable[[], float],
) -> _Form:
    """Return azure-identity's way: ``scope=<audience>/.default``, discovery from the authority."""
    what = f"sign-in at {endpoints.authority}"
    try:
        credential = _azure_credential(credentials, endpoints.authority, tenant, ca_bundle)
    except ValueError as error:
        raise ConfigurationError(f"{what}: {one_line(str(error))}") from None
    scope = endpoints.audience.rstrip("/") + "/.default"

    def ask() -> tuple[str, float]:
        try:
            token = credential.get_token(scope)
        except ClientAuthenticationError as error:
            raise _refused(what, getattr(error.response, "status_code", 400), str(error)) from None
        except AzureError as error:
            raise unreachable(error, endpoints.authority, what) from None
        except ValueError as error:  # msal could not read the authority's configuration
            raise Unreachable(f"{what}: {one_line(str(error))}") from None
        return token.token, token.expires_on - wall_clock()

    return ask


def _azure_credential(
    credentials: Credentials, authority: str, tenant: str, ca_bundle: str | None
) -> TokenCredential:
    common: dict[str, Any] = {
        "authority": authority,
        "disable_instance_discovery": True,  # asks login.microsoft.com, which knows no stack
        "connection_verify": ca_bundle or True,
        "retry_total": 0,  # our own tries, with our own budget
        "http_logging_level": logging.DEBUG,  # its headers are no news in a task's log
    }
    if credentials.secret:
        return ClientSecretCredential(
            tenant, credentials.client_id, credentials.secret.reveal(), **common
        )
    return CertificateCredential(
        tenant,
        credentials.client_id,
        certificate_data=_text(credentials.certificate).encode(),
        password=_text(credentials.certificate_password) or None,
        **common,
    )


def _ask_v1(
    credentials: Credentials, endpoints: Endpoints, tenant: str, wire: Wire
) -> tuple[str, float]:
    """Ask with ``resource=<audience>``, which every stack takes."""
    url = f"{endpoints.authority}/{tenant}/oauth2/token"
    what = f"sign-in at {endpoints.authority}"
    form = {
        "grant_type": "client_credentials",
        "client_id": credentials.client_id,
        "resource": endpoints.audience,
    }
    if credentials.secret:
        form["client_secret"] = credentials.secret.reveal()
    else:
        form |= {
            "client_assertion_type": _ASSERTION,
            "client_assertion": _assertion(credentials, url),
        }
    answer = wire.send("POST", url, what=what, form=form)
    if not answer.is_success:
        code, message = error_fields(_object_or_nothing(answer))
        raise _refused(what, answer.status, f"{code}: {message}")
    body = answer.object()
    token, seconds = body.get("access_token"), str(body.get("expires_in", ""))
    if not isinstance(token, str) or not token or not token.isprintable():
        raise Unreachable(f"{what}: the answer holds no access token")
    return token, float(seconds) if seconds.isdigit() and len(seconds) < 7 else 600.0


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


def _assertion(credentials: Credentials, url: str) -> str:
    """Return a JWT that proves possession of the certificate's key (RFC 7523)."""
    pem = _text(credentials.certificate).encode()
    password = _text(credentials.certificate_password)
    try:
        key = serialization.load_pem_private_key(pem, password.encode() if password else None)
        thumbprint = load_pem_x509_certificate(pem).fingerprint(hashes.SHA1()).hex()  # noqa: S303 - x5t
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"the connection's certificate cannot be read ({one_line(str(error))}): "
            "give PEM text with the certificate and its private key, and the key's password"
        ) from None
    creator = JwtAssertionCreator(key, algorithm="RS256", sha1_thumbprint=thumbprint)
    assertion = creator.create_normal_assertion(audience=url, issuer=credentials.client_id)
    return assertion if isinstance(assertion, str) else str(assertion, "ascii")


def _text(secret: Secret | None) -> str:
    return secret.reveal() if secret else ""
