"""Volumes and their snapshots against byte arrays."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_azstack.emulator.layers import PAGE, Content, Volume

pytestmark = pytest.mark.tier1

PAGES = 12
_step = st.one_of(
    st.tuples(st.just("write"), st.integers(0, PAGES * PAGE - 1), st.integers(1, 3 * PAGE)),
    st.tuples(st.just("clear"), st.integers(0, PAGES - 1), st.integers(1, 3)),
    st.tuples(st.just("snapshot"), st.just(0), st.just(0)),
)


@settings(max_examples=60)
@given(st.lists(_step, max_size=14))
def test_snapshots_keep_their_bytes_and_differences_lead_from_one_to_the_next(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    """Applying a difference to the older snapshot's bytes gives the newer snapshot's bytes."""
    size = PAGES * PAGE + 512
    volume = Volume(tmp_path_factory.mktemp("layers"), size)
    model = bytearray(size)
    kept: list[tuple[Content, bytes]] = []
    for number, (kind, where, length) in enumerate(steps):
        if kind == "write":
            data = bytes([number + 1]) * min(length, size - where)
            volume.write(where, data)
            model[where : where + len(data)] = data
        elif kind == "clear":
            start = where * PAGE
            count = min(length * PAGE, PAGES * PAGE - start)
            volume.clear(start, count)
            model[start : start + count] = bytes(count)
        else:
            kept.append((volume.freeze(), bytes(model)))
    kept.append((volume.freeze(), bytes(model)))
    for content, expected in kept:
        assert content.read(0, size) == expected
    for (old, old_bytes), (new, new_bytes) in pairwise(kept):
        patched = bytearray(old_bytes)
        for start, end, written in new.changed(old, 0, size):
            patched[start:end] = new.read(start, end - start) if written else bytes(end - start)
        assert bytes(patched) == new_bytes
    allocated = bytearray(size)
    for start, end, written in kept[-1][0].allocated(0, size):
        assert written
        allocated[start:end] = kept[-1][0].read(start, end - start)
    assert bytes(allocated) == kept[-1][1]


def test_a_snapshot_of_a_large_disk_copies_nothing(tmp_path: Path) -> None:
    """1 TiB with something at both ends: the volume's one file stays as it is, beside no other."""
    volume = Volume(tmp_path, 1 << 40)
    volume.write(0, b"start")
    volume.write((1 << 40) - 5, b"final")
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    for _ in range(10):
        frozen = volume.freeze()
    assert list(tmp_path.iterdir()) == [file]
    assert file.stat().st_mtime_ns == written
    assert frozen.read((1 << 40) - 5, 5) == b"final"


def test_a_difference_needs_an_ancestor(tmp_path: Path) -> None:
    """Snapshots of different disks cannot be compared."""
    one, other = Volume(tmp_path, PAGE), Volume(tmp_path, PAGE)
    with pytest.raises(LookupError):
        one.freeze().changed(other.freeze(), 0, PAGE)


def test_a_copy_shares_layers_and_changes_alone(tmp_path: Path) -> None:
    """A disk made from a snapshot begins with its bytes and does not change it."""
    source = Volume(tmp_path, 4 * PAGE)
    source.write(0, b"a" * PAGE)
    frozen = source.freeze()
    copy = Volume(tmp_path, frozen.size_bytes, frozen.layer)
    copy.write(0, b"b")
    assert copy.content().read(0, 2) == b"ba"
    assert frozen.read(0, 2) == source.content().read(0, 2) == b"aa"


def test_writes_outside_the_disk_are_refused(tmp_path: Path) -> None:
    """A guest cannot write past the end."""
    with pytest.raises(ValueError, match="outside"):
        Volume(tmp_path, PAGE).write(PAGE - 1, b"ab")


def test_layers_leave_no_files_behind(tmp_path: Path) -> None:
    """When nobody holds a layer any more its file is gone."""
    volume = Volume(tmp_path, PAGE)
    volume.write(0, b"x")
    frozen = volume.freeze()
    assert len(list(tmp_path.iterdir())) == 1  # the new top has no file before it is written
    del volume, frozen
    assert list(tmp_path.iterdir()) == []
