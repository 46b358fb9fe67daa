"""``azstack``: the commands without Airflow, as a shell runs them."""

import json
import os
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import NoReturn

import pytest
from msgspec.structs import replace
from support.disks import SparseDisk
from support.points import back_up_vm
from support.repositories import CHEAP, VM_KEY, back_up, noise
from support.stores import LastWriterWins

import airflow_provider_azstack
from airflow_provider_azstack import console, store
from airflow_provider_azstack.console import COMMANDS, load, main
from airflow_provider_azstack.console.arguments import read_new_passphrase, read_passphrase
from airflow_provider_azstack.console.points import find_point, points_of
from airflow_provider_azstack.console.stacks import add_stack, open_stack, read_stack_settings
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sealing.crypto import Keys
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store.local import LocalStore

ROOT = Path(airflow_provider_azstack.__file__).parents[1]
PASSPHRASE = "canary-of-the-console"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two restore points, and an environment that leads to it."""
    directory = tmp_path / "store"
    directory.mkdir()
    repository, _ = Repository.create(LocalStore(directory), Secret(PASSPHRASE), kdf=CHEAP)
    back_up(repository, [noise(1)], "run-1")
    back_up(repository, [noise(2)], "run-2")
    (tmp_path / "passphrase").write_text(PASSPHRASE + "\nnot this line\n")
    monkeypatch.setenv("AZSTACK_REPOSITORY", str(directory))
    monkeypatch.setenv("AZSTACK_PASSPHRASE_FILE", str(tmp_path / "passphrase"))
    return directory


@pytest.mark.tier1
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_module_that_keeps_the_contract(name: str) -> None:
    parser = ArgumentParser()
    load(name).add(parser)
    assert callable(load(name).run)
    secret = {"passphrase", "password", "secret", "recovery-key", "key"}
    options = {option.lstrip("-") for option in parser._option_string_actions}
    assert not secret & options, "a secret in the arguments is seen by every user of the host"


@pytest.mark.tier1
def test_points_are_listed_oldest_first(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["points", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["vm"], row["point"]) for row in rows] == [("web", "p-run-1"), ("web", "p-run-2")]
    assert main(["points", "--vm", "db", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == []
    assert printed.err == "no restore point of a VM 'db'\n"


@pytest.mark.tier1
def test_a_point_is_shown_as_facts_and_as_its_whole_record(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", "web"]) == 0
    text = capsys.readouterr().out
    assert "p-run-2" in text
    assert "os" in text
    assert main(["show", VM_KEY, "p-run-1", "-o", "json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["id"] == "p-run-1"
    assert record["vm"]["size"] == "Standard_A1"


@pytest.mark.tier1
@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["show", "db"], "no restore point of a VM 'db'"),
        (["show", "web", "p-9"], "its newest is p-run-2"),
        (["points", "--repository", "/nowhere/at/all"], "/nowhere/at/all"),
        (["points", "--repository-id", "0" * 32], "it was swapped"),
        (["points", "--passphrase-file", "/nowhere"], "No such file"),
        (["show", "wep"], "no restore point of a VM 'wep'; did you mean web?; 'azstack points'"),
        (["points", "--passphrase-file", __file__], "or the recovery key in its place"),
        (["points", "--store-options", "/dev/null"], "is not JSON"),
        (["points", "--repository", ""], "give --repository or set azstack_repository"),
    ],
)
def test_an_error_is_one_line_and_state_2(
    place: Path, arguments: list[str], advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert advice.lower() in printed.err.lower()


@pytest.mark.tier1
@pytest.mark.parametrize(
    ("arguments", "state", "said"),
    [
        ([], 2, "usage: azstack"),
        (["point"], 2, "error: no command 'point'; did you mean points?; 'azstack --help' lists"),
        (["zzz"], 2, "error: no command 'zzz'; 'azstack --help' lists all\n"),
        (["points", "--vm", "weg"], 0, "no restore point of a VM 'weg'; did you mean web?\n"),
        (["hold", "list"], 0, "no restore point is on hold\n"),
        (["flags"], 0, "no restore point looks suspicious\n"),
        (["jobs"], 0, "no job yet\n"),
        (["rehearse", "--list"], 0, "no rehearsal yet\n"),
        (["verify", "--full", "--budget", "1G"], 2, "error: --budget is of a cycle"),
        (["verify", "--resume"], 2, "error: --resume is of a full verification"),
    ],
)
def test_what_is_not_there_is_said_in_words(
    place: Path, arguments: list[str], state: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == state
    printed = capsys.readouterr()
    assert printed.err.startswith(said)
    assert printed.out == ""


@pytest.mark.tier1
def test_options_may_stand_between_the_words(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", "web", "--json", "p-run-1"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "p-run-1"
    assert main(["forget", "web", "--execute", "p-run-1", "-o", "json"]) == 0
    assert main(["show", "web", "--json", "p-run-1"]) == 2


@pytest.mark.tier1
def test_a_point_may_be_named_by_how_it_begins(place: Path) -> None:
    repository = Repository.open(LocalStore(place), Secret(PASSPHRASE))
    point = repository.point(VM_KEY, "p-run-1")
    repository.records.put(f"points/{VM_KEY}/p-run-12", replace(point, id="p-run-12"))
    assert find_point(repository, "web", "p-run-2").id == "p-run-2"
    assert find_point(repository, "web", "p-run-1").id == "p-run-1", "whole ids are meant as such"
    with pytest.raises(ConfigurationError, match="3 restore points that begin with 'p-run'"):
        find_point(repository, "web", "p-run")


@pytest.mark.tier1
def test_a_held_point_is_listed_by_the_name_of_its_vm(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["hold", "add", "web", "p-run-1", "--reason", "an audit"]) == 0
    (place / "points" / VM_KEY / "p-run-2").unlink()
    assert main(["hold", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["web", "p-run-1"]
    (place / "points" / VM_KEY / "p-run-1").write_text("junk")
    assert main(["hold", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == [VM_KEY, "p-run-1"]


@pytest.mark.tier1
def test_an_interrupt_while_a_command_is_loaded_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: str) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(console, "load", interrupted)
    assert main(["points"]) == 2
    assert capsys.readouterr().err == "error: interrupted\n"


@pytest.mark.tier1
def test_a_name_that_two_vms_have_asks_for_a_key(place: Path) -> None:
    repository = Repository.open(LocalStore(place), Secret(PASSPHRASE))
    point = repository.point(VM_KEY, "p-run-1")
    other = VM_KEY.replace("1", "9")
    point = replace(point, vm=replace(point.vm, key=other))
    repository.records.put(f"points/{other}/{point.id}", point)
    with pytest.raises(ConfigurationError, match=f"{VM_KEY} .*, {other} "):
        find_point(repository, "web")
    assert find_point(repository, other).vm.key == other


@pytest.mark.tier1
def test_case_of_a_name_does_not_count(place: Path) -> None:
    """As on the stack: who restores has seen the name in some other case."""
    repository = Repository.open(LocalStore(place), Secret(PASSPHRASE))
    assert points_of(repository, "WEB") == points_of(repository, "web") != []


def end_of_input(_: str) -> NoReturn:
    raise EOFError


@pytest.mark.tier1
def test_a_session_that_is_not_there_is_named(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be mistyped, and the one that is meant goes on to hold everything up."""
    assert main(["prune", "--fence", "typo"]) == 2, "the fixture's images are none"
    assert "there is no session typo" in capsys.readouterr().err


