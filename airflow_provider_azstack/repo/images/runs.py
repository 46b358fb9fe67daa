"""
A region of a disk as runs, and the bytes that runs are stored as.

Owns the shape of runs and their encoding; knows neither where blocks are nor why a page changed.
Invariant: the runs of a region are sorted and cover it exactly once, zeros included, and none
reaches past its block. Bytes that say anything else are refused before anything is allocated.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from airflow_provider_azstack.errors import Tampered
from airflow_provider_azstack.repo.blocks.packs import BLOCK_SIZE
from airflow_provider_azstack.repo.blocks.reader import CanRead
from airflow_provider_azstack.repo.blocks.writer import BlockWriter

# A changed page costs its region's group once more (about 10 KiB for an unfragmented 256 MiB), and
# an idle region costs its id in every image (47 bytes). At 256 MiB both stay small: an image of
# 1 TiB is under 200 KiB, and one changed page in every region adds 2.5 times its own size.
REGION_BYTES = 256 * 1024**2
BLOCK_ID_BYTES = 32

# A group is a 16-byte head, the ids of its blocks in order of first use, and three columns of
# little-endian numbers: lengths, block numbers (0 is zero, n is the n-th id), starts. Offsets are
# not stored: they are the sum of the lengths before, so no run can overlap, repeat or be missing.
_GROUP = b"runs"
# A group that does not fit into one block is cut into parts; its head then lists their ids.
_PARTS = b"part"
_HEAD = struct.Struct("<4sIII")  # kind, runs, ids, length of the region or of the joined parts
_MAX_RUNS = 2**20
_MAX_PARTS = 64


class Run(NamedTuple):
    """``length`` bytes at ``offset``: those at ``start`` of a block, or zeros (no block)."""

    offset: int
    length: int
    block_id: bytes | None = None
    start: int = 0

    @property
    def end(self) -> int:
        """The first offset after the run."""
        return self.offset + self.length

    def cut(self, offset: int, end: int) -> "Run":
        """Return the part of the run between two offsets that it covers."""
        start = self.start + offset - self.offset if self.block_id else 0
        return Run(offset, end - offset, self.block_id, start)


def join(runs: Iterable[Run]) -> list[Run]:
    """Return the same content in as few runs as possible."""
    joined: list[Run] = []
    last = None
    for run in runs:
        if (
            last is not None
            and last.block_id == run.block_id
            and last.offset + last.length == run.offset
            and (run.block_id is None or last.start + last.length == run.start)
        ):
            last = Run(last.offset, last.length + run.length, last.block_id, last.start)
            joined[-1] = last
        else:
            last = run
            joined.append(run)
    return joined


def encode_runs(runs: Sequence[Run]) -> bytes:
    """
    Return the group's bytes: the same for the same runs, and free of absolute offsets.

    :raises ValueError: the runs do not cover one stretch exactly once.
    """
    numbers: dict[bytes | None, int] = {None: 0}
    expected = runs[0].offset
    for offset, length, block_id, start in runs:
        if offset != expected or length <= 0 or start < 0:
            raise ValueError(f"the run at {offset} does not follow the one before it")
        expected += length
        numbers.setdefault(block_id, len(numbers))
    ids = [block_id for block_id in numbers if block_id is not None]
    count = len(runs)
    _, lengths, blocks, starts = zip(*runs, strict=True)
    columns = struct.pack(f"<{3 * count}I", *lengths, *map(numbers.__getitem__, blocks), *starts)
    head = _HEAD.pack(_GROUP, count, len(ids), expected - runs[0].offset)
    return b"".join((head, *ids, columns))


def decode_runs(data: bytes, offset: int, length: int) -> list[Run]:
    """
    Return the runs of the region that covers ``length`` bytes from ``offset``.

    :raises Tampered: the bytes are not exactly such a group.
    """
    count, id_count = _checked_head(data, length)
    ids_end = _HEAD.size + id_count * BLOCK_ID_BYTES
    ids: list[bytes | None] = [None, *_ids(data, id_count)]
    columns = struct.unpack_from(f"<{3 * count}I", data, ids_end)
    lengths, numbers, starts = (columns[i * count : (i + 1) * count] for i in range(3))
    if sum(lengths) != length or min(lengths) == 0:
        raise Tampered("a group of runs does not cover its region exactly once")
    if len(set(ids)) != len(ids) or set(numbers) | {0} != set(range(len(ids))):
        raise Tampered("a group of runs has block ids twice, too many or too few")
    runs = []
    for size, number, start in zip(lengths, numbers, starts, strict=True):
        if start + size > BLOCK_SIZE if number else start:
            raise Tampered(f"the run at offset {offset} reaches past its block")
        runs.append(Run(offset, size, ids[number], start))
        offset += size
    return runs


def block_ids(data: bytes) -> tuple[bytes, ...]:
    """
    Return the ids of the blocks that a group's runs refer to, without decoding the runs.

    :raises Tampered: the bytes do not have a group's form.
    """
    said_length = _HEAD.unpack_from(data.ljust(_HEAD.size, b"\0"))[3]
    _, id_count = _checked_head(data, said_length)
    return _ids(data, id_count)


def _ids(data: bytes, count: int) -> tuple[bytes, ...]:
    # Four times as fast as slices. `struct` itself would keep the last hundred formats, which are
    # as large as the groups: an object of one's own is not kept.
    return struct.Struct(f"{BLOCK_ID_BYTES}s" * count).unpack_from(data, _HEAD.size)


def _checked_head(data: bytes, length: int) -> tuple[int, int]:
    if len(data) < _HEAD.size:
        raise Tampered("a group of runs is cut short")
    kind, count, id_count, said_length = _HEAD.unpack_from(data)
    size = _HEAD.size + id_count * BLOCK_ID_BYTES + 12 * count
    if kind != _GROUP or not 0 < count <= _MAX_RUNS or id_count > count or size != len(data):
        raise Tampered("a group of runs has a malformed head")
    if said_length != length:
        raise Tampered(f"a group of runs is for {said_length} bytes, the region has {length}")
    return count, id_count


def store_runs(writer: BlockWriter, runs: Sequence[Run]) -> tuple[bytes | None, int]:
    """Store a region's runs; return the group's block id, None for all zero, and the new bytes."""
    runs = join(runs)
    if len(runs) == 1 and runs[0].block_id is None:
        return None, 0
    data = encode_runs(runs)
    if len(data) <= BLOCK_SIZE:
        return writer.add(data)
    parts = [writer.add(data[i : i + BLOCK_SIZE]) for i in range(0, len(data), BLOCK_SIZE)]
    head = _HEAD.pack(_PARTS, 0, len(parts), len(data))
    root = writer.add(head + b"".join(part.block_id for part in parts))
    return root.block_id, root.new_bytes + sum(part.new_bytes for part in parts)


def load_runs(reader: CanRead, group: bytes | None, offset: int, length: int) -> list[Run]:
    """
    Return a region's runs, read back from its group.

    :raises MissingBlock: the group is in no pack.
    :raises Tampered: it is not a group of that region's length.
    """
    if group is None:
        return [Run(offset, length)]
    data, _ = load_group(reader, group)
    return decode_runs(data, offset, length)


def load_group(reader: CanRead, group: bytes) -> tuple[bytes, list[bytes]]:
    """
    Return a group's bytes, and the ids of the further blocks that it takes when it is large.

    :raises MissingBlock: the group is in no pack.
    """
    data = reader.read(group)
    ids = part_ids(data)
    return (_joined_parts(reader, data, ids), ids) if ids else (data, [])


def part_ids(root: bytes) -> list[bytes]:
    """
    Return the ids of a large group's parts, of which ``root`` is the list; none of a small group.

    :raises Tampered: it is such a list, and malformed.
    """
    if root[:4] != _PARTS:
        return []
    _, _, count, size = _HEAD.unpack_from(root.ljust(_HEAD.size, b"\0"))
    fits = (count - 1) * BLOCK_SIZE < size <= count * BLOCK_SIZE
    if not 1 < count <= _MAX_PARTS or len(root) != _HEAD.size + count * BLOCK_ID_BYTES or not fits:
        raise Tampered("the parts of a group of runs are malformed")
    return [root[i : i + BLOCK_ID_BYTES] for i in range(_HEAD.size, len(root), BLOCK_ID_BYTES)]


def _joined_parts(reader: CanRead, root: bytes, ids: Sequence[bytes]) -> bytes:
    _, _, _, size = _HEAD.unpack_from(root)
    data = b"".join(reader.read(block_id) for block_id in ids)
    if len(data) != size:
        raise Tampered("the parts of a group of runs do not add up")
    return data
