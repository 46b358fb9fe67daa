"""F-H7: whatever bytes a decoder is given, it answers with a value or with one of our errors."""

import contextlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from support.repositories import PASSPHRASE, back_up, new_repository, noise, restore
from support.stores import MemoryStore

from airflow_provider_azstack.errors import AzStackError
from airflow_provider_azstack.model import Image, RestorePoint
from airflow_provider_azstack.repo import sessions
from airflow_provider_azstack.repo.blocks import segments
from airflow_provider_azstack.repo.blocks.packs import (
    HEADER_BYTES,
    TRAILER_BYTES,
    BlockCipher,
    Codec,
    parse_trailer,
    salvage,
)
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sealing import crypto
from airflow_provider_azstack.repo.sealing.crypto import Keys
from airflow_provider_azstack.repo.sealing.records import CondemnedPacks, Records
from airflow_provider_azstack.store.base import ObjectInfo

pytestmark = pytest.mark.tier1

KEYS = Keys(b"r" * 16, bytes(32))
RECORDS = Records(MemoryStore(), KEYS)
CIPHER = BlockCipher(KEYS, b"p" * 16, bytes(32))
JSON = b'{"packs":["%b"],"format":1,"id":"x","purpose":"p","n":4}' % (b"ab" * 16)

junk = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda at, bit, tail: (
            JSON[: at % len(JSON)] + bytes([bit]) + JSON[at % len(JSON) + 1 :] + tail
        ),
        st.integers(0, 200),
        st.integers(0, 255),
        st.binary(max_size=5),
    ),
    st.integers(1, 5000).map(lambda depth: b"[" * depth),
    st.binary(max_size=100).map(lambda data: b"AZSPACK1" + data),
    st.binary(max_size=100).map(lambda data: b"AZS1" + data),
)


def open_config(data: bytes) -> object:
    store = MemoryStore()
    store.objects["config"] = data
    return Repository.open(store, PASSPHRASE)


def open_sealed(plain: bytes, kind: type[RestorePoint | Image | CondemnedPacks]) -> object:
    """Decode what a key holder sealed: even that may be anything."""
    store = MemoryStore()
    store.objects["x/1"] = KEYS.seal("x/1", plain)
    return Records(store, KEYS).get("x/1", kind)  # type: ignore[type-var]


def read_directory(data: bytes) -> object:
    store = MemoryStore()
    name = "packs/70/" + (b"p" * 16).hex()
    store.objects[name] = data
    return segments.read_directory(store, KEYS, ObjectInfo(name, len(data)))


DECODERS: dict[str, Callable[[bytes], object]] = {
    "config": open_config,
    "key": lambda data: crypto.unwrap(data, PASSPHRASE, b"r" * 16, "keys/x"),
    "session": lambda data: sessions.parse_session(data, "sessions/x"),
    "sealed": lambda data: KEYS.open("points/x", data),
    "sealed frame": lambda data: open_sealed(data, RestorePoint),
    "point": lambda data: open_sealed(zstandard.compress(data), RestorePoint),
    "image": lambda data: open_sealed(zstandard.compress(data), Image),
    "condemned": lambda data: open_sealed(zstandard.compress(data), CondemnedPacks),
    "segment": lambda data: segments.decode(data, "index/x"),
    "pack header": lambda data: BlockCipher.from_header(KEYS, b"p" * 16, data),
    "pack trailer": lambda data: parse_trailer(
        data[:TRAILER_BYTES].ljust(TRAILER_BYTES), len(data), "packs/x"
    ),
    "pack directory": lambda data: CIPHER.open_directory(HEADER_BYTES, data),
    "pack": read_directory,
    "salvage": lambda data: list(salvage(CIPHER, data, Codec())),
}


@pytest.mark.parametrize("decoder", DECODERS)
@settings(max_examples=60, deadline=None)
@given(data=junk)
def test_decoders_raise_only_our_errors(decoder: str, data: bytes) -> None:
    """F-H7: no other exception escapes, however the bytes look."""
    with contextlib.suppress(AzStackError):
        DECODERS[decoder](data)


_STORE = MemoryStore()
_REPOSITORY = new_repository(_STORE)
_POINT = back_up(_REPOSITORY, [noise(1, 200), b"abc" * 100])
_INTACT = dict(_STORE.objects)


@settings(max_examples=150, deadline=None)
@given(
    which=st.integers(0, len(_INTACT) - 1),
    at=st.floats(0, 1),
    patch=st.binary(max_size=40),
    cut=st.booleans(),
)
def test_a_hostile_store_gets_only_our_errors(
    which: int, at: float, patch: bytes, *, cut: bool
) -> None:
    """F-H7: any object patched or cut anywhere: the right bytes come back, or one of our errors."""
    store = MemoryStore()
    store.objects.update(_INTACT)
    name = sorted(_INTACT)[which]
    data = _INTACT[name]
    position = int(at * len(data))
    end = data[position + len(patch) :]
    store.objects[name] = data[:position] + patch + (b"" if cut else end)
    with contextlib.suppress(AzStackError):
        repository = Repository.open(store, PASSPHRASE)
        for point in repository.points():
            assert restore(repository, point) == [noise(1, 200), b"abc" * 100]
        repository.rebuild_index()
        repository.open_session("x").writer()
