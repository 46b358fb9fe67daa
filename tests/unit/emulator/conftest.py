"""A signed-in bare client, and a page blob with the key of its account."""

from collections.abc import Iterator

import pytest
from support.stack_client import StackClient

from airflow_provider_azstack.emulator import DiskSpec, EmulatedDisk, Emulator


@pytest.fixture
def client(emulator: Emulator) -> Iterator[StackClient]:
    stack_client = StackClient(emulator)
    yield stack_client
    stack_client.close()


@pytest.fixture
def disk(emulator: Emulator) -> EmulatedDisk:
    """An unmanaged disk."""
    emulator.add_storage_account("store", "prod")
    spec = DiskSpec("unmanaged", 8 << 20, account="store")
    return emulator.add_vm("web01", "prod", [spec]).disks[0]


@pytest.fixture
def key(client: StackClient, disk: EmulatedDisk) -> bytes:
    group = f"/subscriptions/{client.emulator.subscription_id}/resourceGroups/prod"
    return client.key(f"{group}/providers/Microsoft.Storage/storageAccounts/store")
