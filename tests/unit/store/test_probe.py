"""The probe accepts every store that keeps the contract and names what the others lack."""

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.s3 import s3_server
from support.stores import (
    LastWriterWins,
    ListingFault,
    LostWrites,
    MemoryStore,
    StaleListing,
)

from airflow_provider_azstack.errors import AccessDenied, ObjectExists
from airflow_provider_azstack.store import ObjectInfo, Store, open_store
from airflow_provider_azstack.store.guard import AppendOnlyStore, ReadOnlyStore, StoreWrapper
from airflow_provider_azstack.store.local import LocalStore
from airflow_provider_azstack.store.probe import RACERS, probe

pytestmark = pytest.mark.tier1


def promises(store: Store, *, listing: bool = False) -> set[str]:
    return {finding.promise for finding in probe(store, listing=listing)}


def test_a_good_store_is_fit_and_left_clean(tmp_path: Path) -> None:
    for store in (MemoryStore(), LocalStore(tmp_path)):
        store.put("points/vm/one", b"x")
        assert probe(store, listing=True) == []
        assert list(store.list("")) == [("points/vm/one", 1)]


def test_a_bucket_is_fit_and_left_clean() -> None:
    with s3_server("bucket") as server:
        store = open_store("s3://bucket/backups", options=server.options())
        assert probe(store) == []
        assert list(store.list("")) == []


def test_put_if_absent_not_honoured_is_found() -> None:
    """F-S14."""
    assert promises(LastWriterWins()) >= {"put if absent", "put if absent, at once"}


def test_an_upload_that_looks_first_and_writes_then_loses_the_race() -> None:
    """F-S14: a store that checks before it writes honours one writer, not two at once."""

    looked = threading.Barrier(RACERS)

    class LooksFirst(LastWriterWins):
        def put(self, name: str, data: bytes) -> None:
            if self.exists(name):
                raise ObjectExists(name)
            if "/race-" in name:  # all have looked before one of them writes
                looked.wait(60)
            super().put(name, data)

    assert promises(LooksFirst()) == {"put if absent, at once"}


def test_a_stale_listing_is_found() -> None:
    """F-S13: five seconds behind is too late for the sessions that a prune must see."""
    seconds = itertools.count()
    store = StaleListing(MemoryStore(), lambda: next(seconds) / 100)
    assert "list after write" in promises(store)


def test_lost_writes_are_found() -> None:
    """F-S15."""
    assert "reads what was written" in promises(LostWrites(MemoryStore()))


@pytest.mark.parametrize("fault", ["truncated", "duplicated", "empty"])
def test_listings_that_are_not_complete_are_found(fault: str) -> None:
    """F-S11, F-S12."""
    store = ListingFault(MemoryStore(), fault)
    assert promises(store, listing=True) & {"complete listings", "list after write"}
    store.fault = None
    assert list(store.list("")) == []


class Wrong(StoreWrapper):
    """Reads that lie in one way."""

    def __init__(self, **lies: Callable[..., object]) -> None:
        super().__init__(MemoryStore())
        for name, lie in lies.items():
            setattr(self, name, lie)


@pytest.mark.parametrize(
    ("lies", "promise"),
    [
        ({"get": lambda name: b"other"}, "read after write"),
        ({"exists": lambda name: True}, "read after write"),
        ({"get_range": lambda name, offset, length: bytes(length)}, "range reads"),
        ({"info": lambda name: ObjectInfo(name, 7)}, "read after write"),
    ],
)
def test_reads_that_lie_are_found(lies: dict[str, Callable[..., object]], promise: str) -> None:
    assert promise in promises(Wrong(**lies))


def test_reads_that_clip_are_found() -> None:
    class Clips(StoreWrapper):
        def get_range(self, name: str, offset: int, length: int) -> bytes:
            return self.inner.get(name)[offset : offset + length]

    assert promises(Clips(MemoryStore())) == {"range reads"}


def test_deleted_objects_that_stay_are_found() -> None:
    class Undead(StoreWrapper):
        def delete(self, name: str) -> None: ...

    assert promises(Undead(MemoryStore())) == {"delete, then read"}


def test_append_only_credentials_are_fit_for_backups_and_told_the_rest() -> None:
    """F-S18: not fatal; what stays behind is named."""
    (finding,) = probe(AppendOnlyStore(MemoryStore()))
    assert finding.promise == "deletion"
    assert not finding.fatal
    assert "probe/" in finding.observed


def test_a_store_that_cannot_be_judged_is_not_called_fit() -> None:
    with pytest.raises(AccessDenied):
        probe(ReadOnlyStore(MemoryStore()))


@pytest.mark.parametrize(("kind", "told"), [("nfs4", True), ("cifs", True), ("ext4", False)])
def test_a_network_file_system_is_told(tmp_path: Path, kind: str, *, told: bool) -> None:
    """Its caches on other hosts cannot be seen from here."""
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 0:999 / /proc rw - proc proc rw\n"
        f"36 35 {os.major(device)}:{os.minor(device)} / /backup rw master:1 - {kind} host:/x rw\n"
    )

    class Mounted(LocalStore):
        def file_system(self, mounts: Path = mounts) -> str:
            return super().file_system(mounts)

    findings = [f for f in probe(Mounted(tmp_path)) if f.promise == "the same view from every host"]
    assert bool(findings) is told
    assert not any(finding.fatal for finding in findings)


def test_it_cleans_up_when_it_breaks_off() -> None:
    class Breaks(StoreWrapper):
        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            raise AccessDenied("no right to list")

    inner = MemoryStore()
    with pytest.raises(AccessDenied):
        probe(Breaks(inner))
    assert inner.objects == {}
