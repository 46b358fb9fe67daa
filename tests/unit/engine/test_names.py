"""What we create is recognised as ours; nothing else is."""

import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_azstack.engine import names
from airflow_provider_azstack.model import Job

pytestmark = pytest.mark.tier1

JOB = Job(run="r" * 120, session="s" * 32, policy="p", stack="stack.example")
VM = "cb88d9c0-8cae-4d85-8c24-6be195f408e3"
REPOSITORY = "ab" * 16


def test_a_snapshot_tells_whose_it_is() -> None:
    set_id = names.new_attempt_id(JOB.session)
    tags = names.tags(JOB, REPOSITORY, VM, set_id)
    for disk_key in ("os", "data-0", "data-999"):
        name = names.snapshot_name(VM, disk_key, set_id)
        assert len(name) <= 80
        assert names.owner_of_snapshot(name, tags) == (
            REPOSITORY,
            JOB.session,
            JOB.run,
            VM,
            set_id,
        )
    metadata = names.blob_metadata(JOB, REPOSITORY, VM, set_id)
    assert all(name.isidentifier() for name in metadata)
    assert all(len(value) <= 256 for value in tags.values())
    upper = {name.upper(): value for name, value in metadata.items()}
    assert names.owner_of_blob_snapshot(upper) == names.owner_of_blob_snapshot(metadata)
    assert names.owner_of_blob_snapshot(metadata) is not None


def test_every_tag_and_the_name_must_fit_together() -> None:
    set_id = names.new_attempt_id(JOB.session)
    name = names.snapshot_name(VM, "os", set_id)
    tags = names.tags(JOB, REPOSITORY, VM, set_id)
    for tag in tags:
        without = {key: value for key, value in tags.items() if key != tag}
        assert names.owner_of_snapshot(name, without) is None
    other = names.new_attempt_id(JOB.session)
    assert names.owner_of_snapshot(name, names.tags(JOB, REPOSITORY, VM, other)) is None
    stranger = str(uuid.uuid4())
    assert names.owner_of_snapshot(name, names.tags(JOB, REPOSITORY, stranger, set_id)) is None
    assert names.owner_of_snapshot(f"{name}-copy", tags) is None
    assert names.owner_of_snapshot(f"x{name}", tags) is None
    foreign = {**tags, names.SESSION: "another"}
    assert names.owner_of_snapshot(name, foreign) is None


@given(st.text(max_size=80), st.dictionaries(st.text(max_size=40), st.text(max_size=40)))
def test_what_others_made_is_never_taken_for_ours(name: str, tags: dict[str, str]) -> None:
    assert names.owner_of_snapshot(name, tags) is None
    assert names.owner_of_blob_snapshot(tags) is None


def test_ids_of_points_sort_by_time_and_repeat() -> None:
    set_id = names.new_attempt_id(JOB.session)
    first = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    east = timezone(timedelta(hours=9))
    moments = [
        first,
        first.replace(microsecond=1),
        (first + timedelta(hours=1)).astimezone(east),
        first + timedelta(hours=2),
    ]
    ids = [names.point_id(moment, set_id) for moment in moments]
    assert ids == sorted(ids) == [names.point_id(moment, set_id) for moment in moments]
    assert names.is_of_session(set_id, JOB.session)
    assert not names.is_of_session(set_id, "another")
    assert names.new_attempt_id(JOB.session) != set_id


def test_sets_are_numbered_within_their_session() -> None:
    """Derived: whoever takes the first set of a session would record it under the same name."""
    first, second = (names.set_id(JOB.session, number) for number in (1, 2))
    assert first == names.set_id(JOB.session, 1) != second
    assert first < second
    assert names.is_of_session(first, JOB.session)
    assert names.set_id("another", 1) != first
    assert [names.set_number(name) for name in (first, second)] == [1, 2]
    assert names.set_number(f"{names.new_attempt_id(JOB.session)}.stopping") == 0
