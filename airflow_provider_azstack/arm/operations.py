"""
Long operations: from 202 to their result.

Owns the polling; refuses to know what the operation does.
Invariant: it ends. With the result, with the stack's own reason, or after the time allowed.
"""

from collections.abc import Callable, Iterator
from typing import Any

from airflow_provider_azstack.arm.answers import Answer, error_fields, permanent
from airflow_provider_azstack.errors import AzStackError, Unreachable

# Most operations on snapshots take less than a second, grants often none at all: the first look is
# at once, as azure-core's own is, unless the stack says when to come back.
_WAITS_SECONDS = (0.0, 0.2, 2.0, 3.0, 5.0)
LONGEST_WAIT_SECONDS = 30.0  # a Retry-After of an hour must not park a stream
FORGOTTEN_AFTER = 5  # 404s in a row: right after the start an operation may not be there yet


class Operations:
    """
    Waits for long operations.

    :param get: sends one GET to a polling address of the stack (retrying what can be retried)
        and returns the answer, a 404 included.
    :param retry_after: reads an answer's ``Retry-After`` in seconds.
    """

    def __init__(
        self,
        get: Callable[[str, str], Answer],
        retry_after: Callable[[Answer], float | None],
        *,
        timeout_seconds: float,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._get = get
        self._retry_after = retry_after
        self._timeout = timeout_seconds
        self._clock = clock
        self._sleep = sleep

    def result(self, started: Answer, *, has_output: bool) -> dict[str, Any]:
        """
        Return the result of the operation that ``started`` began; it may have ended at once.

        :param has_output: when it ended without one, look for it at its ``Location`` as well.
        :raises AzStackError: it failed, was cancelled, was forgotten or did not end in time.
        """
        status_address = started.field("azure-asyncoperation")
        location = started.field("location")
        if status_address:
            output = self._until_succeeded(status_address, started)
            if output or not has_output or not location:
                return output
            return self._until_gone(location, started)
        if started.status == 202 and location:
            return self._until_gone(location, started)
        return started.object()

    def _until_succeeded(self, address: str, started: Answer) -> dict[str, Any]:
        """Poll an ``Azure-AsyncOperation``: its body has a status and maybe an output."""
        for answer in self._polls(address, started):
            body = answer.object()
            status = str(body.get("status", "")).lower()
            if status == "succeeded":
                properties = body.get("properties")
                output = properties.get("output") if isinstance(properties, dict) else None
                return output if isinstance(output, dict) else {}
            if status in {"failed", "canceled", "cancelled"}:
                raise _failure(started.what, status, body)
        raise self._never_ended(started)

    def _until_gone(self, address: str, started: Answer) -> dict[str, Any]:
        """Poll a ``Location``: 202 while it runs, then the result itself."""
        for answer in self._polls(address, started):
            if answer.status != 202:
                return answer.object()
        raise self._never_ended(started)

    def _polls(self, address: str, started: Answer) -> Iterator[Answer]:
        """Yield successful answers from ``address`` until the time allowed is over."""
        deadline = self._clock() + self._timeout
        asked, missing, last = 0, 0, started
        while True:
            wait = _WAITS_SECONDS[min(asked, len(_WAITS_SECONDS) - 1)]
            wanted = self._retry_after(last)
            wait = max(wait, min(wanted or 0.0, LONGEST_WAIT_SECONDS))
            if self._clock() + wait > deadline:
                return
            if wait:
                self._sleep(wait)
            asked += 1
            last = self._get(address, started.what)
            missing = missing + 1 if last.status == 404 else 0
            if missing == FORGOTTEN_AFTER:
                raise Unreachable(
                    f"{started.what}: the stack lost track of the operation it began (404): "
                    "try again, what was made is found by its name"
                )
            if not missing:
                yield last

    def _never_ended(self, started: Answer) -> Unreachable:
        return Unreachable(
            f"{started.what}: the operation did not end within {self._timeout:.0f} s: "
            "check the health of the stack"
        )


def _failure(what: str, status: str, body: dict[str, Any]) -> AzStackError:
    code, message = error_fields(body)
    reason = ": ".join(part for part in (code, message) if part) or "no reason given"
    # What was accepted and then failed is the stack's affair (or somebody's who cancelled it),
    # unless the code says that the request itself can never succeed.
    return permanent(what, code, reason) or Unreachable(
        f"{what}: operation {status}, {reason}; try again"
    )
