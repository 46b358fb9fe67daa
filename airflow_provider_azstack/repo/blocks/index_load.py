"""
Taking segments into the index's database: many at once, in the order of its tree.

Owns the temporary tables in which their rows wait; knows no store and no meaning of a segment.
Invariant: the database has a segment with all its blocks, or not at all. Block ids are random, so
the rows of a segment lie all over a large tree: put in segment by segment, each would write most
of its pages once more.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from airflow_provider_azstack.repo.blocks.packs import PackContents

_SCHEMA = """
CREATE TEMP TABLE IF NOT EXISTS new_segments (new INTEGER PRIMARY KEY, name TEXT, number INTEGER);
CREATE TEMP TABLE IF NOT EXISTS new_packs
    (new INTEGER PRIMARY KEY, id BLOB, size INTEGER, segment INTEGER, blocks INTEGER,
     number INTEGER);
CREATE TEMP TABLE IF NOT EXISTS new_blocks
    (id BLOB, segment INTEGER, pack INTEGER, offset INTEGER, sealed INTEGER, raw INTEGER);
"""
_TABLES = ("new_segments", "new_packs", "new_blocks")
# Numbers are given out only now, while nobody else writes: a segment that another process of this
# host put in meanwhile is left to that one.
_COMMIT = """
DELETE FROM new_segments WHERE name IN (SELECT name FROM segments);
INSERT INTO segments (name) SELECT name FROM new_segments;
INSERT OR IGNORE INTO packs (id, size) SELECT id, size FROM new_packs;
UPDATE new_segments SET number = (SELECT s.number FROM segments s WHERE s.name = new_segments.name);
UPDATE new_packs SET number = (SELECT p.number FROM packs p WHERE p.id = new_packs.id);
INSERT OR IGNORE INTO holdings
    SELECT s.number, p.number, p.blocks FROM new_packs p JOIN new_segments s ON s.new = p.segment;
INSERT OR IGNORE INTO blocks
    SELECT b.id, s.number, p.number, b.offset, b.sealed, b.raw FROM new_blocks b
    CROSS JOIN new_segments s ON s.new = b.segment CROSS JOIN new_packs p ON p.new = b.pack
    ORDER BY b.id, s.number, p.number;
"""


class Loader:
    """Segments on their way into one database."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.rows = 0
        self._database = database
        self._segments = 0
        self._packs = 0
        database.executescript(_SCHEMA)
        self._clear()  # of a load that failed

    def add(self, name: str, packs: Sequence[PackContents]) -> None:
        """Take a segment, which is in the database after the next ``commit``."""
        database, segment = self._database, self._segments
        self._segments += 1
        with transaction(database, "DEFERRED"):
            database.execute("INSERT INTO new_segments VALUES (?, ?, NULL)", (segment, name))
            for pack, size_bytes, entries in packs:
                number = self._packs
                self._packs += 1
                database.execute(
                    "INSERT INTO new_packs VALUES (?, ?, ?, ?, ?, NULL)",
                    (number, pack, size_bytes, segment, len(entries)),
                )
                database.executemany(
                    f"INSERT INTO new_blocks VALUES (?, {segment}, {number}, ?, ?, ?)",  # noqa: S608
                    entries,
                )
                self.rows += len(entries)

    def commit(self) -> None:
        """Put all that was added into the database."""
        if self._segments:
            with transaction(self._database):
                for statement in _COMMIT.split(";"):  # executescript would end the transaction
                    self._database.execute(statement)
            self._clear()

    def _clear(self) -> None:
        for table in _TABLES:
            self._database.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names
        self.rows = self._segments = self._packs = 0


@contextmanager
def transaction(database: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """Run all or nothing. What writes to temporary tables only is DEFERRED: it locks nobody out."""
    database.execute(f"BEGIN {kind}")
    try:
        yield
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def drop(database: sqlite3.Connection, names: Iterable[str]) -> None:
    """
    Forget segments: nobody who lists them from now on finds them.

    Their blocks stay for processes that listed them before, until one opens the file alone.
    """
    gone = [(name,) for name in names]
    if gone:
        with transaction(database):
            database.executemany("DELETE FROM segments WHERE name = ?", gone)
