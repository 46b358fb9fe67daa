"""
A pack: a few dozen megabytes of blocks in one object that describes itself.

Owns the bytes of a pack; knows no index, no store and no deduplication.
Invariant: every record decodes alone, from its own header and the pack's salt; the sealed
directory at the end lists exactly the records before it. A decoder knows each size in advance and
allows no more.

::

    header     magic 8, salt 32
    record*    magic 4, block id 32, raw length 4, sealed length 4, sealed bytes
    directory  sealed: (block id 32, offset 4, sealed length 4, raw length 4)*
    trailer    directory offset 4, directory length 4, magic 8

Numbers are big-endian; an offset is where a record starts, and is the record's nonce. A block that
does not compress is stored as it is: then sealed length - 16 is the raw length.
"""

import mmap
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from airflow_provider_azstack.errors import Tampered
from airflow_provider_azstack.model import Compression
from airflow_provider_azstack.repo.sealing.crypto import (
    ID_BYTES,
    NONCE_BYTES,
    SALT_BYTES,
    TAG_BYTES,
    Keys,
    context,
)
from airflow_provider_azstack.store.base import Buffer

BLOCK_SIZE = 2**20
# Two buffers of this size live in a stream. With 32 MiB a stream inside an Airflow task process
# (about 150 MiB by itself) stays under 300 MiB, and an fsync or a PUT per 32 MiB is still cheap.
PACK_BYTES = 32 * 2**20
MAX_BLOCKS = 16_384  # bounds the directory when blocks are tiny
# Compressing and checking a block are two thirds of a backup's CPU. What both take for content of
# file systems, and how many times less is stored:
#
#             CPU-s/GiB   ratio
#   fast            1.7    2.10   matches of at least 7 bytes, and larger steps where there are none
#   standard        2.4    2.53
#   small           4.1    2.92   zstd's level 3
#
# Beside standard, zstd's level 1 takes 13% more CPU for 6% fewer bytes, -1 3% less for 4% more,
# -5 22% less for 24% more, where fast takes 27% less for 20% more; 5 takes 3.3 times as much for
# 16% fewer. For fast and standard, window and table fit into a core's second cache, and literals
# stay as they are (a target length above 0), which also saves a fifth of decompressing. No window
# is larger than a block, so none of them needs more memory to read.
_FASTEST = {
    "strategy": zstandard.STRATEGY_FAST,
    "window_log": 18,
    "chain_log": 13,
    "search_log": 1,
    "write_content_size": True,
    "write_dict_id": False,
}
COMPRESSION: Mapping[Compression, zstandard.ZstdCompressionParameters] = {
    "fast": zstandard.ZstdCompressionParameters(
        **_FASTEST, hash_log=14, min_match=7, target_length=4
    ),
    "standard": zstandard.ZstdCompressionParameters(
        **_FASTEST, hash_log=15, min_match=6, target_length=1
    ),
    "small": zstandard.ZstdCompressionParameters(
        strategy=zstandard.STRATEGY_DFAST,
        window_log=20,
        hash_log=17,
        chain_log=16,
        search_log=1,
        min_match=5,
        target_length=0,
        write_content_size=True,
        write_dict_id=False,
    ),
}

_HEADER = b"AZSPACK1"
_TRAILER_MAGIC = b"AZSPEND1"
_RECORD_MAGIC = b"AZSB"
_RECORD = struct.Struct(">4s32sII")
_ENTRY = struct.Struct(">32sIII")
_TRAILER = struct.Struct(">II8s")

OWNER_BYTES = 6

HEADER_BYTES = len(_HEADER) + SALT_BYTES
RECORD_BYTES = _RECORD.size
TRAILER_BYTES = _TRAILER.size
MAX_PACK_BYTES = PACK_BYTES + MAX_BLOCKS * _ENTRY.size + TAG_BYTES + TRAILER_BYTES


class Entry(NamedTuple):
    """Where one block is in its pack, and how long it is sealed and raw."""

    block_id: bytes
    offset: int
    sealed: int
    raw: int

    @property
    def end(self) -> int:
        """The offset behind the record."""
        return self.offset + RECORD_BYTES + self.sealed


class Block(NamedTuple):
    """A block, and what of it is sealed: the same compressed, or as it is."""

    data: Buffer
    packed: Buffer


class PackContents(NamedTuple):
    """What a pack holds: its id, its size, and its blocks by offset."""

    pack: bytes
    size_bytes: int
    entries: Sequence[Entry]


def pack_name(pack: bytes) -> str:
    """Return the object name of a pack."""
    text = pack.hex()
    return f"packs/{text[:2]}/{text}"


def size_of_pack(record_bytes: int, blocks: int) -> int:
    """Return the size of a pack that holds so many blocks and nothing else."""
    return HEADER_BYTES + record_bytes + blocks * _ENTRY.size + TAG_BYTES + TRAILER_BYTES


