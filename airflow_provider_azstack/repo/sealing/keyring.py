"""
The keys of a repository: ``keys/<id>``, each the master key under one passphrase.

Owns adding, replacing and removing them; knows no blocks and no points.
Invariant: at every moment one key opens, whoever changes keys at the same time and wherever he
dies. Who deletes keys **K1** lists them, **K2** puts a fresh one and opens it, as it was stored,
and only then **K3** deletes keys that he had listed. Of several at once, the fresh key that was
put last is in nobody's list, so it stays: there is no lock and no clock in this.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_azstack.errors import (
    ConfigurationError,
    IntegrityError,
    ObjectNotFound,
    Refused,
    Tampered,
    WrongKey,
)
from airflow_provider_azstack.repo.sealing import crypto
from airflow_provider_azstack.repo.sealing.crypto import STRONG, Cost, Keys, WrappedKey
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store.base import ObjectInfo, Store

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository

PREFIX = "keys/"
PASSPHRASE = "passphrase"  # noqa: S105 - what a key is called
RECOVERY = "recovery key"
# Half of what opening tries, so that while keys are replaced none is beyond its reach.
MAX_KEYS = crypto.MAX_KEYS_TRIED // 2


class KeyInfo(NamedTuple):
    """One key, as a holder of the master key sees it."""

    id: str
    label: str
    created_at: datetime | None
    problem: str = ""  # why it cannot be trusted to open


def put_key(
    store: Store, keys: Keys, passphrase: Secret, label: str, *, cost: Cost, now: datetime
) -> str:
    """
    K2: store the master key under a passphrase, and open what was stored.

    :param label: what the list of keys calls it; not a secret.
    :returns: the key's id.
    """
    if not passphrase:
        raise ConfigurationError("the passphrase is empty")
    key_id = keys.random(crypto.ID_BYTES).hex()
    name = PREFIX + key_id
    store.put(name, keys.wrap(name, passphrase, cost, label=label, created_at=now))
    if not keys.opens(_fetch(store, name), passphrase, name):
        raise IntegrityError(f"{name} of {store.url} does not open as it was stored; try again")
    return key_id


def unlock(store: Store, passphrase: Secret, repository_id: bytes) -> bytes:
    """
    Return the master key. A key that is damaged does not keep another from opening.

    :raises WrongKey: none opens; those that are damaged are named.
    """
    if not passphrase:
        raise WrongKey(f"the passphrase for {store.url} is empty")
    problems: list[str] = []
    found = []
    for info in sorted(store.list(PREFIX))[: crypto.MAX_KEYS_TRIED]:
        try:
            data = _fetch(store, info.name)
            is_recovery = crypto.label_of(data, info.name) == RECOVERY
        except (Tampered, ObjectNotFound) as error:
            problems.append(str(error))
        else:
            # Only an order: each try costs a derivation, and the label tells which will open.
            found.append((is_recovery != crypto.is_recovery_key(passphrase), info.name, data))
    for _, name, data in sorted(found):
        try:
            return crypto.unwrap(data, passphrase, repository_id, name)
        except WrongKey:
            continue
        except Tampered as error:
            problems.append(str(error))
    tried = "; ".join([f"it opens none of {len(found)} keys", *problems])
    raise WrongKey(
        f"the passphrase does not open {store.url}: {tried}; give the right one, or the recovery "
        "key in its place"
    )


def list_keys(repository: "Repository") -> list[KeyInfo]:
    """Return the keys, oldest first, and last what is there but was not written by a key holder."""
    found = [_info(repository, info) for info in repository.store.list(PREFIX)]
    last = datetime.max.replace(tzinfo=UTC)
    return sorted(found, key=lambda key: (key.created_at or last, key.id))


def add_key(
    repository: "Repository", passphrase: Secret, *, label: str = PASSPHRASE, cost: Cost = STRONG
) -> str:
    """
    Let one more passphrase open the repository, and return the key's id.

    :raises Refused: there are as many keys as opening is sure to try.
    """
    _require_room(repository, MAX_KEYS)
    return _put(repository, passphrase, label, cost)


def add_recovery_key(repository: "Repository", *, cost: Cost = STRONG) -> tuple[str, Secret]:
    """Make one more recovery key: its id, and itself, which is not stored anywhere."""
    recovery = crypto.recovery_passphrase(repository.keys.random)
    return add_key(repository, recovery, label=RECOVERY, cost=cost), recovery


def change_passphrase(
    repository: "Repository", old: Secret, new: Secret, *, cost: Cost = STRONG
) -> str:
    """
    Let ``new`` open the repository in the place of ``old``, and return the new key's id.

    No data is touched, and who has the repository open keeps it open.

    :raises Refused: ``old`` is a recovery key, or so many keys could not be deleted that opening
        would not be sure to try one more.
    """
    if old == new:
        raise ConfigurationError("the new passphrase is the old one")
    own = _opened_by(repository, old)  # K1
    if any(key.label == RECOVERY for key in own):
        raise Refused(
            "that is the recovery key, which is kept: add a key with the new passphrase, then "
            "remove the key of the lost one"
        )
    _require_room(repository, MAX_KEYS + 1)
    key_id = _put(repository, new, own[0].label, cost)  # K2
    _delete(repository, own)  # K3
    return key_id


def remove_keys(
    repository: "Repository", key_ids: list[str], passphrase: Secret, *, cost: Cost = STRONG
) -> str:
    """
    Let keys open the repository no more; return the id of the key that stays for ``passphrase``.

    That one is written anew, or two who remove each other's key would leave none.

    :param passphrase: opens a key that stays.
    :raises Refused: it opens none of those.
    """
    listed = {key.id: key for key in list_keys(repository)}  # K1
    if unknown := sorted(set(key_ids) - listed.keys()):
        raise ConfigurationError(f"no key {', '.join(unknown)}: 'azstack keys list' shows all")
    own = [key for key in _opened_by(repository, passphrase) if key.id not in key_ids]
    own = [key for key in own if key.id in listed]
    if not own:
        raise Refused(
            "this passphrase opens only what would be removed: open the repository with that of "
            "a key that stays"
        )
    going = [listed[key_id] for key_id in key_ids]
    if len(listed) >= crypto.MAX_KEYS_TRIED:  # one more might be beyond reach; many others stay
        _delete(repository, going[:1])
    key_id = _put(repository, passphrase, own[0].label, cost)  # K2
    _delete(repository, going + own)  # K3
    return key_id


def _require_room(repository: "Repository", most: int) -> None:
    good = [key for key in list_keys(repository) if not key.problem]
    if len(good) >= most:
        raise Refused(
            f"there are {len(good)} keys, and one more might not be found by its passphrase: "
            "remove one first; one that a lock holds can be removed when that has ended"
        )


def _put(repository: "Repository", passphrase: Secret, label: str, cost: Cost) -> str:
    store, keys = repository.store, repository.keys
    return put_key(store, keys, passphrase, label, cost=cost, now=repository.now())


def _opened_by(repository: "Repository", passphrase: Secret) -> list[KeyInfo]:
    """Return the keys that a passphrase opens: more than one if a change was interrupted."""
    found = []
    for key in list_keys(repository):
        name = PREFIX + key.id
        if key.problem:
            continue
        try:
            is_own = repository.keys.opens(_fetch(repository.store, name), passphrase, name)
        except ObjectNotFound:
            continue  # removed since it was listed
        if is_own:
            found.append(key)
    if not found:
        raise WrongKey(f"the passphrase opens no key of {repository.store.url}")
    return found


def _delete(repository: "Repository", listed: list[KeyInfo]) -> None:
    for key in listed:
        try:
            repository.store.delete(PREFIX + key.id)
        except ObjectNotFound:
            continue  # somebody else removed it


def _info(repository: "Repository", info: ObjectInfo) -> KeyInfo:
    key_id = info.name.removeprefix(PREFIX)
    try:
        key: WrappedKey = repository.keys.read_wrapped(
            _fetch(repository.store, info.name), info.name
        )
    except (Tampered, ObjectNotFound) as error:
        return KeyInfo(key_id, "", None, str(error))
    return KeyInfo(key_id, key.label, key.created_at)


def _fetch(store: Store, name: str) -> bytes:
    return store.get(name, crypto.MAX_KEY_OBJECT_BYTES)
