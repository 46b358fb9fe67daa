"""
What restore points need, and whether it is there: one pass over unique groups and blocks.

Owns the temporary tables in which that is found out; knows neither how packs are checked nor what
is reported.
Invariant: memory is bounded by a batch of groups and by one image of each disk, however many
blocks and restore points there are. A group is read once, however many points share it.
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import NamedTuple

from airflow_provider_azstack.errors import IntegrityError, StoreError
from airflow_provider_azstack.model import Extent, Image
from airflow_provider_azstack.repo.blocks.index import Index
from airflow_provider_azstack.repo.blocks.index_load import transaction
from airflow_provider_azstack.repo.blocks.packs import Entry, pack_id, pack_name
from airflow_provider_azstack.repo.blocks.reader import BlockReader
from airflow_provider_azstack.repo.images.runs import decode_runs, load_group, part_ids
from airflow_provider_azstack.repo.parallel import in_parallel
from airflow_provider_azstack.repo.sealing.records import BadBlock
from airflow_provider_azstack.store.base import ObjectInfo

_BATCH = 256  # groups that wait in memory
# Blocks that are looked up together, in the order of the tree, most of whose pages they touch: so
# many at once that its pages are read a few times and not once for every batch.
_TOGETHER = 4_000_000
# More memory than a backup's index has: what is asked is all of it.
_CACHE_KIB = 128 * 1024
NEVER = 0
AT_ALL_TIMES = 2**62  # of a disk of zeros: there is nothing to read

_SCHEMA = """
DROP TABLE IF EXISTS temp.listed;
DROP TABLE IF EXISTS temp.read_at;
DROP TABLE IF EXISTS temp.needed;
DROP TABLE IF EXISTS temp.groups;
DROP TABLE IF EXISTS temp.wanted;
DROP TABLE IF EXISTS temp.asked;
DROP TABLE IF EXISTS temp.copies;
DROP TABLE IF EXISTS temp.lost;
DROP TABLE IF EXISTS temp.there;
CREATE TEMP TABLE listed (id BLOB PRIMARY KEY, size INTEGER) WITHOUT ROWID;
CREATE TEMP TABLE read_at (id BLOB PRIMARY KEY, at INTEGER) WITHOUT ROWID;
CREATE TEMP TABLE there (pack INTEGER PRIMARY KEY);
CREATE TEMP TABLE needed (pack INTEGER PRIMARY KEY);
CREATE TEMP TABLE groups
    (number INTEGER PRIMARY KEY, id BLOB, length INTEGER, at INTEGER, is_lost INTEGER, problem TEXT,
     UNIQUE (id, length));
CREATE TEMP TABLE wanted (grp INTEGER, id BLOB);
CREATE TEMP TABLE asked (id BLOB, grp INTEGER, PRIMARY KEY (id, grp)) WITHOUT ROWID;
CREATE TEMP TABLE copies (grp INTEGER, id BLOB, at INTEGER);
CREATE TEMP TABLE lost (id BLOB PRIMARY KEY) WITHOUT ROWID;
"""
# Every pack there is, those never read first, then by the time of their last reading.
_BY_AGE = """
SELECT l.id, l.size, COALESCE(r.at, 0) AS at FROM listed l LEFT JOIN read_at r ON r.id = l.id
ORDER BY at, l.id
"""
# For every block that is wanted, the best copy: NULL none that is good, 0 one never read.
_COPIES = """
INSERT INTO copies
SELECT w.grp, w.id, MAX(CASE WHEN t.pack IS NOT NULL AND NOT EXISTS
    (SELECT 1 FROM bad WHERE bad.id = b.id AND bad.pack = b.pack) THEN COALESCE(r.at, 0) END)