@pytest.mark.tier1
def test_where_the_passphrase_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file wins over the environment, that over the prompt; without a terminal none asks."""
    file = tmp_path / "passphrase"
    file.write_text("of the file\r\n")
    monkeypatch.setenv("AZSTACK_PASSPHRASE", "of the environment")
    named, unnamed = (Namespace(passphrase_file=f) for f in (str(file), ""))
    assert read_passphrase(named).reveal() == "of the file"
    assert read_passphrase(unnamed).reveal() == "of the environment"
    monkeypatch.delenv("AZSTACK_PASSPHRASE")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    with pytest.raises(ConfigurationError, match="--passphrase-file"):
        read_passphrase(unnamed)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert read_passphrase(unnamed, ask=lambda _: "typed").reveal() == "typed"
    assert read_new_passphrase(unnamed, ask=lambda _: "typed").reveal() == "typed"
    with pytest.raises(ConfigurationError, match="no passphrase was typed"):
        read_passphrase(unnamed, ask=end_of_input)
    answers = iter(["typed", "mistyped"])
    with pytest.raises(ConfigurationError, match="two different"):
        read_new_passphrase(unnamed, ask=lambda _: next(answers))


@pytest.mark.tier1
def test_keys_from_creation_to_recovery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A repository is created, its passphrase changed and lost, and the recovery key helps."""
    wrap = Keys.wrap
    monkeypatch.setattr(
        Keys,
        "wrap",
        lambda self, name, secret, _, **facts: wrap(self, name, secret, CHEAP, **facts),
    )
    for name in ("first", "second", "third", "recovery"):
        (tmp_path / name).write_text(f"passphrase {name}")

    def azstack(*arguments: str, opened_with: str = "first", new: str = "") -> str:
        place = ["--repository", str(tmp_path / "store")]
        place += ["--passphrase-file", str(tmp_path / opened_with)]
        place += ["--new-passphrase-file", str(tmp_path / new)] if new else []
        state = main([*arguments, *place])
        printed = capsys.readouterr()
        return printed.out if state == 0 else f"{state} {printed.err}"

    (tmp_path / "recovery").write_text(azstack("init"))
    assert "already holds a repository" in azstack("init")
    assert azstack("keys", "change-passphrase", new="second") == ""
    assert "does not open" in azstack("points")
    rows = json.loads(azstack("keys", "list", "--json", opened_with="second"))
    assert sorted(row["label"] for row in rows) == ["passphrase", "recovery key"]
    lost = next(row["key"] for row in rows if row["label"] == "passphrase")
    assert azstack("keys", "add", "--label", "rescue", opened_with="recovery", new="third") == ""
    assert azstack("keys", "remove", lost, opened_with="third") == ""
    assert "does not open" in azstack("points", opened_with="second")
    newer = azstack("keys", "new-recovery-key", opened_with="third")
    (tmp_path / "recovery").write_text(newer)
    assert "rescue" in azstack("keys", "list", opened_with="recovery")
    (tmp_path / "store" / "keys" / "planted").write_text("junk")
    assert azstack("keys", "list", opened_with="third").startswith("1 ")


