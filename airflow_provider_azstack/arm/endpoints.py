"""
What a stack says about itself: where to sign in, and for which audience.

Owns the anonymous endpoint list; knows no secrets.
Invariant: nothing is taken over unchecked: addresses are https (or this machine), strings bounded.
"""

from typing import Any, NamedTuple

from airflow_provider_azstack.arm.addresses import require_tls
from airflow_provider_azstack.arm.answers import Answer
from airflow_provider_azstack.arm.versions import METADATA_VERSION
from airflow_provider_azstack.errors import ConfigurationError

PATH = "/metadata/endpoints"
PARAMS = {"api-version": METADATA_VERSION}


class Endpoints(NamedTuple):
    """Where to sign in to a stack."""

    authority: str  # without a trailing slash and, on AD FS, without /adfs
    audience: str
    uses_adfs: bool


def parse_endpoints(answer: Answer) -> Endpoints:
    """
    Read the answer to ``GET /metadata/endpoints``.

    :raises ConfigurationError: it holds no sign-in address or audience.
    """
    authentication = answer.object().get("authentication")
    fields: dict[str, Any] = authentication if isinstance(authentication, dict) else {}
    login, audiences = fields.get("loginEndpoint"), fields.get("audiences")
    audience = audiences[0] if isinstance(audiences, list) and audiences else None
    if not _is_text(login) or not _is_text(audience):
        raise ConfigurationError(
            f"{answer.what}: no sign-in address and audience in the answer: is this the address "
            "of a stack's Resource Manager (https://management.<region>.<domain>)?"
        )
    login = require_tls(str(login).rstrip("/"), "the sign-in address")
    # AD FS: the list says https://adfs.<domain>/adfs; its "tenant" is adfs, and without the cut
    # /adfs/adfs/... would be asked for.
    uses_adfs = login.lower().endswith("/adfs")
    authority = login[: -len("/adfs")] if uses_adfs else login
    return Endpoints(authority, str(audience), uses_adfs)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 2048
