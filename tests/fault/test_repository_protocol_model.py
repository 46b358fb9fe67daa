"""
F-K1: every interleaving of writers, collectors, false fencing and crashes, explored.

The model is beside this in tests/support; the walkers in this folder hold the code to the same
steps.
"""

import pytest
from support.protocol_model import MUTANTS, WITH_TWO_COLLECTORS, explore

SLOW = "believe the index without listing packs"  # its shortest failure is the longest story


@pytest.mark.tier2
@pytest.mark.parametrize(("writers", "collectors", "least"), [(2, 1, 300_000), (1, 2, 100_000)])
def test_no_published_point_ever_loses_a_pack(writers: int, collectors: int, least: int) -> None:
    """F-K1: holds in all states; there are many, and in many of them somebody committed."""
    states, committed, holds = explore(writers=writers, collectors=collectors)
    assert holds
    assert states > least
    assert committed > states // 10


@pytest.mark.tier1
@pytest.mark.parametrize("mutant", sorted(MUTANTS.keys() - {SLOW}))
def test_every_rule_is_needed(mutant: str) -> None:
    """F-K1: every mutant is caught."""
    assert not explore(mutant)[2], f"{MUTANTS[mutant]} left out, and nothing broke"


@pytest.mark.tier2
def test_an_index_may_outlive_its_packs() -> None:
    """A fenced writer that resumes names a collected pack: so W3 lists the packs as well."""
    assert not explore(SLOW)[2]


@pytest.mark.tier1
@pytest.mark.parametrize("mutant", sorted(WITH_TWO_COLLECTORS))
def test_names_are_never_used_twice(mutant: str) -> None:
    """A stalled collector would delete what was stored again under the old name."""
    assert not explore(mutant, writers=1, collectors=2)[2]