FROM asked w
LEFT JOIN blocks b ON b.id = w.id AND EXISTS (SELECT 1 FROM seen s WHERE s.segment = b.segment)
LEFT JOIN there t ON t.pack = b.pack
LEFT JOIN packs p ON p.number = b.pack
LEFT JOIN read_at r ON r.id = p.id
GROUP BY w.id, w.grp
"""
_ENTRIES = """
SELECT DISTINCT b.id, b.offset, b.sealed, b.raw FROM blocks b
JOIN seen s ON s.segment = b.segment JOIN packs p ON p.number = b.pack
WHERE p.id = ? ORDER BY b.offset
"""
_LOSSES = """
SELECT p.id, COUNT(DISTINCT l.id) FROM lost l
LEFT JOIN blocks b ON b.id = l.id AND EXISTS (SELECT 1 FROM seen s WHERE s.segment = b.segment)
LEFT JOIN packs p ON p.number = b.pack
GROUP BY p.id ORDER BY p.id
"""
_INDEXED = """
SELECT COUNT(DISTINCT w.id), COUNT(DISTINCT CASE WHEN b.offset = w.grp THEN w.id END)
FROM wanted w JOIN blocks b ON b.id = w.id
JOIN seen s ON s.segment = b.segment JOIN packs p ON p.number = b.pack
WHERE p.id = ?
"""


class PackAge(NamedTuple):
    """A pack, and when it was last read: seconds since 1970, 0 for never."""

    info: ObjectInfo
    at: int


class State(NamedTuple):
    """What is known of an image: is all of it there, and when was its stalest pack read."""

    is_whole: bool
    at: int


class _Group(NamedTuple):
    number: int
    id: bytes
    length: int


class _Content(NamedTuple):
    group: _Group
    blocks: frozenset[bytes] = frozenset()
    problem: str = ""
    unreadable: frozenset[bytes] = frozenset()  # blocks to blame for the problem


class Survey:
    """One verification's tables, beside the index that it asks."""

    def __init__(self, index: Index, reader: BlockReader) -> None:
        """:param index: refreshed, and with its packs admitted."""
        self._index = index
        self._reader = reader
        self._before: dict[tuple[str, str], tuple[bytes | None, ...]] = {}
        with index.database() as database:
            database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            database.executescript(_SCHEMA)

    def list_packs(self, packs: Iterable[ObjectInfo]) -> list[PackAge]:
        """Take up which packs there are; return those of another size than the index says."""
        rows = ((pack_id(info.name), info.size_bytes) for info in packs)
        with self._index.database() as database:
            database.execute("DELETE FROM listed")
            database.execute("DELETE FROM there")
            database.executemany(
                "INSERT OR REPLACE INTO listed VALUES (?, ?)", (row for row in rows if row[0])
            )
            database.execute(
                "INSERT INTO there SELECT p.number FROM packs p JOIN listed l ON l.id = p.id"
            )
            odd = database.execute(
                "SELECT p.id, l.size FROM packs p JOIN listed l ON l.id = p.id "
                "WHERE p.size <> l.size"
            ).fetchall()
        return [PackAge(ObjectInfo(pack_name(pack), size), NEVER) for pack, size in odd]

    def note_read(self, packs: Iterable[str], at: datetime) -> None:
        """Take up that packs were read whole and found good."""
        seconds = int(at.timestamp())
        rows = ((bytes.fromhex(pack), seconds) for pack in packs)
        with self._index.database() as database:
            database.executemany(
                "INSERT INTO read_at VALUES (?, ?) "
                "ON CONFLICT (id) DO UPDATE SET at = MAX(at, excluded.at)",
                rows,
            )

    def note_bad(self, blocks: Iterable[BadBlock]) -> None:
        """Take up copies that are damaged."""
        with self._index.database() as database:
            database.executemany(
                "INSERT OR IGNORE INTO bad SELECT ?, number FROM packs WHERE id = ?",
                ((block.block_id, bytes.fromhex(block.pack)) for block in blocks),
            )

    def packs_by_age(self) -> Iterator[PackAge]:
        """Yield every pack, the one that most needs to be read first."""
        with self._index.database() as database:
            rows = database.execute(_BY_AGE).fetchall()
        for pack, size, at in rows:
            yield PackAge(ObjectInfo(pack_name(pack), size), at)

    def totals(self) -> tuple[int, int]:
        """Return number and bytes of the packs there are."""
        with self._index.database() as database:
            [row] = database.execute("SELECT COUNT(*), COALESCE(SUM(size), 0) FROM listed")
        return row[0], row[1]

    def groups(self) -> int:
        """Return the number of different groups of runs."""
        with self._index.database() as database:
            [(count,)] = database.execute("SELECT COUNT(*) FROM groups")
        return int(count)

    def unneeded(self) -> tuple[int, int]:
        """Return number and bytes of the packs that no restore point needs."""
        with self._index.database() as database:
            [row] = database.execute(
                "SELECT COUNT(*), COALESCE(SUM(size), 0) FROM listed WHERE id NOT IN "
                "(SELECT p.id FROM packs p JOIN needed n ON n.pack = p.number)"
            )
        return row[0], row[1]

    def entries_of(self, pack: bytes) -> list[Entry]:
        """Return what the index says a pack holds. Looks through all of it: for few packs."""
        with self._index.database() as database:
            return [Entry(*row) for row in database.execute(_ENTRIES, (pack,))]

    def disagreement(self, pack: bytes, entries: Sequence[Entry]) -> str:
        """Say in what the index disagrees with a pack; one that it does not know is fine."""
        with self._index.database() as database:
            database.execute("DELETE FROM wanted")
            rows = ((entry.offset, entry.block_id) for entry in entries)
            database.executemany("INSERT INTO wanted VALUES (?, ?)", rows)
            [(known, right)] = database.execute(_INDEXED, (pack,))
        if not known or right == len(entries):
            return ""
        return f"the index finds {right} of its {len(entries)} blocks: run 'azstack rebuild-index'"

    def add(self, image: Image) -> None:
        """Take up the groups of an image; those it shares with the disk's last one are known."""
        disk = (image.vm_key, image.snapshot.disk_key)
        before = self._before.get(disk, ())
        rows = [
            (group, _region_length(image, number))
            for number, group in enumerate(image.regions)
            if group is not None and (number >= len(before) or before[number] != group)
        ]
        self._before[disk] = image.regions
        with self._index.database() as database:
            database.executemany("INSERT OR IGNORE INTO groups (id, length) VALUES (?, ?)", rows)

    def look(self, threads: int) -> None:
        """Read all groups that were added, and look up every block that they refer to."""
        with self._index.database() as database:
            todo = database.execute("SELECT number, id, length FROM groups WHERE at IS NULL")
            groups = [_Group(*row) for row in todo.fetchall()]
        contents = in_parallel(self._content, groups, threads, ahead_of_each=4)
        with self._index.database() as database:
            database.execute("DELETE FROM wanted")
        rows, broken = 0, dict[int, _Content]()
        while batch := list(islice(contents, _BATCH)):
            with self._index.database() as database, transaction(database, "DEFERRED"):
                rows += _want(database, batch)
            broken.update((content.group.number, content) for content in batch if content.problem)
            if rows >= _TOGETHER:
                self._look_up(broken)
                rows, broken = 0, {}
        self._look_up(broken)

    def _look_up(self, broken: dict[int, "_Content"]) -> None:
        with self._index.database() as database, transaction(database, "DEFERRED"):
            _look_up(database, broken)

    def state(self, image: Image) -> State:
        """Return what is known of an image that was added."""
        is_whole, at = True, AT_ALL_TIMES
        before: bytes | None = None
        with self._index.database() as database:
            for number, group in enumerate(image.regions):
                if group is None or group == before:
                    continue
                before = group
                key = (group, _region_length(image, number))
                [row] = database.execute(
                    "SELECT is_lost, at FROM groups WHERE id = ? AND length = ?", key
                )
                is_whole = is_whole and not row[0]
                at = min(at, row[1])
        return State(is_whole, at)

    def has_losses(self) -> bool:
        """Tell whether any group is not all there."""
        with self._index.database() as database:
            found = database.execute("SELECT 1 FROM groups WHERE is_lost LIMIT 1").fetchone()
        return found is not None

    def look_again(self, reader: BlockReader, threads: int) -> None:
        """Look at all of it once more: the index was refreshed, and more may be known damaged."""
        self._reader = reader
        with self._index.database() as database:
            database.execute("UPDATE groups SET at = NULL")
            database.execute("DELETE FROM lost")
        self.look(threads)

    def losses_by_pack(self) -> Iterator[tuple[str, int]]:
        """Yield packs and how many blocks were lost in them; "" for blocks that no pack had."""
        with self._index.database() as database:
            rows = database.execute(_LOSSES).fetchall()
        for pack, count in rows:
            yield (pack_name(pack) if pack else ""), count

    def lost_ranges(self, image: Image) -> Iterator[Extent]:
        """Yield the stretches of a disk that cannot be restored from an image, in order."""
        for number, group in enumerate(image.regions):
            offset, length = number * image.region_bytes, _region_length(image, number)
            if group is not None:
                yield from self._lost_of(group, offset, length)

    def _lost_of(self, group: bytes, offset: int, length: int) -> Iterator[Extent]:
        with self._index.database() as database:
            [row] = database.execute(
                "SELECT is_lost, problem FROM groups WHERE id = ? AND length = ?", (group, length)
            )
        if not row[0]:
            return
        if row[1]:
            yield Extent(offset, length)
            return
        data, _ = load_group(self._reader, group)
        for run in decode_runs(data, offset, length):
            if run.block_id is not None and self._is_lost(run.block_id):
                yield Extent(run.offset, run.length)

    def _is_lost(self, block_id: bytes) -> bool:
        with self._index.database() as database:
            found = database.execute("SELECT 1 FROM lost WHERE id = ?", (block_id,)).fetchone()
        return found is not None

    def _content(self, group: _Group) -> _Content:
        try:
            data, parts = load_group(self._reader, group.id)
            runs = decode_runs(data, 0, group.length)
        except (IntegrityError, StoreError) as error:
            return self._broken(group, str(error))
        blocks = {run.block_id for run in runs if run.block_id is not None}
        return _Content(group, frozenset({group.id, *parts} | blocks))

    def _broken(self, group: _Group, problem: str) -> _Content:
        """Find out which of the blocks that a group consists of is to blame."""
        blocks = {group.id}
        with contextlib.suppress(IntegrityError, StoreError):
            blocks.update(part_ids(self._reader.read(group.id)))
        unreadable = frozenset(block for block in blocks if not self._reads(block))
        return _Content(group, frozenset(blocks), problem, unreadable or frozenset({group.id}))

    def _reads(self, block: bytes) -> bool:
        try:
            self._reader.read(block)
        except (IntegrityError, StoreError):
            return False
        return True


