"""Ranges read at once: as many as there are threads, all of them, or the first error."""

import threading
from collections.abc import Callable

import pytest

from airflow_provider_azstack.engine.backup import fetch
from airflow_provider_azstack.engine.backup.fetch import Fetcher, Piece
from airflow_provider_azstack.errors import Unreachable

pytestmark = pytest.mark.tier1

PATIENCE = 30.0  # only a test that fails waits that long


def pieces_of(buffer: bytearray, size: int = 1) -> list[Piece]:
    view = memoryview(buffer)
    return [Piece(start, view[start : start + size]) for start in range(0, len(buffer), size)]


def fill(offset: int, buffer: memoryview) -> None:
    buffer[:] = bytes((offset + n) % 251 + 1 for n in range(len(buffer)))


class Gauge:
    """A source that answers nobody before ``together`` ranges are asked for at once."""

    def __init__(self, together: int) -> None:
        self._enough = threading.Event()
        self._together = together
        self._lock = threading.Lock()
        self._running = self.most = 0

    def __call__(self, offset: int, buffer: memoryview) -> None:
        with self._lock:
            self._running += 1
            self.most = max(self.most, self._running)
            if self._running == self._together:
                self._enough.set()
        self._enough.wait(PATIENCE)
        fill(offset, buffer)
        with self._lock:
            self._running -= 1


@pytest.mark.parametrize(("helpers", "size"), [(0, 1), (0, 8), (3, 1), (7, 8), (24, 3)])
def test_every_byte_is_read_once(helpers: int, size: int) -> None:
    """Whoever helps, each range is read once and into its own place."""
    asked: list[int] = []

    def read_into(offset: int, buffer: memoryview) -> None:
        asked.append(offset)
        fill(offset, buffer)

    fetcher = Fetcher(read_into)
    wanted = bytearray(1000)
    fill(0, memoryview(wanted))
    with fetcher.helped(helpers):
        for _ in range(5):
            asked.clear()
            got = bytearray(1000)
            fetcher.fetch(pieces_of(got, size))
            assert got == wanted
            assert sorted(asked) == list(range(0, 1000, size))
        fetcher.fetch([])


def test_the_caller_and_all_helpers_read_at_once_and_nobody_else() -> None:
    """Three helpers and the caller: four in flight, in one batch and however many there are."""
    gauge = Gauge(4)
    fetcher = Fetcher(gauge)
    with fetcher.helped(3):
        got = bytearray(40)
        fetcher.fetch(pieces_of(got))
    assert all(got)
    assert gauge.most == 4


def test_callers_share_the_helpers() -> None:
    """Two callers and two helpers: four in flight, never more."""
    gauge = Gauge(4)
    fetcher = Fetcher(gauge)
    buffers = [bytearray(20), bytearray(20)]
    with fetcher.helped(2):
        callers = [
            threading.Thread(target=fetcher.fetch, args=(pieces_of(buffer),), daemon=True)
            for buffer in buffers
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(PATIENCE)
    assert all(all(buffer) for buffer in buffers)
    assert gauge.most == 4


def failing(begun: list[int], others: Callable[[int, memoryview], None]) -> Fetcher:
    def read_into(offset: int, buffer: memoryview) -> None:
        begun.append(offset)
        if offset == 0:
            raise Unreachable("the blob service does not answer")
        others(offset, buffer)

    return Fetcher(read_into)


@pytest.fixture
def failed(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once a batch knows of an error: no sleep tells that."""
    known = threading.Event()
    ended = fetch._Batch._ended

    def tell(batch: fetch._Batch, error: BaseException | None) -> None:
        ended(batch, error)
        if error is not None:
            known.set()

    monkeypatch.setattr(fetch._Batch, "_ended", tell)
    return known


def test_the_first_error_is_raised_once_nobody_writes_any_more(failed: threading.Event) -> None:
    """What was begun is waited for, though it fails as well; nothing else is begun."""
    begun: list[int] = []
    ended: list[int] = []

    def others(offset: int, _buffer: memoryview) -> None:
        assert failed.wait(PATIENCE)
        ended.append(offset)
        raise OSError("a later one")

    fetcher = failing(begun, others)
    with (
        fetcher.helped(2),
        pytest.raises(Unreachable, match="does not answer"),
    ):
        fetcher.fetch(pieces_of(bytearray(1000)))
    assert len(begun) <= 3
    assert sorted(ended) == sorted(set(begun) - {0})


def test_an_error_in_one_batch_leaves_the_next_alone() -> None:
    """Helpers outlive an error; which batch it was in is clear."""
    fetcher = failing([], fill)
    with fetcher.helped(3):
        for _ in range(20):
            with pytest.raises(Unreachable):
                fetcher.fetch(pieces_of(bytearray(20)))
            got = bytearray(20)
            fetcher.fetch(Piece(piece.offset + 1, piece.buffer) for piece in pieces_of(got))
            assert all(got)


def helpers_since(before: set[threading.Thread]) -> set[threading.Thread]:
    new = set(threading.enumerate()) - before
    return {thread for thread in new if thread.name.startswith("fetch-")}


def test_helpers_end_with_the_fetcher() -> None:
    """Nobody is left behind, after an error neither; and for one range nobody is called."""
    before = set(threading.enumerate())  # of tests before, which may end meanwhile
    gauge = Gauge(5)
    fetcher = failing([], gauge)
    with pytest.raises(Unreachable), fetcher.helped(4):
        fetcher.fetch([Piece(0, memoryview(bytearray(1)))])
    assert helpers_since(before) == set()
    with pytest.raises(Unreachable), fetcher.helped(4):
        fetcher.fetch(pieces_of(bytearray(20))[1:])
        helpers = helpers_since(before)
        fetcher.fetch(pieces_of(bytearray(20)))
    assert len(helpers) == 4
    for helper in helpers:
        helper.join(PATIENCE)
        assert not helper.is_alive()
