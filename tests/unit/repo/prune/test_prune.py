"""What a collector deletes, and what it keeps."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace
from oracle import assert_repository_sound
from support.points import _image, vm_key
from support.pruning import (
    names,
    objects,
    through,
    used,
    used_repository,
)
from support.repositories import a_set, reopen

from airflow_provider_azstack.errors import MissingBlock
from airflow_provider_azstack.model import Job, JobRecord
from airflow_provider_azstack.repo.blocks.packs import OWNER_BYTES
from airflow_provider_azstack.repo.prune import litter, liveness
from airflow_provider_azstack.repo.prune.collector import prune
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sealing.records import CondemnedPacks
from airflow_provider_azstack.store.guard import ReadOnlyStore

pytestmark = pytest.mark.tier1


def test_what_nothing_needs_goes_and_all_points_restore(repository: Repository) -> None:
    report = prune(repository, dead_sessions=[used().dead])
    assert len(report.of("condemn")) == 5
    assert len(report.of("repack")) == 1
    assert len([row for row in report.of("delete") if row.name.startswith("packs/")]) == 3
    assert report.freed_bytes > 60_000
    assert prune(repository).rows == ()
    assert_repository_sound(repository, used().expected)


def test_what_does_not_fit_into_memory_is_looked_at_by_and_by(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "_BATCH", 1)
    monkeypatch.setattr(liveness, "_HEAP", 2)
    report = prune(repository, dead_sessions=[used().dead])
    assert len(report.of("condemn")) == 5
    assert_repository_sound(repository, used().expected)


def test_the_index_names_no_pack_that_is_gone(repository: Repository) -> None:
    """C6."""
    prune(repository, dead_sessions=[used().dead])
    fresh = reopen(repository)
    packs = {name.rpartition("/")[2] for name in names(repository, "packs/")}
    index = fresh.open_session("look")._own_index()
    index.refresh()
    with index.database() as database:
        assert {pack.hex() for (pack,) in database.execute("SELECT id FROM packs")} == packs


def test_a_cache_that_lies_deletes_nothing(repository: Repository, tmp_path: Path) -> None:
    """F-S22: a bit that flipped in this host's cache put blocks into another pack."""
    cached = Repository(repository.store, repository.keys, cache_directory=tmp_path)
    reader = cached.reader()
    with pytest.raises(MissingBlock):
        reader.read(bytes(32))  # loads it
    cached.close()
    [file] = tmp_path.glob("*/index-*.sqlite")
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        packs = [number for (number,) in database.execute("SELECT number FROM packs")]
        assert len(packs) > 4
        database.execute("UPDATE blocks SET pack = ? WHERE raw > 4000", (packs[-1],))
    report = prune(cached, dead_sessions=[used().dead])
    assert len(report.of("condemn")) == 5
    assert_repository_sound(repository, used().expected)


def test_a_dry_run_writes_nothing_and_foresees_all(repository: Repository) -> None:
    """It needs no more than the right to read."""
    reader = through(repository, ReadOnlyStore(repository.store))
    foreseen = prune(reader, dry_run=True, dead_sessions=[used().dead])
    done = prune(repository, dead_sessions=[used().dead])
    assert set(foreseen.rows) == set(done.of("fence", "condemn", "repack"))
    assert foreseen.dry_run
    assert not done.dry_run


def test_a_living_session_is_waited_for(repository: Repository) -> None:
    """C4: whoever lived when the list was published may count on what it names."""
    restore = repository.open_session("restore")
    packs = names(repository, "packs/")
    first = prune(repository, dead_sessions=[used().dead])
    [row] = first.of("wait")
    assert restore.id in row.because
    assert packs <= names(repository, "packs/")
    assert not prune(repository, dry_run=True).of("delete")
    again = prune(repository)
    assert not again.of("condemn", "repack"), "it is condemned once"
    restore.close()
    assert prune(repository, dry_run=True).of("delete")
    assert prune(repository).of("delete")
    assert not names(repository, "condemned/")
    assert_repository_sound(repository, used().expected)


def test_packs_and_images_of_a_living_run_are_not_even_condemned(repository: Repository) -> None:
    """F-K4: a prune in the middle of a backup costs that backup nothing."""
    report = prune(repository)  # the run that is called dead elsewhere lives
    assert not {row.name for row in report.rows if "dead" in row.name}
    owner = bytes.fromhex(used().dead)[:OWNER_BYTES].hex()
    assert not {row.name for row in report.of("condemn") if row.name.endswith(owner)}


@pytest.mark.parametrize("text", [b"\xff", b'{"purpose": "", "run": "../points"}'])
def test_a_session_that_does_not_say_its_run_keeps_all_runs(
    repository: Repository, text: bytes
) -> None:
    """F-H9: sessions are plain objects; one that is not readable is a reason to keep."""
    repository.store.put("sessions/planted", text)
    report = prune(repository, dead_sessions=[used().dead])
    assert not [row for row in report.of("condemn") if row.name.startswith("images/")]


def test_a_deleted_session_costs_a_backup_and_no_more(repository: Repository) -> None:
    """F-H9: whoever deletes a session object ends a run; its blocks go, and nothing else."""
    disk = used().disks[3]
    session = repository.open_session("backup", run="live")
    _image(session, "os", disk, run="live", key=vm_key(3), day=0, incremental=False)
    repository.store.delete(f"sessions/{session.id}")
    prune(repository, dead_sessions=[used().dead])
    assert not list(repository.images("live"))
    assert_repository_sound(repository, used().expected)


