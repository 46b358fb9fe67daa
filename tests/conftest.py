"""Every test says which tier it belongs to; a run is like the one before, examples included."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from support.compound import Rig

    from airflow_provider_azstack.emulator import Emulator
    from airflow_provider_azstack.emulator.guests import GuestDisk

TIERS = {"tier1", "tier2", "tier3"}

# No example is drawn at random, and none has to be quick: a busy machine fails no test. What looks
# for new examples is `--hypothesis-profile=search`.
settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "search", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    untiered = [item.nodeid for item in items if not TIERS & {m.name for m in item.iter_markers()}]
    if untiered:
        listing = "\n  ".join(untiered)
        raise pytest.UsageError(f"mark these with tier1, tier2 or tier3:\n  {listing}")


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator["Emulator"]:
    """A stack that speaks plain HTTP."""
    from airflow_provider_azstack.emulator import Emulator

    with Emulator(tmp_path / "stack", tls=False) as stack:
        yield stack
        assert stack.crashes == []


@pytest.fixture
def tls_emulator(tmp_path: Path) -> Iterator["Emulator"]:
    """A stack that is HTTPS throughout, as real ones are."""
    from airflow_provider_azstack.emulator import Emulator

    with Emulator(tmp_path / "tls-stack") as stack:
        yield stack
        assert stack.crashes == []


@pytest.fixture
def it(emulator: "Emulator", tmp_path: Path) -> Iterator["Rig"]:
    """The stack and a new repository, ``tmp_path / "repository"``, and what backs the one up."""
    from support.compound import rig

    with rig(emulator, tmp_path / "repository") as made:
        yield made


@pytest.fixture
def guest_disk(tmp_path: Path) -> Callable[..., "GuestDisk"]:
    """Build disk images with a partition table, ext4 and files: ``guest_disk("web", seed=1)``."""
    from airflow_provider_azstack.emulator import guests

    def build(name: str = "guest", **settings: int) -> "GuestDisk":
        return guests.build(tmp_path / f"{name}.img", label=name[:16], **settings)

    return build
