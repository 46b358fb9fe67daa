"""
Reads typed values out of an Airflow connection.

Owns the checks on a connection's fields; knows no stack and no repository.
Invariant: a bad field is refused with the connection's id and the field's name, never its value.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import (
    AirflowNotFoundException,
    BaseHook,
    Connection,
)

from airflow_provider_azstack.errors import ConfigurationError, ConnectionMissing
from airflow_provider_azstack.hooks.masking import mask
from airflow_provider_azstack.secret import Secret

WAITING_SECONDS = 10.0  # how long one request is retried while a person looks at the screen


def fields_of(conn_id: str, conn_type: str, known: frozenset[str]) -> "Fields":
    """
    Return the fields of the connection ``conn_id``.

    :raises ConnectionMissing: there is none.
    :raises ConfigurationError: it has fields that are not ``known``.
    """
    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise ConnectionMissing(
            f"connection {conn_id!r} is not defined, or cannot be read: "
            f"add it, of type {conn_type!r}, or correct the id"
        ) from None
    return Fields(connection, known)


class Fields:
    """The fields of one connection."""

    def __init__(self, connection: Connection, known: frozenset[str]) -> None:
        self._connection = connection
        self.conn_id = connection.conn_id
        self._extra: Mapping[str, Any] = connection.extra_dejson
        if unknown := set(self._extra) - known:
            names = ", ".join(sorted(unknown))
            raise self.error(f"has unknown fields ({names}); known are {', '.join(sorted(known))}")

    def error(self, problem: str) -> ConfigurationError:
        """Return an error that names this connection."""
        return ConfigurationError(f"connection {self.conn_id!r} {problem}")

    def standard(self, name: str, label: str) -> str:
        """Return the standard field ``name``, which must be filled in."""
        value = str(getattr(self._connection, name, None) or "").strip()
        if not value:
            raise self.error(f"has no {label}: fill in the field {name!r}")
        return value

    def password(self) -> Secret | None:
        """Return the password, masked, or None."""
        return self._masked(self._connection.password)

    def text(self, name: str, *, choices: tuple[str, ...] = ()) -> str:
        """Return the extra field ``name``, or an empty text."""
        value = self._extra.get(name) or ""
        if not isinstance(value, str) or (value and choices and value not in choices):
            expected = f"one of {', '.join(choices)}" if choices else "a text"
            raise self.error(f"field {name!r} must be {expected}")
        return value.strip() or (choices[0] if choices else "")

    def secret(self, name: str) -> Secret | None:
        """Return the extra field ``name``, masked, or None."""
        return self._masked(self.text(name))

    def secret_file(self, name: str) -> Secret | None:
        """Return the content of the file that the extra field ``name`` points to, or None."""
        if not (path := self.text(name)):
            return None
        try:
            return self._masked(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not a text file"
            raise self.error(f"field {name!r}: cannot read {path}: {reason}") from None

    def secrets(self, name: str) -> dict[str, Secret]:
        """Return the extra field ``name``, an object of texts, with every value masked."""
        value = self._extra.get(name) or {}
        if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
            raise self.error(f"field {name!r} must be an object of texts")
        return {str(key): secret for key, text in value.items() if (secret := self._masked(text))}

    def _masked(self, text: str | None) -> Secret | None:
        if not text:
            return None
        mask(text)
        return Secret(text)
