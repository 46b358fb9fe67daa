"""
Does this store keep the contract? A user can ask before trusting it with backups.

Owns the questions; knows no backend, and judges only by what the store does.
Invariant: the probe touches nothing but ``probe/<its own id>/`` and takes that away again.

What no probe from one machine can see: caches of other machines, so network file systems are told
by their type; and whether what was acknowledged survives a power cut.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import NamedTuple
from uuid import uuid4

from airflow_provider_azstack.errors import (
    AccessDenied,
    ObjectExists,
    ObjectNotFound,
    ShortRead,
)
from airflow_provider_azstack.store.base import Store
from airflow_provider_azstack.store.local import NETWORK_FILE_SYSTEMS, LocalStore

RACERS = 8
ROUNDS = 5
# More than the 1,000 entries that a page of any of the services holds.
ENOUGH_FOR_TWO_PAGES = 1100

_SAMPLE = bytes(range(256)) * 16


class Finding(NamedTuple):
    """
    A promise that the store broke.

    :param promise: short name of the promise.
    :param observed: what the store did.
    :param meaning: what that would do to backups.
    :param fatal: the store is unfit; otherwise it is usable within the limits that are told.
    """

    promise: str
    observed: str
    meaning: str
    fatal: bool = True


def probe(store: Store, *, listing: bool = False) -> Sequence[Finding]:
    """
    Return what ``store`` lacks; nothing when it is fit.

    :param listing: also create and list enough objects to need two pages; minutes on a slow store.
    :raises Unreachable: the store cannot be judged now.
    :raises AccessDenied: it cannot be judged with these rights.
    """
    probing = _Probe(store)
    questions: list[Callable[[], Iterator[Finding]]] = [
        probing.reads_what_was_written,
        probing.reads_ranges,
        probing.lists_what_was_written,
        probing.keeps_the_first,
        probing.lets_one_racer_win,
    ]
    if listing:
        questions.append(probing.lists_every_page)
    try:
        findings = [finding for question in questions for finding in _answers(question)]
    finally:
        leftovers = list(probing.forgets_what_was_deleted())
    return [*findings, *leftovers, *_caches(store)]


def _caches(store: Store) -> Iterator[Finding]:
    kind = store.file_system() if isinstance(store, LocalStore) else ""
    if kind in NETWORK_FILE_SYSTEMS:
        yield Finding(
            "the same view from every host",
            f"{store.url} is on {kind}, which may answer from a cache",
            "one host is fine; for several, mount it without caching of attributes and names "
            "(NFS: noac,lookupcache=none) or use a bucket",
            fatal=False,
        )


def _answers(question: Callable[[], Iterator[Finding]]) -> Sequence[Finding]:
    """Return the findings of one question; one that breaks off is a finding itself."""
    try:
        return list(question())
    except (ObjectNotFound, ObjectExists, ShortRead) as error:
        return [
            Finding(
                question.__name__.replace("_", " "),
                f"{type(error).__name__}: {error}",
                "what was written a moment ago is not there as it was written: backups would fail",
            )
        ]


class _Probe:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = f"probe/{uuid4().hex}/"
        self._written: list[str] = []

    def reads_what_was_written(self) -> Iterator[Finding]:
        name = self._put("read", _SAMPLE)
        if self._store.get(name) != _SAMPLE or self._store.info(name).size_bytes != len(_SAMPLE):
            yield Finding(
                "read after write",
                "an object came back with other bytes than were written",
                "restores would fail",
            )
        if self._store.exists(f"{self._folder}never"):
            yield Finding(
                "read after write",
                "an object that nobody wrote is said to exist",
                "completion would take missing objects for present ones",
            )

    def reads_ranges(self) -> Iterator[Finding]:
        name = self._put("range", _SAMPLE)
        for offset, length in ((0, 1), (255, 2), (len(_SAMPLE) - 3, 3), (1024, 2048)):
            if self._store.get_range(name, offset, length) != _SAMPLE[offset : offset + length]:
                yield Finding(
                    "range reads",
                    f"{length} bytes from {offset} came back wrong",
                    "blocks could not be read out of packs",
                )
        try:
            self._store.get_range(name, len(_SAMPLE) - 1, 2)
        except ShortRead:
            return
        yield Finding(
            "range reads",
            "a read past the end succeeded",
            "truncated packs would go unnoticed until a restore",
        )

    def lists_what_was_written(self) -> Iterator[Finding]:
        name = self._put("list", _SAMPLE)
        if self._listed().count(name) != 1:
            yield Finding(
                "list after write",
                f"a new object is listed {self._listed().count(name)} times instead of once",
                "a prune could overlook a running backup's session and delete its packs",
            )

    def keeps_the_first(self) -> Iterator[Finding]:
        name = self._put("first", b"first")
        refused = False
        try:
            self._store.put(name, b"second")
        except ObjectExists:
            refused = True
        if not refused or self._store.get(name) != b"first":
            yield Finding(
                "put if absent",
                "a second upload of the same name " + ("won" if refused else "was accepted"),
                "two runs could both hold the claim on a VM, and objects could be replaced",
            )

    def lets_one_racer_win(self) -> Iterator[Finding]:
        with ThreadPoolExecutor(RACERS) as threads:
            for turn in range(ROUNDS):
                name = self._name(f"race-{turn}")
                start = Barrier(RACERS)
                racers = [threads.submit(self._race, name, n, start) for n in range(RACERS)]
                winners = [content for racer in racers if (content := racer.result())]
                if len(winners) != 1 or self._store.get(name) != winners[0]:
                    yield Finding(
                        "put if absent, at once",
                        f"{len(winners)} of {RACERS} simultaneous uploads of one name succeeded",
                        "two runs that start together could both hold the claim on a VM",
                    )
                    return

    def lists_every_page(self) -> Iterator[Finding]:
        expected = [self._put(f"page-{n}", b"") for n in range(ENOUGH_FOR_TWO_PAGES)]
        listed = self._listed()
        missing = len(set(expected) - set(listed))
        repeated = len(listed) - len(set(listed))
        if missing or repeated:
            yield Finding(
                "complete listings",
                f"of {len(listed)} entries {repeated} are repeated, {missing} are missing",
                "a prune could not see every restore point",
            )

    def forgets_what_was_deleted(self) -> Iterator[Finding]:
        """Take everything away again, and look whether it is gone."""
        names, self._written = self._written, []
        try:
            for name in names:
                self._delete(name)
        except AccessDenied as error:
            yield Finding(
                "deletion",
                f"{error}; objects under {self._folder} stay",
                "backup, restore and verify work; forget and prune need the right to delete",
                fatal=False,
            )
            return
        yield from self._ghosts(names)

    def _ghosts(self, names: Sequence[str]) -> Iterator[Finding]:
        readable = sum(self._store.exists(name) for name in names[:RACERS])
        if readable or set(names) & set(self._listed()):
            yield Finding(
                "delete, then read",
                "deleted objects are still read or listed",
                "a fenced backup could take its session for alive and publish what a prune deletes",
            )

    def _name(self, leaf: str) -> str:
        name = f"{self._folder}{leaf}"
        self._written.append(name)
        return name

    def _put(self, leaf: str, content: bytes) -> str:
        name = self._name(leaf)
        self._store.put(name, content)
        return name

    def _race(self, name: str, number: int, start: Barrier) -> bytes:
        content = f"racer {number}".encode()
        start.wait()
        try:
            self._store.put(name, content)
        except ObjectExists:
            return b""
        return content

    def _listed(self) -> list[str]:
        return [info.name for info in self._store.list(self._folder)]

    def _delete(self, name: str) -> None:
        try:
            self._store.delete(name)
        except ObjectNotFound:
            return  # a lost write, or one that a question expected to fail: told above
