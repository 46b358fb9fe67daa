"""
Index segments: the immutable objects ``index/<id>`` that say which pack holds which block.

Owns their bytes and the rebuilding of lost ones from packs; knows no database and no writer.
Invariant: a segment names only packs whose write was acknowledged before it. It is derived data:
what it says can be read from the packs again.
"""

import logging
import struct
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import NamedTuple, TypeVar

from airflow_provider_azstack.errors import ObjectNotFound, ShortRead, Tampered
from airflow_provider_azstack.repo.blocks.packs import (
    HEADER_BYTES,
    MAX_BLOCKS,
    MAX_PACK_BYTES,
    TRAILER_BYTES,
    BlockCipher,
    Codec,
    Entry,
    PackContents,
    is_plausible,
    pack_id,
    parse_trailer,
    salvage,
)
from airflow_provider_azstack.repo.parallel import at_once, in_parallel
from airflow_provider_azstack.repo.sealing.crypto import ID_BYTES, Keys
from airflow_provider_azstack.repo.sealing.records import Records
from airflow_provider_azstack.store.base import ObjectInfo, Store

log = logging.getLogger(__name__)

PREFIX = "index/"
# A segment is put when so much has gathered, and at every flush. Smaller: more objects to load;
# larger: more blocks that a killed stream stored and nobody knows.
PACKS_PER_SEGMENT = 8
BLOCKS_PER_SEGMENT = 16_384
_READERS = 8  # each may have twice what a full segment says in memory

T = TypeVar("T")
R = TypeVar("R")

_PACK = struct.Struct(">16sII")  # id, size, number of entries that follow
_ENTRY = struct.Struct(">32sIII")  # block id, offset, sealed length, raw length


class Rebuilt(NamedTuple):
    """What a rebuild of the index found."""

    packs: int
    blocks: int
    damaged: tuple[str, ...]  # packs whose directory was unreadable: salvaged as far as possible
    unreadable: tuple[str, ...] = ()  # segments; what they said is in the new ones


def encode(packs: Iterable[PackContents]) -> bytes:
    """Return the plain bytes of a segment."""
    parts = []
    for pack, size_bytes, entries in packs:
        parts.append(_PACK.pack(pack, size_bytes, len(entries)))
        parts.extend(_ENTRY.pack(*entry) for entry in entries)
    return b"".join(parts)


def decode(data: bytes, name: str) -> list[PackContents]:
    """
    Return what a segment says.

    :raises Tampered: it does not have the form of a segment.
    """
    packs, position = [], 0
    while position < len(data):
        if len(data) - position < _PACK.size:
            raise Tampered(f"{name} ends inside a pack's head")
        pack, size_bytes, count = _PACK.unpack_from(data, position)
        position += _PACK.size
        end = position + count * _ENTRY.size
        if count > MAX_BLOCKS or end > len(data):
            raise Tampered(f"{name} ends inside the list of a pack's blocks")
        entries = [Entry(*fields) for fields in _ENTRY.iter_unpack(data[position:end])]
        if not all(map(is_plausible, entries)):
            raise Tampered(f"{name} lists a block that cannot be where it says")
        packs.append(PackContents(pack, size_bytes, entries))
        position = end
    return packs


def put(records: Records, packs: Sequence[PackContents]) -> str:
    """Create a segment and return its name."""
    name = PREFIX + records.keys.random(ID_BYTES).hex()
    records.put_bytes(name, encode(packs))
    return name


def get(records: Records, name: str) -> list[PackContents]:
    """Return what a stored segment says."""
    return decode(records.get_bytes(name), name)


