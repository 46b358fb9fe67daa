"""
What a stack answers: bounded bodies, and the errors of the package made from them.

Owns the reading of ARM error bodies and the table from status and code to our exceptions.
Invariant: whatever an answer holds (10 MB, no JSON, 10,000 levels, wrong types), what comes out is
one of our errors with one short line that holds neither a query string nor a control character.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from airflow_provider_azstack.arm.retry import RETRIED, THROTTLING
from airflow_provider_azstack.errors import (
    AccessDenied,
    AzStackError,
    ConfigurationError,
    SourceBusy,
    SourceChanged,
    SourceGone,
    Throttled,
    Unreachable,
    UnsupportedStack,
)
from airflow_provider_azstack.secret import scrub

MAX_BODY_BYTES = 64 * 2**20  # a page of 1,000 VMs is about 5 MiB
MAX_ERROR_BYTES = 64 * 2**10
MAX_MESSAGE_CHARACTERS = 300

_VERSION_CODES = frozenset(
    {
        "noregisteredproviderfound",
        "invalidapiversionparameter",
        "invalidresourcetype",
        "missingapiversionparameter",
        "unsupportedapiversion",
    }
)
_QUOTA_WORDS = ("quota", "exceedslimit", "limitexceeded")


@dataclass(frozen=True)
class Answer:
    """One HTTP answer, read whole and within bounds."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    content: bytes
    complete: bool = True  # False when the body was longer than we read
    what: str = ""  # the request, fit for a message

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    def object(self) -> dict[str, Any]:
        """
        Return the body's JSON object; an empty body is an empty object.

        :raises Unreachable: something that is not the Resource Manager answered.
        """
        if not self.content:
            return {}
        value = _json(self.content) if self.complete else None
        if not isinstance(value, dict):
            raise Unreachable(
                f"{self.what}: status {self.status}, but the answer is no JSON object of at most "
                f"{MAX_BODY_BYTES >> 20} MiB: does a proxy answer in the stack's place?"
            )
        return value

    def field(self, name: str) -> str:
        """Return a header, or nothing."""
        return self.headers.get(name, "")


def _json(content: bytes) -> Any:
    try:
        return msgspec.json.decode(content)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


def error_fields(body: Any) -> tuple[str, str]:
    """Return code and message of an ARM error body: ``{"error": {...}}``, bare, or neither."""
    inner = body.get("error", body) if isinstance(body, dict) else None
    if isinstance(inner, str):  # OAuth: {"error": "invalid_client", "error_description": "..."}
        return inner[:100], one_line(str(body.get("error_description", "")))
    if not isinstance(inner, dict):
        return "", ""
    code, message = inner.get("code"), inner.get("message")
    return (
        one_line(code)[:100] if isinstance(code, str) else "",
        one_line(message) if isinstance(message, str) else "",
    )


def one_line(text: str) -> str:
    """Return ``text`` as one short printable line without query strings."""
    flat = " ".join(text[: 8 * MAX_MESSAGE_CHARACTERS].split())
    shown = "".join(c if c.isprintable() else "?" for c in scrub(flat))
    cut = len(shown) > MAX_MESSAGE_CHARACTERS
    return shown[:MAX_MESSAGE_CHARACTERS] + ("..." if cut else "")


def error_of(answer: Answer, retry_after: float | None = None) -> AzStackError:
    """
    Return the error that a refused request means.

    :param retry_after: seconds that the answer asked us to wait.
    """
    body = _json(answer.content) if answer.complete else None
    code, message = error_fields(body)
    reason = ": ".join(part for part in (code, message) if part) or "no reason given"
    said = f"{answer.what}: status {answer.status} ({reason})"
    if answer.status in THROTTLING:
        advice = "for longer than we wait: run fewer streams, or try again later"
        return Throttled(f"{said} {advice}", retry_after or 0.0)
    if answer.status in RETRIED:
        return Unreachable(f"{said} for longer than we wait: check the health of the stack")
    return error_for(answer.what, answer.status, code, reason)


def permanent(what: str, code: str, reason: str) -> ConfigurationError | None:
    """Return the error for an ARM code that says that only the user can help."""
    known = code.lower()
    if known in _VERSION_CODES:
        return UnsupportedStack(f"{what}: {reason}; choose the connection's API profile to match")
    if any(word in known or word in reason.lower() for word in _QUOTA_WORDS):
        return ConfigurationError(f"{what}: {reason}; raise the quota or free some of it")
    return None


def error_for(what: str, status: int, code: str, reason: str) -> AzStackError:
    """Return the error for a status and an ARM code that no retry cures."""
    if error := permanent(what, code, reason):
        return error
    if status in {401, 403}:
        return AccessDenied(f"{what}: {reason}; check the role assignments of the application")
    if status == 404:
        return SourceGone(f"{what}: {reason}")
    if status == 409:
        return SourceBusy(f"{what}: {reason}; try again when the other operation has ended")
    if status == 412:
        return SourceChanged(f"{what}: {reason}")
    return ConfigurationError(f"{what}: status {status}, {reason}")
