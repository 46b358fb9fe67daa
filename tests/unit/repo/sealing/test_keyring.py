"""Keys: at every moment one of them opens the repository, and no data is touched."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import msgspec
import pytest
from support.repositories import (
    CHEAP,
    MOMENT,
    PASSPHRASE,
    a_point,
    an_image,
    back_up,
    noise,
    reopen,
    restore,
    store_blocks,
)
from support.stepping import every_order, in_turns
from support.stores import Crash, CrashingStore, MemoryStore

from airflow_provider_azstack.errors import (
    AccessDenied,
    ConfigurationError,
    ObjectHeld,
    Refused,
    WrongKey,
)
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sealing import crypto, keyring
from airflow_provider_azstack.repo.sealing.crypto import Keys
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store.base import Buffer, Store
from airflow_provider_azstack.store.guard import AppendOnlyStore, StoreWrapper

pytestmark = pytest.mark.tier1

NEW = Secret("a new passphrase")
MODES: tuple[Literal["before", "after", "torn"], ...] = ("before", "after", "torn")


def created(store: MemoryStore | None = None) -> tuple[Repository, Secret]:
    return Repository.create(store or MemoryStore(), PASSPHRASE, kdf=CHEAP, clock=lambda: MOMENT)


def opens(repository: Repository, passphrase: Secret) -> bool:
    try:
        Repository.open(repository.store, passphrase)
    except WrongKey:
        return False
    return True


def labels(repository: Repository) -> list[str]:
    return [key.label or "?" for key in keyring.list_keys(repository)]


def id_of(repository: Repository, label: str) -> str:
    (key,) = (key for key in keyring.list_keys(repository) if key.label == label)
    return key.id


def change(repository: Repository, old: Secret, new: Secret) -> str:
    return keyring.change_passphrase(repository, old, new, cost=CHEAP)


def remove(repository: Repository, key: str, passphrase: Secret) -> str:
    return keyring.remove_keys(repository, [key], passphrase, cost=CHEAP)


def test_creation_makes_two_keys_that_say_what_they_are() -> None:
    repository, recovery = created()
    assert sorted(labels(repository)) == ["passphrase", "recovery key"]
    assert all(key.created_at == MOMENT for key in keyring.list_keys(repository))
    assert opens(repository, recovery)


def test_opening_costs_one_derivation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of passphrase and recovery key is given: its own is tried before the other's."""
    tried: list[str] = []

    def unwrap(data: bytes, passphrase: Secret, repository_id: bytes, name: str) -> bytes:
        tried.append(name)
        return real(data, passphrase, repository_id, name)

    real = crypto.unwrap
    monkeypatch.setattr(crypto, "unwrap", unwrap)
    for _ in range(8):  # names are random: the other key's comes first in half of them
        repository, recovery = created()
        for key in (PASSPHRASE, recovery):
            tried.clear()
            assert opens(repository, key)
            assert len(tried) == 1


def test_a_passphrase_is_changed_without_touching_data() -> None:
    repository, recovery = created()
    point = back_up(repository, [noise(1)])
    before = dict(repository.store.objects)  # type: ignore[attr-defined]
    change(repository, PASSPHRASE, NEW)
    after = repository.store.objects  # type: ignore[attr-defined]
    assert {name.partition("/")[0] for name in before.keys() ^ after.keys()} == {"keys"}
    assert not opens(repository, PASSPHRASE)
    assert opens(repository, recovery)
    assert restore(Repository.open(repository.store, NEW), point) == [noise(1)]
    assert sorted(labels(repository)) == ["passphrase", "recovery key"]


def test_a_passphrase_changes_while_a_backup_writes() -> None:
    """F-H12: the backup completes; only who opens the repository anew needs the new one."""
    repository, _ = created()
    session = repository.open_session("backup", run="run-1")
    ids = store_blocks(session, [noise(1)])
    change(reopen(repository), PASSPHRASE, NEW)
    ids += store_blocks(session, [noise(2)])
    other_process = Repository.open(repository.store, NEW).join_session(session.id)
    ids += store_blocks(other_process, [noise(3)])
    image = an_image(ids)
    session.put_image(image)
    point = session.publish(a_point(image, session))
    session.close()
    assert restore(Repository.open(repository.store, NEW), point) == [noise(1), noise(2), noise(3)]
    assert not opens(repository, PASSPHRASE)


