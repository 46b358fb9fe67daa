"""
One image of a disk from the images of its parts.

Owns which parts make a whole and how they become one image; puts and reads nothing.
Invariant: every region of a joined image is of exactly one part, and all parts are of one snapshot
of one set. What does not fit together so is refused with the reason, never filled up.
"""

import hashlib
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from airflow_provider_azstack.engine.backup.changes import SOURCES
from airflow_provider_azstack.model import DiskPart, Image

Part = DiskPart | None  # None: the whole disk
_GB = 1e9


class NotWholeError(Exception):
    """Of a disk there is no whole image; says what is missing or wrong."""


def lied_topic(set_id: str, disk_key: str) -> str:
    """Return what the note is called that the stack lied about a disk of a set."""
    return f"lied-{set_id}-{disk_key}"


def is_doubtful(image: Image) -> bool:
    """Tell whether a part would be wrong if the stack's word about the disk was a lie."""
    return image.part is not None and image.changes_known != "everything"


def called(disk_key: str, part: Part) -> str:
    """Return what people call a disk or a part of it."""
    if part is None:
        return disk_key
    first, end = (round(offset / _GB, 3) for offset in (part.first, part.end))
    return f"{disk_key} ({first:g} to {end:g} GB)"


def whole_image(wanted: Iterable[Part], images: Iterable[Image], *, is_lied: bool) -> Image:
    """
    Return the image of a whole disk: one that is there, or its parts joined, not put yet.

    :param wanted: what the manifests say is streamed of the disk.
    :param images: of one snapshot of one set; those of several tries may be there.
    :param is_lied: the stack was caught lying about the disk: what believed it does not count, nor
        does what was joined of that before it came out.
    :raises NotWholeError: something is missing, or does not fit together.
    """
    by_part: dict[Part, Image] = {}
    doubtful: dict[Part, Image] = {}
    for image in sorted(images, key=_surest):
        # Who found the lie out read everything: so an image that was joined since then says so.
        is_early = image.part is None and image.changes_known != "everything"
        kept = doubtful if is_lied and (is_early or is_doubtful(image)) else by_part
        kept.setdefault(image.part, image)
    if None in by_part:
        return by_part[None]
    parts = [part for part in wanted if part is not None]
    for part in parts:
        if part not in by_part and part in doubtful:
            which = called(doubtful[part].snapshot.disk_key, part)
            raise NotWholeError(
                f"the stack lied about what changed, and {which} was not read again: trigger a new "
                "run"
            )
        if part not in by_part:
            raise NotWholeError("not every part of it has an image of this set")
    return joined([by_part[part] for part in parts])


def joined(parts: Sequence[Image]) -> Image:
    """
    Return the image of a disk whose parts these are, in any order.

    Its name follows from theirs: the same parts are always the same image.

    :raises NotWholeError: they are not of one snapshot, or do not cover the disk exactly once.
    """
    ordered = sorted(parts, key=lambda image: (_part(image).first, image.name))
    _require_one_disk(ordered)
    _require_every_byte_once(ordered)
    first = ordered[0]
    regions: list[bytes | None] = []
    for image in ordered:
        part = _part(image)
        end = -(-part.end // image.region_bytes)
        regions += image.regions[part.first // image.region_bytes : end]
    digest = hashlib.sha256("\n".join(image.name for image in ordered).encode()).hexdigest()[:8]
    before = {image.based_on for image in ordered} - {""}
    return replace(
        first,
        name=f"{first.name.rpartition('/')[0]}/{first.set_id}-joined-{digest}",
        part=None,
        regions=tuple(regions),
        changes_known=max((image.changes_known for image in ordered), key=SOURCES.index),
        # What several would have had to be based on is unknown: then nothing is taken on trust.
        based_on=before.pop() if len(before) == 1 else "",
        changed_bytes=sum(image.changed_bytes for image in ordered),
        read_bytes=sum(image.read_bytes for image in ordered),
        stored_bytes=sum(image.stored_bytes for image in ordered),
        seconds=sum(image.seconds for image in ordered),
        ended_at=max((image.ended_at for image in ordered if image.ended_at), default=None),
        host="",  # no stream made it
    )


def _surest(image: Image) -> tuple[int, str]:
    """Of two copies of a task one may have found out a lie that the other one believed."""
    return -SOURCES.index(image.changes_known), image.name


def _part(image: Image) -> DiskPart:
    if image.part is None:
        raise NotWholeError(f"{image.name} is no part of a disk")
    return image.part


def _require_one_disk(parts: Sequence[Image]) -> None:
    if not parts:
        raise NotWholeError("there is no part of it")

    def traits(image: Image) -> tuple[object, ...]:
        return (
            image.run,
            image.vm_key,
            image.set_id,
            image.snapshot,
            image.size_bytes,
            image.region_bytes,
            image.footer,
            len(image.regions),
        )

    for image in parts[1:]:
        if traits(image) != traits(parts[0]):
            raise NotWholeError(f"{image.name} and {parts[0].name} are not of one snapshot")


def _require_every_byte_once(parts: Sequence[Image]) -> None:
    done = 0
    for image in parts:
        part = _part(image)
        is_cut_right = part.first % image.region_bytes == 0 and part.first < part.end
        if part.first != done or not is_cut_right:
            what = "a gap" if part.first > done else "an overlap"
            raise NotWholeError(f"its parts have {what} at {min(part.first, done)}")
        done = part.end
    if done != parts[0].size_bytes:
        raise NotWholeError(f"its parts end at {done}, the disk at {parts[0].size_bytes}")
