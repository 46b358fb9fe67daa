"""What of a disk is written and noted as a whole, and how it is cut into shares."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.repositories import an_image

from airflow_provider_azstack.engine.restore import parts as restore_parts
from airflow_provider_azstack.engine.restore.parts import (
    Regions,
    is_written,
    part_name,
    parts,
    shares,
    unwritten,
)
from airflow_provider_azstack.engine.restore.records import FOOTER
from airflow_provider_azstack.model import Image

pytestmark = pytest.mark.tier1

HELD = st.lists(st.integers(0, 5), min_size=1, max_size=40)  # bytes of data by region; 0: none
NOTED = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 10)), max_size=4)


def image(held: list[int]) -> Image:
    regions = tuple(bytes(32) if size else None for size in held)
    return replace(an_image([]), regions=regions, size_bytes=len(held), region_bytes=1)


def names(noted: list[tuple[int, int]]) -> set[str]:
    return {part_name(Regions(first, first + length)) for first, length in noted}


@given(HELD, NOTED)
def test_parts_are_what_is_not_noted_in_order(
    held: list[int], noted: list[tuple[int, int]]
) -> None:
    """Whatever was noted, in whatever cut: it is not written again, and all else is."""
    done = names(noted)
    covered = {n for first, length in noted for n in range(first, first + length)}
    left = [n for n, size in enumerate(held) if size and n not in covered]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(restore_parts, "PART_BYTES", 6)
        found = list(parts(image(held), done, held.__getitem__))
    assert list(unwritten(image(held), done)) == left
    assert [n for p in found for n in range(*p) if held[n]] == left
    assert all(sum(held[p.first : p.end - 1]) < 6 for p in found)
    everything = done | {part_name(part) for part in found} | {FOOTER}
    assert is_written(image(held), everything)
    assert not is_written(image(held), everything - {FOOTER})
    if found:
        assert not is_written(image(held), everything - {part_name(found[-1])})


@given(HELD, NOTED, st.integers(1, 9), st.integers(0, 20))
def test_shares_cover_each_region_once_and_are_about_as_big(
    held: list[int], noted: list[tuple[int, int]], most: int, least: int
) -> None:
    """No region is nobody's or two hosts'; one share is more than another by a region at most."""
    done = names(noted)
    found = shares(image(held), done, held.__getitem__, most, least)
    shared = [n for s in found for n in unwritten(image(held), done, s.regions)]
    assert shared == list(unwritten(image(held), done))
    assert [s.data_bytes for s in found] == [
        sum(held[n] for n in unwritten(image(held), done, s.regions)) for s in found
    ]
    whole = sum(share.data_bytes for share in found)
    assert len(found) <= max(1, min(most, whole // max(1, least)))
    assert all(abs(s.data_bytes - whole / len(found)) <= 2 * max(held) for s in found)


def test_a_share_is_written_in_parts_of_its_own() -> None:
    """The cut of another share, or of the whole disk, does not matter."""
    held = [3, 0, 3, 3, 0, 3]
    first, second = shares(image(held), (), held.__getitem__, 2, 1)
    assert [s.regions for s in (first, second)] == [Regions(0, 3), Regions(3, 6)]
    done = {part_name(p) for p in parts(image(held), (), held.__getitem__, second.regions)}
    assert list(unwritten(image(held), done)) == [0, 2]


def test_other_names_among_the_notes_are_no_parts() -> None:
    done = {FOOTER, "shared", "part-000000", "part-000000-000002.x", "part-x-y"}
    assert list(unwritten(image([1, 1]), done)) == [0, 1]