def read_directory(store: Store, keys: Keys, info: ObjectInfo) -> PackContents:
    """
    Return what a pack's own directory says.

    :raises Tampered: header, directory or trailer is damaged.
    """
    pack = pack_id(info.name)
    if pack is None or info.size_bytes < HEADER_BYTES + TRAILER_BYTES:
        raise Tampered(f"{info.name} is no pack: {info.size_bytes} bytes")
    ends = ((0, HEADER_BYTES), (info.size_bytes - TRAILER_BYTES, TRAILER_BYTES))
    header, trailer = store.get_ranges(info.name, ends)
    cipher = BlockCipher.from_header(keys, pack, header)
    offset, length = parse_trailer(trailer, info.size_bytes, info.name)
    entries = cipher.open_directory(offset, store.get_range(info.name, offset, length))
    return PackContents(pack, info.size_bytes, entries)


def salvage_pack(store: Store, keys: Keys, name: str) -> PackContents:
    """
    Return the blocks of a damaged pack that still authenticate.

    :raises Tampered: not even its header can be used.
    """
    pack, data = pack_id(name), store.get(name, MAX_PACK_BYTES)
    if pack is None:
        raise Tampered(f"{name} is no pack's name")
    cipher = BlockCipher.from_header(keys, pack, data[:HEADER_BYTES])
    return PackContents(pack, len(data), list(salvage(cipher, data, Codec())))


def rebuild(records: Records, condemned: frozenset[str]) -> tuple[Rebuilt, list[str]]:
    """
    Put segments for all packs that no readable segment names.

    :param condemned: object names of packs that may go: nobody must find those again.
    :returns: what was found, and the names of the new segments.
    """
    damaged: list[str] = []
    names, gathered, packs, blocks = [], list[PackContents](), 0, 0
    covered, unreadable = _covered(records)
    for contents in _uncovered(records, covered, condemned, damaged):
        gathered.append(contents)
        packs, blocks = packs + 1, blocks + len(contents.entries)
        if sum(len(g.entries) for g in gathered) >= BLOCKS_PER_SEGMENT:
            names.append(put(records, gathered))
            gathered = []
    if gathered:
        names.append(put(records, gathered))
    return Rebuilt(packs, blocks, tuple(damaged), tuple(unreadable)), names


def _covered(records: Records) -> tuple[set[bytes], list[str]]:
    """Return the packs that readable segments name, and the names of the unreadable ones."""
    packs: set[bytes] = set()
    unreadable = []
    names = [info.name for info in sorted(records.store.list(PREFIX))]
    with closing(_several(records, partial(_packs_of, records), names)) as found:
        for name, named in zip(names, found, strict=True):
            if named is None:
                unreadable.append(name)
            else:
                packs |= named
    return packs, unreadable


def _packs_of(records: Records, name: str) -> set[bytes] | None:
    """Return the packs that a segment names, None when it is unreadable."""
    for _ in range(2):  # a bit may flip on the way: once is not believed
        try:
            return {contents.pack for contents in get(records, name)}
        except Tampered:
            continue
        except ObjectNotFound:
            return set()
    return None


def _uncovered(
    records: Records, covered: set[bytes], condemned: frozenset[str], damaged: list[str]
) -> Iterator[PackContents]:
    known = {None, *covered}
    infos = [
        info
        for info in sorted(records.store.list("packs/"))
        if pack_id(info.name) not in known and info.name not in condemned
    ]

    def read(info: ObjectInfo) -> PackContents | Tampered | ShortRead | None:
        try:
            return read_directory(records.store, records.keys, info)
        except ObjectNotFound:
            return None
        except (Tampered, ShortRead) as error:
            return error

    with closing(_several(records, read, infos)) as directories:
        for info, contents in zip(infos, directories, strict=True):
            if isinstance(contents, PackContents):
                yield contents
            elif contents is not None:
                log.warning("%s; looking for blocks that are still whole", contents)
                damaged.append(info.name)
                try:
                    yield salvage_pack(records.store, records.keys, info.name)
                except Tampered as hopeless:
                    log.warning("%s", hopeless)


def _several(
    records: Records, function: Callable[[T], R], items: Sequence[T]
) -> Generator[R, None, None]:
    threads = min(at_once(records.store), _READERS, len(items))
    return in_parallel(function, items, threads, ahead_of_each=1)
