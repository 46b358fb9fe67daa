"""
The contract of a store: names and bytes, nothing else.

A store keeps immutable objects. It knows no blocks, no VMs and no Airflow.
Invariant: an object that ``put`` acknowledged is durable, complete, and never replaced; what a
listing returns has passed the same name check as what is written.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from airflow_provider_azstack.errors import InvalidName, ObjectNotFound, Tampered

Buffer = bytes | bytearray | memoryview

# No object of ours has more, so nothing that has is ever read into memory.
MOST_BYTES = 128 * 2**20
MAX_DEPTH = 6
_PART = r"[a-z0-9][a-z0-9._-]{0,127}"
_NAME = re.compile(rf"{_PART}(?:/{_PART}){{0,{MAX_DEPTH - 1}}}")


class ObjectInfo(NamedTuple):
    """What a listing tells of an object. No times: nothing here may depend on a clock."""

    name: str
    size_bytes: int


class Store(ABC):
    """
    Immutable objects by name.

    All methods raise ``Unreachable`` or ``Throttled`` when a later try may succeed,
    ``AccessDenied`` when it will not, and ``StoreError`` for the rest. A name that fails
    ``validate_name`` raises ``InvalidName`` before anything is touched.
    """

    @property
    @abstractmethod
    def url(self) -> str:
        """Where this store is, without credentials."""

    @property
    def is_near(self) -> bool:
        """Tell whether reading waits for nothing but this machine: then threads gain nothing."""
        return False

    @abstractmethod
    def put(self, name: str, data: Buffer | Sequence[Buffer]) -> None:
        """
        Create an object, durably, or not at all.

        :raises ObjectExists: the name is taken; what is there is untouched.
        :raises StoreFull: there is no room; nothing is left behind.
        """

    @abstractmethod
    def get(self, name: str, most_bytes: int = MOST_BYTES) -> bytes:
        """
        Return a whole object.

        :raises ObjectNotFound: there is none.
        :raises Tampered: it has more than ``most_bytes``; no such amount was read.
        """

    @abstractmethod
    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """
        Return exactly ``length`` bytes from ``offset``.

        :raises ObjectNotFound: there is no such object.
        :raises ShortRead: the object ends before ``offset + length``.
        """

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        """Return stretches of an object, each an offset and a length above 0; see ``get_range``."""
        return [self.get_range(name, offset, length) for offset, length in ranges]

    @abstractmethod
    def info(self, name: str) -> ObjectInfo:
        """
        Return name and size.

        :raises ObjectNotFound: there is no such object.
        """

    @abstractmethod
    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """
        Yield every object under ``prefix`` (``""`` or a folder path ending in ``/``), complete.

        Order is not promised. Names that we could not have written are passed over.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """
        Remove an object, durably.

        :raises ObjectNotFound: there was none.
        """

    def exists(self, name: str) -> bool:
        """Tell whether an object of that name is there."""
        try:
            self.info(name)
        except ObjectNotFound:
            return False
        return True

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"


def as_views(data: Buffer | Sequence[Buffer]) -> Sequence[memoryview]:
    """Return ``data`` as flat byte views, nothing copied, empty ones left out."""
    buffers = [data] if isinstance(data, bytes | bytearray | memoryview) else data
    views = [memoryview(buffer).cast("B") for buffer in buffers if len(buffer)]
    return [view for view in views if view.nbytes]


def check_size(size_bytes: int, most_bytes: int, what: str) -> None:
    """
    Check an object's size, before its bytes are read.

    :raises Tampered: it is too large to be what it should be.
    """
    if size_bytes > most_bytes:
        raise Tampered(f"{what} has {size_bytes} bytes, more than any of its kind")


def is_valid_name(name: str) -> bool:
    """Tell whether ``name`` is one that this package could have written."""
    return _NAME.fullmatch(name) is not None and ".." not in name


def validate_name(name: str) -> str:
    """
    Return ``name`` when it is lower-case ``[a-z0-9._-]`` parts joined by ``/``.

    :raises InvalidName: it is anything else; the message shows at most its beginning.
    """
    if not is_valid_name(name):
        raise InvalidName(f"object name {name[:80]!r} is not [a-z0-9._-] parts joined by '/'")
    return name


def validate_prefix(prefix: str) -> str:
    """
    Return ``prefix`` when it is ``""`` or a valid name followed by ``/``.

    :raises InvalidName: it is anything else: a prefix that cuts a name in two works on no folder.
    """
    if prefix and not (prefix.endswith("/") and is_valid_name(prefix[:-1])):
        raise InvalidName(
            f"listing prefix {prefix[:80]!r} is neither empty nor a folder path + '/'"
        )
    return prefix