@pytest.mark.tier1
def test_restore_points_are_copied_and_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The state is 0 only when every point that was meant is there; a loss is repaired."""
    stores = [tmp_path / "one", tmp_path / "two"]
    for store_directory in stores:
        store_directory.mkdir()
        file = tmp_path / f"{store_directory.name}.passphrase"
        file.write_text(file.name)
        Repository.create(LocalStore(store_directory), Secret(file.name), kdf=CHEAP)
    disk = SparseDisk(2 * 1024**2)
    source = Repository.open(LocalStore(stores[0]), Secret("one.passphrase"))
    points = []
    for day in range(2):
        disk.write(day * 1024**2, noise(day))
        points.append(back_up_vm(source, {"os": disk}, day=day))
    for prefix, name in (("", "one"), ("TO_", "two")):
        monkeypatch.setenv(f"AZSTACK_{prefix}REPOSITORY", str(tmp_path / name))
        monkeypatch.setenv(f"AZSTACK_{prefix}PASSPHRASE", f"{name}.passphrase")
    assert main(["sync", "--newest", "1"]) == 0
    assert points[1].id in capsys.readouterr().out
    assert main(["sync"]) == 0
    lose_packs(stores[0])
    capsys.readouterr()
    assert main(["sync", "--repair", "--json"]) == 0
    statuses = [outcome["status"] for outcome in json.loads(capsys.readouterr().out)]
    assert statuses == ["there", "there", "repaired", "repaired", "there", "there"]
    copy = Repository.open(LocalStore(stores[1]), Secret("two.passphrase"))
    assert [point.id for point in copy.points()] == [point.id for point in points]
    assert main(["sync", "--vm", "nobody"]) == 2
    assert "azstack points" in capsys.readouterr().err
    for store_directory in stores:
        lose_packs(store_directory)
    assert main(["sync", "--repair"]) == 1
    assert "is gone" in capsys.readouterr().out


def lose_packs(directory: Path) -> None:
    for pack in (directory / "packs").rglob("*"):
        if pack.is_file():
            pack.unlink()


@pytest.mark.tier1
def test_a_stack_is_described_like_its_connection(tmp_path: Path) -> None:
    """The emulator's file serves as it is; a field that is not known is refused."""
    connection = {
        "conn_type": "azure_stack",
        "host": "https://management.example",
        "login": "client",
        "password": PASSPHRASE,
        "extra": {"tenant_id": "t", "ca_bundle": ""},
    }
    args = stack_arguments(tmp_path, {"control_token": "x", "airflow_connection": connection})
    assert read_stack_settings(args).login == "client"
    assert PASSPHRASE not in repr(read_stack_settings(args))
    with open_stack(args) as stack:
        assert stack.name == "management.example"
    wrong = stack_arguments(tmp_path, connection | {"extra": {"verify": "false"}})
    with pytest.raises(ConfigurationError, match="verify"):
        read_stack_settings(wrong)
    bare = stack_arguments(tmp_path, connection | {"password": ""})
    with pytest.raises(ConfigurationError, match="no password"):
        open_stack(bare)


