"""Every test says which tier it belongs to; one that does not fails collection."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from airflow_provider_azstack.emulator import Emulator

TIERS = {"tier1", "tier2", "tier3"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    untiered = [item.nodeid for item in items if not TIERS & {m.name for m in item.iter_markers()}]
    if untiered:
        listing = "\n  ".join(untiered)
        raise pytest.UsageError(f"mark these with tier1, tier2 or tier3:\n  {listing}")


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator["Emulator"]:
    """A stack whose blobs travel over plain HTTP; sign-in and Resource Manager demand TLS."""
    from airflow_provider_azstack.emulator import Emulator

    with Emulator(tmp_path / "stack", blob_tls=False) as stack:
        yield stack
        assert stack.crashes == []


@pytest.fixture
def tls_emulator(tmp_path: Path) -> Iterator["Emulator"]:
    """A stack that is HTTPS throughout, as real ones are."""
    from airflow_provider_azstack.emulator import Emulator

    with Emulator(tmp_path / "tls-stack") as stack:
        yield stack
        assert stack.crashes == []
