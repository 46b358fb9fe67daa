"""
Whether a disk that was restored on trial is what the repository holds, and files can be read.

Owns the comparison, its digest, and the look into file systems; knows not where the disk is.
Invariant: every byte that the image holds is read back, and so is every other byte that the disk
has allocated, which must be zero.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from airflow_provider_azstack.engine.guest.file_systems import Node, Volume
from airflow_provider_azstack.engine.guest.places import Place, places
from airflow_provider_azstack.engine.restore.stretches import joined
from airflow_provider_azstack.errors import AzStackError, ConfigurationError
from airflow_provider_azstack.model import Extent
from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.verify.rehearsals import RehearsedDisk
from airflow_provider_azstack.speed import counted

_FILES_LOOKED_AT = 10_000
_AT_ONCE = 8  # stretches that are read at once; each holds up to 4 MiB
_SHOWN = 20  # differences that are told of one disk
_CACHED_BYTES = 256 * 1024
_CACHED = 256  # pieces of a disk that looking into file systems may keep

Read = Callable[[int, int], bytes]  # offset, length; called by several threads


def checked(
    key: str, reader: ImageReader, size_bytes: int, read: Read, allocated: Sequence[Extent] = ()
) -> RehearsedDisk:
    """
    Compare a restored disk with its image, and look into its file systems.

    :param size_bytes: of the restored disk.
    :param allocated: what the disk says that it holds, where it can say so.
    :raises MissingBlock: the repository lost what would be compared.
    """
    digest, problems = hashlib.sha256(), list[str]()
    data_bytes = 0
    stretches = joined(reader.stream())
    with ThreadPoolExecutor(_AT_ONCE, "read-back") as pool:
        while batch := list(islice(stretches, _AT_ONCE)):
            wanted = [b"".join(stretch.data) for stretch in batch]
            starts = [stretch.offset for stretch in batch]
            found = pool.map(read, starts, map(len, wanted))
            for stretch, expected, back in zip(batch, wanted, found, strict=True):
                data_bytes += len(expected)
                at = 0
                for piece in stretch.data:
                    digest.update((stretch.offset + at).to_bytes(8, "big"))
                    digest.update(memoryview(back)[at : at + len(piece)])
                    at += len(piece)
                if bytes(back) != expected:
                    problems.append(_differs(len(expected), stretch.offset))
    problems += _not_zero(reader, allocated, read)
    return RehearsedDisk(
        disk_key=key,
        size_bytes=size_bytes,
        data_bytes=data_bytes,
        digest=digest.hexdigest(),
        file_systems=tuple(_file_systems(read, size_bytes, problems)),
        problems=tuple(problems[:_SHOWN]),
    )


def failed(key: str, size_bytes: int, problem: object) -> RehearsedDisk:
    """Return the evidence of a disk that could not even be restored."""
    return RehearsedDisk(
        disk_key=key,
        size_bytes=size_bytes,
        data_bytes=0,
        digest="",
        file_systems=(),
        problems=(str(problem)[:2000],),
    )


def _differs(length: int, offset: int) -> str:
    return f"{length} bytes at {offset} are not what the repository holds"


def _not_zero(reader: ImageReader, allocated: Iterable[Extent], read: Read) -> Iterator[str]:
    """Tell of what is on the disk and not in the image."""
    held = iter([*reader.extents(), Extent(1 << 62, 0)])
    data = next(held)
    for extent in allocated:
        at, end = extent.offset, extent.offset + extent.length
        while at < end:
            while data.offset + data.length <= at:
                data = next(held)
            stop = min(end, data.offset, at + _CACHED_BYTES * 16) if data.offset > at else at
            if stop > at:
                if any(read(at, stop - at)):
                    yield f"{stop - at} bytes at {at} must be zero and are not"
                at = stop
            else:
                at = min(end, data.offset + data.length)


def _file_systems(read: Read, size_bytes: int, problems: list[str]) -> Iterator[str]:
    near = _Cached(read, size_bytes)
    for place in places(near, size_bytes):
        yield _look_at(place, problems)


class _Cached:
    """Reads a disk in larger pieces and keeps the last ones: file systems ask for little, often."""

    def __init__(self, read: Read, size_bytes: int) -> None:
        self._read = read
        self._size_bytes = size_bytes
        self._pieces: OrderedDict[int, bytes] = OrderedDict()

    def __call__(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self._size_bytes)
        first = offset - offset % _CACHED_BYTES
        whole = b"".join(self._piece(at) for at in range(first, end, _CACHED_BYTES))
        return whole[offset - first : end - first]

    def _piece(self, at: int) -> bytes:
        if at not in self._pieces:
            self._pieces[at] = bytes(self._read(at, min(_CACHED_BYTES, self._size_bytes - at)))
            if len(self._pieces) > _CACHED:
                self._pieces.popitem(last=False)
        self._pieces.move_to_end(at)
        return self._pieces[at]


def _look_at(place: Place, problems: list[str]) -> str:
    """Return what is there and how many files could be looked at; note what could not."""
    where = place.volume or str(place.partition.number)
    if not place.is_readable:
        return f"{where}: {place.holds or 'unknown'}"
    count = 0
    try:
        for _ in _walk(Volume(place.read, place.partition).root()):
            count += 1
            if count == _FILES_LOOKED_AT:
                break
    except ConfigurationError as error:  # the extra is not installed, or features are not known
        return f"{where}: {place.holds}, not looked into: {error}"
    except AzStackError as error:
        problems.append(f"{where}: {error}"[:2000])
    return f"{where}: {place.holds}, {counted(count, 'file or folder', 'files and folders')}"


def _walk(root: Node) -> Iterator[Node]:
    todo, seen = [root], {root.identity}
    while todo:
        for child in todo.pop().children():
            yield child
            if child.kind == "directory" and child.identity not in seen:
                seen.add(child.identity)
                todo.append(child)
