"""
Sequence numbers of page blobs, and the conditions on them.

Owns what a request says of a number and whether that holds; knows neither blobs nor pages.
Invariant: a condition that is not understood, or does not hold, lets nothing be written.
"""

import operator

from airflow_provider_azstack.emulator.http import Call, Problem

HEADER = "x-ms-blob-sequence-number"
_ACTION = "x-ms-sequence-number-action"
_CONDITIONS = {"le": operator.le, "lt": operator.lt, "eq": operator.eq}


def check(call: Call, number: int) -> None:
    """Refuse a write whose condition a blob's number does not meet."""
    for name, holds in _CONDITIONS.items():
        header = f"x-ms-if-sequence-number-{name}"
        if call.header(header) and not holds(number, call.number(header)):
            raise Problem(
                412,
                "SequenceNumberConditionNotMet",
                "The sequence number condition specified was not met.",
            )


def first(call: Call) -> int:
    """Return the number that a new blob gets."""
    return call.number(HEADER) if call.header(HEADER) else 0


def changed(call: Call, number: int) -> int:
    """Return the number that a blob has after ``Set Blob Properties``."""
    action = call.header(_ACTION).lower()
    if action == "increment" and not call.header(HEADER):
        return number + 1
    if action not in {"update", "max"}:
        raise Problem(400, "InvalidHeaderValue", f"HeaderName: {_ACTION}")
    given = call.number(HEADER)
    return max(number, given) if action == "max" else given
