"""Keys: what opens was sealed by a key holder, for this repository, under this very name."""

import os
from collections.abc import Callable

import msgspec
import pytest
from support.repositories import CHEAP, MOMENT

from airflow_provider_azstack.errors import Tampered, WrongKey
from airflow_provider_azstack.repo.sealing import crypto
from airflow_provider_azstack.repo.sealing.crypto import Cost, Keys
from airflow_provider_azstack.secret import Secret

pytestmark = pytest.mark.tier1

MASTER = bytes(range(32))
KEYS = Keys(b"r" * 16, MASTER)


CHEAP_ARGON = Cost(8, 1, 1, "argon2id")


def wrapped(cost: Cost = CHEAP) -> bytes:
    return KEYS.wrap("keys/a", Secret("open sesame"), cost, label="escrow", created_at=MOMENT)


@pytest.mark.parametrize("cost", [CHEAP, CHEAP_ARGON])
def test_a_wrapped_key_opens_with_its_passphrase_only(cost: Cost) -> None:
    data = wrapped(cost)
    assert crypto.unwrap(data, Secret("open sesame"), b"r" * 16, "keys/a") == MASTER
    with pytest.raises(WrongKey, match="keys/a"):
        crypto.unwrap(data, Secret("open sesam"), b"r" * 16, "keys/a")


@pytest.mark.parametrize(("repository", "name"), [(b"x" * 16, "keys/a"), (b"r" * 16, "keys/b")])
def test_a_wrapped_key_is_bound_to_its_place(repository: bytes, name: str) -> None:
    with pytest.raises(WrongKey):
        crypto.unwrap(wrapped(), Secret("open sesame"), repository, name)


@pytest.mark.parametrize(
    "absurd",
    [
        {"n": 2**30},
        {"r": 2**10, "n": 2**20},
        {"p": 2**10},
        {"n": 3},
        {"n": 2**63},
        {"n": -2},
        {"kdf": "argon2id", "n": 2**20},
        {"kdf": "argon2id", "n": 2**16, "r": 2**10},
        {"kdf": "argon2id", "n": 2**16, "r": 1, "p": 2**10},
        {"kdf": "argon2id", "n": 7, "r": 1},
        {"kdf": "argon2d", "n": 2**16, "r": 1},
    ],
)
def test_absurd_derivation_costs_are_refused_at_once(
    absurd: dict[str, int | str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-H2: a key object cannot make us burn hours or memory: nothing is derived for it."""
    data = msgspec.json.encode({**msgspec.json.decode(wrapped()), **absurd})
    monkeypatch.setattr(crypto, "_derive_from_passphrase", None)
    with pytest.raises(Tampered, match=r"keys/a (asks|is not)"):
        crypto.unwrap(data, Secret("open sesame"), b"r" * 16, "keys/a")


def test_sealed_bytes_open_only_under_their_name_and_repository() -> None:
    """F-S9: name, kind and repository are part of what is authenticated."""
    sealed = KEYS.seal("points/vm/1", b"content")
    assert KEYS.open("points/vm/1", sealed) == b"content"
    for name in ("points/vm/2", "images/vm/1", "points/other/1"):
        with pytest.raises(Tampered, match=name):
            KEYS.open(name, sealed)
    with pytest.raises(Tampered):
        Keys(b"s" * 16, MASTER).open("points/vm/1", sealed)


def test_the_same_content_never_seals_to_the_same_bytes() -> None:
    assert KEYS.seal("points/vm/1", b"content") != KEYS.seal("points/vm/1", b"content")


def test_block_ids_need_the_key() -> None:
    """Whoever sees ids cannot tell whether a known file is in the repository."""
    assert KEYS.block_id(b"x") == Keys(b"r" * 16, MASTER).block_id(b"x")
    assert KEYS.block_id(b"x") != Keys(b"r" * 16, os.urandom(32)).block_id(b"x")
    assert KEYS.block_id(b"x") != Keys(b"s" * 16, MASTER).block_id(b"x")


def test_a_recovery_passphrase_is_long_and_readable() -> None:
    text = crypto.recovery_passphrase().reveal()
    assert len(text.replace("-", "")) == 48
    assert text == text.lower()


@pytest.mark.parametrize(
    "typed",
    [str.upper, lambda text: text.replace("-", ""), lambda text: f" {text.replace('-', ' - ')}\t"],
)
def test_a_recovery_key_opens_however_it_is_typed(typed: Callable[[str], str]) -> None:
    """From paper, in capitals, with other gaps; a passphrase that is not one is taken as it is."""
    recovery = crypto.recovery_passphrase()
    data = KEYS.wrap("keys/a", recovery, CHEAP, label="recovery key", created_at=MOMENT)
    assert crypto.unwrap(data, Secret(typed(recovery.reveal())), b"r" * 16, "keys/a") == MASTER
    with pytest.raises(WrongKey):
        crypto.unwrap(data, Secret(typed(recovery.reveal()) + "a"), b"r" * 16, "keys/a")
    with pytest.raises(WrongKey):
        crypto.unwrap(wrapped(), Secret("OPEN sesame"), b"r" * 16, "keys/a")
