"""
Which packs hold what is needed: needed blocks joined with the index.

Owns the temporary tables in which that is found out; knows neither why a block is needed nor what
becomes of a pack.
Invariant: each needed block is counted for exactly one of the copies that are there: a good one
before a damaged one, and of good ones one in a pack that stays before one in a condemned pack.
Memory is bounded by a batch of ids, however many blocks there are.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from airflow_provider_azstack.repo.blocks.index import Index
from airflow_provider_azstack.repo.blocks.index_load import transaction
from airflow_provider_azstack.repo.blocks.packs import (
    RECORD_BYTES,
    pack_id,
    pack_name,
    size_of_pack,
)
from airflow_provider_azstack.repo.sealing.records import BadBlock
from airflow_provider_azstack.store.base import ObjectInfo

_BATCH = 100_000  # ids that wait in memory
# Ids are random: put into the tree as they come, each batch would touch most of its pages. So they
# are gathered in a heap, and sorted when so many are there: a quarter of a gigabyte of file.
_HEAP = 4_000_000

_SCHEMA = """
CREATE TEMP TABLE gc_heap (id BLOB);
CREATE TEMP TABLE gc_needed (id BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TEMP TABLE gc_there (pack INTEGER PRIMARY KEY, is_condemned INTEGER);
CREATE TEMP TABLE gc_bad (id BLOB, pack INTEGER, PRIMARY KEY (id, pack)) WITHOUT ROWID;
CREATE TEMP TABLE gc_kept
    (id BLOB PRIMARY KEY, rank INTEGER, pack INTEGER, offset INTEGER, sealed INTEGER)
    WITHOUT ROWID;
"""
_SORT = "INSERT OR IGNORE INTO gc_needed SELECT id FROM gc_heap ORDER BY id"
# With min(), SQLite takes the other columns from the row that has the minimum.
_SETTLE = """
INSERT INTO gc_kept
SELECT n.id, MIN(t.is_condemned * (1 << 40) + b.pack + CASE WHEN EXISTS
    (SELECT 1 FROM gc_bad x WHERE x.id = b.id AND x.pack = b.pack) THEN 1 << 41 ELSE 0 END),
    b.pack, b.offset, b.sealed
FROM gc_needed n JOIN blocks b ON b.id = n.id
JOIN seen s ON s.segment = b.segment JOIN gc_there t ON t.pack = b.pack
GROUP BY n.id
"""
_LOST = """
SELECT n.id FROM gc_needed n WHERE NOT EXISTS (SELECT 1 FROM gc_kept k WHERE k.id = n.id) LIMIT 1
"""
_USAGE = f"""
SELECT p.id, COUNT(*), SUM(k.sealed + {RECORD_BYTES})
FROM gc_kept k JOIN packs p ON p.number = k.pack GROUP BY k.pack
"""  # noqa: S608 - a number of ours
_ENTRIES = """
SELECT k.id FROM gc_kept k JOIN packs p ON p.number = k.pack
WHERE p.id IN (SELECT id FROM gc_chosen)
ORDER BY k.pack, k.offset
"""


class Usage(NamedTuple):
    """What a pack is needed for."""

    blocks: int
    live_bytes: int  # what a pack of these blocks alone would have


class Liveness:
    """One collection's tables, beside the index that it asks."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._waiting: list[bytes] = []
        self._heaped = 0
        with index.database() as database:
            database.executescript(_SCHEMA)

    def need(self, block_ids: Iterable[bytes]) -> None:
        """Take up that these blocks are needed; what is needed once stays so."""
        self._waiting.extend(block_ids)
        if len(self._waiting) >= _BATCH:
            with self._index.database() as database, transaction(database, "DEFERRED"):
                self._write(database)
                if self._heaped >= _HEAP:
                    self._sort(database)

    def settle(
        self, packs: Iterable[ObjectInfo], condemned: frozenset[str], bad: Iterable[BadBlock]
    ) -> None:
        """
        Choose a copy of every needed block.

        :param packs: those that are there, in any order.
        :param condemned: object names of those that may go.
        """
        rows = ((info.name in condemned, pack_id(info.name), info.size_bytes) for info in packs)
        with self._index.database() as database, transaction(database, "DEFERRED"):
            self._write(database)
            self._sort(database)
            for table in ("gc_there", "gc_bad", "gc_kept"):
                database.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names
            database.executemany(
                "INSERT OR IGNORE INTO gc_there SELECT number, ? FROM packs "
                "WHERE id = ? AND size = ?",
                rows,
            )
            database.executemany(
                "INSERT OR IGNORE INTO gc_bad SELECT ?, number FROM packs WHERE id = ?",
                ((block.block_id, bytes.fromhex(block.pack)) for block in bad),
            )
            database.execute(_SETTLE)

    def lost(self) -> bytes | None:
        """Return a needed block that is in no pack that is there, or None."""
        with self._index.database() as database:
            row = database.execute(_LOST).fetchone()
        return row[0] if row else None

    def usage(self) -> dict[str, Usage]:
        """Return, by object name, the packs that hold what is needed."""
        with self._index.database() as database:
            rows = database.execute(_USAGE).fetchall()
        return {pack_name(p): Usage(count, size_of_pack(size, count)) for p, count, size in rows}

    def blocks_of(self, packs: Iterable[str]) -> Iterator[bytes]:
        """Yield the needed blocks that are counted for these packs, in their order there."""
        with self._index.database() as database:
            database.execute("CREATE TEMP TABLE IF NOT EXISTS gc_chosen (id BLOB PRIMARY KEY)")
            database.execute("DELETE FROM gc_chosen")
            database.executemany(
                "INSERT INTO gc_chosen VALUES (?)", ((pack_id(name),) for name in packs)
            )
            rows = database.execute(_ENTRIES).fetchall()
        for (block_id,) in rows:
            yield block_id

    def _write(self, database: sqlite3.Connection) -> None:
        rows = [(block_id,) for block_id in set(self._waiting)]
        self._waiting.clear()
        database.executemany("INSERT INTO gc_heap VALUES (?)", rows)
        self._heaped += len(rows)

    def _sort(self, database: sqlite3.Connection) -> None:
        database.execute(_SORT)
        database.execute("DELETE FROM gc_heap")
        self._heaped = 0
