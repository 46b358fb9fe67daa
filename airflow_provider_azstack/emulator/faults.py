"""
Scripted faults: values that say which request goes wrong, how, and how often.

Owns the script; knows neither handlers nor sockets. Invariant: a fault that is used up changes
nothing, and every fault counts how often it struck, so a test can prove that it did.
"""

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from airflow_provider_azstack.emulator.http import Answer, Call, Extract, json_answer

Alter = Callable[[Call, Answer], Answer]
_FOREVER = 10**9
_SPARED = "/emulator/"  # the control endpoint is no part of the stack


@dataclass
class Fault:
    """One thing that goes wrong; ``struck`` counts how often it did."""

    method: str
    path: str  # regular expression, searched in the path with its query
    instead: Callable[[Call], Answer] | None = None  # answers in place of the handler
    alter: Alter | None = None  # changes the handler's answer
    delay_seconds: float = 0.0
    hang_up: bool = False  # the handler does its work, the answer is never sent
    header: tuple[str, str] | None = None  # name and regular expression that must match as well
    skip: int = 0  # so many matching requests pass first
    times: int = 1
    struck: int = 0

    def matches(self, call: Call) -> bool:
        """Tell whether the fault concerns ``call``."""
        if self.method not in {"*", call.method} or call.path.startswith(_SPARED):
            return False
        if self.header and not re.search(self.header[1], call.header(self.header[0])):
            return False
        return re.search(self.path, call.target, re.IGNORECASE) is not None


@dataclass
class Outcome:
    """How a long operation ends: ``Failed``, ``Canceled``, ``InProgress`` for ever, or ``404``."""

    kind: str  # "snapshots.write", "disks.beginGetAccess", ... as regular expression
    status: str
    code: str = "InternalExecutionError"
    message: str = "An internal execution error occurred."
    times: int = 1


@dataclass
class Faults:
    """The script of a test, changed while the emulator runs."""

    script: list[Fault] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: Fault) -> Fault:
        """Queue a fault; earlier ones strike first."""
        with self.lock:
            self.script.append(fault)
        return fault

    def clear(self) -> None:
        """Forget the whole script."""
        with self.lock:
            self.script.clear()
            self.outcomes.clear()

    def strike(self, call: Call) -> Fault | None:
        """Return the fault that strikes ``call``, and count it."""
        with self.lock:
            for fault in self.script:
                if fault.struck < fault.times and fault.matches(call):
                    if fault.skip:
                        fault.skip -= 1
                        return None
                    fault.struck += 1
                    return fault
        return None

    def outcome(self, kind: str) -> Outcome | None:
        """Return how the operation ``kind`` ends, when that is scripted."""
        with self.lock:
            for outcome in self.outcomes:
                if outcome.times > 0 and re.fullmatch(outcome.kind, kind, re.IGNORECASE):
                    outcome.times -= 1
                    return outcome
        return None

    def end_operation(self, kind: str, status: str, *, times: int = 1, **error: str) -> Outcome:
        """Script how long operations like ``snapshots.write`` end."""
        outcome = Outcome(kind, status, times=times, **error)
        with self.lock:
            self.outcomes.append(outcome)
        return outcome

    def answer(
        self, method: str, path: str, status: int, *, body: bytes = b"", times: int = 1,
        skip: int = 0, **headers: str,
    ) -> Fault:  # fmt: skip
        """Answer requests with a status, headers (``Retry_After="5"``) and a body of choice."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        reply = Answer(status, named, body)
        if not body and status >= 400:
            error = {"code": f"Scripted{status}", "message": "Scripted by a test."}
            reply = json_answer(status, {"error": error})
            reply.headers |= named
        return self.add(
            Fault(method, path, instead=lambda _: replace(reply), times=times, skip=skip)
        )

    def throttle(
        self, path: str = ".", *, retry_after: str | None = None, status: int = 429,
        times: int = 1, method: str = "*",
    ) -> Fault:  # fmt: skip
        """Answer 429 (or 503...) with a ``Retry-After`` of choice, or none."""
        fault = self.answer(method, path, status, times=times)
        if fault.instead and retry_after is not None:
            reply = fault.instead
            fault.instead = lambda call: _waiting(reply(call), retry_after)
        return fault

    def alter_reads(self, alter: Alter, *, path: str = ".", times: int = 1, skip: int = 0) -> Fault:
        """Change the answers to range reads."""
        ranged = ("x-ms-range", "bytes=")
        kept_whole = r"^(?!.*comp=)(?=.*" + path + ")"
        return self.add(
            Fault("GET", kept_whole, alter=alter, header=ranged, times=times, skip=skip)
        )

    def cut(self, at: int, *, path: str = ".", times: int = 1, skip: int = 0) -> Fault:
        """Reset the connection after ``at`` bytes of a range; negative counts from its end."""

        def alter(_: Call, answer: Answer) -> Answer:
            body = answer.body
            length = body.length if isinstance(body, Extract) else len(body)
            return replace(answer, cut_at=at if at >= 0 else max(0, length + at))

        return self.alter_reads(alter, path=path, times=times, skip=skip)

    def slow(self, path: str, seconds: float, *, method: str = "*", times: int = _FOREVER) -> Fault:
        """Let requests wait before they are answered."""
        return self.add(Fault(method, path, delay_seconds=seconds, times=times))

    def lose_answer(self, method: str, path: str, *, times: int = 1, skip: int = 0) -> Fault:
        """Do what is asked, then hang up without an answer."""
        return self.add(Fault(method, path, hang_up=True, times=times, skip=skip))

    def struck(self) -> Iterator[Fault]:
        """Yield the faults that struck at least once."""
        return (fault for fault in list(self.script) if fault.struck)


def _waiting(answer: Answer, retry_after: str) -> Answer:
    return replace(answer, headers={**answer.headers, "Retry-After": retry_after})


def shorter(_: Call, answer: Answer) -> Answer:
    """One byte too few, and the length says so."""
    return replace(answer, body=answer.body_bytes[:-1])


def longer(_: Call, answer: Answer) -> Answer:
    """One byte too many, and the length says so."""
    return replace(answer, body=answer.body_bytes + b"\0")


def whole_blob(_: Call, answer: Answer) -> Answer:
    """The whole blob with 200 in place of the range."""
    if not isinstance(answer.body, Extract):
        return answer
    content = answer.body.content
    headers = {k: v for k, v in answer.headers.items() if k != "Content-Range"}
    return replace(
        answer, status=200, headers=headers, body=Extract(content, 0, content.size_bytes)
    )


def other_place(_: Call, answer: Answer) -> Answer:
    """As many bytes as asked for, from another place; the headers do not tell."""
    if not isinstance(answer.body, Extract):
        return answer
    content, offset, length = answer.body
    moved = (
        offset + length if offset + 2 * length <= content.size_bytes else max(0, offset - length)
    )
    return replace(answer, body=Extract(content, moved, length))


def flipped_bit(_: Call, answer: Answer) -> Answer:
    """One bit of the body is wrong; Content-MD5, if asked for, is of the right bytes."""
    body = bytearray(answer.body_bytes)
    body[len(body) // 2] ^= 1
    return replace(answer, body=bytes(body))


def with_header(name: str, value: str) -> Alter:
    """Return an alteration that sets a header: a wrong Content-Range, ETag or MD5."""

    def alter(_: Call, answer: Answer) -> Answer:
        return replace(answer, headers={**answer.headers, name: value})

    return alter
