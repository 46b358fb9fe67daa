"""
Who may do what with a blob: managed grants, service SAS, and Shared Key, all really checked.

Owns checking signatures; knows no pages. Sources: "Create a service SAS" for 2018-11-09 and later,
"Authorize with Shared Key", and the URLs in recorded exchanges for managed disks.
Invariant: a request with a signature carries no ``Authorization``, and nothing is anonymous.
"""

import base64
import hashlib
import hmac
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from airflow_provider_azstack.emulator import storage, versions
from airflow_provider_azstack.emulator.http import Call, Problem, same
from airflow_provider_azstack.emulator.state import Grant, World

_SIGNED_HEADERS = (
    "content-encoding", "content-language", "content-length", "content-md5", "content-type",
    "date", "if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range",
)  # fmt: skip


def check_version(call: Call) -> str:
    """Refuse a service version that the stack does not know; return the one in force."""
    asked = call.header("x-ms-version") or call.query.get("sv", "")
    if call.header("x-ms-version") and asked not in versions.BLOB_VERSIONS:
        raise Problem(
            400,
            "InvalidHeaderValue",
            "The value for one of the HTTP headers is not in the correct format. "
            f"HeaderName: x-ms-version HeaderValue: {asked}",
        )
    return asked


def denied(detail: str) -> Problem:
    """Return the answer to a wrong or expired signature."""
    return Problem(
        403,
        "AuthenticationFailed",
        "Server failed to authenticate the request. Make sure the value of Authorization header "
        f"is formed correctly including the signature. {detail}",
    )


def grant_of(world: World, call: Call) -> Grant:
    """Return the living grant that a managed disk's URL proves."""
    _no_header(call)
    return living_grant(world, call.path, call.query)


def living_grant(world: World, path: str, query: dict[str, str]) -> Grant:
    """Return the grant that path and signature belong to, unless it expired or was revoked."""
    grant = world.grants.get(query.get("si", ""))
    if grant is None or path != grant.url_path or query.get("sr") != "b":
        raise denied("Signed identifier is unknown or does not belong to this blob.")
    if not same(query.get("sig", ""), grant.signature):
        raise denied("Signature did not match.")
    if grant.expires <= world.clock():
        raise denied("Signature not valid in the specified time frame.")
    return grant


def check_account(world: World, call: Call, permission: str) -> None:
    """Refuse a call to an account's blob without a valid SAS or Shared Key."""
    if "sig" in call.query:
        _no_header(call)
        _check_sas(world, call, permission)
    elif call.header("Authorization"):
        _check_shared_key(world, call)
    else:
        raise Problem(
            404, "ResourceNotFound", "The specified resource does not exist."
        )  # what an anonymous caller is told of a private container


def _no_header(call: Call) -> None:
    if call.header("Authorization"):
        raise Problem(
            400,
            "InvalidAuthenticationInfo",
            "A SAS and an Authorization header exclude each other.",
        )


def _check_sas(world: World, call: Call, permission: str) -> None:
    query = call.query
    version = query.get("sv", "")
    if version not in versions.BLOB_VERSIONS or version < "2015-04-05":
        raise denied(f"sv={version} is not supported.")
    account, container, blob = (
        call.params["account"],
        call.params["container"],
        call.params.get("blob", ""),
    )
    kind = query.get("sr", "")
    if kind not in {"b", "c", "bs"} or (kind != "c" and not blob):
        raise denied("sr is invalid.")
    if kind == "bs" and not query.get("snapshot"):
        raise denied("sr=bs signs a snapshot.")
    resource = f"/blob/{account}/{container}" + (f"/{blob}" if kind != "c" else "")
    text = _sas_text(query, resource, version)
    _match(storage.keys_of(world, account), text, query["sig"])
    now = world.clock()
    if not _moment(query.get("st"), 0.0) <= now < _moment(query.get("se"), 0.0):
        raise denied("Signature not valid in the specified time frame.")
    if query.get("spr") == "https" and not call.base_url.startswith("https"):
        raise denied("The protocol is not permitted.")
    if not set(permission) & set(query.get("sp", "")):
        raise Problem(
            403, "AuthorizationPermissionMismatch", f"The SAS permits {query.get('sp')!r} only."
        )


def _sas_text(query: dict[str, str], resource: str, version: str) -> str:
    names = ["sp", "st", "se", resource, "si", "sip", "spr", "sv"]
    if version >= "2018-11-09":
        names += ["sr", "snapshot" if query["sr"] == "bs" else "-"]
    names += ["rscc", "rscd", "rsce", "rscl", "rsct"]
    return "\n".join(name if name.startswith("/") else query.get(name, "") for name in names)


def _moment(text: str | None, missing: float) -> float:
    if not text:
        return missing
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise denied("A time of the SAS is malformed.") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _check_shared_key(world: World, call: Call) -> None:
    scheme, _, credential = call.header("Authorization").partition(" ")
    account, _, signature = credential.partition(":")
    if scheme != "SharedKey" or account != call.params["account"]:
        raise denied("Only SharedKey of the account itself is supported.")
    values = [call.header(name) for name in _SIGNED_HEADERS]
    if values[2] == "0":
        values[2] = ""
    ours = sorted((n, v) for n, v in call.headers.items() if n.startswith("x-ms-"))
    text = "\n".join([call.method, *values, *(f"{n}:{v.strip()}" for n, v in ours)])
    text += f"\n/{account}{call.raw_path}"
    pairs = parse_qsl(call.target.partition("?")[2], keep_blank_values=True)
    text += "".join(f"\n{name.lower()}:{value}" for name, value in sorted(pairs))
    _match(storage.keys_of(world, account), text, signature)


def _match(keys: list[bytes], text: str, signature: str) -> None:
    for key in keys:
        expected = base64.b64encode(hmac.digest(key, text.encode(), hashlib.sha256)).decode()
        if same(expected, signature):
            return
    raise denied("Signature did not match.")
