"""
Runs the demo from an empty directory to the table: ``make demo``, ``make ui``.

Owns the order of things. Invariant: it ends with state 0 only if every disk of every restore point
was read back and is the same, byte by byte, and it leaves no process behind on any way out.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from demo.airflow import USER, Airflow
from demo.fleet import DemoStack
from demo.pools import check_placement
from demo.processes import Processes
from demo.screen import Row, Screen
from demo.site import ROOT, Site, demonstrate

CONFIG = {
    "NO_OF_BACKUP_STREAMS_PER_NODE": 1,
    "hosts": {"host-a": {"NO_OF_BACKUP_STREAMS_PER_NODE": 2}, "host-b": {}},
}


def _back_up(site: Site, what: str) -> None:
    for placement in check_placement(site.back_up(what), site.config):
        site.screen.remark(placement.as_text())


def _leave_running(site: Site) -> None:
    site.screen.step(f"{site.airflow.url}  user {USER}  password {site.airflow.password}")
    site.screen.remark(f"in another terminal: . {site.airflow.environment_file}; then")
    site.screen.remark(f"{site.airflow.executable} azstack points")
    site.screen.remark("stack and Airflow run until you press Ctrl-C")
    while True:
        site.processes.check()
        time.sleep(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit state."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--ui", action="store_true", help="leave it running and say where to look")
    parser.add_argument("--scale", type=int, default=1, help="multiplies the disks' sizes")
    options = parser.parse_args(arguments)
    directory = ROOT / ".demo"

    def steps(screen: Screen, processes: Processes) -> list[Row]:
        site = Site(
            directory,
            screen,
            processes,
            stack=DemoStack(directory / "stack", options.scale),
            airflow=Airflow(directory / "airflow", Path(sys.executable).parent, ROOT / "dags"),
            config=CONFIG,
        )
        site.prepare()
        _back_up(site, "First backup")
        site.change()
        _back_up(site, "Incremental backup")
        screen.table(site.rows)
        site.look_for_leftovers()
        if options.ui:
            _leave_running(site)
        screen.remark(f"logs and repository are in {directory}; 'make ui' leaves all of it running")
        return site.rows

    return demonstrate(directory, steps)


if __name__ == "__main__":
    sys.exit(main())
