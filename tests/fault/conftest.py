"""A disk whose reads go wrong."""

from collections.abc import Iterator

import pytest
from support.blob_reads import Setup
from support.stacks import stack_of

from airflow_provider_azstack.arm.compute import Compute
from airflow_provider_azstack.emulator import Emulator


@pytest.fixture
def setup(emulator: Emulator) -> Iterator[Setup]:
    with stack_of(emulator, sleep=lambda _: None) as stack:
        yield Setup(emulator, Compute(stack))
