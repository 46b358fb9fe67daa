"""
Reading blocks.

Owns the way from an id through the index to bytes, and the packs' keys on that way; knows no disks,
no images and no points.
Invariant: a block that is returned was authenticated. It is lost only when every pack that should
have it was asked.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from typing import Protocol, TypeVar

from airflow_provider_azstack.errors import MissingBlock, ObjectNotFound, ShortRead, Tampered
from airflow_provider_azstack.repo.blocks.index import Index, Location
from airflow_provider_azstack.repo.blocks.packs import (
    HEADER_BYTES,
    RECORD_BYTES,
    Block,
    BlockCipher,
    Codec,
    Entry,
    pack_name,
)
from airflow_provider_azstack.repo.parallel import at_once, in_parallel
from airflow_provider_azstack.repo.sealing.records import Records

_CIPHERS_KEPT = 1024
_PACKS_AT_ONCE = 8  # of a store that is far away

T = TypeVar("T")


class CanRead(Protocol):
    """What returns the contents of blocks."""

    def read(self, block_id: bytes) -> bytes:
        """Return the content of a block."""


class BlockReader:
    """Reads blocks. Thread-safe."""

    def __init__(self, records: Records, index: Index) -> None:
        self._records = records
        self._index = index
        self._codec = Codec()
        self._lock = threading.Lock()
        self._ciphers: dict[bytes, BlockCipher] = {}
        self._is_fresh = False
        self._gone: set[bytes] = set()  # packs that were missed, and the index looked at again

    @property
    def is_near(self) -> bool:
        """Tell whether reading waits for nothing but this machine."""
        return self._records.store.is_near

    def read(self, block_id: bytes) -> bytes:
        """
        Return the content of a block.

        :raises MissingBlock: no pack has it.
        :raises Tampered: every pack that should have it is damaged; names the first.
        """
        return self._from_any(block_id, lambda place: bytes(self._open(place).data))

    def read_packed(self, block_id: bytes) -> Block:
        """Return the content of a block, and how it is stored; see ``read``."""
        return self._from_any(block_id, lambda place: Block(*map(bytes, self._open(place))))

    def _from_any(self, block_id: bytes, read_at: Callable[[Location], T]) -> T:
        places = self._locations(block_id)
        try:
            return self._first(block_id, places, read_at)
        except (MissingBlock, Tampered) as error:
            moved = self._moved(block_id, places) if isinstance(error, MissingBlock) else []
            if moved:
                return self._first(block_id, moved, read_at)
            proven = self._index.without_cache()
            others = proven.locations(block_id) if proven else []
            if set(others) <= set(places):
                raise
        found = self._first(block_id, others, read_at)
        self._index.report_lie()
        return found

    def _moved(self, block_id: bytes, places: Sequence[Location]) -> list[Location]:
        """Return where a collector moved a block since the index was loaded; once for each pack."""
        packs = {place.pack for place in places}
        with self._lock:
            if packs <= self._gone:
                return []
            self._index.refresh()
            self._gone |= packs
        return [place for place in self._index.locations(block_id) if place not in places]

    def _first(
        self, block_id: bytes, places: Iterable[Location], read_at: Callable[[Location], T]
    ) -> T:
        damage: Tampered | None = None
        gone: list[str] = []
        for location in places:
            try:
                return read_at(location)
            except ObjectNotFound:
                gone.append(pack_name(location.pack))
            except (Tampered, ShortRead) as error:
                damage = damage or Tampered(str(error))
        if damage is not None:
            raise damage
        raise self._missing(block_id, gone)

    def locate(self, block_id: bytes) -> Location | None:
        """Return where ``read`` would look first, or None when no segment names the block."""
        found = self._locations(block_id)
        return found[0] if found else None

    def read_together(self, places: Sequence[Location]) -> list[bytes]:
        """
        Return the contents of blocks that lie close to each other in one pack, by one read.

        :param places: in the order of their offsets.
        :raises ObjectNotFound: the pack is gone; ``read`` may find another copy.
        :raises Tampered: one is damaged; ``read`` tells for each.
        """
        pack, start = places[0].pack, places[0].entry.offset
        cipher, [stretch] = self._fetch(pack, [(start, places[-1].entry.end - start)])
        data = memoryview(stretch)
        return [
            bytes(cipher.open(e, data[e.offset - start : e.end - start], self._codec).data)
            for _, e in places
        ]

    def read_ahead(self, block_ids: Iterable[bytes]) -> CanRead:
        """
        Read blocks from their packs, each pack opened once, and return what hands them out.

        A block that is damaged fails nothing here: it is read again, alone, when it is asked for.
        """
        of_pack = defaultdict[bytes, list[Entry]](list)
        for place in filter(None, map(self.locate, dict.fromkeys(block_ids))):
            of_pack[place.pack].append(place.entry)
        found: dict[bytes, bytes] = {}
        threads = min(at_once(self._records.store), _PACKS_AT_ONCE, len(of_pack))
        with closing(in_parallel(self._read_from, of_pack.items(), threads)) as blocks:
            for of_one in blocks:
                found.update(of_one)
        return _ReadAhead(self, found)

    def _read_from(self, wanted: tuple[bytes, list[Entry]]) -> dict[bytes, bytes]:
        """Return blocks of one pack, as far as they can be read."""
        pack, entries = wanted
        found: dict[bytes, bytes] = {}
        with suppress(ObjectNotFound, ShortRead, Tampered):
            places = [(entry.offset, RECORD_BYTES + entry.sealed) for entry in entries]
            cipher, records = self._fetch(pack, places)
            for entry, record in zip(entries, records, strict=True):
                block = cipher.open(entry, memoryview(record), self._codec)
                found[entry.block_id] = bytes(block.data)
        return found

    def _missing(self, block_id: bytes, gone: list[str]) -> MissingBlock:
        reason = f"{', '.join(gone)} is gone"
        if not gone:
            reason = "no index segment names it: 'azstack rebuild-index' looks for it in the packs"
        if self._index.damaged:
            reason += f"; rebuild the index, {self._index.damaged[0]} is damaged"
        return MissingBlock(f"block {block_id.hex()} is missing: {reason}")

    def _locations(self, block_id: bytes) -> list[Location]:
        """Look it up; an index that was never loaded, or is older than the block, is refreshed."""
        found = self._index.locations(block_id)
        if not found:
            with self._lock:
                if not self._is_fresh:
                    self._index.refresh()
                    self._is_fresh = True
            found = self._index.locations(block_id)
        return found

    def _open(self, location: Location) -> Block:
        pack, entry = location
        cipher, [record] = self._fetch(pack, [(entry.offset, RECORD_BYTES + entry.sealed)])
        return cipher.open(entry, memoryview(record), self._codec)

    def _fetch(
        self, pack: bytes, places: Sequence[tuple[int, int]]
    ) -> tuple[BlockCipher, Sequence[bytes]]:
        """Return stretches of a pack and what opens them, for which nothing is waited for alone."""
        store, name = self._records.store, pack_name(pack)
        cipher = self._ciphers.get(pack)
        if cipher is not None:
            return cipher, store.get_ranges(name, places)
        header, *stretches = store.get_ranges(name, [(0, HEADER_BYTES), *places])
        cipher = BlockCipher.from_header(self._records.keys, pack, header)
        with self._lock:
            while len(self._ciphers) >= _CIPHERS_KEPT:
                self._ciphers.pop(next(iter(self._ciphers)))
            self._ciphers[pack] = cipher
        return cipher, stretches


class _ReadAhead:
    """A reader that has some blocks already."""

    def __init__(self, reader: BlockReader, found: Mapping[bytes, bytes]) -> None:
        self._reader = reader
        self._found = found

    def read(self, block_id: bytes) -> bytes:
        """Return the content of a block; see ``BlockReader.read``."""
        data = self._found.get(block_id)
        return self._reader.read(block_id) if data is None else data
