"""The demo leaves no process behind, whichever way it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from demo.processes import Child, Processes, free_port

pytestmark = pytest.mark.tier2

# Its children do what Airflow's do: start children of their own, and ignore polite requests.
SCRIPT = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in background
from demo.processes import Processes
with Processes(Path(sys.argv[1]), patience_seconds=0.3) as processes:
    command = "trap '' TERM; sleep 300 & echo $! $$; exec sleep 300"
    log = processes.start("child", ["/bin/sh", "-c", command], {"PATH": "/usr/bin:/bin"}).log
    while not log.read_text().endswith("\\n"):
        time.sleep(0.01)
    print(log.read_text(), flush=True)
    time.sleep(300)
"""
ROOT = Path(__file__).parents[3]


# A worker's tasks lead groups of their own.
WORKER = "setsid sleep 300 & echo $! $$; exec sleep 300"


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def start_worker(processes: Processes) -> tuple[Child, list[int]]:
    child = processes.start("worker", ["/bin/sh", "-c", WORKER], {"PATH": "/usr/bin:/bin"})
    until(lambda: child.log.read_text().endswith("\n"))
    pids = [int(pid) for pid in child.log.read_text().split()]
    until(lambda: all(os.getpgid(pid) == pid for pid in pids))
    return child, pids


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_killed_worker_takes_its_tasks_with_it(tmp_path: Path) -> None:
    """What is left of a killed host would go on streaming, and prove nothing."""
    processes = Processes(tmp_path)
    child, pids = start_worker(processes)
    processes.kill(child)
    until(lambda: not any(map(is_running, pids)))
    processes.check()  # it is not missed


def test_a_frozen_worker_is_frozen_with_its_tasks_and_goes_on(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    child, pids = start_worker(processes)
    resume = processes.suspend(child)
    until(lambda: [state_of(pid) for pid in pids] == ["T", "T"])
    resume()
    until(lambda: "T" not in [state_of(pid) for pid in pids])
    assert all(map(is_running, pids))
    processes.kill(child)


def is_running(pid: int) -> bool:
    return state_of(pid) not in {"", "Z"}  # a zombie waits for its parent only


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_children_and_their_children(number: int, tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert demo.stdout
    with demo.stdout:
        children = [int(pid) for pid in demo.stdout.readline().split()]
    assert len(children) == 2
    assert all(map(is_running, children))
    demo.send_signal(number)
    assert demo.wait(120) != 0
    until(lambda: not any(map(is_running, children)))


def test_free_ports_are_none_that_a_kernel_gives_to_clients() -> None:
    """One of those could be somebody's before the server that it is for is up."""
    ports = [free_port() for _ in range(3)]
    assert len(set(ports)) == 3
    assert max(ports) < 32_768
    with socket.socket() as server:
        server.bind(("127.0.0.1", ports[0]))
