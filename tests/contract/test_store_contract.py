"""
Every store keeps one contract: in memory, in a directory, in a bucket, and wrapped.

The bucket is served over HTTP by moto's S3 server, which honours ``If-None-Match``.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.s3 import S3Server, s3_server
from support.stores import CrashingStore, FullStore, ListingFault, MemoryStore

from airflow_provider_azstack.errors import (
    InvalidName,
    ObjectExists,
    ObjectNotFound,
    ShortRead,
    Tampered,
)
from airflow_provider_azstack.store import Store, open_store
from airflow_provider_azstack.store.cloud import CloudStore
from airflow_provider_azstack.store.guard import AppendOnlyStore, RetryingStore
from airflow_provider_azstack.store.local import LocalStore

pytestmark = pytest.mark.tier1

Maker = Callable[[Path, Callable[[], S3Server]], Store]

STORES: dict[str, Maker] = {
    "memory": lambda path, s3: MemoryStore(),
    "local": lambda path, s3: LocalStore(path),
    "s3": lambda path, s3: CloudStore("s3", "bucket", uuid4().hex, options=s3().options()),
    "opened directory": lambda path, s3: open_store(str(path)),
    "opened bucket": lambda path, s3: open_store(
        f"s3://bucket/{uuid4().hex}/deeper", options=s3().options()
    ),
    "bucket without prefix": lambda path, s3: open_store("s3://bare", options=s3().options()),
    "retrying": lambda path, s3: RetryingStore(LocalStore(path)),
    "append-only": lambda path, s3: AppendOnlyStore(LocalStore(path), deletable=("",)),
    "test: crashing": lambda path, s3: CrashingStore(LocalStore(path)),
    "test: listing": lambda path, s3: ListingFault(MemoryStore(), fault=None),
    "test: full": lambda path, s3: FullStore(MemoryStore(), room_bytes=1 << 30),
}


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server("bucket", "bare") as server:
        yield server


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made = STORES[request.param](tmp_path, lambda: request.getfixturevalue("s3"))
    yield made
    for info in list(made.list("")):
        made.delete(info.name)


def test_what_was_put_is_read_whole_and_in_parts(store: Store) -> None:
    store.put("packs/ab/one", b"0123456789")
    assert store.get("packs/ab/one") == b"0123456789"
    assert type(store.get("packs/ab/one")) is bytes
    assert store.get_range("packs/ab/one", 0, 10) == b"0123456789"
    assert store.get_range("packs/ab/one", 3, 4) == b"3456"
    assert store.get_range("packs/ab/one", 9, 1) == b"9"
    assert store.get_range("packs/ab/one", 10, 0) == b""
    assert list(store.get_ranges("packs/ab/one", [(3, 4), (0, 1), (3, 4)])) == [
        b"3456",
        b"0",
        b"3456",
    ]
    assert store.info("packs/ab/one") == ("packs/ab/one", 10)
    assert store.exists("packs/ab/one")


def test_a_list_of_buffers_is_one_object(store: Store) -> None:
    """Buffers of every kind, empty ones, and more of them than one system call takes."""
    buffers = [b"a", bytearray(b"bc"), memoryview(b""), b"", memoryview(b"xdefx")[1:4]]
    store.put("pieces", buffers)
    assert store.get("pieces") == b"abcdef"
    store.put("many", [b"%04d" % n for n in range(3000)])
    assert store.get("many") == b"".join(b"%04d" % n for n in range(3000))


@pytest.mark.parametrize("nothing", [b"", []])
def test_an_empty_object_is_an_object(store: Store, nothing: bytes) -> None:
    store.put("empty", nothing)
    assert store.get("empty") == b""
    assert list(store.list("")) == [("empty", 0)]
    with pytest.raises(ShortRead):
        store.get_range("empty", 0, 1)


def test_the_callers_buffer_is_free_again_after_a_put(store: Store) -> None:
    buffer = bytearray(b"first")
    store.put("buffer", memoryview(buffer))
    buffer[:] = b"other, and longer"  # fails while anybody still holds a view
    assert store.get("buffer") == b"first"


def test_a_name_is_taken_once(store: Store) -> None:
    store.put("claims/vm", b"first")
    for content in (b"second", b"first", b""):
        with pytest.raises(ObjectExists, match="claims/vm"):
            store.put("claims/vm", content)
    assert store.get("claims/vm") == b"first"


def test_of_simultaneous_puts_one_wins(store: Store) -> None:
    def put(number: int) -> bytes:
        content = b"%d" % number
        try:
            store.put("claims/race", content)
        except ObjectExists:
            return b""
        return content

    with ThreadPoolExecutor(8) as threads:
        winners = [content for content in threads.map(put, range(8)) if content]
    assert winners == [store.get("claims/race")]


def test_what_is_not_there_is_said_to_be_not_there(store: Store) -> None:
    store.put("folder/object", b"x")
    for name in ("nothing", "folder/nothing", "no/such/folder"):
        assert not store.exists(name)
        for call in (store.get, store.info, store.delete, lambda n: store.get_range(n, 0, 1)):
            with pytest.raises(ObjectNotFound, match=name):
                call(name)


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 11), (9, 2), (10, 1), (11, 0), (500, 1), (0, 1 << 62), (1 << 62, 1)]
)
def test_a_read_past_the_end_is_an_error(store: Store, offset: int, length: int) -> None:
    store.put("ten", b"0123456789")
    with pytest.raises(ShortRead, match="ten"):
        store.get_range("ten", offset, length)
    with pytest.raises(ShortRead, match="ten"):
        store.get_ranges("ten", [(0, 10), (offset, length)])


def test_stretches_come_as_they_were_asked_for(store: Store) -> None:
    """In any order, overlapping, next to each other and far apart."""
    content = bytes(range(256)) * 4096
    store.put("large", content)
    asked = [(900_000, 10), (5, 20), (0, 10), (20, 5), (25, 1), (900_005, 2), (500_000, 1)]
    expected = [content[offset : offset + length] for offset, length in asked]
    assert list(store.get_ranges("large", asked)) == expected


def test_an_object_that_is_too_large_is_not_read(store: Store) -> None:
    store.put("ten", b"0123456789")
    assert store.get("ten", 10) == b"0123456789"
    with pytest.raises(Tampered, match=r"ten.* has 10 bytes"):
        store.get("ten", 9)


def test_a_listing_shows_what_is_there_now(store: Store) -> None:
    names = {"config", "packs/00/a", "packs/00/b", "packs/01/c", "points/vm/p", "packs-not/d"}
    for name in names:
        store.put(name, name.encode())
    assert sorted(store.list("")) == sorted((name, len(name)) for name in names)
    assert {info.name for info in store.list("packs/")} == {
        "packs/00/a",
        "packs/00/b",
        "packs/01/c",
    }
    assert [info.name for info in store.list("packs/01/")] == ["packs/01/c"]
    assert list(store.list("sessions/")) == []
    store.delete("packs/01/c")
    assert list(store.list("packs/01/")) == []


def test_deleted_is_gone_and_the_name_is_free(store: Store) -> None:
    store.put("sessions/s", b"1")
    store.delete("sessions/s")
    assert not store.exists("sessions/s")
    assert list(store.list("")) == []
    with pytest.raises(ObjectNotFound):
        store.delete("sessions/s")
    store.put("sessions/s", b"2")
    assert store.get("sessions/s") == b"2"


HOSTILE = [
    "",
    "/",
    "/etc/passwd",
    "..",
    "../up",
    "a/../b",
    "a/./b",
    "a//b",
    "a/",
    "a\0b",
    "a\nb",
    "ab\n",
    "A",
    "a b",
    "a%2e%2e",
    "ünicode",
    ".put-0",
    "-x",
    "a" * 10_000,
    "a/" * 7 + "a",
]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name[:12]))
def test_a_hostile_name_is_refused_before_anything_is_touched(store: Store, name: str) -> None:
    """F-H4: names that we could not have written are refused, on the way in and on the way out."""
    for call in (
        lambda: store.put(name, b"x"),
        lambda: store.get(name),
        lambda: store.get_range(name, 0, 1),
        lambda: store.info(name),
        lambda: store.exists(name),
        lambda: store.delete(name),
    ):
        with pytest.raises(InvalidName) as refused:
            call()
        assert len(str(refused.value)) < 500
    assert list(store.list("")) == []


@pytest.mark.parametrize("prefix", ["packs", "/", "../", "a//", "A/", "a/../", "a\0/"])
def test_a_listing_is_of_a_folder(store: Store, prefix: str) -> None:
    with pytest.raises(InvalidName):
        store.list(prefix)


def test_no_store_shows_more_than_where_it_is(store: Store) -> None:
    """R5: credentials are neither in the URL nor in what a log would print."""
    assert "canary" not in f"{store.url} {store!r} {store} {vars(store)}"


@given(content=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=6))
@settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_every_content_comes_back_however_it_was_cut(
    store: Store, content: bytes, cuts: list[int]
) -> None:
    edges = sorted({0, len(content), *(min(cut, len(content)) for cut in cuts)})
    pieces = [content[a:b] for a, b in pairwise(edges)]
    name = f"cut/{uuid4().hex}"
    store.put(name, pieces)
    assert store.get(name) == content
    for a, b in pairwise(edges):
        assert store.get_range(name, a, b - a) == content[a:b]
