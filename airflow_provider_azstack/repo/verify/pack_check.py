"""
Reading whole packs and checking every block in them.

Owns how a pack is read and judged, and how many at once; knows no index and no restore points.
Invariant: a pack is good only when each of its records was authenticated, decompressed and hashed
to its own id. A pack that fails is read a second time before that is believed.
"""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from airflow_provider_azstack.errors import ObjectNotFound, StoreError, Tampered
from airflow_provider_azstack.repo.blocks.heap import keep_freed_memory
from airflow_provider_azstack.repo.blocks.packs import (
    HEADER_BYTES,
    MAX_PACK_BYTES,
    TRAILER_BYTES,
    BlockCipher,
    Codec,
    Entry,
    pack_id,
    parse_trailer,
)
from airflow_provider_azstack.repo.sealing.crypto import Keys
from airflow_provider_azstack.store.base import ObjectInfo, Store

_TRIES = 2  # a bit may flip on the way as well as on the disk


class Checked(NamedTuple):
    """What became of a pack; ``entries`` are those of its own directory, if all is well."""

    info: ObjectInfo
    entries: Sequence[Entry] = ()
    problem: str = ""  # "" is good
    is_gone: bool = False


class PackChecker:
    """Checks packs of one repository. Each thread reads and decodes packs of its own."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store = store
        self._keys = keys
        self._codec = Codec()

    def check_all(
        self, packs: Iterable[ObjectInfo], threads: int, cancel: threading.Event | None = None
    ) -> Iterator[Checked]:
        """Yield what became of each pack, in their order; at most ``threads`` are in memory."""
        keep_freed_memory()  # of blocks; of whole packs less is kept than without
        ahead: deque[Future[Checked]] = deque()
        pool = ThreadPoolExecutor(threads, "verify")
        try:
            for info in packs:
                ahead.append(pool.submit(self.check, info))
                if len(ahead) > threads:
                    yield ahead.popleft().result()
                if cancel is not None and cancel.is_set():
                    break
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def check(self, info: ObjectInfo) -> Checked:
        """Read one pack and check all of it."""
        problem = ""
        for _ in range(_TRIES):
            try:
                return Checked(info, self._entries(info))
            except ObjectNotFound:
                return Checked(info, problem="is gone", is_gone=True)
            except (Tampered, StoreError) as error:
                problem = str(error)
        return Checked(info, problem=problem)

    def unreadable(self, name: str, pack: bytes, entries: Iterable[Entry]) -> list[Entry]:
        """Return those records of a damaged pack that cannot be read by themselves either."""
        return [entry for entry in entries if not self._reads(name, pack, entry)]

    def _reads(self, name: str, pack: bytes, entry: Entry) -> bool:
        for _ in range(_TRIES):
            try:
                header = self._store.get_range(name, 0, HEADER_BYTES)
                record = self._store.get_range(name, entry.offset, entry.end - entry.offset)
                cipher = BlockCipher.from_header(self._keys, pack, header)
                block = cipher.open(entry, memoryview(record), self._codec).data
            except (Tampered, StoreError):
                continue
            if self._keys.block_id(block) == entry.block_id:
                return True
        return False

    def _entries(self, info: ObjectInfo) -> Sequence[Entry]:
        pack = pack_id(info.name)
        data = memoryview(self._store.get(info.name, MAX_PACK_BYTES))
        if pack is None or len(data) < HEADER_BYTES + TRAILER_BYTES:
            raise Tampered(f"{info.name} is no pack: {len(data)} bytes")
        cipher = BlockCipher.from_header(self._keys, pack, data[:HEADER_BYTES])
        offset, length = parse_trailer(data[-TRAILER_BYTES:], len(data), info.name)
        entries = cipher.open_directory(offset, data[offset : offset + length])
        for entry in entries:
            block = cipher.open(entry, data[entry.offset : entry.end], self._codec).data
            if self._keys.block_id(block) != entry.block_id:
                raise Tampered(
                    f"block {entry.block_id.hex()} at {entry.offset} in {info.name} has other bytes"
                )
        return entries
