"""
The emulated stack, in a process of its own, and what its guests' disks held when.

Owns the demo's talk with the emulator; knows nothing of backups. Invariant: the copies to compare
with are made from the guests' own disk images, which no part of a backup ever reads.
"""

import json
import os
import ssl
import sys
import urllib.request
from pathlib import Path
from typing import Any

from airflow_provider_azstack.emulator.demo import FLEET
from airflow_provider_azstack.speed import amount, counted
from demo.processes import Processes

_STEP = 1 << 20


class DemoStack:
    """A stack with a few virtual machines, of which a policy protects some by their tag."""

    def __init__(self, root: Path, scale: int) -> None:
        self._root = root
        self._scale = scale
        self._rounds = 0
        self._facts: dict[str, Any] = {}

    def start(self, processes: Processes) -> None:
        """Build the guests and serve them; return when the stack answers."""
        command = [sys.executable, "-m", "airflow_provider_azstack.emulator", "--root"]
        command += [str(self._root), "--demo", "--demo-scale", str(self._scale)]
        processes.start("emulator", [*command, "--operation-seconds", "0.2"], os.environ)
        ready = self._root / "connection.json"
        processes.wait("the stack", ready.exists)
        self._facts = json.loads(ready.read_text())

    @property
    def endpoint(self) -> str:
        """The Resource Manager endpoint."""
        return str(self._facts["arm_url"])

    @property
    def connection(self) -> dict[str, Any]:
        """How to reach the stack, as an Airflow connection: holds the client's secret."""
        found: dict[str, Any] = self._facts["airflow_connection"]
        return found

    def describe(self) -> list[str]:
        """Return a line for each virtual machine."""
        machines: dict[str, list[str]] = {}
        for disk in self._call("GET", "disks")["value"]:
            machines.setdefault(disk["vm"], []).append(
                f"{disk['kind']} {amount(disk['size_bytes'])}"
            )
        return [f"{name}: {', '.join(disks)}" for name, disks in machines.items()]

    def change_guests(self) -> list[str]:
        """Let guests write into their file systems; return what they did."""
        self._rounds += 1
        changed = self._call("POST", "guests/change", {"seed": self._rounds})["value"]
        return [
            f"{disk['vm']} {_key(disk)}: {counted(len(disk['files']), 'file')}, "
            f"{amount(disk['changed_bytes'])}"
            for disk in changed
        ]

    def keep_truth(self, directory: Path) -> dict[str, dict[str, Path]]:
        """Copy every guest's disks as they are now: VM -> disk key -> sparse file."""
        directory.mkdir()
        truth: dict[str, dict[str, Path]] = {}
        for disk in self._call("GET", "disks")["value"]:
            image = self._root / "guests" / f"{disk['vm']}-{disk['position']}.img"
            copy = directory / image.name
            copy_sparse(image, copy)
            truth.setdefault(disk["vm"], {})[_key(disk)] = copy
        return truth

    @staticmethod
    def tagged(name: str, value: str) -> set[str]:
        """Return the virtual machines that carry a tag."""
        return {vm for vm, (_, tags, _) in FLEET.items() if tags.get(name) == value}

    def leftovers(self) -> list[dict[str, Any]]:
        """Return the snapshots and grants that are on the stack."""
        found: list[dict[str, Any]] = self._call("GET", "leftovers")["value"]
        return found

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        url = f"{self._facts['control_url']}/{path}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, method=method)  # noqa: S310 - the emulator's
        request.add_header("Authorization", f"Bearer {self._facts['control_token']}")
        context = ssl.create_default_context(cafile=self._facts["ca_file"])
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with opener.open(request, timeout=120) as answer:
            return json.load(answer)


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file and leave holes where it holds zeros."""
    with source.open("rb") as reader, target.open("wb") as writer:
        while data := reader.read(_STEP):
            if any(data):
                writer.write(data)
            else:
                writer.seek(len(data), os.SEEK_CUR)
        writer.truncate(reader.tell())


def _key(disk: dict[str, Any]) -> str:
    """Return the disk's key in a restore point; the fleet's LUNs count from 0."""
    return f"data-{disk['position'] - 1}" if disk["position"] else "os"
