"""Every test says which tier it belongs to; one that does not fails collection."""

import pytest

TIERS = {"tier1", "tier2", "tier3"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    untiered = [item.nodeid for item in items if not TIERS & {m.name for m in item.iter_markers()}]
    if untiered:
        listing = "\n  ".join(untiered)
        raise pytest.UsageError(f"mark these with tier1, tier2 or tier3:\n  {listing}")
