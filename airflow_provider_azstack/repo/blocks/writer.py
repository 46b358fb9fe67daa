"""
Writing blocks.

Owns deduplication, the packs in memory and the order in which packs and index become durable;
knows no disks, no images and no points.
Invariant: a block that ``flush`` covered is in a durable pack, verified before it was uploaded,
and in a durable index segment. An error anywhere stops the whole writer and is never lost.
"""

import threading
from collections.abc import Iterable
from typing import NamedTuple, Self

from airflow_provider_azstack.errors import IntegrityError, StoreError, Tampered
from airflow_provider_azstack.model import Compression
from airflow_provider_azstack.repo.blocks import segments
from airflow_provider_azstack.repo.blocks.index import Index
from airflow_provider_azstack.repo.blocks.packs import (
    BLOCK_SIZE,
    HEADER_BYTES,
    PACK_BYTES,
    RECORD_BYTES,
    Codec,
    Entry,
    PackBuffer,
    PackContents,
    lazy_buffer,
)
from airflow_provider_azstack.repo.sealing.records import Records
from airflow_provider_azstack.store.base import Buffer

BUFFERS = 2  # one is filled while the other is uploaded; each costs PACK_BYTES of memory


class Stored(NamedTuple):
    """What became of a block: ``new_bytes`` is what the repository grew by, 0 when it was known."""

    block_id: bytes
    new_bytes: int


