"""
Background processes that never outlive the demo.

Owns starting and stopping; knows nothing of what runs. Invariant: whatever was started is gone
when ``stop`` returns, with everything that it started itself.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

# Above those of well-known services, below those of clients; processes begin in different places.
_PORTS = iter(range(10_000 + os.getpid() * 16 % 20_000, 32_000))


class DemoFailed(Exception):
    """The demo cannot go on; the message is for the user."""


class Child(NamedTuple):
    """A process, leader of a group of its own, and where it writes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


class Processes:
    """Starts commands in the background; stops them all on every way out."""

    def __init__(self, directory: Path, patience_seconds: float = 8) -> None:
        self._directory = directory
        self._patience_seconds = patience_seconds
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _leave)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Start ``command``; what it prints goes to ``<name>.log``."""
        log = self._directory / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A group of its own: Airflow's components start many processes, all are stopped.
                start_new_session=True,
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def kill(self, child: Child) -> None:
        """End one of them at once, with everything that it started: as a power cut does."""
        self._children.remove(child)
        for group in _groups_of(child.process.pid):
            _send(group, signal.SIGKILL)
        child.process.wait()

    def suspend(self, child: Child) -> Callable[[], None]:
        """Freeze one of them with everything that it started; return what lets them go on."""
        groups = _groups_of(child.process.pid)
        for group in groups:
            _send(group, signal.SIGSTOP)

        def resume() -> None:
            for group in groups:
                _send(group, signal.SIGCONT)

        return resume

    def check(self) -> None:
        """Raise when one of them has ended by itself."""
        for child in self._children:
            if (state := child.process.poll()) is not None:
                last = "\n".join(child.log.read_text(errors="replace").splitlines()[-15:])
                raise DemoFailed(f"{child.name} ended with state {state}, see {child.log}\n{last}")

    def wait(self, what: str, ready: Callable[[], bool], seconds: float = 600) -> None:
        """Wait until ``ready`` says so, while all processes run."""
        end = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > end:
                raise DemoFailed(f"{what}: not ready after {seconds:.0f} seconds")
            time.sleep(0.2)

    def stop(self) -> None:
        """End all of them: the last one first, politely, then for certain."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # impatience must not leave some behind
        groups = {child: _groups_of(child.process.pid) for child in self._children}
        for child in reversed(self._children):
            _send(child.process.pid, signal.SIGTERM)
        end = time.monotonic() + self._patience_seconds
        for child in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.1, end - time.monotonic()))
            # The leader may be gone while others of its group are not.
            for group in groups[child]:
                _send(group, signal.SIGKILL)
            child.process.wait()
        self._children.clear()


def run(command: Sequence[str], environment: Mapping[str, str], log: Path) -> str:
    """Run a command to its end and return what it printed on standard output."""
    with log.open("ab") as errors:
        done = subprocess.run(
            command, env=dict(environment), stdout=subprocess.PIPE, stderr=errors, check=False
        )
    if done.returncode:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise DemoFailed(f"{' '.join(command)} ended with state {done.returncode}\n{last}")
    return done.stdout.decode()


def free_port() -> int:
    """
    Return a port that nothing listens on now, and never the same one twice.

    None that the kernel gives to clients and to who asks for any: before it is used here, one of
    those might have it.
    """
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise DemoFailed("no port is free")


def _groups_of(leader: int) -> set[int]:
    """Return the process groups of a process and its descendants, some of which lead their own."""
    groups, parents = {leader}, {leader}
    while children := {pid for pid, parent in _parents().items() if parent in parents}:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                groups.add(os.getpgid(pid))
        parents = children
    return groups


def _parents() -> dict[int, int]:
    """Return every process's parent."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # A process may have blanks and brackets in its name: what follows is after the last.
            found[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    return found


def _send(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)