def _region_length(image: Image, number: int) -> int:
    return min(image.region_bytes, image.size_bytes - number * image.region_bytes)


def _want(database: sqlite3.Connection, batch: Sequence[_Content]) -> int:
    rows = [(block, content.group.number) for content in batch for block in content.blocks]
    database.executemany("INSERT INTO wanted (id, grp) VALUES (?, ?)", rows)
    return len(rows)


def _look_up(database: sqlite3.Connection, broken: dict[int, _Content]) -> None:
    database.execute("DELETE FROM asked")
    database.execute("INSERT OR IGNORE INTO asked SELECT id, grp FROM wanted ORDER BY id, grp")
    database.execute("DELETE FROM wanted")
    database.execute(
        "INSERT OR IGNORE INTO needed SELECT DISTINCT b.pack FROM asked w "
        "JOIN blocks b ON b.id = w.id JOIN seen s ON s.segment = b.segment"
    )
    database.execute("DELETE FROM copies")
    database.execute(_COPIES)
    database.execute("INSERT OR IGNORE INTO lost SELECT id FROM copies WHERE at IS NULL")
    database.executemany(
        "INSERT OR IGNORE INTO lost VALUES (?)",
        ((block,) for one in broken.values() for block in one.unreadable),
    )
    states = database.execute(
        "SELECT MIN(COALESCE(at, 0)), MAX(at IS NULL), grp FROM copies GROUP BY grp"
    ).fetchall()
    database.executemany(
        "UPDATE groups SET at = ?, is_lost = ?, problem = ? WHERE number = ?",
        (
            (
                at,
                is_lost or number in broken,
                broken[number].problem if number in broken else "",
                number,
            )
            for at, is_lost, number in states
        ),
    )
