"""
Sign-in as Azure Active Directory and AD FS do it, for one service principal.

Owns checking secrets and certificate assertions and making tokens; knows no resources.
Invariant: a token is only made for the right client, the right secret and the right audience, and
is dead when the (virtual) clock has passed its end.
"""

import base64
import hashlib
import json
import secrets
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from airflow_provider_azstack.emulator import pki
from airflow_provider_azstack.emulator.http import Answer, Call, Json, Problem, json_answer, same
from airflow_provider_azstack.emulator.state import World

_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class _Refusal(Exception):
    def __init__(self, status: int, error: str, description: str) -> None:
        super().__init__(description)
        self.answer = json_answer(status, {"error": error, "error_description": description})


def endpoints(world: World, call: Call) -> Answer:
    """``GET /metadata/endpoints``: where to sign in, and for what audience."""
    login = f"{call.base_url}/adfs" if world.identity == "adfs" else f"{call.base_url}/"
    body = {
        "galleryEndpoint": f"{call.base_url}/gallery",
        "graphEndpoint": f"{call.base_url}/graph",
        "portalEndpoint": f"{call.base_url}/portal",
        "authentication": {"loginEndpoint": login, "audiences": [world.audience]},
    }
    return json_answer(200, body)


def openid_configuration(world: World, call: Call) -> Answer:
    """Describe the authority, as msal asks before it signs in."""
    tenant = call.params["tenant"]
    if tenant.lower() != world.tenant_id:
        error = {"error": "invalid_tenant", "error_description": f"Tenant '{tenant}' not found."}
        return json_answer(400, error)
    authority = f"{call.base_url}/{tenant}"
    version = "" if world.identity == "adfs" else "/v2.0"
    return json_answer(
        200,
        {
            "issuer": f"{authority}{version}",
            "authorization_endpoint": f"{authority}/oauth2{version}/authorize",
            "token_endpoint": f"{authority}/oauth2{version}/token",
            "jwks_uri": f"{authority}/discovery/keys",
        },
    )


def token(world: World, call: Call) -> Answer:
    """``POST .../token``: client credentials, with a scope (v2) or a resource (v1)."""
    form = call.form()
    try:
        _check_request(world, call, form)
        _check_client(world, call, form)
    except _Refusal as refusal:
        return refusal.answer
    text = f"{secrets.token_urlsafe(24)}.{secrets.token_urlsafe(96)}.{secrets.token_urlsafe(32)}"
    lifetime = world.behaviour.token_seconds
    if "resource" in form or world.behaviour.default_scope_tokens:
        world.tokens[text] = world.clock() + lifetime
    body: Json = {"token_type": "Bearer", "expires_in": lifetime, "access_token": text}
    if "resource" in form:  # v1 writes numbers as text and repeats the resource
        body |= {"expires_in": str(lifetime), "expires_on": str(int(world.tokens[text]))}
        body["resource"] = form["resource"]
    return json_answer(200, body)


def require_token(world: World, call: Call) -> None:
    """Refuse a call to Resource Manager without a living token."""
    scheme, _, text = call.header("Authorization").partition(" ")
    if scheme.lower() != "bearer" or not text:
        raise Problem(
            401,
            "AuthenticationFailed",
            "Authentication failed. The 'Authorization' header is missing.",
            WWW_Authenticate='Bearer authorization_uri="emulator"',
        )
    expires = world.tokens.get(text)
    if expires is None:
        raise Problem(401, "InvalidAuthenticationToken", "The access token is invalid.")
    if expires <= world.clock():
        raise Problem(401, "ExpiredAuthenticationToken", "The access token expiry is in the past.")


def _check_request(world: World, call: Call, form: dict[str, str]) -> None:
    if call.params["tenant"].lower() != world.tenant_id:
        raise _Refusal(400, "invalid_request", "AADSTS90002: Tenant not found.")
    if form.get("grant_type") != "client_credentials":
        raise _Refusal(400, "unsupported_grant_type", "AADSTS70003: unsupported grant type.")
    if "resource" in form:
        asked, wanted = form["resource"], world.audience
    else:
        asked, wanted = form.get("scope", ""), f"{world.audience.rstrip('/')}/.default"
        if world.identity == "adfs" and not world.behaviour.adfs_default_scope:
            raise _Refusal(
                400,
                "invalid_request",
                "MSIS9605: The client is not allowed to access the resource.",
            )
    if wanted not in asked.split():
        raise _Refusal(400, "invalid_resource", f"AADSTS500011: {asked!r} was not found.")


def _check_client(world: World, call: Call, form: dict[str, str]) -> None:
    if form.get("client_id", "").lower() != world.client_id:
        raise _Refusal(400, "unauthorized_client", "AADSTS700016: Application was not found.")
    if form.get("client_assertion_type") == _ASSERTION:
        _check_assertion(world, call, form.get("client_assertion", ""))
    elif not same(form.get("client_secret", ""), world.client_secret):
        raise _Refusal(401, "invalid_client", "AADSTS7000215: Invalid client secret provided.")


def _check_assertion(world: World, call: Call, assertion: str) -> None:
    try:
        header, claims, signature, signed = _decode(assertion)
    except (ValueError, TypeError):
        raise _Refusal(401, "invalid_client", "AADSTS50027: the assertion is malformed.") from None
    pair = pki.client_pair()
    der = pair.certificate.public_bytes(serialization.Encoding.DER)
    thumbprints = {
        "x5t": hashlib.sha1(der, usedforsecurity=False).digest(),
        "x5t#S256": hashlib.sha256(der).digest(),
    }
    if not any(_unbase64(header.get(name, "")) == value for name, value in thumbprints.items()):
        raise _Refusal(401, "invalid_client", "AADSTS700027: the certificate is not registered.")
    _verify(header.get("alg"), signature, signed)
    ours = {claims.get("iss"), claims.get("sub")} == {world.client_id}
    if not ours or claims.get("aud") != f"{call.base_url}{call.raw_path}":
        raise _Refusal(401, "invalid_client", "AADSTS50012: wrong issuer, subject or audience.")
    if not float(claims.get("nbf", 0)) - 300 <= world.clock() < float(claims.get("exp", 0)):
        raise _Refusal(401, "invalid_client", "AADSTS700024: the assertion is not valid now.")


def _verify(algorithm: Any, signature: bytes, signed: bytes) -> None:
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    schemes: dict[str, Any] = {"RS256": padding.PKCS1v15(), "PS256": pss}
    public = pki.client_pair().key.public_key()
    assert isinstance(public, rsa.RSAPublicKey)  # noqa: S101  what sign-in certificates are
    try:
        public.verify(signature, signed, schemes[algorithm], hashes.SHA256())
    except (InvalidSignature, KeyError):
        raise _Refusal(401, "invalid_client", "AADSTS700027: invalid signature.") from None


def _decode(assertion: str) -> tuple[Json, Json, bytes, bytes]:
    head, payload, signature = assertion.split(".")
    header, claims = json.loads(_unbase64(head)), json.loads(_unbase64(payload))
    if not (isinstance(header, dict) and isinstance(claims, dict)):
        raise ValueError("not objects")  # noqa: TRY004  as malformed as any other text
    return header, claims, _unbase64(signature), f"{head}.{payload}".encode()


def _unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