def pack_id(name: str) -> bytes | None:
    """Return the id of the pack with that object name, or None when it is no pack's name."""
    text = name.rpartition("/")[2]
    try:
        pack = bytes.fromhex(text)
    except ValueError:
        return None
    return pack if len(pack) == ID_BYTES and pack_name(pack) == name else None


def owner_of(session: str) -> bytes:
    """
    Return how the ids of a session's packs end.

    A collector tells by that which packs belong to runs that are not over. The rest of an id is
    random, so an id is still never used twice.
    """
    try:
        return bytes.fromhex(session)[:OWNER_BYTES]
    except ValueError:  # not one of ours: it owns nothing
        return b""


def lazy_buffer(size_bytes: int) -> memoryview:
    """Return zeros that cost memory, and the time to get it, only where they are written to."""
    return memoryview(mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


class Codec(threading.local):
    """Per thread: zstd contexts and a buffer, made once; making them per block costs more."""

    def __init__(self, compression: Compression = "standard") -> None:
        self.compressor = zstandard.ZstdCompressor(compression_params=COMPRESSION[compression])
        self.decompressor = zstandard.ZstdDecompressor()
        self.scratch = lazy_buffer(BLOCK_SIZE)

    def compress(self, data: memoryview) -> Buffer:
        """Return ``data`` compressed, or as it is when that would save less than 1/64."""
        packed = self.compressor.compress(data)
        return packed if len(packed) <= len(data) - (len(data) >> 6) - 1 else data

    def decompress(self, packed: memoryview, raw: int) -> Buffer:
        """Return the ``raw`` bytes; the size that the frame claims is checked before it is used."""
        if len(packed) == raw:
            return packed
        if zstandard.frame_content_size(packed) != raw:
            raise zstandard.ZstdError("the frame claims another size than the record")
        return self.decompressor.decompress(packed, max_output_size=raw)


class BlockCipher:
    """Opens the records of one pack."""

    def __init__(self, keys: Keys, pack: bytes, salt: bytes) -> None:
        self.name = pack_name(pack)
        self.cipher: AESGCM = keys.pack_cipher(salt)
        self._block = context(keys.repository_id, "block", self.name)
        self._directory = context(keys.repository_id, "directory", self.name)

    @classmethod
    def from_header(cls, keys: Keys, pack: bytes, header: Buffer) -> "BlockCipher":
        """
        Make the cipher that a pack's first ``HEADER_BYTES`` call for.

        :raises Tampered: it is no header of a pack.
        """
        data = bytes(header)
        if len(data) != HEADER_BYTES or not data.startswith(_HEADER):
            raise Tampered(f"{pack_name(pack)} does not start like a pack")
        return cls(keys, pack, data[len(_HEADER) :])

    def seal(self, entry: Entry, packed: Buffer, record: memoryview) -> None:
        """Write the whole record of a block into ``record``."""
        header = _header_of(entry)
        record[:RECORD_BYTES] = header
        nonce = entry.offset.to_bytes(NONCE_BYTES, "big")
        self.cipher.encrypt_into(nonce, packed, self._block + header, record[RECORD_BYTES:])

    def open(self, entry: Entry, record: memoryview, codec: Codec) -> Block:
        """
        Return the block in ``record``, in part in the codec's buffer: use it before the next call.

        :raises Tampered: the record is not the one that ``entry`` describes.
        """
        header = _header_of(entry)
        if record[:RECORD_BYTES] != header:
            raise Tampered(f"{self.name} has no record of {entry.block_id.hex()} at {entry.offset}")
        nonce = entry.offset.to_bytes(NONCE_BYTES, "big")
        packed = codec.scratch[: entry.sealed - TAG_BYTES]
        try:
            self.cipher.decrypt_into(nonce, record[RECORD_BYTES:], self._block + header, packed)
            return Block(codec.decompress(packed, entry.raw), packed)
        except InvalidTag:
            reason = "was altered or damaged"
        except zstandard.ZstdError as error:
            reason = f"does not decompress: {error}"
        raise Tampered(f"block {entry.block_id.hex()} at {entry.offset} in {self.name} {reason}")

    def seal_directory(self, entries: Sequence[Entry], offset: int) -> bytes:
        """Return directory and trailer of a pack whose records end at ``offset``."""
        plain = b"".join(_ENTRY.pack(*entry) for entry in entries)
        sealed = self.cipher.encrypt(offset.to_bytes(NONCE_BYTES, "big"), plain, self._directory)
        return sealed + _TRAILER.pack(offset, len(sealed), _TRAILER_MAGIC)

    def open_directory(self, offset: int, sealed: Buffer) -> list[Entry]:
        """
        Return the records that lie before ``offset``.

        :raises Tampered: the directory is damaged, or does not describe a pack that ends there.
        """
        try:
            nonce = offset.to_bytes(NONCE_BYTES, "big")
            plain = self.cipher.decrypt(nonce, sealed, self._directory)
        except InvalidTag:
            raise Tampered(f"the directory of {self.name} was altered or damaged") from None
        if len(plain) % _ENTRY.size:
            raise Tampered(f"the directory of {self.name} ends inside an entry")
        entries = [Entry(*fields) for fields in _ENTRY.iter_unpack(plain)]
        expected = HEADER_BYTES
        for entry in entries:
            if entry.offset != expected or not is_plausible(entry):
                raise Tampered(f"the directory of {self.name} does not describe its records")
            expected = entry.end
        if expected != offset:
            raise Tampered(f"the directory of {self.name} does not describe all its records")
        return entries


def is_plausible(entry: Entry) -> bool:
    """Tell whether a pack may hold a record of such sizes at such an offset."""
    return (
        0 < entry.raw <= BLOCK_SIZE
        and TAG_BYTES < entry.sealed <= entry.raw + TAG_BYTES
        and entry.offset >= HEADER_BYTES
        and entry.end <= MAX_PACK_BYTES
    )


def parse_trailer(trailer: Buffer, size_bytes: int, name: str) -> tuple[int, int]:
    """
    Return offset and length of the directory of a pack of ``size_bytes``.

    :raises Tampered: it is no trailer of a pack of that size.
    """
    offset, length, magic = _TRAILER.unpack(bytes(trailer))
    if (
        magic != _TRAILER_MAGIC
        or offset < HEADER_BYTES
        or not TAG_BYTES <= length <= TAG_BYTES + MAX_BLOCKS * _ENTRY.size
        or offset + length + TRAILER_BYTES != size_bytes
    ):
        raise Tampered(f"{name} does not end like a pack of {size_bytes} bytes")
    return offset, length


def salvage(cipher: BlockCipher, data: Buffer, codec: Codec) -> Iterator[Entry]:
    """Yield every record of a whole pack that still authenticates, without using its directory."""
    view = memoryview(data)
    raw = bytes(data) if not isinstance(data, bytes | bytearray) else data
    position = raw.find(_RECORD_MAGIC, HEADER_BYTES)
    while position >= 0 and position + RECORD_BYTES <= len(raw):
        _, block_id, length, sealed = _RECORD.unpack_from(raw, position)
        entry = Entry(block_id, position, sealed, length)
        following = position + 1
        if is_plausible(entry) and entry.end <= len(raw):
            try:
                cipher.open(entry, view[position : entry.end], codec)
            except Tampered:
                pass  # damaged, or the four letters were part of sealed bytes: look further on
            else:
                yield entry
                following = entry.end
        position = raw.find(_RECORD_MAGIC, following)


class PackBuffer:
    """
    One pack being filled, in a buffer that is used again for the next one.

    ``reserve`` is called under the writer's lock; ``seal`` and ``check`` by many threads at once,
    each in its own stretch of the buffer.
    """

    def __init__(self, keys: Keys, buffer: bytearray | memoryview, owner: bytes = b"") -> None:
        """:param owner: see ``owner_of``."""
        self.pack = keys.random(ID_BYTES - len(owner)) + owner
        salt = keys.random(SALT_BYTES)
        self.cipher = BlockCipher(keys, self.pack, salt)
        self.buffer = buffer
        self.open_records = 0
        self.is_full = False
        self._view = memoryview(buffer)
        self._entries: list[Entry] = []
        self._end = HEADER_BYTES
        self._view[:HEADER_BYTES] = _HEADER + salt

    @property
    def name(self) -> str:
        return self.cipher.name

    def reserve(self, block_id: bytes, packed: int, raw: int) -> Entry | None:
        """Take the next stretch for a block, or return None when it does not fit any more."""
        entry = Entry(block_id, self._end, packed + TAG_BYTES, raw)
        if entry.end > len(self.buffer) or len(self._entries) == MAX_BLOCKS:
            return None
        self._entries.append(entry)
        self._end = entry.end
        self.open_records += 1
        return entry

    def seal(self, entry: Entry, packed: Buffer) -> None:
        """Encrypt a block straight into its stretch."""
        self.cipher.seal(entry, packed, self._view[entry.offset : entry.end])

    def read(self, entry: Entry, codec: Codec) -> Buffer:
        """Decode a block again from its stretch; see ``BlockCipher.open``."""
        return self.cipher.open(entry, self._view[entry.offset : entry.end], codec).data

    def finish(self) -> tuple[list[Buffer], PackContents]:
        """Return the object to put, and what is in it."""
        tail = self.cipher.seal_directory(self._entries, self._end)
        contents = PackContents(self.pack, self._end + len(tail), self._entries)
        return [self._view[: self._end], tail], contents


def _header_of(entry: Entry) -> bytes:
    return _RECORD.pack(_RECORD_MAGIC, entry.block_id, entry.raw, entry.sealed)