class BlockWriter:
    """
    Stores blocks. Many threads call ``add`` at once; each does the work of its own block.

    A thread that completes a pack uploads it, so there are no threads here and an upload's error
    reaches a caller at once; the others fill the second buffer meanwhile, and wait when that is
    full too.
    """

    def __init__(
        self,
        records: Records,
        index: Index,
        *,
        owner: bytes = b"",
        compression: Compression = "standard",
        pack_bytes: int = PACK_BYTES,
    ) -> None:
        """
        Write for one session.

        :param index: refreshed, and with its packs admitted: W2 and W3 are done.
        :param owner: how the packs' ids end, see ``packs.owner_of``.
        :param compression: of what is stored; what the repository has is known by its raw bytes.
        """
        if pack_bytes < BLOCK_SIZE + 2 * RECORD_BYTES + HEADER_BYTES:
            raise ValueError(f"a pack of {pack_bytes} bytes does not hold a block")
        self._records = records
        self._index = index
        self._owner = owner
        self._pack_bytes = pack_bytes
        self._codec = Codec(compression)
        self._changed = threading.Condition()  # guards everything below
        self._free: list[bytearray | memoryview] = []
        self._allocated = 0
        self._current: PackBuffer | None = None
        self._unfinished: set[PackBuffer] = set()
        self._pending: set[bytes] = set()  # claimed by a thread, or not in the index yet
        self._durable: list[PackContents] = []  # packs that no segment lists yet
        self._failure: BaseException | None = None
        self._publishing = threading.Lock()

    def id_of(self, data: Buffer) -> bytes:
        """Return the id that ``add`` would return."""
        return self._records.keys.block_id(memoryview(data).cast("B"))

    def add(
        self, data: Buffer, packed: Buffer | None = None, *, block_id: bytes | None = None
    ) -> Stored:
        """
        Store a block of 1 byte to ``BLOCK_SIZE`` unless it is known, and return its id.

        :param packed: what to store of it, as it was stored before; None: compress it.
        :param block_id: from ``id_of``; None: it is taken now.
        :raises AzStackError: this or an earlier block could not be stored; the writer is of no
            further use.
        """
        view = memoryview(data).cast("B")
        if not 0 < len(view) <= BLOCK_SIZE:
            raise ValueError(f"a block has 1 to {BLOCK_SIZE} bytes, not {len(view)}")
        try:
            block_id = block_id or self.id_of(view)
            if not self._claim(block_id):
                return Stored(block_id, 0)
            packed = self._codec.compress(view) if packed is None else packed
            return Stored(block_id, self._store(block_id, packed, len(view)))
        except BaseException as error:
            self._fail(error)
            raise

    def flush(self) -> None:
        """
        Return when every block added before is in a durable pack and a durable segment.

        :raises AzStackError: one of them could not be stored.
        """
        try:
            pack, waiting = self._retire_current()
            if pack is not None:
                self._upload(pack)
            with self._changed:
                while self._unfinished & waiting:
                    self._raise_failure()
                    self._changed.wait()
            self._publish_index()
            with self._changed:
                self._raise_failure()
        except BaseException as error:
            self._fail(error)
            raise

    def knows(self, block_id: bytes) -> bool:
        """
        Tell whether a block is fit to be referred to without storing it: W4 for overlays.

        Taking over a run of an earlier image is deduplication too.
        """
        return self._index.usable(block_id)

    def known_of(self, block_ids: Iterable[bytes]) -> set[bytes]:
        """Return those that ``knows`` knows."""
        return self._index.usable_of(block_ids)

    def has_losses(self) -> bool:
        """Tell whether blocks were lost, or may vanish: then ask ``knows`` for each one."""
        return self._index.has_losses()

    def abort(self) -> None:
        """Drop what is not durable yet; calls in other threads end with an error."""
        self._fail(StoreError("writing was stopped before everything was stored"))
        with self._changed:
            self._free, self._current, self._unfinished = [], None, set()
            self._pending, self._durable = set(), []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def _claim(self, block_id: bytes) -> bool:
        """Tell whether the calling thread is the one that has to store the block."""
        with self._changed:
            self._raise_failure()
            if block_id in self._pending:
                return False
            self._pending.add(block_id)
        if self._index.usable(block_id):  # W4: neither condemned packs nor bad copies count
            with self._changed:
                self._pending.discard(block_id)
            return False
        return True

    def _store(self, block_id: bytes, packed: Buffer, raw: int) -> int:
        pack, entry = self._reserve(block_id, len(packed), raw)
        pack.seal(entry, packed)
        self._verify(pack, entry)
        with self._changed:
            pack.open_records -= 1
            is_last = pack.is_full and pack.open_records == 0
        if is_last:
            self._upload(pack)
        return RECORD_BYTES + entry.sealed

    def _verify(self, pack: PackBuffer, entry: Entry) -> None:
        """Decode from the pack's buffer: a bad compressor or bad memory shows while it is cheap."""
        try:
            is_same = self._records.keys.block_id(pack.read(entry, self._codec)) == entry.block_id
        except Tampered as error:
            raise IntegrityError(f"a new block does not decode: {error}; check memory") from None
        if not is_same:
            raise IntegrityError(
                f"block {entry.block_id.hex()} decodes to other bytes than were read: "
                "check this host's memory, nothing was uploaded"
            )

    def _reserve(self, block_id: bytes, packed: int, raw: int) -> tuple[PackBuffer, Entry]:
        while True:
            with self._changed:
                self._raise_failure()
                pack = self._current or self._new_pack()
                if pack is None:
                    self._changed.wait()
                    continue
                entry = pack.reserve(block_id, packed, raw)
                if entry is not None:
                    return pack, entry
                complete = self._retire(pack)
            if complete:
                self._upload(pack)

    def _new_pack(self) -> PackBuffer | None:
        if not self._free:
            if self._allocated == BUFFERS:
                return None
            self._allocated += 1
            self._free.append(lazy_buffer(self._pack_bytes))
        self._current = PackBuffer(self._records.keys, self._free.pop(), self._owner)
        self._unfinished.add(self._current)
        return self._current

    def _retire(self, pack: PackBuffer) -> bool:
        """Take no more blocks into a pack; tell whether it can be uploaded right now."""
        pack.is_full = True
        self._current = None
        return pack.open_records == 0

    def _retire_current(self) -> tuple[PackBuffer | None, set[PackBuffer]]:
        with self._changed:
            self._raise_failure()
            pack = self._current
            complete = pack is not None and self._retire(pack)
            return pack if complete else None, set(self._unfinished)

    def _upload(self, pack: PackBuffer) -> None:
        data, contents = pack.finish()
        self._records.store.put(pack.name, data)  # W5: the pack is durable ...
        with self._changed:
            self._durable.append(contents)
            self._free.append(pack.buffer)
            self._unfinished.discard(pack)
            self._changed.notify_all()
            gathered = sum(len(contents.entries) for contents in self._durable)
            is_due = (
                len(self._durable) >= segments.PACKS_PER_SEGMENT
                or gathered >= segments.BLOCKS_PER_SEGMENT
            )
        if is_due:
            self._publish_index()

    def _publish_index(self) -> None:
        with self._publishing:
            with self._changed:
                self._raise_failure()
                packs, self._durable = self._durable, []
            if not packs:
                return
            name = segments.put(self._records, packs)  # W5: ... before a segment names it
            self._index.add(name, packs)
            with self._changed:
                self._pending.difference_update(e.block_id for p in packs for e in p.entries)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
