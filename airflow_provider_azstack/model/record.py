"""
What a record is, the bounds of its fields, and its strict JSON form.

Owns the way between text and records; knows none of them.
Invariant: unknown fields, wrong types and values out of bounds are refused here, in words.
"""

from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.wording import one_line

Size = Annotated[int, Meta(ge=0, le=2**50)]
Text = Annotated[str, Meta(max_length=2048)]
Slug = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9._-]{0,127}\Z")]
VmKey = Annotated[str, Meta(pattern=r"\A[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")]
DiskKey = Annotated[str, Meta(pattern=r"\A(os|data-[0-9]{1,3})\Z")]
Moment = Annotated[datetime, Meta(tz=True)]

R = TypeVar("R")


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    Base of all records: immutable, no unknown field.

    ``kw_only`` is not inherited, and type checkers do not see that ``frozen`` is: repeat both.
    """


def to_json(record: Record) -> bytes:
    """Return the record's JSON, the same bytes for the same record."""
    return msgspec.json.encode(record, order="deterministic")


def from_json(kind: type[R], data: bytes | bytearray | memoryview, what: str) -> R:
    """
    Parse ``data`` into a record.

    :param what: names the text in the error, for example ``"points/... of the repository"``.
    :raises ConfigurationError: it is not exactly such a record.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise _invalid(kind, what, error) from None


def to_plain(record: Record) -> dict[str, Any]:
    """Return the record as plain JSON values, fit for XCom."""
    # By way of the text: to_builtins would leave tuples, which XCom writes as Python classes.
    return msgspec.json.decode(to_json(record))  # type: ignore[no-any-return]


def from_plain(kind: type[R], value: object, what: str) -> R:
    """
    Turn plain JSON values back into a record.

    :raises ConfigurationError: they are not exactly such a record.
    """
    try:
        return msgspec.convert(value, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _invalid(kind, what, error) from None


def _invalid(kind: type[Any], what: str, error: Exception) -> ConfigurationError:
    said = one_line(error, kind)
    return ConfigurationError(f"{what} is not a valid {kind.__name__}: {said}")
