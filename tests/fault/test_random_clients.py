"""Backups, restores, syncs, verifications and collections that meet at random, and die."""

from collections.abc import Callable
from datetime import timedelta
from itertools import count

import pytest
from support import points, random_clients

from airflow_provider_azstack.repo.blocks.index import Index
from airflow_provider_azstack.repo.prune.collector import _Collector

SEEDS = range(5)
STEPS = 500
HAPPENS = {"backup", "restore", "forget", "prune", "verify", "sync", "prune of the copy"}
HAPPENS |= {"forget in the copy", "verify of the copy", "kills", "crashes", "clock jumps"}
HAPPENS |= {"difference from before", "allocated from before", "allocated from sibling", "joined"}
HAPPENS |= {"backup by another process", "images used again", "lies found out"}
happened: set[str] = set()


@pytest.mark.tier2
@pytest.mark.parametrize("seed", SEEDS)
def test_random_clients_lose_nothing(seed: int) -> None:
    """F-K9, F-K10: what was reported as done restores; `tests/soak.py` goes on for hours."""
    world = random_clients.run(seed, STEPS)
    happened.update(world.done)
    assert world.now - points.DAY_ONE > timedelta(days=14)
    assert world.done["backup"] > 5
    if seed == SEEDS[-1]:
        assert happened >= HAPPENS, "a kind of client never came to its end"


def no_gate(patch: pytest.MonkeyPatch) -> None:
    """C4 left out: a collector waits for no session."""
    patch.setattr(_Collector, "_gate", lambda _self, records, _living: list(records))


def no_second_marking(patch: pytest.MonkeyPatch) -> None:
    """C5 left out: what was published since is not looked at."""
    mark = _Collector._mark

    def once(self: _Collector, view: object) -> None:
        if not vars(self).setdefault("was_here", False):
            vars(self)["was_here"] = True
            mark(self, view)  # type: ignore[arg-type]

    patch.setattr(_Collector, "_mark", once)


def counting_on_condemned(patch: pytest.MonkeyPatch) -> None:
    """W4 left out: writers count on packs that are condemned, and a collector does not look."""
    admit = Index.admit
    patch.setattr(Index, "admit", lambda self, _condemned, bad: admit(self, frozenset(), bad))
    patch.setattr(_Collector, "_spare", lambda _self, _view, _going: set())


@pytest.mark.tier3
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("mutant", [no_gate, no_second_marking, counting_on_condemned])
def test_random_clients_find_a_rule_that_is_left_out(
    mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test can fail: with any of the rules left out something is lost before long."""
    mutant(monkeypatch)
    for seed in count():
        try:
            random_clients.run(seed, 400)
        except Exception as error:  # noqa: BLE001 - whatever a client or the oracle says
            print(f"{mutant.__name__}: seed {seed}, {type(error).__name__}")  # noqa: T201
            return
