"""Joining parts: the disk as if it had been read in one piece, or the reason why not."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support.disks import SparseDisk, assert_same, back_up, open_session

from airflow_provider_azstack.engine.backup.join import NotWholeError, joined, whole_image
from airflow_provider_azstack.engine.backup.parts import stretches
from airflow_provider_azstack.errors import Tampered
from airflow_provider_azstack.model import ChangesKnown, DiskPart, Image, from_json, to_json
from airflow_provider_azstack.repo.images.reader import ImageReader
from airflow_provider_azstack.repo.images.runs import REGION_BYTES

pytestmark = pytest.mark.tier1

MIB = 1024**2
SIZE = 3 * REGION_BYTES + 5 * MIB + 512
PARTS = stretches(SIZE, 3)


def disk_with_data() -> SparseDisk:
    disk = SparseDisk(SIZE, footer=b"conectix".ljust(512, b"\1"))
    noise = Random(1)
    for region in range(4):
        disk.write(region * REGION_BYTES, noise.randbytes(64 * 1024))
    disk.write(2 * REGION_BYTES - 4096, noise.randbytes(8192))
    return disk


@pytest.mark.parametrize("known", ["difference", "allocated", "everything"])
def test_parts_joined_are_the_disk_read_in_one_piece(known: str) -> None:
    """The same groups region by region, first and incremental; counts are the parts' own."""
    with open_session() as session:
        disk = disk_with_data()
        first = back_up(disk, session)
        disk.freeze()
        disk.write(REGION_BYTES - 100, b"x" * 200)
        disk.clear(2 * REGION_BYTES, 8192)
        whole = back_up(disk, session, first, trust=known)
        parts = [back_up(disk, session, first, trust=known, part=part) for part in PARTS]
        image = joined(parts[::-1])
        assert image.regions == whole.regions
        assert (image.footer, image.changes_known) == (whole.footer, whole.changes_known)
        assert image.changed_bytes == whole.changed_bytes
        assert image.based_on == whole.based_on
        assert image == joined(parts), "the same parts are always the same image"
        session.put_image(image)
        assert_same(disk, image, session)


def test_a_part_reads_nothing_outside_of_it_and_is_no_image_of_a_disk() -> None:
    with open_session() as session:
        disk = disk_with_data()
        part = back_up(disk, session, part=PARTS[1], trust="everything")
        assert disk.reads
        assert all(
            PARTS[1].first <= offset and offset + length <= PARTS[1].end
            for offset, length in disk.reads
        )
        held = [number for number, group in enumerate(part.regions) if group is not None]
        assert held == [1]
        with pytest.raises(Tampered, match="part of a disk"):
            ImageReader(part, session.reader())


def test_progress_of_a_part_ends_at_its_end() -> None:
    with open_session() as session:
        told = []
        back_up(disk_with_data(), session, part=PARTS[0], progress=told.append)
        assert (told[-1].done_bytes, told[-1].percent) == (PARTS[0].length, 100.0)


@pytest.mark.parametrize(
    "part", [DiskPart(1, REGION_BYTES), DiskPart(0, 5), DiskPart(0, 0), DiskPart(0, SIZE + 1)]
)
def test_a_part_that_is_not_made_of_whole_regions_is_refused(part: DiskPart) -> None:
    with open_session() as session, pytest.raises(ValueError, match="whole regions"):
        back_up(disk_with_data(), session, part=part)


@pytest.fixture(scope="module")
def parts() -> list[Image]:
    with open_session() as session:
        disk = disk_with_data()
        return [back_up(disk, session, part=part) for part in PARTS]


def spoiled(image: Image, what: str) -> Image:
    other = replace(image.snapshot, unique_id="another")
    return {
        "set": replace(image, set_id="set-2"),
        "snapshot": replace(image, snapshot=other),
        "footer": replace(image, footer=b""),
        "size": replace(image, size_bytes=SIZE + REGION_BYTES),
        "regions": replace(image, regions=image.regions[:-1]),
    }[what]


@pytest.mark.parametrize("what", ["set", "snapshot", "footer", "size", "regions"])
def test_parts_that_are_not_of_one_snapshot_are_refused(parts: list[Image], what: str) -> None:
    """F-P3: of another set, disk or size."""
    with pytest.raises(NotWholeError, match="not of one snapshot"):
        joined([parts[0], spoiled(parts[1], what), parts[2]])


