"""
Measure this project against other backup programs, on the same files, in turn.

Each round, every program in turn makes a repository and backs up, restores and verifies the disks
of ``make_dataset.py``; each step is a process of its own, start-up, passphrase and all. The table
has the medians of the rounds. ``install.sh`` gets the programs; those that are missing are left
out, and disks are made if there are none. Let data and ``--directory`` be in memory, or it is the
disk that is measured.

    python benchmarks/peers /dev/shm/data --peers /opt/peers
"""

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from measure import MIB, Cost, run, size_of
from report import Results, report
from tools import TOOLS, Tool, link

# name, disk, the step that it is a day later than
BACKUPS = (
    ("first", "base", ""),
    ("unchanged", "base", "first"),
    ("day", "day", "first"),
    ("sibling", "sibling", ""),
    ("database", "scattered", "first"),
)
_RESTORED = "database"
_ROUND_BYTES = 8 * 1024**3  # a repository, and a disk restored
_ZEROS = bytes(64 * MIB)


def measure(tool: Tool, data: Path, *, compare: bool) -> dict[str, Cost]:
    """Run one program through its steps in its directory, and return what each took."""
    log = tool.place / "log"
    for command in tool.create():
        run(command, log)
    costs = {}
    for step, disk, based_on in BACKUPS:
        if step not in tool.steps:
            continue
        link(data / f"{disk}.img", tool.disk, is_unchanged=step == "unchanged")
        before = size_of(tool.repository)
        cost = run(tool.back_up(step, based_on), log)
        costs[step] = cost._replace(stored_bytes=size_of(tool.repository) - before)
    if _RESTORED not in tool.steps:
        return costs
    tool.target.mkdir()
    costs["restore"] = run(tool.restore(_RESTORED), log)
    if compare and not filecmp.cmp(tool.restored_file, tool.disk, shallow=False):
        raise SystemExit(f"{tool.name} did not restore what it was given")
    shutil.rmtree(tool.target)
    costs["verify"] = run(tool.verify(), log)
    return costs


def in_turn(tools: list[type[Tool]], options: argparse.Namespace) -> Results:
    """Measure the programs, round by round, each round beginning with another one."""
    results: Results = defaultdict(lambda: defaultdict(list))
    started = time.perf_counter()
    for number in range(options.rounds):
        spent = time.perf_counter() - started
        if number and spent / number * (number + 1) > 60 * options.minutes:
            print(f"stopped after {number} rounds: another would take too long", flush=True)
            break
        for tool in tools[number:] + tools[:number]:
            if tool.rounds is not None and number >= tool.rounds:
                continue
            began = time.perf_counter()
            with tempfile.TemporaryDirectory(dir=options.directory, prefix="peers-") as place:
                one = tool(Path(place), options.peers)
                for step, cost in measure(one, options.data, compare=number == 0).items():
                    results[tool.name][step].append(cost)
            spent = time.perf_counter() - began
            print(f"round {number + 1}, {tool.name}: {spent:.0f} s", file=sys.stderr, flush=True)
    return results


def touch_memory(directory: Path) -> None:
    """Use once what a round needs: a virtual machine pays for the first use of each page."""
    needed = min(_ROUND_BYTES, shutil.disk_usage(directory).free // 2)
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(needed // len(_ZEROS)):
            file.write(_ZEROS)


def main() -> int:
    """Measure, print, and fail when a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path, help="directory that make_dataset.py filled")
    parser.add_argument("--peers", type=Path, default=Path("/opt/peers"), help="install.sh's")
    parser.add_argument("--directory", type=Path, default=Path("/dev/shm"))  # noqa: S108 - memory
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=14, help="begin no round that ends later")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the programs, beside ours")
    options = parser.parse_args()
    found: list[type[Tool]] = []
    missing: list[type[Tool]] = []
    for tool in TOOLS:
        if options.only and not tool.is_ours and tool.name not in options.only:
            continue
        (found if tool.find(options.peers) else missing).append(tool)
    for tool in missing:
        print(f"{tool.name} is not installed: left out; see {Path(__file__).parent}/install.sh")
    if not (options.data / "base.img").exists():
        script = Path(__file__).resolve().parent.parent / "make_dataset.py"
        subprocess.run([sys.executable, script, options.data], check=True)
    loads = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    touch_memory(options.directory)
    results = in_turn(found, options)
    size = (options.data / "base.img").stat().st_blocks * 512
    print(f"{size / MIB:.0f} MiB of data; load of the machine before: {loads}")
    return 1 if report(results, {tool.name: tool for tool in found}) else 0


if __name__ == "__main__":
    sys.exit(main())
