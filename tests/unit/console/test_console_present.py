"""What all commands share: units, widths, nothing to show, readers that leave, odd terminals."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import TextIO

import pytest
from support.repositories import CHEAP, back_up, noise

from airflow_provider_azstack.console import main
from airflow_provider_azstack.console.present import say, show, show_one
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store.local import LocalStore

pytestmark = pytest.mark.tier1

ROW = {
    "point": "20261122t180150.864665z-8179eecbbd-0000000001",
    "taken_at": datetime(2026, 11, 22, 18, 1, 50, tzinfo=UTC),
    "stored_bytes": 1_500_000_001,
    "growth_bytes_per_day": 2_000,
    "seconds": 3_725,
    "age_hours": 240.0,
    "hosts": ("a", "b"),
    "fatal": True,
    "missing": None,
    "reason": "its run is over, and none of those that are still running ever knew of it",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "store"
    directory.mkdir()
    repository, _ = Repository.create(LocalStore(directory), Secret("passphrase"), kdf=CHEAP)
    back_up(repository, [noise(1)], "run-1")
    back_up(repository, [noise(2)], "run-2")
    monkeypatch.setenv("AZSTACK_REPOSITORY", str(directory))
    monkeypatch.setenv("AZSTACK_PASSPHRASE", "passphrase")
    return directory


def test_tables_have_units_and_json_is_exact(capsys: pytest.CaptureFixture[str]) -> None:
    show([ROW], "table", list(ROW))
    head, line = capsys.readouterr().out.splitlines()
    assert "stored  growth per day" in head
    for said in ("1.5 GB", "2.0 kB", "1 h 2 min", "10.0 d", "2026-11-22T18:01:50Z", "a, b", "yes"):
        assert said in line
    show([ROW], "json", ())
    [row] = json.loads(capsys.readouterr().out)
    assert row["stored_bytes"] == 1_500_000_001
    assert row["taken_at"] == "2026-11-22T18:01:50+00:00"
    show_one({"read_bytes": 0, "budget_bytes": 2_000_000}, "table")
    assert capsys.readouterr().out == "read    0 bytes\nbudget  2.0 MB\n"


def test_numbers_are_in_line_at_their_ends(capsys: pytest.CaptureFixture[str]) -> None:
    """Whether or not the first row has one."""
    rows = [{"vm": "a", "age_hours": ""}, {"vm": "b", "age_hours": 1.5}]
    show(rows, "table", ("vm", "age_hours"))
    assert capsys.readouterr().out == "vm    age\na\nb   1.5 h\n"


def test_where_there_is_nothing_words_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    show([], "table", ("vm",), nothing="no restore point yet")
    assert capsys.readouterr() == ("", "no restore point yet\n")
    show([], "json", ("vm",), nothing="no restore point yet")
    assert capsys.readouterr() == ("[]\n", "no restore point yet\n")


def test_nothing_gives_orders_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Names are a guest's, reasons a stack's."""
    show([{"name": "a\x1b[2J\nb"}], "table", ("name",))
    show_one({"name": "\x07"}, "table")
    say("[red]error:[/] two\nlines")
    printed = capsys.readouterr()
    assert printed.out == "name\na\\x1b[2J\\x0ab\nname  \\x07\n"
    assert printed.err == "error: two\\x0alines\n"
    show([{"name": "a\x1b[2J\nb"}], "json", ())
    assert json.loads(capsys.readouterr().out) == [{"name": "a\x1b[2J\nb"}]


def test_a_narrow_terminal_breaks_sentences_and_no_ids(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An id is there to be copied."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    show([ROW], "table", ("point", "reason"))
    text = capsys.readouterr().out
    assert text.count(str(ROW["point"])) == 1
    assert str(ROW["reason"]) not in text
    assert len(text.splitlines()) > 2


@contextmanager
def output(monkeypatch: pytest.MonkeyPatch, file: TextIO) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", file)
        yield


@contextmanager
def left_pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lend a standard output whose reader has gone."""
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as file, output(monkeypatch, file):
        yield


def test_a_reader_that_leaves_changes_no_exit_state(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``verify | head -1`` of a damaged repository is as alarming as without ``head``."""
    with left_pipe(monkeypatch):
        assert main(["points"]) == 0
    for pack in (place / "packs").rglob("*"):
        if pack.is_file():
            pack.unlink()
    with left_pipe(monkeypatch):
        assert main(["verify"]) == 2
    assert "2 restore points damaged" in capsys.readouterr().err


def test_a_recovery_key_that_nobody_got_is_an_error(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with left_pipe(monkeypatch):
        assert main(["keys", "new-recovery-key"]) == 2
    assert "the recovery key is lost; 'azstack keys new-recovery-key'" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["points"], ["points", "--json"], ["report", "--to", "-"]])
def test_an_output_that_is_full_is_one_line(
    place: Path,
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Path("/dev/full").open("w") as full, output(monkeypatch, full):
        assert main(command) == 2
    said = "error: standard output cannot be written: No space left on device\n"
    assert capsys.readouterr().err == said


def test_without_an_output_the_state_tells(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", None)
        assert main(["points"]) == 0
        sys.stdout.close()


def test_any_alphabet_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables show what they cannot write as it would be escaped; JSON stays JSON."""
    written = TextIOWrapper(BytesIO(), "ascii", errors="backslashreplace")
    with output(monkeypatch, written):
        show([{"vm": "büro"}], "table", ("vm",))
        show([{"vm": "büro"}], "json", ("vm",))
    written.seek(0)
    table, _, plain = written.read().partition("[")
    assert table == "vm\nb\\xfcro\n"
    assert json.loads(f"[{plain}") == [{"vm": "büro"}]
