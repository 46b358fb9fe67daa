"""
Copying blocks that are needed out of packs that go.

Owns the copying; which blocks, and what becomes of the packs, the collector decides.
Invariant: when this returns, every block is in a pack that stays, durable and indexed, and our
session was alive after that. So a collector that saw no session of ours sees the copies.
"""

import contextlib
import logging
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from airflow_provider_azstack.repo.blocks.index import Index
from airflow_provider_azstack.repo.blocks.packs import owner_of
from airflow_provider_azstack.repo.blocks.reader import BlockReader
from airflow_provider_azstack.repo.blocks.writer import BlockWriter
from airflow_provider_azstack.repo.parallel import in_parallel
from airflow_provider_azstack.repo.sessions import Session, bad_blocks

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository

log = logging.getLogger(__name__)


def copy_blocks(
    repository: "Repository",
    session: Session,
    index: Index,
    block_ids: Iterable[bytes],
    *,
    going: Collection[str],
    threads: int,
) -> int:
    """
    Store blocks again, compressed as they are; return how many bytes that took.

    :param going: object names of packs that do not count: condemned ones, or about to be.
    :raises IntegrityError: a block cannot be read.
    :raises StoreFull: there is no room for the copies.
    :raises SessionLost: we were fenced; another collector may not have seen the copies.
    """
    index.admit(frozenset(going), bad_blocks(repository.records))
    reader = BlockReader(repository.records, index)
    writer = BlockWriter(repository.records, index, owner=owner_of(session.id))
    copied = 0
    blocks = in_parallel(reader.read_packed, block_ids, threads)
    with contextlib.closing(blocks), writer:
        for data, packed in blocks:
            copied += writer.add(data, packed).new_bytes
        writer.flush()
    session.check()
    return copied
