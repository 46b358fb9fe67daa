"""The table of a run: bounded, failures first, whole sums, nothing secret, nothing alive."""

import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from airflow_provider_azstack.engine.summary import SHOWN, backup_table, prune_table, sync_table
from airflow_provider_azstack.model import (
    Job,
    JobRecord,
    JobVm,
    VmStatus,
    from_plain,
    to_plain,
)
from airflow_provider_azstack.repo.copies.outcome import Outcome
from airflow_provider_azstack.repo.prune.report import Report, Row

pytestmark = pytest.mark.tier1

BEGAN = datetime(2026, 5, 1, tzinfo=UTC)
KEY = "00000000-0000-0000-0000-000000000000"
MB = 1_000_000


def vm(name: str, read_mb: int = 0, status: VmStatus = "done", reason: str = "") -> JobVm:
    return JobVm(
        key=KEY,
        name=name,
        host="one",
        status=status,
        reason=reason,
        disks=2,
        disk_bytes=1000 * MB,
        changed_bytes=read_mb * MB,
        read_bytes=read_mb * MB,
        stored_bytes=read_mb * MB // 4,
        seconds=10.0,
    )


def record(*vms: JobVm) -> JobRecord:
    return JobRecord(
        job=Job(run="run-1", session="s", policy="p", stack="management.local.example"),
        status="partial",
        started_at=BEGAN,
        ended_at=BEGAN + timedelta(seconds=83),
        vms=vms,
    )


def test_ten_thousand_vms_make_a_short_table_with_whole_sums() -> None:
    vms = [vm(f"vm{number}", number) for number in range(9_997)]
    vms += [vm(f"bad{number}", 0, "failed", "its disk is gone") for number in range(3)]
    table = backup_table(record(*vms))
    names = [row["vm"] for row in table.rows]
    assert names[:4] == ["bad0", "bad1", "bad2", "vm9996"]
    assert (len(names), table.more) == (SHOWN, 10_000 - SHOWN)
    totals = table.plain()["totals"]
    assert (totals["done"], totals["failed"], totals["disks"]) == (9_997, 3, 20_000)
    assert totals["read_bytes"] == sum(range(9_997)) * MB
    assert "and 9950 more" in table.text()
    assert len(json.dumps(table.plain())) < 64_000


def test_a_row_says_what_moved_how_fast_and_why_not() -> None:
    text = backup_table(record(vm("web", 400), vm("db", 0, "failed", "quota"))).text()
    db, web = text.splitlines()[2:4]
    assert db.split() == ["db", "one", "failed", "2", "0", "bytes", "0", "bytes", "0", "bytes",
                          "-", "10", "s", "0", "bytes/s", "quota"]  # fmt: skip
    assert "400.0 MB  400.0 MB  100.0 MB    4.0  10 s  40.0 MB/s" in web
    assert "read from the stack: 400.0 MB; sent to the repository: 100.0 MB" in text
    assert text.endswith("took: 1 min 23 s")
    assert max(map(len, text.splitlines())) <= 100  # the rest is not seen on Airflow's page


def test_a_vm_in_pieces_names_all_of_its_hosts_and_old_records_are_read() -> None:
    cut = msgspec.structs.replace(vm("big", 400), more_hosts=("three", "two"))
    table = backup_table(record(cut, vm("web", 1)))
    assert [row["host"] for row in table.rows] == ["one, three, two", "one"]
    old = to_plain(record(cut))
    del old["vms"][0]["more_hosts"]
    assert from_plain(JobRecord, old, "a record").vms[0].hosts == ("one",)


def test_nothing_in_a_table_is_live_or_secret() -> None:
    """F-A14: names and reasons are shown as they are, in Markdown and HTML; signatures are cut."""
    reason = "GET https://a.blob.example/c/b?sv=1&sig=canary%3D failed\n| <b>x</b> | `y` |"
    table = backup_table(record(vm("<img src=x onerror=alert(1)>", 1, "failed", reason)))
    plain = json.dumps(table.plain())
    assert "canary" not in plain + table.text() + table.markdown()
    assert "<img" not in table.markdown()
    assert "<b>" not in table.markdown()
    row = next(line for line in table.markdown().splitlines() if "onerror" in line)
    assert row.replace("\\|", "").count("|") == len(table.columns) + 1
    assert "`" not in row.replace("\\`", "")


def test_a_table_without_rows_is_one_all_the_same() -> None:
    table = backup_table(record())
    assert "VMs done: 0" in table.text()
    assert "| VM |" in table.markdown()


def test_a_copys_failures_come_first() -> None:
    outcomes = [
        Outcome("web", KEY, "p1", "r", "copied", 4 * MB, MB),
        Outcome("db", KEY, "p2", "r", "failed", reason="a block is lost"),
        Outcome("app", KEY, "p3", "r", "there"),
    ]
    table = sync_table(outcomes, 12.0)
    assert [row["vm"] for row in table.rows] == ["db", "web", "app"]
    assert table.plain()["totals"] | {"seconds": 0} == {
        "copied": 1,
        "failed": 1,
        "there": 1,
        "read_bytes": 4 * MB,
        "stored_bytes": MB,
        "ratio": 4.0,
        "seconds": 0,
    }


def test_a_collection_is_told_by_what_was_done_how_often() -> None:
    rows = (
        Row("delete", "packs/a", 30 * MB, "nothing needs it"),
        Row("delete", "packs/b", 20 * MB, "nothing needs it"),
        Row("wait", "condemned/c", 0, "a session lives"),
    )
    report = Report(dry_run=False, points=7, packs=9, pack_bytes=500 * MB, rows=rows)
    table = prune_table(report, 3.0)
    assert [(row["action"], row["count"], row["size_bytes"]) for row in table.rows] == [
        ("delete", 2, 50 * MB),
        ("wait", 1, 0),
    ]
    assert "freed: 50.0 MB" in table.text()
