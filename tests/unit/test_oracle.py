"""The oracle itself: it must be able to fail."""

import pytest
from oracle import assert_repository_sound
from support.disks import SparseDisk
from support.points import back_up_vm, digest_of
from support.repositories import new_repository, noise
from support.stores import MemoryStore

from airflow_provider_azstack.errors import MissingBlock

pytestmark = pytest.mark.tier1
MIB = 1024**2


def test_the_oracle_sees_lost_points_wrong_bytes_and_lost_packs() -> None:
    store = MemoryStore()
    repository = new_repository(store)
    disk = SparseDisk(3 * MIB)
    expected = {}
    for day in range(2):
        disk.write(day * MIB, noise(day, 10_000))
        point = back_up_vm(repository, {"os": disk}, day=day)
        expected[point.vm.key, point.id] = {"os": digest_of(disk)}
        disk.freeze()
    assert_repository_sound(repository, expected)
    first = min(expected)
    with pytest.raises(AssertionError, match="other bytes"):
        assert_repository_sound(repository, {first: {"os": "0" * 64}})
    with pytest.raises(AssertionError, match="lost"):
        assert_repository_sound(repository, {("nobody", "p"): {}})
    store.lose(store.names("packs/"))
    with pytest.raises(MissingBlock):
        assert_repository_sound(repository, expected)
