"""A repository is created once, opens with its keys only, and is never mistaken for another."""

import json
import re
from datetime import timedelta

import msgspec
import pytest
from support.repositories import (
    CHEAP,
    MOMENT,
    PASSPHRASE,
    VM_KEY,
    a_point,
    a_vm,
    an_image,
    back_up,
    new_repository,
    noise,
    store_blocks,
)
from support.stores import Crash, CrashingStore, MemoryStore

from airflow_provider_azstack.errors import (
    ConfigurationError,
    IncompatibleRepository,
    ObjectNotFound,
    Refused,
    Tampered,
    WrongKey,
)
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.secret import Secret

pytestmark = pytest.mark.tier1


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def test_passphrase_and_recovery_key_open_it(store: MemoryStore) -> None:
    created, recovery = Repository.create(store, PASSPHRASE, kdf=CHEAP)
    assert re.fullmatch(r"[0-9a-f]{32}", created.id)
    for secret in (PASSPHRASE, recovery):
        assert Repository.open(store, secret, expected_id=created.id).id == created.id
    assert all(recovery.reveal().encode() not in data for data in store.objects.values())


@pytest.mark.parametrize("passphrase", ["wrong", "correct horse ", ""])
def test_a_wrong_passphrase_opens_nothing_and_creates_nothing(
    store: MemoryStore, passphrase: str
) -> None:
    """F-H1: the repository is never initialised again because opening it failed."""
    new_repository(store)
    before = dict(store.objects)
    with pytest.raises(WrongKey) as caught:
        Repository.open(store, Secret(passphrase))
    assert store.objects == before
    assert "correct horse" not in str(caught.value)


def test_a_swapped_repository_is_refused(store: MemoryStore) -> None:
    """F-H1: right passphrase, other repository."""
    expected = new_repository(store).id
    other = MemoryStore()
    new_repository(other)
    with pytest.raises(Refused, match=expected):
        Repository.open(other, PASSPHRASE, expected_id=expected)


def test_an_empty_store_is_no_repository(store: MemoryStore) -> None:
    with pytest.raises(ConfigurationError, match="holds no repository"):
        Repository.open(store, PASSPHRASE)
    assert store.objects == {}


@pytest.mark.parametrize("left", ["config", "packs/ab/" + "ab" * 16, f"points/{VM_KEY}/1"])
def test_nothing_is_created_over_what_is_there(store: MemoryStore, left: str) -> None:
    store.put(left, b"?")
    with pytest.raises(Refused):
        Repository.create(store, PASSPHRASE, kdf=CHEAP)
    assert list(store.objects) == [left]


def test_an_empty_passphrase_creates_nothing(store: MemoryStore) -> None:
    with pytest.raises(ConfigurationError, match="empty"):
        Repository.create(store, Secret(""), kdf=CHEAP)
    assert store.objects == {}


def test_creating_can_be_interrupted_anywhere(store: MemoryStore) -> None:
    """Until the config is there it is no repository, and creating starts again."""
    for at in range(3):
        crashing = CrashingStore(store, at)
        with pytest.raises(Crash):
            Repository.create(crashing, PASSPHRASE, kdf=CHEAP)
        assert "config" not in store.objects
    created, recovery = Repository.create(store, PASSPHRASE, kdf=CHEAP)
    assert Repository.open(store, PASSPHRASE).id == created.id
    assert Repository.open(store, recovery).id == created.id


@pytest.mark.parametrize("change", [{"format": 2, "new": 1}, {"mandatory": ["erasure-codes"]}])
def test_a_newer_repository_is_left_alone(store: MemoryStore, change: dict[str, object]) -> None:
    """F-S20: said by name, before any write and before any key is tried."""
    new_repository(store)
    config = {**json.loads(store.objects["config"]), **change}
    store.objects["config"] = json.dumps(config).encode()
    crashing = CrashingStore(store, 0)
    with pytest.raises(IncompatibleRepository, match="update this package"):
        Repository.open(crashing, PASSPHRASE)
    assert crashing.calls == 0


def test_a_record_of_a_newer_version_is_said_to_be_that(store: MemoryStore) -> None:
    repository = new_repository(store)
    repository.records.put_bytes(f"points/{VM_KEY}/p", b'{"from": "the future"}')
    with pytest.raises(IncompatibleRepository, match=f"points/{VM_KEY}/p"):
        repository.points()


def test_a_planted_key_does_not_keep_us_out(store: MemoryStore) -> None:
    """A damaged or foreign key object is passed over; when none opens, it is named."""
    new_repository(store)
    store.put("keys/0", b"junk")
    store.put("keys/1", bytes(10_000))
    Repository.open(store, PASSPHRASE)
    with pytest.raises(WrongKey, match=r"keys/0.*keys/1"):
        Repository.open(store, Secret("wrong"))


def test_a_pile_of_planted_keys_costs_no_hours(store: MemoryStore) -> None:
    """F-H2: the number of derivations is bounded as well."""
    new_repository(store)
    genuine = next(data for name, data in store.objects.items() if name.startswith("keys/"))
    for number in range(1000):
        store.put(f"keys/{number:032x}", genuine)  # before any that is drawn at random
    with pytest.raises(WrongKey) as caught:
        Repository.open(store, PASSPHRASE)
    assert "opens none of 16 keys" in str(caught.value)


def test_points_are_listed_oldest_first(store: MemoryStore) -> None:
    repository = new_repository(store)
    session = repository.open_session("backup")
    image = an_image(store_blocks(session, [noise(1)]))
    other = "99999999-2222-3333-4444-555555555555"
    points = {}
    for name, hours in (("20260102-b", 2), ("20260103-a", 3), ("20260101-c", 1)):
        point = msgspec.structs.replace(
            a_point(image, session, name), taken_at=MOMENT + timedelta(hours=hours)
        )
        points[name] = session.publish(point)
    foreign = session.publish(msgspec.structs.replace(a_point(image, session), vm=a_vm(other)))
    assert [point.id for point in repository.points(VM_KEY)] == sorted(points)
    assert [point.id for point in repository.points()] == [foreign.id, *sorted(points)]
    assert repository.latest_point(VM_KEY) == points["20260103-a"]
    assert repository.point(VM_KEY, "20260102-b") == points["20260102-b"]
    assert repository.latest_point("0" * 36) is None
    with pytest.raises(ObjectNotFound):
        repository.point(VM_KEY, "z")


def test_an_unreadable_point_is_named(store: MemoryStore) -> None:
    """A list without it would look complete."""
    repository = new_repository(store)
    back_up(repository, [noise(1)])
    [name] = [name for name in store.objects if name.startswith("points/")]
    store.objects[name] = b""
    with pytest.raises(Tampered, match=name):
        repository.points()


def test_a_hostile_size_is_refused_before_it_is_fetched(store: MemoryStore) -> None:
    """F-H5: an object too large for any record is not read: the store is told the most there is."""
    repository = new_repository(store)
    store.objects["images/r/x.os/1"] = bytes(65 * 2**20)
    with pytest.raises(Tampered, match="more than any of its kind"):
        list(repository.images("r"))
    with pytest.raises(Tampered, match="more than any of its kind"):
        repository.image("images/r/x.os/1")
