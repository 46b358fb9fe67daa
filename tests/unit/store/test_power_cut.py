"""
F-C11 for the store: what ``put`` and ``delete`` acknowledged survives a power cut at any moment.

Every prefix of the log of system calls is replayed, with three kinds of luck for what was not
synced: all of it lost, all of it kept, and a coin for each piece.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.powercut import PowerCut

from airflow_provider_azstack.errors import ObjectExists
from airflow_provider_azstack.store.local import LocalStore

pytestmark = pytest.mark.tier1


@dataclass
class History:
    """What was asked for and when it began and was acknowledged, in log positions."""

    power: PowerCut
    events: list[tuple[int, int, str, bytes | None]] = field(default_factory=list)

    def record(self, name: str, content: bytes | None, call: Callable[[], None]) -> None:
        began = len(self.power)
        call()
        self.events.append((began, len(self.power), name, content))

    def may_be(self, name: str, cut: int) -> set[bytes | None]:
        """Return what may be under ``name`` after a cut: ``None`` is nothing."""
        allowed: set[bytes | None] = {None}
        for began, ended, who, content in self.events:
            if who == name and ended <= cut:
                allowed = {content}
            elif who == name and began < cut:
                allowed.add(content)
        return allowed


def work(directory: Path, power: PowerCut) -> History:
    history = History(power)
    store = LocalStore(directory, system=power)
    contents = {
        "config": b"the first object",
        "packs/ab/one": b"a pack" * 50,
        "packs/ab/two": b"",
        "packs/cd/three": b"another folder",
        "points/vm/p": b"a point",
    }
    for name, content in contents.items():
        history.record(name, content, lambda n=name, c=content: store.put(n, c))
    with pytest.raises(ObjectExists):
        store.put("config", b"a second writer")
    history.record("packs/ab/one", None, lambda: store.delete("packs/ab/one"))
    history.record("packs/ab/one", b"again", lambda: store.put("packs/ab/one", b"again"))
    return history


def check_every_cut(history: History, scratch: Path) -> int:
    coin = random.Random(11)
    lucks = (lambda: False, lambda: True, lambda: coin.random() < 0.5)
    checked = 0
    for cut in range(len(history.power) + 1):
        for luck in lucks:
            checked += 1
            directory = scratch / str(checked)
            directory.mkdir()
            history.power.after(cut).write_to(directory, luck)
            store = LocalStore(directory)
            listed = {info.name: store.get(info.name) for info in store.list("")}
            names = {name for _began, _ended, name, _content in history.events}
            assert listed.keys() <= names
            for name in names:
                assert listed.get(name) in history.may_be(name, cut), (cut, name)
    return checked


def test_what_was_acknowledged_survives_a_power_cut_at_any_moment(tmp_path: Path) -> None:
    """F-C11: nothing acknowledged is lost, nothing is ever seen half, nothing deleted returns."""
    (tmp_path / "disk").mkdir()
    history = work(tmp_path / "disk", PowerCut())
    assert len(history.power) > 50
    assert check_every_cut(history, tmp_path) > 150


def test_work_goes_on_after_a_power_cut_at_any_moment(tmp_path: Path) -> None:
    """What a cut left behind is swept away and is in nobody's way."""
    (tmp_path / "disk").mkdir()
    power = work(tmp_path / "disk", PowerCut()).power
    for cut in range(0, len(power) + 1, 3):
        directory = tmp_path / str(cut)
        directory.mkdir()
        power.after(cut).write_to(directory, lambda: True)
        store = LocalStore(directory)
        store.put("packs/ab/new", b"new")
        assert store.get("packs/ab/new") == b"new"
        left = {path.name for path in (directory / "packs" / "ab").iterdir()}
        assert not {name for name in left if name.startswith(".")}


@pytest.mark.parametrize("ignored", ["file", "folder"])
def test_the_simulation_notices_a_missing_sync(tmp_path: Path, ignored: str) -> None:
    (tmp_path / "disk").mkdir()
    history = work(tmp_path / "disk", PowerCut(ignored))
    with pytest.raises(AssertionError):
        check_every_cut(history, tmp_path)