def test_a_lost_passphrase_is_replaced_with_the_recovery_key() -> None:
    repository, recovery = created()
    lost = id_of(repository, "passphrase")
    rescued = Repository.open(repository.store, recovery)
    with pytest.raises(Refused, match="that is the recovery key"):
        change(rescued, recovery, NEW)
    keyring.add_key(rescued, NEW, cost=CHEAP)
    remove(rescued, lost, recovery)
    assert [opens(repository, key) for key in (PASSPHRASE, NEW, recovery)] == [False, True, True]


def test_a_new_recovery_key_is_there_before_the_old_one_goes() -> None:
    repository, old = created()
    old_id = id_of(repository, "recovery key")
    _, new = keyring.add_recovery_key(repository, cost=CHEAP)
    assert opens(repository, old)
    remove(repository, old_id, PASSPHRASE)
    assert [opens(repository, key) for key in (PASSPHRASE, new, old)] == [True, True, False]


def test_the_last_key_that_one_can_prove_is_not_removed() -> None:
    """Nobody can lock himself out: what stays is shown to open before anything goes."""
    repository, _ = created()
    with pytest.raises(Refused, match="opens only what would be removed"):
        remove(repository, id_of(repository, "passphrase"), PASSPHRASE)
    everything = [key.id for key in keyring.list_keys(repository)]
    with pytest.raises(Refused):
        keyring.remove_keys(repository, everything, PASSPHRASE, cost=CHEAP)
    with pytest.raises(WrongKey):
        remove(repository, everything[0], Secret("not a key"))
    with pytest.raises(ConfigurationError, match="no key beef"):
        remove(repository, "beef", PASSPHRASE)
    assert sorted(key.id for key in keyring.list_keys(repository)) == sorted(everything)


def test_new_passphrases_that_make_no_sense_are_refused() -> None:
    repository, _ = created()
    with pytest.raises(ConfigurationError, match="is the old one"):
        change(repository, PASSPHRASE, PASSPHRASE)
    with pytest.raises(ConfigurationError, match="empty"):
        change(repository, PASSPHRASE, Secret(""))
    with pytest.raises(WrongKey):
        change(repository, Secret("wrong"), NEW)
    assert opens(repository, PASSPHRASE)


def test_no_more_keys_are_added_than_opening_tries() -> None:
    """F-H2: so a passphrase always opens, however the keys' names happen to sort."""
    repository, _ = created()
    for number in range(keyring.MAX_KEYS - 2):
        keyring.add_key(repository, Secret(f"passphrase {number}"), cost=CHEAP)
    with pytest.raises(Refused, match="remove one first"):
        keyring.add_key(repository, NEW, cost=CHEAP)
    change(repository, PASSPHRASE, NEW)
    assert opens(repository, NEW)


def test_keys_that_cannot_be_deleted_lock_nobody_out() -> None:
    """F-H13: an object lock keeps old keys; a passphrase that was taken opens, however many."""

    class Held(StoreWrapper):
        def delete(self, name: str) -> None:
            raise ObjectHeld(f"{name} is held")

    repository, recovery = created()
    held = reopen(repository, Held(repository.store))
    used = [recovery, PASSPHRASE]
    for number in range(keyring.MAX_KEYS - 1):
        used.append(Secret(f"passphrase {number}"))
        with pytest.raises(ObjectHeld):
            change(held, used[-2], used[-1])
    with pytest.raises(Refused, match="when that has ended"):
        change(held, used[-1], NEW)
    first = keyring.list_keys(held)[0].id
    for _ in range(crypto.MAX_KEYS_TRIED):
        with pytest.raises(ObjectHeld):
            remove(held, first, used[-1])
    assert all(opens(repository, passphrase) for passphrase in used)
    remove(repository, first, used[-1])  # the lock has ended
    assert opens(repository, used[-1])
    assert len(keyring.list_keys(repository)) < crypto.MAX_KEYS_TRIED


def test_a_key_that_no_key_holder_wrote_is_shown_as_such() -> None:
    """Names and dates are part of what is authenticated: nobody tricks us into a wrong removal."""
    store = MemoryStore()
    repository, _ = created(store)
    name = keyring.PREFIX + id_of(repository, "recovery key")
    fields = msgspec.json.decode(store.objects[name]) | {"label": "passphrase"}
    store.objects[name] = msgspec.json.encode(fields)
    store.put("keys/junk", b"junk")
    good, *bad = keyring.list_keys(repository)
    assert (good.label, good.problem) == ("passphrase", "")
    assert all(key.label == "" and key.problem for key in bad)
    keyring.remove_keys(repository, [key.id for key in bad], PASSPHRASE, cost=CHEAP)
    assert labels(repository) == ["passphrase"]