def test_a_condemned_list_that_no_key_holder_wrote_is_ignored_and_told(
    repository: Repository,
) -> None:
    """F-H9: our collector deletes nothing on the word of a list that it cannot authenticate."""
    living = sorted(names(repository, "packs/"))
    other = used_repository(3).open()
    record = CondemnedPacks(packs=tuple(name.rpartition("/")[2] for name in living))
    other.records.put("condemned/foreign/packs", record)
    planted = {
        "condemned/foreign/packs": objects(other)["condemned/foreign/packs"],
        "condemned/foreign/alive": b"",
        "condemned/garbage/packs": b"all of them",
        "condemned/odd": b"",
    }
    objects(repository).update(planted)
    report = prune(repository, dead_sessions=[used().dead])
    ignored = {row.name for row in report.of("ignore")}
    assert ignored == {"condemned/foreign", "condemned/garbage", "condemned/odd"}
    assert planted.keys() <= objects(repository).keys()
    for name in planted:
        repository.store.delete(name)  # as the report says
    assert_repository_sound(reopen(repository), used().expected)


def test_an_unauthenticated_alive_does_not_open_the_gate(repository: Repository) -> None:
    """F-H9: an empty list of sessions, planted, would let the deletion start at once."""
    restore = repository.open_session("restore")
    prune(repository, dead_sessions=[used().dead])
    [alive] = [name for name in names(repository, "condemned/") if name.endswith("alive")]
    objects(repository)[alive] = b"planted"
    packs = names(repository, "packs/")
    assert prune(repository).of("ignore")
    assert names(repository, "packs/") == packs
    restore.close()


def test_a_record_that_a_killed_collector_did_not_stamp_is_stamped_by_the_next(
    repository: Repository,
) -> None:
    session = repository.open_session("backup")
    prune(repository, dead_sessions=[used().dead])
    [alive] = [name for name in names(repository, "condemned/") if name.endswith("alive")]
    del objects(repository)[alive]
    assert prune(repository).of("wait")
    session.close()
    assert prune(repository).of("delete")
    repository.store.put("condemned/ended/alive", b"a killed collector's last word")
    prune(repository)
    assert not names(repository, "condemned/")


def test_notes_of_a_stop_stay_until_the_start_is_noted(repository: Repository) -> None:
    """The janitor starts by them the VMs that a killed run left stopped."""
    session = repository.open_session("backup", run="stopped")
    for set_id in ("a.stopping", "b.stopping", "b.started", "c"):
        session.put_set(replace(a_set("stopped"), id=set_id))
    session.close()
    prune(repository, dead_sessions=[used().dead])
    left = {name.rpartition("/")[2] for name in names(repository, "sets/stopped/")}
    assert left == {"a.stopping"}


def test_records_of_jobs_are_kept_for_points_and_for_reports(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(litter, "JOBS_KEPT", 2)
    session = repository.open_session("backup")
    for number in range(4):
        at = datetime(2026, 1, 1 + number, tzinfo=UTC)
        job = Job(run=f"failed-{number}", session=session.id, policy="p", stack="s")
        record = JobRecord(job=job, status="failed", started_at=at, ended_at=at, vms=())
        session.put_job(record)
        session.put_job(record)
    session.close()
    prune(repository, dead_sessions=[used().dead])
    left = {name for name in names(repository, "jobs/") if "failed" in name}
    assert left == {"jobs/failed-2/0002", "jobs/failed-3/0002"}
    assert {f"jobs/{point.run}/0001" for point in repository.points()} <= names(repository, "jobs/")


def test_many_small_segments_become_few(repository: Repository) -> None:
    prune(repository, dead_sessions=[used().dead])
    session = repository.open_session("backup", run="many")
    with session.writer() as writer:
        for number in range(70):
            writer.add(bytes([number]) * 50)
            writer.flush()
    assert len(names(repository, "index/")) > 70
    session.close()
    prune(repository)
    assert len(names(repository, "index/")) < 5
    assert_repository_sound(reopen(repository), used().expected)


def test_a_segment_of_packs_that_vanished_is_replaced(repository: Repository) -> None:
    """A fenced writer that resumes puts one; nobody believes it, and it does not stay for ever."""
    session = repository.open_session("backup", run="sleeper")
    with session.writer() as writer:
        writer.add(b"what the sleeper had in hand")
        writer.flush()
    owner = bytes.fromhex(session.id)[:OWNER_BYTES].hex()
    [pack] = [name for name in names(repository, "packs/") if name.endswith(owner)]
    session.close()
    repository.store.delete(pack)
    prune(repository, dead_sessions=[used().dead])
    index = repository.open_session("look")._own_index()
    index.refresh()
    with index.database() as database:
        assert not database.execute(
            "SELECT 1 FROM packs WHERE id = ?", (bytes.fromhex(pack.rpartition("/")[2]),)
        ).fetchone()


def test_claims_of_ended_sessions_are_removed(repository: Repository) -> None:
    session = repository.open_session("backup", run="claims")
    session.claim(vm_key(9))
    prune(repository, dead_sessions=[used().dead])
    assert names(repository, "claims/") == {f"claims/{vm_key(9)}/{session.id}"}
