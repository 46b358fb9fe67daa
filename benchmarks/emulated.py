"""
An emulated stack and an empty repository for the benchmarks whose work is done by other processes.

Owns what such a process has to be told to reach both, and where all of it is; measures nothing.
"""

import json
import tempfile
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any

import processes

from airflow_provider_azstack.arm.client import Credentials, Stack
from airflow_provider_azstack.arm.compute import Compute
from airflow_provider_azstack.emulator import EmulatedDisk, Emulator
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sealing.crypto import Cost
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store.local import LocalStore

PASSPHRASE = Secret("benchmark")


def run(
    parser: ArgumentParser,
    measure: Callable[[Path, Namespace], None],
    child: Callable[[dict[str, Any]], None],
) -> None:
    """Measure in a directory that is deleted afterwards, or be the process that does the work."""
    parser.add_argument("--directory", default="/dev/shm", help="where everything is kept")  # noqa: S108 - memory
    parser.add_argument("--child", help=SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(json.loads(args.child))
        return
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        measure(Path(directory), args)


def answer(script: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Let a child do the work; return what it prints."""
    return processes.answer(script, "--child", json.dumps(facts))


def start(script: str, facts: dict[str, Any]) -> "Popen[str]":
    """Start a child that will wait for a word."""
    return processes.start(script, "--child", facts)


def reach(emulator: Emulator, directory: Path) -> tuple[Repository, dict[str, Any]]:
    """Create a repository in ``directory``; return it, and what a process needs to reach both."""
    place = directory / "repository"
    place.mkdir()
    repository, _ = Repository.create(LocalStore(place), PASSPHRASE, kdf=Cost(2))
    return repository, {**facts_of(emulator), "store": str(place)}


def facts_of(emulator: Emulator) -> dict[str, Any]:
    """Return what a process needs to reach the stack."""
    return {
        "url": emulator.arm_url,
        "tenant": emulator.tenant_id,
        "client": emulator.client_id,
        "secret": emulator.client_secret,
        "ca": str(emulator.ca_file),
    }


def connect(facts: dict[str, Any], **options: Any) -> Stack:
    """Sign in to the emulator."""
    credentials = Credentials(facts["tenant"], facts["client"], Secret(facts["secret"]))
    return Stack(facts["url"], credentials, ca_bundle=facts["ca"], **options)


def opened(facts: dict[str, Any]) -> Repository:
    """Open the repository."""
    return Repository.open(LocalStore(Path(facts["store"])), PASSPHRASE)


def snapshot_url(emulator: Emulator, disk: EmulatedDisk) -> str:
    """Snapshot a managed disk, and return a URL that reads the snapshot for a day."""
    snapshot = f"{disk.source.rpartition('/disks/')[0]}/snapshots/benchmark"
    with connect(facts_of(emulator)) as stack:
        compute = Compute(stack)
        compute.create_snapshot(snapshot, disk.source, emulator.location, {})
        return compute.grant_read(snapshot, 86_400).url.reveal()