def stack_arguments(tmp_path: Path, content: object) -> Namespace:
    file = tmp_path / "stack.json"
    file.write_text(json.dumps(content))
    parser = ArgumentParser()
    add_stack(parser)
    return parser.parse_args(["--stack-file", str(file)])


@pytest.mark.tier1
def test_a_store_is_probed_without_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The state says it: 0 fit, 1 fit within limits, 2 unfit."""
    assert main(["probe", str(tmp_path), "--quick"]) == 0
    assert "is fit" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [tmp_path / "probe"]
    monkeypatch.setattr(LocalStore, "file_system", lambda _self: "nfs4")
    assert main(["probe", str(tmp_path), "--quick", "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)
    assert "nfs4" in finding["observed"]
    monkeypatch.setattr(store.opening, "LocalStore", lambda _directory: LastWriterWins())
    assert main(["probe", str(tmp_path), "--quick"]) == 2
    assert "unfit" in capsys.readouterr().err


@pytest.mark.tier2
def test_points_are_listed_without_airflow(place: Path) -> None:
    """F-R6: a URL and a passphrase are all that a listing needs; no Airflow is imported."""
    script = (
        "import sys; from airflow_provider_azstack.console import main; "
        "state = main(['points', '--json']); "
        "assert not [m for m in sys.modules if m.split('.')[0] == 'airflow']; sys.exit(state)"
    )
    ended = run_python("-c", script)
    assert [row["point"] for row in json.loads(ended.stdout)] == ["p-run-1", "p-run-2"]
    module = run_python("-m", "airflow_provider_azstack", "points", "--json")
    assert module.stdout == ended.stdout


@pytest.mark.tier2
def test_help_loads_no_command() -> None:
    script = (
        "import sys; from airflow_provider_azstack.console import _parser; "
        "_parser('').format_help(); "
        "heavy = {'cryptography', 'zstandard', 'azure', 'rich', 'msgspec', 'airflow'}; "
        "assert not heavy & {m.split('.')[0] for m in sys.modules}"
    )
    run_python("-c", script)


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "AIRFLOW_HOME": "/nonexistent"}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environ,
        check=True,
        capture_output=True,
        text=True,
        timeout=250,
    )
