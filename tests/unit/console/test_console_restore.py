"""``azstack restore``: nothing happens unless it is meant."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from support.airflow_run import connections
from support.compound import Rig, rig
from support.restores import disk_at

from airflow_provider_azstack.console import main
from airflow_provider_azstack.emulator import DiskSpec, Emulator
from airflow_provider_azstack.engine.restore import execute

pytestmark = pytest.mark.tier2

MIB = 1 << 20
REQUEST = """\
vms: [web01]
mode: alternate
resource_group: dr
changes:
  web01:
    name: web02
"""


@pytest.fixture
def site(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """A backed-up VM, and an environment that leads to stack and repository."""
    emulator.add_group("dr")
    vm = emulator.add_vm("web01", "rg", [DiskSpec(size_bytes=4 * MIB)])
    vm.disks[0].write(0, b"content" * 1000)
    with rig(emulator, tmp_path / "repository") as made:
        made.backup()
        stack = connections(emulator, "", "")["azure_stack_default"]
        (tmp_path / "stack.json").write_text(json.dumps(stack))
        (tmp_path / "passphrase").write_text("passphrase")
        (tmp_path / "request.yaml").write_text(REQUEST)
        monkeypatch.setenv("AZSTACK_STACK_FILE", str(tmp_path / "stack.json"))
        monkeypatch.setenv("AZSTACK_REPOSITORY", str(tmp_path / "repository"))
        monkeypatch.setenv("AZSTACK_PASSPHRASE_FILE", str(tmp_path / "passphrase"))
        monkeypatch.chdir(tmp_path)
        yield made


def changes(emulator: Emulator) -> list[Any]:
    return [s for s in emulator.requests if s.method in {"PUT", "DELETE"}]


def test_a_plan_is_shown_kept_and_carried_out(
    site: Rig, emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.requests.clear()
    assert main(["restore", "request.yaml", "--save", "plan.json"]) == 0
    assert Path("plan.json").stat().st_mode & 0o777 == 0o600  # it knows VMs, disks and networks
    assert main(["restore", "plan.json"]) == 0
    shown = capsys.readouterr()
    assert "virtualMachines/web02" in shown.out
    assert shown.err.count("nothing was done: azstack restore plan.json --execute does it") == 2
    assert changes(emulator) == []
    with pytest.raises(SystemExit):
        main(["restore", "plan.json", "--save", "other.json", "--execute"])
    assert main(["restore", "plan.json", "--execute", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["status"] == "done"
    assert site.stack.find(row["target"]) is not None
    (disk,) = json.loads(Path("plan.json").read_text())["vms"][0]["disks"]
    assert disk_at(emulator, disk["id"]).read(0, 7) == b"content"
    assert main(["restore", "request.yaml", "--discard", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_an_interrupted_restore_says_how_to_go_on(
    site: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(execute, "carry_out", interrupted)
        assert main(["restore", "request.yaml", "--execute"]) == 2
    assert "the same command goes on from there" in capsys.readouterr().err
    assert main(["restore", "request.yaml", "--discard"]) == 0
    assert capsys.readouterr() == ("", "nothing half-written was left\n")


def test_the_whole_plan_is_there_as_json(site: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["restore", "request.yaml", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["refusals"] == []
    assert shown["vms"][0]["resources"][-1]["body"]["properties"]["hardwareProfile"]


def test_refusals_are_lines_and_a_state(site: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    Path("request.yaml").write_text("vms: [web01, nobody]\nmode: original\n")
    assert main(["restore", "request.yaml"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("refused:")]) == 4
    [vm] = [line for line in lines if line.startswith("refused: VM ")]
    assert "'replace: true'" in vm
    assert main(["restore", "request.yaml", "--execute"]) == 2
    assert capsys.readouterr().err.splitlines() == lines, "nothing but what the plan alone says"


def test_a_wrong_secret_is_one_error(site: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    """Not a refusal for each resource that cannot be looked at."""
    fields = json.loads(Path("stack.json").read_text())
    Path("stack.json").write_text(json.dumps({**fields, "password": "wrong"}))
    assert main(["restore", "request.yaml"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: sign-in at ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_one_of_two_is_partly(
    site: Rig, emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.add_vm("db01", "rg", [DiskSpec(size_bytes=MIB)])
    site.backup()
    Path("request.yaml").write_text("vms: [web01, db01]\nmode: alternate\nresource_group: dr\n")
    emulator.faults.answer("PUT", "disks/db01", 409, times=9)
    assert main(["restore", "request.yaml", "--execute", "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert {row["vm"]: row["status"] for row in rows} == {"web01": "done", "db01": "failed"}


def test_why_a_vm_failed_is_said_once_and_with_that_vm(
    site: Rig,
    emulator: Emulator,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the result's table, and neither beside it nor in a log; not with a VM that is well."""
    emulator.add_vm("db01", "rg", [DiskSpec(size_bytes=MIB)])
    site.backup()
    Path("request.yaml").write_text("vms: [web01, db01]\nmode: alternate\nresource_group: dr\n")
    emulator.faults.answer("PUT", "disks/db01", 409, body=b'{"error": {"code": "Odd"}}', times=99)
    emulator.faults.answer("PUT", "virtualMachines/web01", 409, times=99)
    caplog.clear()
    assert main(["restore", "request.yaml", "--execute"]) == 2
    printed = capsys.readouterr()
    everything = printed.out + printed.err + caplog.text
    assert everything.count("Odd") == 1
    [db01] = [line for line in printed.out.splitlines() if line.startswith("db01")]
    assert "not complete: os: " in db01
    assert "Odd" in db01


@pytest.mark.parametrize("text", ["vms: [", "{}", "vms: [a]\nmode: b\n", '{"made_at": 1}'])
def test_what_is_no_request_and_no_plan_is_said_in_a_line(
    site: Rig, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    Path("request.yaml").write_text(text)
    assert main(["restore", "request.yaml"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_exists_is_changed_only_when_its_plan_is_confirmed(
    site: Rig, emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan shows what gives way; another plan's id, or none, is no confirmation."""
    Path("request.yaml").write_text("vms: [web01]\nmode: original\nreplace: true\n")
    emulator.requests.clear()
    assert main(["restore", "request.yaml", "--json"]) == 0
    plan_id = json.loads(capsys.readouterr().out)["id"]
    assert main(["restore", "request.yaml"]) == 0
    shown = capsys.readouterr()
    for action in ("keep safe", "replace disks of", "stop"):
        assert action in shown.out
    assert f"azstack restore request.yaml --execute --confirm {plan_id} does it" in shown.err
    for confirmed in ([], ["--confirm", "0" * 16]):
        assert main(["restore", "request.yaml", "--execute", *confirmed]) == 2
        assert f"--confirm {plan_id}" in capsys.readouterr().err
    assert not [seen for seen in emulator.requests if seen.method in {"PUT", "DELETE"}]
    assert main(["restore", "request.yaml", "--execute", "--confirm", plan_id]) == 0
    names = [snapshot.body["name"] for snapshot in
             emulator.world.of_type("Microsoft.Compute/snapshots")]  # fmt: skip
    assert [name.startswith("azstack-safety-") for name in sorted(names)].count(True) == 1