def test_gaps_overlaps_and_whole_disks_are_refused(parts: list[Image]) -> None:
    """F-P3: what is missing, or there twice, is told by its place."""
    with pytest.raises(NotWholeError, match="gap"):
        joined([parts[0], parts[2]])
    with pytest.raises(NotWholeError, match="gap"):
        joined(parts[1:])
    with pytest.raises(NotWholeError, match="end at"):
        joined(parts[:2])
    longer = replace(parts[0], part=DiskPart(0, 2 * REGION_BYTES))
    with pytest.raises(NotWholeError, match="overlap"):
        joined([longer, *parts[1:]])
    with pytest.raises(NotWholeError, match="overlap"):
        joined([parts[0], *parts])
    with pytest.raises(NotWholeError, match="no part"):
        joined([])
    with pytest.raises(NotWholeError, match="no part"):
        joined([replace(parts[0], part=None)])


@settings(max_examples=50)
@given(st.data())
def test_whatever_is_left_out_or_twice_nothing_but_a_whole_disk_is_joined(
    parts: list[Image], data: st.DataObject
) -> None:
    """F-P3: each part exactly once makes a disk; every other choice is refused."""
    chosen = data.draw(st.lists(st.sampled_from(parts), max_size=5))
    if sorted(image.part.first for image in chosen) == [part.first for part in PARTS]:
        assert joined(chosen).regions == joined(parts).regions
    else:
        with pytest.raises(NotWholeError):
            joined(chosen)


def test_of_several_tries_one_counts_and_a_whole_image_is_taken_as_it_is(
    parts: list[Image],
) -> None:
    again = replace(parts[1], name=parts[1].name + "0")
    assert whole_image(PARTS, [*parts, again], is_lied=False) == joined(parts)
    whole = replace(joined(parts), name="images/run-1/whole")
    assert whole_image(PARTS, [*parts, whole], is_lied=False) is whole
    with pytest.raises(NotWholeError, match="not every part"):
        whole_image(PARTS, parts[1:], is_lied=False)
    with pytest.raises(NotWholeError, match="no part"):
        whole_image([], parts, is_lied=False)


@pytest.mark.parametrize("known", ["difference", "allocated"])
def test_a_part_that_believed_a_liar_does_not_count(
    parts: list[Image], known: ChangesKnown
) -> None:
    parts = [replace(part, changes_known="everything") for part in parts]
    believing = replace(parts[1], changes_known=known)
    images = [parts[0], believing, parts[2]]
    assert whole_image(PARTS, images, is_lied=False) == joined(images)
    with pytest.raises(NotWholeError, match="lied"):
        whole_image(PARTS, images, is_lied=True)
    early = replace(joined(images), changes_known=known)
    with pytest.raises(NotWholeError, match="lied"):
        whole_image(PARTS, [*images, early], is_lied=True)
    anew = replace(parts[1], name=parts[1].name + "1", changes_known="everything")
    image = whole_image(PARTS, [*images, anew, early], is_lied=True)
    assert image.changes_known == "everything"


def test_of_copies_of_a_task_the_one_that_found_out_a_lie_counts(parts: list[Image]) -> None:
    """F-A3, F-W10: of a whole disk that two read at once, one believed what the other did not."""
    whole = replace(joined(parts), name="images/run-1/a", changes_known="difference")
    anew = replace(whole, name="images/run-1/b", changes_known="everything")
    assert whole_image([None], [whole, anew], is_lied=False) is anew


def test_parts_that_are_based_on_different_images_take_nothing_on_trust(
    parts: list[Image],
) -> None:
    """Then completion looks at every block."""
    ones = [replace(image, based_on="images/one") for image in parts]
    assert joined(ones).based_on == "images/one"
    assert joined([parts[0], *ones[1:]]).based_on == "images/one"
    assert joined([replace(ones[0], based_on="images/two"), *ones[1:]]).based_on == ""


def test_images_of_whole_disks_are_written_as_they_always_were(parts: list[Image]) -> None:
    """A version that knows no parts reads them: nothing new stands in them."""
    whole = joined(parts)
    text = to_json(whole)
    assert b'"part"' not in text
    assert from_json(Image, text, "image") == whole
    assert b'"part":' in to_json(parts[0])
