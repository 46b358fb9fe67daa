"""A signed-in bare client."""

from collections.abc import Iterator

import pytest
from support.stack_client import StackClient

from airflow_provider_azstack.emulator import Emulator


@pytest.fixture
def client(emulator: Emulator) -> Iterator[StackClient]:
    stack_client = StackClient(emulator)
    yield stack_client
    stack_client.close()
