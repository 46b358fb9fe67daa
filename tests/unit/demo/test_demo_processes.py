"""The demo leaves no process behind, whichever way it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # a zombie waits for its parent only


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
    assert demo.wait(30) != 0
    end = time.monotonic() + 5
    while any(map(is_running, children)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(is_running, children))
