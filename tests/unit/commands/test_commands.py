"""``airflow azstack ...``: what the commands decide and print."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
import support.airflow_home
from airflow.cli.cli_config import GroupCommand

from airflow_provider_azstack.commands import get_commands
from airflow_provider_azstack.commands.console import command
from airflow_provider_azstack.commands.doctor import ask, pool_answers
from airflow_provider_azstack.commands.pools import plan
from airflow_provider_azstack.commands.reports import verify
from airflow_provider_azstack.commands.roles import ROLES, role_definition, roles
from airflow_provider_azstack.config import Config, Host
from airflow_provider_azstack.console.present import show
from airflow_provider_azstack.errors import ConfigurationError, Unreachable

pytestmark = pytest.mark.tier1

assert support.airflow_home.HOME
HOSTS = Config(hosts={"a": Host(streams=2), "b": Host(), "c": Host()}, streams=3).backup_hosts()


def test_every_command_is_there_and_its_function_exists() -> None:
    (group,) = get_commands()
    assert isinstance(group, GroupCommand)
    names = {command.name for command in group.subcommands}
    assert names == {
        "sync-pools",
        "doctor",
        "roles",
        "points",
        "forget",
        "prune",
        "jobs",
        "plan",
        "estimate",
        "simulate",
        "coverage",
        "usage",
        "report",
        "verify",
        "import-credentials",
        "init-repository",
        "emulator",
    }


def test_a_budget_that_is_no_size_is_refused_before_anything_is_opened(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        verify(Namespace(budget="12Q", verbose=False))
    assert ended.value.code == 2
    assert "--budget: '12Q' is no size: write 500M, 200G or 4T" in capsys.readouterr().err


def test_pools_are_compared_by_name_and_others_are_left_alone() -> None:
    now = {"default_pool": 128, "azstack_a": 2, "azstack_b": 7, "azstack_gone": 1}
    actions = {change.pool: change.action for change in plan(now, HOSTS)}
    assert actions == {
        "azstack_a": "keep",
        "azstack_b": "resize",
        "azstack_c": "create",
        "azstack_gone": "delete",
    }


def test_the_doctor_says_of_each_pool_what_to_do() -> None:
    now = {"azstack_a": 2, "azstack_b": 7, "azstack_gone": 1}
    verdicts = [(answer.verdict, answer.finding) for answer in pool_answers(now, HOSTS)]
    assert verdicts == [
        ("ok", "azstack_a: 2 slots"),
        ("failed", "azstack_b has 7 slots, needs 3: run 'airflow azstack sync-pools'"),
        ("failed", "azstack_c is missing, needs 3: run 'airflow azstack sync-pools'"),
        ("warning", "azstack_gone: no backup host: run 'airflow azstack sync-pools --prune'"),
    ]


def test_a_question_that_fails_is_an_answer() -> None:
    def _sign_in(args: Namespace) -> list[object]:
        raise Unreachable("https://x: no answer: check the network")

    (answer,) = ask(_sign_in, Namespace())
    assert answer == ("sign in", "failed", "https://x: no answer: check the network")


def test_only_the_restore_role_can_change_a_vm_and_no_role_can_delete_one() -> None:
    """The principal of nightly backups, when stolen, can destroy nothing but our snapshots."""
    made_by_restores = {"disks", "networkInterfaces", "publicIPAddresses"}
    for name, (_, actions) in ROLES.items():
        deletes = {action for action in actions if action.endswith("/delete")}
        writes = {a for a in actions if a.endswith("/write") and "/snapshots/" not in a}
        deleted = {action.split("/")[-2] for action in deletes}
        assert deleted <= (made_by_restores if name == "restore" else {"snapshots"})
        assert not writes or name == "restore"
        assert not {action for action in actions if "*" in action}


def test_power_is_only_given_when_asked_for() -> None:
    """But to the principal of restores, which stops a VM to replace its disks, and starts it."""
    start = "Microsoft.Compute/virtualMachines/start/action"
    assert start not in role_definition("reader", [])["Actions"]
    assert start in role_definition("reader", [], power=True)["Actions"]
    assert start not in role_definition("snapshots", [], power=True)["Actions"]
    assert start in role_definition("restore", [])["Actions"]


def test_roles_print_what_azure_reads(capsys: pytest.CaptureFixture[str]) -> None:
    roles(Namespace(name=None, subscription=["s1"], power=False))
    definitions = json.loads(capsys.readouterr().out)
    assert [d["AssignableScopes"] for d in definitions] == [["/subscriptions/s1"]] * 4
    assert {d["Name"].split()[-1] for d in definitions} == set(ROLES)


def test_an_error_is_one_line_and_a_state_above_one(capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def broken(args: Namespace) -> None:
        raise ConfigurationError("azurestack.conf: [hosts] is missing: add it")

    with pytest.raises(SystemExit) as caught:
        broken(Namespace(verbose=False))
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "error: azurestack.conf: [hosts] is missing: add it\n"


def test_names_of_the_stack_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """A VM called ``[red]`` is no markup."""
    show([{"vm": "[red]x[/]", "bytes": 5}], "table", ("vm", "bytes"))
    assert "[red]x[/]" in capsys.readouterr().out


def test_json_has_more_than_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"vm": "x", "key": Path("/k")}], "json", ("vm",))
    assert json.loads(capsys.readouterr().out) == [{"vm": "x", "key": "/k"}]
