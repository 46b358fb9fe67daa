"""
The words of the NBD protocol, as far as a read-only server speaks it.

Owns numbers and layouts; does no I/O. Source: "The NBD protocol", doc/proto.md of the reference
implementation. Invariant: what a client sends is bounded before it is looked at.
"""

import struct
from typing import NamedTuple

from airflow_provider_azstack.errors import AzStackError

GREETING = b"NBDMAGICIHAVEOPT" + struct.pack(">H", 0b11)  # fixed newstyle, no zeroes
CLIENT_FLAGS = struct.Struct(">I")
OPTION = struct.Struct(">8sII")
REQUEST = struct.Struct(">IHHQQI")

MAX_OPTION_BYTES = 16 * 1024
MAX_REQUEST_BYTES = 32 * 1024**2  # what clients may expect of any server
MAX_EXTENTS = 4096

_OPTION_MAGIC = b"IHAVEOPT"
_OPTION_REPLY = struct.Struct(">QIII")
_OPTION_REPLY_MAGIC = 0x3E889045565A9
_REQUEST_MAGIC = 0x25609513
_SIMPLE = struct.Struct(">IIQ")
_SIMPLE_MAGIC = 0x67446698
_CHUNK = struct.Struct(">IHHQI")
_CHUNK_MAGIC = 0x668E33EF
_CHUNK_DONE = 1

# Options, and the answers to them.
EXPORT_NAME, ABORT, LIST = 1, 2, 3
INFO, GO, STRUCTURED_REPLY = 6, 7, 8
LIST_META_CONTEXT, SET_META_CONTEXT = 9, 10
ACK, SERVER, EXPORT_INFO, META_CONTEXT = 1, 2, 3, 4
UNSUPPORTED, INVALID, UNKNOWN = 0x80000001, 0x80000003, 0x80000006

# Flags of the disk: flags are valid, read-only, no fragments on request, several connections.
DISK_FLAGS = 0b1 | 0b10 | 1 << 7 | 1 << 8
ALLOCATION = b"base:allocation"
ALLOCATION_ID = 1
HOLE_AND_ZERO = 0b11

READ, DISCONNECT, FLUSH, BLOCK_STATUS = 0, 2, 3, 7
WRITING = {1, 4, 6}  # write, trim, write zeroes
_ONE_EXTENT = 1 << 3  # a flag of BLOCK_STATUS

EPERM, EIO, EINVAL = 1, 5, 22

_OFFSET_DATA, _STATUS, _ERROR = 1, 5, 0x8001


class ProtocolError(AzStackError):
    """A client does not speak the protocol; the connection ends."""


class Request(NamedTuple):
    """What a client asks for during transmission."""

    flags: int
    command: int
    cookie: int
    offset: int
    length: int

    @property
    def wants_one_extent(self) -> bool:
        """Tell whether the answer to BLOCK_STATUS shall be a single extent."""
        return bool(self.flags & _ONE_EXTENT)


def parse_option(data: bytes) -> tuple[int, int]:
    """Return an option's number and the length of its data."""
    magic, option, length = OPTION.unpack(data)
    if magic != _OPTION_MAGIC or length > MAX_OPTION_BYTES:
        raise ProtocolError("this is no option of the NBD protocol")
    return option, length


def parse_request(data: bytes) -> Request:
    """Return a request."""
    magic, flags, command, cookie, offset, length = REQUEST.unpack(data)
    if magic != _REQUEST_MAGIC:
        raise ProtocolError("this is no request of the NBD protocol")
    return Request(flags, command, cookie, offset, length)


def option_reply(option: int, kind: int, data: bytes = b"") -> bytes:
    """Return one answer to an option."""
    return _OPTION_REPLY.pack(_OPTION_REPLY_MAGIC, option, kind, len(data)) + data


def export_info(size_bytes: int) -> bytes:
    """Return what an answer to GO says of the disk."""
    return struct.pack(">HQH", 0, size_bytes, DISK_FLAGS)


def block_size_info(preferred: int) -> bytes:
    """Return what an answer to GO says of request sizes."""
    return struct.pack(">HIII", 3, 1, preferred, MAX_REQUEST_BYTES)


def old_export(size_bytes: int) -> bytes:
    """Return the answer to EXPORT_NAME, of clients that do not know GO."""
    return struct.pack(">QH", size_bytes, DISK_FLAGS)


def wants_allocation(data: bytes, *, listing: bool) -> bool:
    """Tell whether the data of a META_CONTEXT option ask for where the disk holds data."""
    (name_length,) = struct.unpack_from(">I", data.ljust(4, b"\0"))
    position = 4 + name_length
    if position + 4 > len(data):
        raise ProtocolError("a meta context option is cut short")
    (count,) = struct.unpack_from(">I", data, position)
    position += 4
    queries = []
    for _ in range(min(count, len(data))):
        if position + 4 > len(data):
            raise ProtocolError("a meta context option is cut short")
        (length,) = struct.unpack_from(">I", data, position)
        queries.append(data[position + 4 : position + 4 + length])
        position += 4 + length
    return ALLOCATION in queries or (listing and (not queries or b"base:" in queries))


def context_info() -> bytes:
    """Return the name of our one meta context."""
    return struct.pack(">I", ALLOCATION_ID) + ALLOCATION


def simple_reply(cookie: int, error: int = 0) -> bytes:
    """Return the head of an answer, which the data follow when there is no error."""
    return _SIMPLE.pack(_SIMPLE_MAGIC, error, cookie)


def data_chunk(cookie: int, offset: int, length: int) -> bytes:
    """Return the head of the one chunk of an answer to READ; the data follow."""
    head = _CHUNK.pack(_CHUNK_MAGIC, _CHUNK_DONE, _OFFSET_DATA, cookie, 8 + length)
    return head + struct.pack(">Q", offset)


def error_chunk(cookie: int, error: int, message: str) -> bytes:
    """Return an answer that is an error."""
    text = message.encode()[:4096]
    body = struct.pack(">IH", error, len(text)) + text
    return _CHUNK.pack(_CHUNK_MAGIC, _CHUNK_DONE, _ERROR, cookie, len(body)) + body


def status_chunk(cookie: int, extents: list[tuple[int, int]]) -> bytes:
    """Return an answer to BLOCK_STATUS: lengths, each with its flags."""
    body = struct.pack(">I", ALLOCATION_ID)
    body += b"".join(struct.pack(">II", *extent) for extent in extents)
    return _CHUNK.pack(_CHUNK_MAGIC, _CHUNK_DONE, _STATUS, cookie, len(body)) + body
