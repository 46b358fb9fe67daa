"""``azstack jobs``, ``coverage``, ``usage`` and ``report``: tables, JSON, a page, the alarm."""

import json
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.disks import SparseDisk
from support.points import back_up_vm, vm_key
from support.repositories import CHEAP, noise

from airflow_provider_azstack.console import main
from airflow_provider_azstack.repo.points import flags
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store.local import LocalStore

pytestmark = pytest.mark.tier1


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "store"
    directory.mkdir()
    repository, _ = Repository.create(LocalStore(directory), Secret("passphrase"), kdf=CHEAP)
    disk = SparseDisk(2 * 2**20)
    disk.write(0, noise(1, 5000))
    back_up_vm(repository, {"os": disk})
    monkeypatch.setenv("AZSTACK_REPOSITORY", str(directory))
    monkeypatch.setenv("AZSTACK_PASSPHRASE", "passphrase")


@pytest.mark.parametrize(
    ("command", "field", "value"),
    [
        ("jobs", "run", "nightly-1-0"),
        ("jobs", "hosts", ["a"]),
        ("coverage", "vm", "vm-1"),
        ("usage", "name", "vm-1"),
    ],
)
def test_each_report_is_a_table_and_json(
    command: str, field: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command]) == 0
    assert capsys.readouterr().out.splitlines()[0].split()
    assert main([command, "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row[field] == value


def test_a_cache_that_cannot_be_written_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What else does without it does: only time is lost."""
    (tmp_path / "file").touch()
    assert main(["usage", "--cache-directory", str(tmp_path / "file")]) == 0
    assert capsys.readouterr().err.count("--cache-directory is not used") == 1
    assert main(["usage", "--cache-directory", str(tmp_path / "new" / "cache")]) == 0
    assert "--cache-directory" not in capsys.readouterr().err
    assert list((tmp_path / "new" / "cache").rglob("*.sqlite"))


def test_a_point_that_is_too_old_is_an_alarm(capsys: pytest.CaptureFixture[str]) -> None:
    """The tests' points are of January 2026."""
    assert main(["coverage", "--max-age", "1"]) == 1
    assert "1 of 1 VMs" in capsys.readouterr().err
    assert main(["coverage", "--max-age", "1e9"]) == 0


def test_the_page_of_pictures_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is replaced as a whole, and only its owner reads it: it names every VM."""
    file = tmp_path / "report.html"
    file.write_text("yesterday's")
    assert main(["report", "--to", str(file), "--usage", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["file"], told["vms"], told["late"]) == (str(file), 1, 0)
    text = file.read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert "vm-1" in text
    assert "Usage by policy" in text
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()].count("report.html") == 1
    assert len(list(tmp_path.iterdir())) == 2, "nothing is left but the file and the repository"


def test_the_page_of_pictures_may_go_to_a_pipe_and_is_an_alarm(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The tests' points are of January 2026."""
    assert main(["report", "--to", "-", "--max-age", "1", "--timezone", "Asia/Tokyo"]) == 1
    printed = capsys.readouterr()
    assert printed.out.rstrip().endswith("</html>")
    assert "Asia/Tokyo (+0900 now)" in printed.out
    assert "1 of 1 VMs" in printed.err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--days", "0"),
        ("--days", "91"),
        ("--max-age", "nan"),
        ("--timezone", "Mars/Base"),
        ("--timezone", "../etc/passwd"),
        ("--job", "other"),
        ("--to", "/nowhere/report.html"),
    ],
)
def test_a_page_of_pictures_that_cannot_be_is_refused(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.html"
    assert main(["report", "--to", str(file), option, value]) == 2
    said = capsys.readouterr().err
    assert option in said or value in said
    assert not file.exists()


@pytest.mark.parametrize("arguments", [["coverage", "--max-age", "-1"], ["jobs", "--last", "-1"]])
def test_a_number_below_nothing_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert arguments[1] in capsys.readouterr().err


def test_usage_by_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["usage", "--by", "policy", "-o", "json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["name"], row["shared_bytes"]) == ("nightly", 0)


def test_flags_are_listed_and_taken_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A point that was looked at counts as normal from then on."""
    repository = Repository.open(LocalStore(tmp_path / "store"), Secret("passphrase"))
    [point] = repository.points()
    flags.put_flag(repository, point.vm.key, point.id, ("os: much changed",), repository.now())
    assert main(["flags", "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["vm"], row["point"], row["reason"]) == ("vm-1", point.id, "os: much changed")
    assert main(["flags", "remove", "vm-1", point.id]) == 0
    assert main(["flags", "remove", "vm-1", point.id]) == 2
    assert main(["flags", "remove", "vm-1"]) == 2
    assert "has no flag" in capsys.readouterr().err
    assert flags.flagged(repository) == set()
    assert len(repository.points()) == 1


@pytest.mark.parametrize(("command", "field"), [("coverage", "vm"), ("usage", "name")])
def test_vms_of_one_name_are_two_in_a_table_and_on_the_page(
    command: str, field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as a VM and what was restored in its place; JSON has the name as it is, and the key."""
    repository = Repository.open(LocalStore(tmp_path / "store"), Secret("passphrase"))
    [point] = repository.points()
    session = repository.open_session("backup")
    session.publish(replace(point, vm=replace(point.vm, key=vm_key(2)), session=session.id))
    session.close()
    assert main([command]) == 0
    table = capsys.readouterr().out
    assert main([command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row[field] for row in rows] == ["vm-1", "vm-1"]
    assert main(["report", "--to", "-"]) == 0
    page = capsys.readouterr().out
    for key in (vm_key(1), vm_key(2)):
        assert f"vm-1 ({key[:8]})" in table
        assert f"vm-1 ({key[:8]})" in page
