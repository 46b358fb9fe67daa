"""Backups, restores, syncs, verifications and collections that meet at random, and die."""

from datetime import timedelta

import pytest
from support import points, random_clients

pytestmark = pytest.mark.tier2

SEEDS = range(5)
STEPS = 300
HAPPENS = {"backup", "restore", "forget", "prune", "verify", "sync", "prune of the copy"}
HAPPENS |= {"forget in the copy", "verify of the copy", "kills", "crashes", "clock jumps"}
happened: set[str] = set()


@pytest.mark.parametrize("seed", SEEDS)
def test_random_clients_lose_nothing(seed: int) -> None:
    """F-K9, F-K10: what was reported as done restores; `tests/soak.py` goes on for hours."""
    world = random_clients.run(seed, STEPS)
    happened.update(world.done)
    assert world.now - points.DAY_ONE > timedelta(days=14)
    assert world.done["backup"] > 5
    if seed == SEEDS[-1]:
        assert happened >= HAPPENS, "a kind of client never came to its end"
