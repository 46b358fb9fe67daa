"""Many blocks by few reads: the same bytes and the same errors as one by one."""

import pytest
from support.damage import flipped
from support.repositories import new_repository, noise, store_blocks
from support.stores import MemoryStore

from airflow_provider_azstack.errors import MissingBlock, Tampered
from airflow_provider_azstack.repo.blocks.gather import Gatherer
from airflow_provider_azstack.repo.blocks.packs import pack_name

pytestmark = pytest.mark.tier1


def test_blocks_come_as_they_were_stored_in_any_order() -> None:
    """Over several packs, asked for backwards, one that was not asked for beforehand as well."""
    repository = new_repository()
    session = repository.open_session("test")
    blocks = [noise(n, 300_000) for n in range(12)]
    ids = store_blocks(session, blocks)
    with Gatherer(session.reader(), 3) as gatherer:
        gathered = gatherer.gather(reversed(ids[1:]))
        assert [gathered.block(block_id) for block_id in ids] == blocks


def test_a_damaged_block_costs_no_neighbour() -> None:
    """The read for many fails; each is read again, and only the damaged one is an error."""
    store = MemoryStore()
    repository = new_repository(store)
    session = repository.open_session("test")
    blocks = [noise(n) for n in range(8)]
    ids = store_blocks(session, blocks)
    reader = session.reader()
    place = reader.locate(ids[3])
    assert place is not None
    name = pack_name(place.pack)
    store.objects[name] = flipped(store.objects[name], place.entry.end - 1)
    with Gatherer(reader, 2) as gatherer:
        gathered = gatherer.gather(ids)
        for number, block_id in enumerate(ids):
            if number == 3:
                with pytest.raises(Tampered, match=name):
                    gathered.block(block_id)
            else:
                assert gathered.block(block_id) == blocks[number]


def test_a_block_that_no_segment_names_is_missing() -> None:
    """An error waits for the one who asks for that block."""
    repository = new_repository()
    session = repository.open_session("test")
    [known] = store_blocks(session, [noise(1)])
    with Gatherer(session.reader(), 2) as gatherer:
        gathered = gatherer.gather([b"\0" * 32, known])
        assert gathered.block(known) == noise(1)
        with pytest.raises(MissingBlock, match="no index segment"):
            gathered.block(b"\0" * 32)
