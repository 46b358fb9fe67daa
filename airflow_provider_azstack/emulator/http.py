"""
Requests, answers and the table that leads from one to the other.

Owns matching a request to a handler; knows nothing of sockets or of what handlers do.
Invariant: a handler sees a decoded path and returns an ``Answer`` or raises a ``Problem``.
"""

import hmac
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from airflow_provider_azstack.emulator.layers import Content

Json = dict[str, Any]
_NUMBER = re.compile(r"[0-9]{1,19}")


@dataclass
class Call:
    """One request, with its path split off its query and both decoded."""

    method: str
    target: str  # as sent
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    base_url: str
    params: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = urlsplit(self.target)
        self.raw_path = parts.path
        self.path = unquote(parts.path)
        self.query = {k.lower(): v for k, v in parse_qsl(parts.query, keep_blank_values=True)}

    def header(self, name: str) -> str:
        """Return a header's value, or an empty text."""
        return self.headers.get(name.lower(), "")

    def number(self, header: str) -> int:
        """Return a header's value as a number, which must be in it: 0 or more, of 63 bits."""
        text = self.header(header)
        if not _NUMBER.fullmatch(text) or int(text) >= 1 << 63:
            raise Problem(400, "InvalidHeaderValue", f"HeaderName: {header}")
        return int(text)

    def json(self) -> Json:
        """Return the body as a JSON object."""
        try:
            parsed = json.loads(self.body or b"{}")
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            raise Problem(
                400, "InvalidRequestContent", "The request content was not a JSON object."
            )
        return parsed

    def form(self) -> dict[str, str]:
        """Return the body as form fields."""
        return dict(parse_qsl(self.body.decode("utf-8", "replace")))


class Extract(NamedTuple):
    """A stretch of a disk as an answer's body: sent from the files, never held in memory."""

    content: Content
    offset: int
    length: int

    def read(self) -> bytes:
        """Return the bytes, for the faults that alter them."""
        return self.content.read(self.offset, self.length)


@dataclass
class Answer:
    """A status, headers, and a body of bytes or a stretch of a disk."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Extract = b""
    length: int | None = None  # announced; the body's own unless said otherwise
    cut_at: int | None = None  # the connection is reset after so many bytes of the body

    @property
    def body_bytes(self) -> bytes:
        """The body in memory."""
        return self.body.read() if isinstance(self.body, Extract) else self.body


class Problem(Exception):
    """An answer with an error in it; the server writes it as JSON or XML."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code, self.message = status, code, message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def as_json(self) -> Answer:
        """Write the error as Resource Manager does."""
        answer = json_answer(self.status, {"error": {"code": self.code, "message": self.message}})
        answer.headers |= self.headers
        return answer

    def as_xml(self) -> Answer:
        """Write the error as the blob service does."""
        text = (
            '\ufeff<?xml version="1.0" encoding="utf-8"?><Error>'
            f"<Code>{self.code}</Code><Message>{escape(self.message)}</Message></Error>"
        )
        headers = {"Content-Type": "application/xml", "x-ms-error-code": self.code, **self.headers}
        return Answer(self.status, headers, text.encode())


def escape(text: str) -> str:
    """Escape text for XML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def json_answer(status: int, body: Any, **headers: str) -> Answer:
    """Answer with a JSON body."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named["Content-Type"] = "application/json; charset=utf-8"
    return Answer(status, named, json.dumps(body).encode())


def http_date(moment: float) -> str:
    """Write a moment as HTTP headers do."""
    return formatdate(moment, usegmt=True)


def same(sent: str, secret: str) -> bool:
    """Compare what was sent with a secret; it may be any text, and ``hmac`` takes ASCII only."""
    return hmac.compare_digest(sent.encode(), secret.encode())


class Route(NamedTuple):
    """One line of a table of routes; ``{name}`` matches one segment, ``{name*}`` the rest."""

    method: str
    pattern: str
    handler: Callable[..., Answer]
    resource_type: str = ""  # whose api-versions and permissions apply; "" where none do
    verb: str = ""  # the rest of the permission: read, write, delete, start/action...


class Router:
    """Finds the first route whose pattern matches; paths match in any case, as on a stack."""

    def __init__(self, routes: list[Route]) -> None:
        self._compiled = [(route, _compile(route.pattern)) for route in routes]

    def find(self, call: Call, path: str) -> Route | None:
        """Return the route of ``call``, whose path is ``path``, and fill in its parameters."""
        for route, pattern in self._compiled:
            if route.method == call.method and (match := pattern.fullmatch(path)):
                call.params = match.groupdict()
                return route
        return None


def _compile(pattern: str) -> re.Pattern[str]:
    expression = re.sub(r"\\{(\w+)\\\*\\}", r"(?P<\1>.+)", re.escape(pattern))
    expression = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", expression)
    return re.compile(expression + "/?", re.IGNORECASE)
