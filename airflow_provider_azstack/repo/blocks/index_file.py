"""
The database file of an index: opened, shared between processes, thrown away when damaged.

Owns the file, its lock and its schema; knows no store.
Invariants: a file that anybody found damaged is deleted only while nobody else has it open, and is
never used by a process that starts after that finding. Rows of blocks are never taken away while
another process may count on them.
"""

import contextlib
import fcntl
import logging
import os
import sqlite3
import weakref
from pathlib import Path

from airflow_provider_azstack.store.local import LocalStore

log = logging.getLogger(__name__)

# A cache of another layout has another name, so versions never meet in one file.
_FILE_NAME = "index-2.sqlite"
_BUSY_SECONDS = 600.0  # another process puts millions of rows in: 10 s of CPU, more under load
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
# What is not the file's fault: it is in use, there is no room, or somebody may not write.
_INNOCENT = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}
# What a damaged file makes sqlite3 raise; a text that is none, also while it words its own error.
DATABASE_ERRORS = (sqlite3.DatabaseError, UnicodeDecodeError)
# ``holdings`` says which packs a segment names, so that nobody reads all blocks to find out.
# AUTOINCREMENT: a number that a process remembers never means another segment or pack later.
_SCHEMA = """
PRAGMA cache_size = -16384;
CREATE TABLE IF NOT EXISTS segments (number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE);
CREATE TABLE IF NOT EXISTS packs
    (number INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB UNIQUE, size INTEGER);
CREATE TABLE IF NOT EXISTS blocks
    (id BLOB, segment INTEGER, pack INTEGER, offset INTEGER, sealed INTEGER, raw INTEGER,
     PRIMARY KEY (id, segment, pack)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS holdings
    (segment INTEGER, pack INTEGER, blocks INTEGER, PRIMARY KEY (segment, pack)) WITHOUT ROWID;
CREATE TEMP TABLE seen (segment INTEGER PRIMARY KEY);
CREATE TEMP TABLE usable (pack INTEGER PRIMARY KEY);
CREATE TEMP TABLE bad (id BLOB, pack INTEGER, PRIMARY KEY (id, pack)) WITHOUT ROWID;
"""
_DEAD = """
SELECT COALESCE(SUM(blocks), 0), COALESCE(SUM(CASE WHEN segment NOT IN
    (SELECT number FROM segments) THEN blocks END), 0) FROM holdings
"""
_PURGE = """
BEGIN IMMEDIATE;
DELETE FROM blocks WHERE segment NOT IN (SELECT number FROM segments);
DELETE FROM holdings WHERE segment NOT IN (SELECT number FROM segments);
COMMIT;
"""


class IndexFile:
    """A connection to the database of one repository's index."""

    def __init__(self, directory: Path | None) -> None:
        """:param directory: where this repository's cache is kept; None: nothing is kept."""
        self._directory = directory
        self._lock = -1
        self.connection = self._open()
        # Who forgets to close leaves nothing open either.
        self._release = weakref.finalize(self, _release, self.connection, self._lock)

    def close(self) -> None:
        """Let go of the file; closing twice is fine."""
        self._release()

    def report_damage(self) -> None:
        """Say that the file is damaged: whoever opens it next starts a new one."""
        if self._directory is not None:
            log.warning("the index cache in %s is damaged and will be made again", self._directory)
            with contextlib.suppress(OSError):
                self._marker.touch(mode=0o600)

    @property
    def _marker(self) -> Path:
        assert self._directory is not None  # noqa: S101 (only asked for when there is one)
        return self._directory / f"{_FILE_NAME}.damaged"

    def _open(self) -> sqlite3.Connection:
        if self._directory is not None:
            try:
                return self._open_cache(self._directory)
            except (sqlite3.Error, UnicodeDecodeError, OSError) as error:
                if is_damage(error):
                    self.report_damage()
                log.warning("working without the index cache in %s: %s", self._directory, error)
                if self._lock >= 0:
                    os.close(self._lock)
                    self._lock = -1
        connection = _connect("")  # SQLite's own kind of temporary file: it has no name
        connection.executescript(_SCHEMA)
        return connection

    def _open_cache(self, directory: Path) -> sqlite3.Connection:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not LocalStore(directory.absolute()).is_near:
            raise OSError("it is on a network file system, where SQLite's files go wrong")
        self._lock = os.open(directory / f"{_FILE_NAME}.lock", _LOCK_FLAGS, 0o600)
        is_alone = self._lock_alone()
        if self._marker.exists():
            if not is_alone:
                raise BlockingIOError("it is damaged, and others have it open")
            self._discard(directory)
        # One at a time: two processes that turn a new file to WAL at once get in each other's way.
        setup = os.open(directory / f"{_FILE_NAME}.setup", _LOCK_FLAGS, 0o600)
        try:
            fcntl.flock(setup, fcntl.LOCK_EX)
            connection = _connect(str(directory / _FILE_NAME))
            try:
                (directory / _FILE_NAME).chmod(0o600)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.executescript(_SCHEMA)
                if is_alone:
                    _purge(connection)
            except (sqlite3.Error, UnicodeDecodeError, OSError):
                connection.close()
                raise
        finally:
            os.close(setup)
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        return connection

    def _lock_alone(self) -> bool:
        """Have the file to ourselves if nobody else has it open, else with the others."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._lock, fcntl.LOCK_SH)
            return False
        return True

    def _discard(self, directory: Path) -> None:
        for suffix in ("", "-wal", "-shm", ".damaged"):
            (directory / f"{_FILE_NAME}{suffix}").unlink(missing_ok=True)


def is_damage(error: Exception) -> bool:
    """Tell a damaged file from one that is only in use, or has no room."""
    if isinstance(error, sqlite3.ProgrammingError):
        return False
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return isinstance(error, DATABASE_ERRORS) and code & 0xFF not in _INNOCENT


def _purge(connection: sqlite3.Connection) -> None:
    """
    Take away the blocks of segments that are gone, when they are a quarter of all.

    Until then they cost room and nothing else: finding them means to read the whole tree.
    """
    [(total, dead)] = connection.execute(_DEAD)
    if dead and 4 * dead >= total:
        connection.executescript(_PURGE)


def _release(connection: sqlite3.Connection, lock: int) -> None:
    connection.close()
    if lock >= 0:
        os.close(lock)


def _connect(path: str) -> sqlite3.Connection:
    return sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
