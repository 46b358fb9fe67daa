"""
What one program costs, as a whole process and from outside, the same way for everybody.

CPU time is the process's and its children's. Peak memory is that of the largest process: none of
the programs measured here works in more than one.
"""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

MIB = 1024**2


class Command(NamedTuple):
    """A program to run."""

    argv: Sequence[str | Path]
    environment: Mapping[str, str]
    directory: Path


class Cost(NamedTuple):
    """What a run took."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    stored_bytes: int = 0


def run(command: Command, log: Path) -> Cost:
    """
    Run a program to its end; what it prints goes to ``log``.

    :raises SystemExit: it failed.
    """
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command.argv],
            env={**environment(), **command.environment},
            cwd=command.directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command.argv} failed:\n{log.read_text(errors='replace')[-4000:]}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def environment() -> dict[str, str]:
    """Return the environment of all programs: Python keeps compiled modules, as it does usually."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def size_of(directory: Path) -> int:
    """Return the bytes of all files below a directory."""
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file())
