"""
Run the emulator in the foreground: ``python -m airflow_provider_azstack.emulator --root DIR``.

Owns the command line and ``connection.json``; knows nothing of what is served.
Invariant: ``connection.json`` is complete when it appears, and only its owner can read it.
"""

import argparse
import json
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from airflow_provider_azstack.emulator import Emulator, demo, guests


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted; return the exit status."""
    arguments = _parser().parse_args(argv)
    console = Console()
    root = arguments.root.resolve()
    (root / "connection.json").unlink(missing_ok=True)  # an earlier run's: others wait for ours
    emulator = Emulator(
        root,
        tls=not arguments.http,
        identity=arguments.identity,
        port=arguments.port,
        operation_seconds=arguments.operation_seconds,
    )
    try:
        if arguments.demo:
            demo.build(emulator, root / "guests", scale=arguments.demo_scale)
    except guests.MissingTools as missing:
        emulator.close()
        console.print(f"[red]{missing}[/red]")
        return 2
    stopped = _until_signal()
    with emulator:
        connection = write_connection(emulator, root / "connection.json")
        console.print(_table(emulator, connection))
        stopped.wait()
    return 0


def write_connection(emulator: Emulator, path: Path) -> Path:
    """Write how to reach the stack, secrets included, readable by the owner alone."""
    facts = {
        "arm_url": emulator.arm_url,
        "blob_url": emulator.blob_url,
        "ca_file": str(emulator.ca_file),
        "tenant_id": emulator.tenant_id,
        "client_id": emulator.client_id,
        "client_secret": emulator.client_secret,
        "subscription_id": emulator.subscription_id,
        "location": emulator.location,
        "control_url": f"{emulator.arm_url}/emulator",
        "control_token": emulator.control_token,
        "airflow_connection": emulator.airflow_connection,
    }
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600)
    unfinished.write_text(json.dumps(facts, indent=2) + "\n")
    unfinished.replace(path)  # whoever waits for the file never sees half of it
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_azstack.emulator",
        description="Emulate an Azure Stack Hub on 127.0.0.1.",
    )
    parser.add_argument("--root", type=Path, required=True, help="directory for disks and keys")
    parser.add_argument("--port", type=int, default=0, help="of Resource Manager; blobs: the next")
    parser.add_argument("--http", action="store_true", help="serve plain HTTP: faster, no CA")
    parser.add_argument("--identity", choices=("aad", "adfs"), default="aad", help="sign-in")
    parser.add_argument("--operation-seconds", type=float, default=0.0, help="of long operations")
    parser.add_argument("--demo", action="store_true", help="begin with six VMs with ext4 disks")
    parser.add_argument("--demo-scale", type=int, default=1, help="multiplies the demo's sizes")
    return parser


def _table(emulator: Emulator, connection: Path) -> Table:
    table = Table("what", "where", title="Emulated stack", title_justify="left")
    table.add_row("Resource Manager", emulator.arm_url)
    table.add_row("blobs", emulator.blob_url)
    table.add_row("certificate authority", str(emulator.ca_file))
    table.add_row("subscription", emulator.subscription_id)
    table.add_row("VMs", ", ".join(vm.name for vm in emulator.vms.values()) or "none")
    table.add_row("connection settings", str(connection))
    return table


def _until_signal() -> threading.Event:
    """Return an event that SIGINT and SIGTERM set."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    return stopped


if __name__ == "__main__":
    sys.exit(main())
