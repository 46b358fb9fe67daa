"""The crash tests are worth what ``CrashingStore`` is worth."""

from pathlib import Path
from typing import Literal

import pytest
from support.stores import Crash, CrashingStore, MemoryStore

from airflow_provider_azstack.store.local import LocalStore

pytestmark = pytest.mark.tier1

Mode = Literal["before", "after", "torn"]


def names(store: LocalStore | MemoryStore) -> set[str]:
    return {info.name for info in store.list("")}


@pytest.mark.parametrize(
    ("mode", "there"), [("before", {"a"}), ("torn", {"a"}), ("after", {"a", "b"})]
)
def test_the_nth_change_crashes_and_nothing_happens_after_it(
    tmp_path: Path, mode: Mode, there: set[str]
) -> None:
    directory = tmp_path / "with space"
    directory.mkdir()
    store = CrashingStore(LocalStore(directory), at=1, mode=mode)
    store.put("a", b"first")
    assert store.get("a") == b"first"
    with pytest.raises(Crash):
        store.put("b", b"second")
    # What a ``finally`` of the killed process would do.
    for call in (
        lambda: store.put("c", b""),
        lambda: store.delete("a"),
        lambda: store.get("a"),
        lambda: store.exists("a"),
        lambda: store.list(""),
    ):
        with pytest.raises(Crash):
            call()
    assert names(LocalStore(directory)) == there
    assert store.log == [("put", "a"), ("put", "b")]
    left = [path for path in directory.iterdir() if path.name.startswith(".")]
    assert [path.read_bytes() for path in left] == ([b"sec"] if mode == "torn" else [])


@pytest.mark.parametrize(("mode", "there"), [("before", {"a"}), ("torn", {"a"}), ("after", set())])
def test_a_delete_crashes_too(mode: Mode, there: set[str]) -> None:
    inner = MemoryStore()
    inner.put("a", b"")
    with pytest.raises(Crash):
        CrashingStore(inner, at=0, mode=mode).delete("a")
    assert names(inner) == there


def test_no_handler_of_exceptions_survives_a_crash() -> None:
    store = CrashingStore(MemoryStore(), at=0)
    with pytest.raises(Crash):
        try:
            store.put("a", b"")
        except Exception:  # noqa: BLE001 # the point of the test
            pytest.fail("a handler saw the crash")


def test_without_a_number_it_only_counts() -> None:
    store = CrashingStore(MemoryStore())
    for name in "abc":
        store.put(name, b"")
    store.delete("a")
    assert store.calls == 4
    assert not store.crashed
