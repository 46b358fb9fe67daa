"""
Sealed records: every object of the repository that is not a pack, a key or the config.

Owns their form (JSON, zstd, AES-256-GCM under the object's name) and the bounds of their sizes;
knows not what the records mean.
Invariant: a record that is returned was written by a key holder under that very name.
"""

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, NamedTuple, TypeVar

import zstandard
from msgspec import Meta

from airflow_provider_azstack.errors import (
    ConfigurationError,
    IncompatibleRepository,
    ObjectNotFound,
    Tampered,
)
from airflow_provider_azstack.model import Moment, Record, from_json, to_json
from airflow_provider_azstack.repo.parallel import at_once, in_parallel
from airflow_provider_azstack.repo.sealing.crypto import Keys
from airflow_provider_azstack.store.base import Buffer, ObjectInfo, Store

# The image of a petabyte disk has a million regions of 1 GiB: 50 MiB of JSON at most.
MAX_RECORD_BYTES = 64 * 2**20
_AT_ONCE_BYTES = 4 * 2**20  # of objects that are being read: the large ones one by one
_LOOKS = 5  # a listing may name what is gone for ever, where the store is not as it must be

PackText = Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
BlockId = Annotated[bytes, Meta(min_length=32, max_length=32)]


class CondemnedPacks(Record, frozen=True, kw_only=True):
    """``condemned/<id>/packs``: packs that may go, and images and notes of runs that are over."""

    packs: tuple[PackText, ...]
    objects: tuple[str, ...] = ()


class AliveSessions(Record, frozen=True, kw_only=True):
    """``condemned/<id>/alive``: the sessions that lived when that list was published."""

    sessions: tuple[str, ...]


class BadBlock(Record, frozen=True, kw_only=True):
    """One copy of a block that was found damaged."""

    block_id: BlockId
    pack: PackText


class BadBlocks(Record, frozen=True, kw_only=True):
    """``bad/<id>``: copies found damaged by one verification."""

    blocks: tuple[BadBlock, ...]


class Hold(Record, frozen=True, kw_only=True):
    """``holds/<vm>/<point>``: a legal hold. Its name is what holds; this is for people."""

    reason: str = ""
    since: Moment


class ForgottenPoints(Record, frozen=True, kw_only=True):
    """``forgotten/<id>``: points that were taken away on purpose, as ``<vm>/<point>``."""

    points: tuple[str, ...]


class Census(Record, frozen=True, kw_only=True):
    """``census/<id>``: all points that a collector saw, as ``<vm>/<point>``."""

    points: tuple[str, ...]


R = TypeVar("R", bound=Record)


class Named(NamedTuple):
    """A record's object name and its plain bytes."""

    name: str
    data: bytes


class _Zstd(threading.local):
    """Per thread: contexts that are made once; to make them costs more than a small record."""

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor().compress
        self.decompress = zstandard.ZstdDecompressor().decompress


class Records:
    """Puts and gets sealed records. Thread-safe."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self.store = store
        self.keys = keys
        self._zstd = _Zstd()

    def put(self, name: str, record: Record) -> None:
        """
        Create the record.

        :raises ObjectExists: there is one of that name.
        """
        self.put_bytes(name, to_json(record))

    def get(self, name: str, kind: type[R]) -> R:
        """
        Return the record of that name.

        :raises ObjectNotFound: there is none.
        :raises Tampered: it was altered, damaged or moved.
        """
        return self.parse(kind, self.get_bytes(name), name)

    def put_bytes(self, name: str, data: Buffer) -> None:
        """Create an object from plain bytes, compressed and sealed."""
        if not 0 < len(data) <= MAX_RECORD_BYTES:
            raise ValueError(f"{name} would have {len(data)} bytes")
        self.store.put(name, self.keys.seal(name, self._zstd.compress(data)))

    def get_bytes(self, name: str) -> bytes:
        """Return the plain bytes of an object, none of which is read if it is too large."""
        packed = self.keys.open(name, self.store.get(name, MAX_RECORD_BYTES))
        try:
            if not 0 < zstandard.frame_content_size(packed) <= MAX_RECORD_BYTES:
                raise Tampered(f"{name} claims an impossible size")
            return self._zstd.decompress(packed)
        except zstandard.ZstdError as error:
            raise Tampered(f"{name} does not decompress: {error}") from None

    def under(self, prefix: str, start: str = "", *, threads: int = 0) -> Iterator[Named]:
        """
        Yield the plain bytes of all objects under ``prefix``, in order of their names.

        :param start: leaves out, unread, names that do not start like this.
        :param threads: that read at once; 0: many where the store is far away, else one.
        """
        infos = sorted(i for i in self.store.list(prefix) if i.name.startswith(start))
        yield from self.each(infos, min(threads, len(infos)) if threads else self._threads(infos))

    def gathered(self, prefix: str) -> list[Named]:
        """
        Return the plain bytes of all objects under ``prefix``, of a kind that is gathered.

        Those are replaced by others that say the same, put before they go. So when one went while
        we read, what it said is perhaps in one that we have not seen: then all are listed again.
        """
        for _ in range(_LOOKS):
            infos = sorted(self.store.list(prefix))
            found = list(self.each(infos, self._threads(infos)))
            if len(found) == len(infos):
                break
        return found

    def _threads(self, infos: Sequence[ObjectInfo]) -> int:
        """Return how many of these may be read at once, where the store is far away."""
        largest = max((info.size_bytes for info in infos), default=0)
        return min(at_once(self.store), 1 + _AT_ONCE_BYTES // max(largest, 1), len(infos))

    def each(self, infos: Iterable[ObjectInfo], threads: int = 1) -> Iterator[Named]:
        """Yield the plain bytes of those of the listed objects that are still there, in order."""

        def read(info: ObjectInfo) -> Named | None:
            try:
                return Named(info.name, self.get_bytes(info.name))
            except ObjectNotFound:
                return None  # removed since it was listed: that is as if we had listed later

        with contextlib.closing(in_parallel(read, infos, threads, ahead_of_each=2)) as found:
            yield from filter(None, found)

    def parse(self, kind: type[R], data: bytes, name: str) -> R:
        """
        Parse authenticated bytes.

        :raises IncompatibleRepository: a key holder wrote something this version does not know.
        """
        try:
            return from_json(kind, data, name)
        except ConfigurationError as error:
            raise IncompatibleRepository(
                f"{error}; a newer version wrote it: update this package"
            ) from None

    def all(self, prefix: str, kind: type[R], *, start: str = "", threads: int = 0) -> Iterator[R]:
        """Yield all records under ``prefix``, in order of their names; see ``under``."""
        for name, data in self.under(prefix, start, threads=threads):
            yield self.parse(kind, data, name)
