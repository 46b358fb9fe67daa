"""
Work in processes of its own, so that its CPU time and its peak memory are honest.

Owns how a benchmark starts itself once more, and what a process says of itself; knows nothing of
the work. What is measured is the package of this checkout, which whoever imports this gets.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

_CHECKOUT = str(Path(__file__).resolve().parent.parent)
sys.path.insert(0, _CHECKOUT)

T = TypeVar("T")


def answer(script: str | Path, *arguments: object) -> dict[str, Any]:
    """Run a script to its end; return the JSON object that it prints, if any."""
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment())
    found: dict[str, Any] = json.loads(done.stdout or b"{}")
    return found


def start(script: str, option: str, told: Mapping[str, Any]) -> "subprocess.Popen[str]":
    """Start a script that will wait for a word; ``told`` is its option's value, as JSON."""
    command = [sys.executable, script, option, json.dumps(told)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment())


def await_all(processes: Iterable["subprocess.Popen[str]"]) -> None:
    """Wait until each of them waits for a word."""
    for process in processes:
        if process.stdout.readline() != "ready\n":
            raise SystemExit("a process did not begin")


def tell(process: "subprocess.Popen[str]", word: str = "begin") -> None:
    """Say the word that a process waits for."""
    process.stdin.write(f"{word}\n")
    process.stdin.flush()


def await_word() -> str:
    """Say that all is prepared, and wait for the word."""
    print("ready", flush=True)
    return sys.stdin.readline()


def environment() -> dict[str, str]:
    """Return the environment of the processes that are measured."""
    return {**os.environ, "PYTHONPATH": _CHECKOUT}


def measured(work: Callable[[], T]) -> tuple[T, dict[str, float]]:
    """Do something; return what it returns, and what it took of this process."""
    started, cpu = time.perf_counter(), time.process_time()
    result = work()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return result, {"seconds": seconds, "cpu_seconds": cpu, "peak_mib": peak_mib()}


def peak_mib() -> float:
    """Return this process's peak resident memory; ``ru_maxrss`` would count its parent's too."""
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def missed(bars: Mapping[str, bool]) -> list[str]:
    """Print which bars hold; return those that do not."""
    for bar, holds in bars.items():
        print(f"  {'holds ' if holds else 'MISSED'}  {bar}")
    return [bar for bar, holds in bars.items() if not holds]
