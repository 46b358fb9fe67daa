"""
An emulated stack and an empty repository for the benchmarks whose work is done by other processes.

Owns what such a process has to be told to reach both; measures nothing.
"""

from pathlib import Path
from typing import Any

from airflow_provider_azstack.arm.client import Credentials, Stack
from airflow_provider_azstack.emulator import Emulator
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sealing.crypto import Cost
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store.local import LocalStore

PASSPHRASE = Secret("benchmark")


def reach(emulator: Emulator, directory: Path) -> tuple[Repository, dict[str, Any]]:
    """Create a repository in ``directory``; return it, and what a process needs to reach both."""
    place = directory / "repository"
    place.mkdir()
    repository, _ = Repository.create(LocalStore(place), PASSPHRASE, kdf=Cost(2))
    return repository, {
        "url": emulator.arm_url,
        "tenant": emulator.tenant_id,
        "client": emulator.client_id,
        "secret": emulator.client_secret,
        "ca": str(emulator.ca_file),
        "store": str(place),
    }


def connect(facts: dict[str, Any], **options: Any) -> Stack:
    """Sign in to the emulator."""
    credentials = Credentials(facts["tenant"], facts["client"], Secret(facts["secret"]))
    return Stack(facts["url"], credentials, ca_bundle=facts["ca"], **options)


def opened(facts: dict[str, Any]) -> Repository:
    """Open the repository."""
    return Repository.open(LocalStore(Path(facts["store"])), PASSPHRASE)
