"""
The index: block id -> the packs that hold it, in a small database on this host.

Owns the local map of the segments ``index/<id>``, kept between runs when there is a cache
directory; knows no keys of packs and reads no block.
Invariant: an entry counts only while its segment is in the store's own listing and, for a writer,
its pack was listed after the condemned lists were read. So neither a stale cache nor an index that
outlived its packs can make anyone trust a pack that is gone.
"""

import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from airflow_provider_azstack.errors import MissingBlock, ObjectNotFound, StoreError, Tampered
from airflow_provider_azstack.repo.blocks import segments
from airflow_provider_azstack.repo.blocks.index_file import DATABASE_ERRORS, IndexFile, is_damage
from airflow_provider_azstack.repo.blocks.index_load import Loader, drop, transaction
from airflow_provider_azstack.repo.blocks.packs import Entry, PackContents, is_plausible, pack_id
from airflow_provider_azstack.repo.parallel import at_once, in_parallel
from airflow_provider_azstack.repo.sealing.crypto import ID_BYTES
from airflow_provider_azstack.repo.sealing.records import BadBlock, Records
from airflow_provider_azstack.store.base import ObjectInfo

log = logging.getLogger(__name__)

_FETCHERS = 8  # each keeps up to two segments in memory until their rows are in a file
# Rows that are sorted and put into the tree together, while other processes wait: 128 MiB.
_ROWS = 2_000_000
_TOLD = 100  # segments
# From here on, their folders are listed by themselves: 256 requests, many at once, in place of
# pages of a thousand packs, one after the other.
_MANY_PACKS = 16_000
_FOLDERS = tuple(f"packs/{number:02x}/" for number in range(256))
_ATTEMPTS = 5

_LOCATIONS = """
SELECT p.id, b.offset, b.sealed, b.raw,
       EXISTS (SELECT 1 FROM bad WHERE bad.id = b.id AND bad.pack = b.pack) AS is_bad
FROM blocks b JOIN seen s ON s.segment = b.segment JOIN packs p ON p.number = b.pack
WHERE b.id = ? ORDER BY is_bad
"""
_USABLE = """
SELECT 1
FROM blocks b JOIN seen s ON s.segment = b.segment JOIN usable u ON u.pack = b.pack
WHERE b.id = ? AND NOT EXISTS (SELECT 1 FROM bad WHERE bad.id = b.id AND bad.pack = b.pack)
LIMIT 1
"""
# Blocks that are looked up by one statement: of a small VM's day, and of a region that is all new.
# What a batch leaves free is filled up, and costs as much as what is asked for.
_SIZES = (16, 64, 256)


def _all_usable(count: int) -> str:
    return f"""
SELECT b.id
FROM blocks b JOIN seen s ON s.segment = b.segment JOIN usable u ON u.pack = b.pack
WHERE b.id IN ({", ".join("?" * count)})
  AND NOT EXISTS (SELECT 1 FROM bad WHERE bad.id = b.id AND bad.pack = b.pack)
"""  # noqa: S608 - question marks


_ALL_USABLE = {size: _all_usable(size) for size in _SIZES}
_LOSSES = """
SELECT 1 FROM packs
WHERE number NOT IN (SELECT pack FROM usable)
  AND number IN (SELECT h.pack FROM holdings h JOIN seen s ON s.segment = h.segment)
UNION ALL SELECT 1 FROM bad
LIMIT 1
"""

_USE = "INSERT OR IGNORE INTO usable SELECT number FROM packs WHERE id = ?"
_BAD = "INSERT OR IGNORE INTO bad SELECT ?, number FROM packs WHERE id = ?"
_ALL_USED = "SELECT p.id FROM usable u JOIN packs p ON p.number = u.pack"
_ALL_BAD = "SELECT b.id, p.id FROM bad b JOIN packs p ON p.number = b.pack"

T = TypeVar("T")


class Location(NamedTuple):
    """One copy of a block."""

    pack: bytes
    entry: Entry


