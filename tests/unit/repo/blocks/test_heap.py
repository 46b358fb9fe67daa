"""Memory: what is freed is used again, and buffers cost only what is written to."""

import resource

import pytest

from airflow_provider_azstack.repo.blocks.heap import keep_freed_memory
from airflow_provider_azstack.repo.blocks.packs import BLOCK_SIZE, lazy_buffer

pytestmark = pytest.mark.tier1

_PAGE = resource.getpagesize()


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def test_blocks_that_were_freed_cost_no_page_faults_again() -> None:
    """As a disk is read in order: a few blocks live at a time, hundreds one after the other."""
    keep_freed_memory()
    alive = [bytearray(BLOCK_SIZE) for _ in range(8)]
    before = faults()
    for number in range(400):
        alive[number % 8] = bytearray(BLOCK_SIZE)
    assert faults() - before < 400 * BLOCK_SIZE // _PAGE // 4


def test_a_buffer_costs_only_the_pages_that_are_written_to() -> None:
    before = faults()
    buffer = lazy_buffer(32 * BLOCK_SIZE)
    buffer[:BLOCK_SIZE] = b"x" * BLOCK_SIZE
    assert faults() - before < 4 * BLOCK_SIZE // _PAGE
    assert buffer[-1] == 0