def test_a_key_that_does_not_open_as_stored_removes_nothing() -> None:
    """A store that spoils the new key: the old one stays."""

    class Spoils(StoreWrapper):
        def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
            self.inner.put(name, b"spoiled")

    repository, recovery = created()
    spoilt = reopen(repository, Spoils(repository.store))
    with pytest.raises(Exception, match="does not open as it was stored"):
        change(spoilt, PASSPHRASE, NEW)
    assert opens(repository, PASSPHRASE)
    assert opens(repository, recovery)


def test_without_the_right_to_delete_both_passphrases_open() -> None:
    """F-S18: the change fails and says so; nothing is locked."""
    repository, _ = created()
    with pytest.raises(AccessDenied):
        change(reopen(repository, AppendOnlyStore(repository.store)), PASSPHRASE, NEW)
    assert opens(repository, PASSPHRASE)
    assert opens(repository, NEW)


def remove_recovery_key(repository: Repository) -> None:
    for key in keyring.list_keys(repository):
        if key.label == keyring.RECOVERY:
            remove(repository, key.id, PASSPHRASE)


def change_if_needed(repository: Repository) -> None:
    if opens(repository, PASSPHRASE):
        change(repository, PASSPHRASE, NEW)


# What is done, again after a crash too -> its mutating store calls, and the keys that open then.
WALKS: dict[str, tuple[Callable[[Repository], object], int, list[Secret]]] = {
    "change": (change_if_needed, 2, [NEW]),
    "add": (lambda r: keyring.add_key(r, NEW, cost=CHEAP), 1, [PASSPHRASE, NEW]),
    "new recovery key": (lambda r: keyring.add_recovery_key(r, cost=CHEAP), 1, [PASSPHRASE]),
    "remove": (remove_recovery_key, 3, [PASSPHRASE]),
}


@pytest.mark.parametrize("name", WALKS)
def test_a_crash_at_every_store_call_of_a_key_change(name: str) -> None:
    """F-C6: in each of three modes; afterwards a key opens, and doing it again succeeds."""
    work, calls, expected = WALKS[name]
    repository, _ = created()
    counted = CrashingStore(repository.store)
    work(reopen(repository, counted))
    assert counted.calls == calls
    for mode, at in itertools.product(MODES, range(calls)):
        repository, _ = created()
        point = back_up(repository, [noise(1)])
        with pytest.raises(Crash):
            work(reopen(repository, CrashingStore(repository.store, at, mode)))
        survivors = [key for key in (PASSPHRASE, NEW) if opens(repository, key)]
        assert survivors, (mode, at)
        again = Repository.open(repository.store, survivors[0])
        assert restore(again, point) == [noise(1)]
        work(again)
        assert [key for key in (PASSPHRASE, NEW) if opens(repository, key)] == expected


def removal(key: str, passphrase: Secret, keys: Keys, store: Store) -> None:
    remove(Repository(store, keys), key, passphrase)


def passphrase_change(keys: Keys, store: Store) -> None:
    change(Repository(store, keys), PASSPHRASE, NEW)


@pytest.mark.parametrize("who", ["each removes the other's", "one changes", "same passphrase"])
def test_two_who_change_keys_at_once_leave_one(who: str) -> None:
    """In every order of their listings, puts and deletes a key of somebody's opens."""
    outcomes = set()
    for order in every_order(5, 3 if who == "one changes" else 5):
        repository, recovery = created()
        ids = [id_of(repository, label) for label in (keyring.PASSPHRASE, keyring.RECOVERY)]
        one, other = partial(removal, ids[0], recovery), partial(removal, ids[1], PASSPHRASE)
        if who == "one changes":
            other = partial(passphrase_change)
        if who == "same passphrase":
            third = keyring.add_key(repository, Secret("of a third"), cost=CHEAP)
            one = partial(removal, third, PASSPHRASE)
        works = [partial(work, repository.keys) for work in (one, other)]
        in_turns(repository.store, works, order, shared=("keys/",))
        survivors = [key for key in (PASSPHRASE, NEW, recovery) if opens(repository, key)]
        assert survivors, order
        outcomes.add((len(labels(repository)), *(key == recovery for key in survivors)))
    assert len(outcomes) > 1, "the orders made no difference: they were not interleaved"
