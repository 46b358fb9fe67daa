"""
Secrets as a type: what prints, logs or serialises a ``Secret`` shows ``***``.

Owns the hiding of secrets and the scrubbing of URLs; knows nothing of where secrets come from.
Invariant: only ``reveal()`` returns the text, so a search for that word finds every use.
"""

import re
from urllib.parse import urlsplit

MASK = "***"
_QUERY = re.compile(r"(https?://[^\s\"'<>?]+)\?[^\s\"'<>]+", re.IGNORECASE)


class Secret:
    """A text that must not be seen. Compares by content, prints as ``***``, does not pickle."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text, for the one call that needs it."""
        return self._text

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__

    def __format__(self, _spec: str) -> str:
        return MASK

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not serialised: pass the connection id and look it up there")


def scrub(text: str) -> str:
    """Cut the query string off every URL in ``text``: signatures live there."""
    return _QUERY.sub(r"\1?" + MASK, text)


def without_query(url: str) -> str:
    """Return ``url`` up to its path, fit for a log or an error message."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"