class Index:
    """The map of one repository, as one session or one reader sees it. Thread-safe."""

    def __init__(self, records: Records, cache_directory: Path | None = None) -> None:
        self.damaged: tuple[str, ...] = ()  # segments that could not be read
        self._records = records
        self._directory = cache_directory
        self._lock = threading.RLock()
        self._file = IndexFile(cache_directory)
        self._proven: Index | None = None

    def close(self) -> None:
        """Let go of the database."""
        with self._lock:
            self._file.close()
            if self._proven is not None:
                self._proven.close()

    def refresh(self) -> None:
        """
        Take up what the store lists under ``index/`` now, and forget what it does not list.

        A segment that is damaged is passed over and named in ``damaged``: its blocks are unknown,
        so a writer stores them again, and nothing is lost by that.
        """
        with self._lock:
            try:
                self._refresh()
            except DATABASE_ERRORS as error:
                self._start_over(error)

    def admit(self, condemned: frozenset[str], bad: Iterable[BadBlock]) -> None:
        """
        List the packs that a writer may count on: there, whole, and not condemned.

        :param condemned: object names; read before this is called, or the proof does not hold.
        """
        with self.database() as database, transaction(database, "DEFERRED"):
            database.execute("DELETE FROM usable")
            database.execute("DELETE FROM bad")
            packs = (
                (pack_id(info.name), info.size_bytes)
                for info in self.listed_packs()
                if info.name not in condemned
            )
            database.executemany(
                "INSERT OR IGNORE INTO usable SELECT number FROM packs WHERE id = ? AND size = ?",
                packs,
            )
            database.executemany(
                _BAD,
                ((block.block_id, bytes.fromhex(block.pack)) for block in bad),
            )

    def listed_packs(self) -> Iterator[ObjectInfo]:
        """Yield the packs that the store lists now."""
        store = self._records.store
        if store.is_near or self._known_packs() < _MANY_PACKS:
            yield from store.list("packs/")
            return

        def listing(folder: str) -> list[ObjectInfo]:
            return list(store.list(folder))

        # A listing comes page by page, and none can be asked for before the one before it.
        threads = at_once(store)
        with closing(in_parallel(listing, _FOLDERS, threads, ahead_of_each=1)) as found:
            yield from chain.from_iterable(found)

    def _known_packs(self) -> int:
        with self.database() as database:
            [(count,)] = database.execute("SELECT COUNT(*) FROM packs")
        return int(count)

    def usable(self, block_id: bytes) -> bool:
        """Tell whether a writer need not store this block."""
        with self.database() as database:
            return database.execute(_USABLE, (block_id,)).fetchone() is not None

    def has_losses(self) -> bool:
        """Tell whether some block that the index knows may not be usable."""
        with self.database() as database:
            return database.execute(_LOSSES).fetchone() is not None

    def require(self, block_ids: Iterable[bytes]) -> None:
        """
        Check that all these blocks are usable.

        :raises MissingBlock: one is not; names the first and where it should have been.
        """
        for batch in _batches(block_ids, _SIZES[-1]):
            usable = self._usable_batch(batch)
            for block_id in batch:
                if block_id not in usable:
                    packs = [location.pack.hex() for location in self.locations(block_id)]
                    gone = f"pack {packs[0]} is gone, damaged or condemned" if packs else "no index"
                    raise MissingBlock(f"block {block_id.hex()} cannot be counted on: {gone}")

    def usable_of(self, block_ids: Iterable[bytes]) -> set[bytes]:
        """Return those that a writer need not store; one by one costs ten times as much."""
        batches = _batches(block_ids, _SIZES[-1])
        return {block_id for batch in batches for block_id in self._usable_batch(batch)}

    def _usable_batch(self, batch: list[bytes]) -> set[bytes]:
        # Always one of the same statements: the database keeps them prepared.
        size = next(size for size in _SIZES if size >= len(batch))
        ids = [*batch, *batch[:1] * (size - len(batch))]
        with self.database() as database:
            return {block_id for (block_id,) in database.execute(_ALL_USABLE[size], ids)}

    def locations(self, block_id: bytes) -> list[Location]:
        """Return every known copy of a block, those not found damaged first."""
        with self.database() as database:
            rows = database.execute(_LOCATIONS, (block_id,)).fetchall()
        return [
            Location(pack, Entry(block_id, offset, sealed, raw))
            for pack, offset, sealed, raw, _ in rows
            if _is_sound(pack, offset, sealed, raw)
        ]

    def without_cache(self) -> "Index | None":
        """
        Return what the store says where this host's cache may lie; None where there is no cache.

        Nothing proves the rows of a cache, unlike all that comes from the store.
        """
        with self._lock:
            if self._directory is None:
                return None
            if self._proven is None:
                self._proven = Index(self._records)
                self._proven.refresh()
            return self._proven

    def report_lie(self) -> None:
        """Say that the cache had something wrong: whoever opens it next starts a new one."""
        self._file.report_damage()

    def add(self, name: str, packs: Sequence[PackContents]) -> None:
        """Take up a segment of our own, which is durable, as are its packs."""
        with self._lock:
            try:
                self._add(name, packs)
            except DATABASE_ERRORS as error:
                self._start_over(error)
                with self.database():
                    self._add(name, packs)

    def _add(self, name: str, packs: Sequence[PackContents]) -> None:
        database = self._file.connection
        loader = Loader(database)
        loader.add(name, packs)
        loader.commit()
        database.execute(
            "INSERT OR IGNORE INTO seen SELECT number FROM segments WHERE name = ?", (name,)
        )
        database.executemany(_USE, ((contents.pack,) for contents in packs))

    @contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        """
        Lend the database, for questions about many blocks at once and for temporary tables.

        :raises StoreError: it failed.
        """
        with self._lock:
            try:
                yield self._file.connection
            except DATABASE_ERRORS as error:
                if is_damage(error):
                    self._file.report_damage()
                raise self._broken(error) from None

    def _start_over(self, error: Exception) -> None:
        """Go on with a new file, as far as we were: a cache is never worth a failed backup."""
        is_closed = isinstance(error, sqlite3.ProgrammingError)
        if self._directory is None or is_closed:
            raise self._broken(error) from None
        usable, bad = self._admitted()
        if is_damage(error):
            self._file.report_damage()
        else:
            log.warning("going on without the index cache in %s: %s", self._directory, error)
        self._file.close()
        self._file = IndexFile(self._directory if is_damage(error) else None)
        with self.database() as database:
            self._refresh()
            with transaction(database, "DEFERRED"):
                database.executemany(_USE, usable)
                database.executemany(_BAD, bad)

    def _admitted(self) -> tuple[list[tuple[bytes]], list[tuple[bytes, bytes]]]:
        """Return the packs that count, and bad copies; nothing where a damaged file has lost it."""
        try:
            usable = self._file.connection.execute(_ALL_USED).fetchall()
            return usable, self._file.connection.execute(_ALL_BAD).fetchall()
        except DATABASE_ERRORS:
            return [], []

    def _refresh(self) -> None:
        database = self._file.connection
        for _ in range(_ATTEMPTS):
            known = {name for (name,) in database.execute("SELECT name FROM segments")}
            listed = {info.name: info for info in self._records.store.list(segments.PREFIX)}
            try:
                self.damaged = tuple(self._load([i for n, i in listed.items() if n not in known]))
            except ObjectNotFound:
                continue  # replaced since it was listed; what replaced it is there already
            # Only what was known before the listing: another process may have added newer ones.
            drop(database, known - listed.keys())
            with transaction(database, "DEFERRED"):
                database.execute("DELETE FROM seen")
                database.executemany(
                    "INSERT OR IGNORE INTO seen SELECT number FROM segments WHERE name = ?",
                    ((name,) for name in listed),
                )
            return
        raise StoreError("the index changed each time it was listed; try again later")

    def _load(self, infos: Sequence[ObjectInfo]) -> Iterator[str]:
        """Put segments into the database; yield the names of damaged ones."""
        loader = Loader(self._file.connection)
        try:
            for number, (info, contents) in enumerate(self._fetched(infos), 1):
                if contents is None:
                    yield info.name
                else:
                    loader.add(info.name, contents)
                if number % _TOLD == 0:
                    log.info("read %d of %d index segments", number, len(infos))
                if loader.rows >= _ROWS:
                    loader.commit()
        except ObjectNotFound:
            loader.commit()  # what was read is not read again
            raise
        loader.commit()

    def _fetched(
        self, infos: Sequence[ObjectInfo]
    ) -> Iterator[tuple[ObjectInfo, list[PackContents] | None]]:
        threads = min(_FETCHERS, len(infos))
        with closing(in_parallel(self._fetch, infos, threads, ahead_of_each=1)) as fetched:
            yield from zip(infos, fetched, strict=True)

    def _fetch(self, info: ObjectInfo) -> list[PackContents] | None:
        try:
            return segments.get(self._records, info.name)
        except Tampered as error:
            log.warning("%s; rebuild the index to find its blocks again", error)
            return None

    def _broken(self, error: Exception) -> StoreError:
        where = self._directory or "the temporary directory"
        advice = "try again: it will be made anew" if is_damage(error) else "free space, try again"
        return StoreError(f"the index database in {where} failed: {error}; {advice}")


def _is_sound(pack: Any, *numbers: Any) -> bool:
    """Tell whether this may be a place: a damaged row holds anything."""
    if not isinstance(pack, bytes) or not all(isinstance(number, int) for number in numbers):
        return False
    return len(pack) == ID_BYTES and is_plausible(Entry(b"", *numbers))


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch
