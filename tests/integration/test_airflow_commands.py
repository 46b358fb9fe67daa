"""The commands against a metadata database, a stack and a repository."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.airflow_run import PASSPHRASE, Site, connections, database

from airflow_provider_azstack.commands import (
    credentials,
    doctor,
    points,
    pools,
    reports,
    repository,
)
from airflow_provider_azstack.emulator import DiskSpec, Emulator, versions
from airflow_provider_azstack.hooks.pools import POOLS_VARIABLE
from airflow_provider_azstack.hooks.stack import AzureStackHook

pytestmark = pytest.mark.tier2
Call = Callable[..., Any]


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    database()
    file = tmp_path / "azurestack.conf"
    file.write_text('{"hosts": {"pa": {"NO_OF_BACKUP_STREAMS_PER_NODE": 3}, "pb": {}}}')
    return file


def sync(call: Call, conf: Path, *, dry_run: bool = False, prune: bool = False) -> dict[str, str]:
    state, rows, _ = call(pools.sync_pools, config=str(conf), dry_run=dry_run, prune=prune)
    assert state == 0
    return {
        row["pool"]: row["action"] for row in rows if row["pool"] in {"azstack_pa", "azstack_pb"}
    }


def test_pools_follow_the_configuration_and_none_goes_unasked(call: Call, conf: Path) -> None:
    """The difference first; then it is made so; a stale pool goes only with --prune."""
    both = {"azstack_pa": "create", "azstack_pb": "create"}
    assert sync(call, conf, dry_run=True) == both
    assert "azstack_pa" not in pools.read_pools()
    assert sync(call, conf) == both
    assert pools.read_pools()["azstack_pa"] == 3
    assert json.loads(variable()) == {"azstack_pa": 3, "azstack_pb": 4}
    conf.write_text('{"hosts": {"pa": {"NO_OF_BACKUP_STREAMS_PER_NODE": 5}}}')
    changes = {"azstack_pa": "resize", "azstack_pb": "delete"}
    assert sync(call, conf) == changes
    assert pools.read_pools()["azstack_pb"] == 4
    assert sync(call, conf, prune=True) == {"azstack_pa": "keep", "azstack_pb": "delete"}
    assert "azstack_pb" not in pools.read_pools()
    assert pools.read_pools()["default_pool"]
    assert json.loads(variable()) == {"azstack_pa": 5}


def variable() -> str:
    from airflow.models.variable import Variable

    return str(Variable.get(POOLS_VARIABLE))


def test_a_credentials_file_becomes_a_connection_once(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is there is replaced only when asked, and no secret is printed."""
    database()
    file = tmp_path / "credentials.json"
    held = {
        "IdentityProvider": "ADFS",
        "TenantId": "adfs",
        "ClientId": "client",
        "ClientSecret": "canary-client-secret",
        "AuthResource": "https://management.x",
        "anaccount": "canary-account-key==",
    }
    file.write_text(json.dumps(held))
    given = {
        "file": str(file),
        "endpoint": "https://management.local.example",
        "conn_id": "imported",
        "ca_bundle": "",
        "replace": False,
    }
    state, _, said = call(credentials.import_credentials, **given)
    assert (state, "canary" in said) == (0, False)
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
    with AzureStackHook("imported").get_conn() as stack:
        assert stack.name == "management.local.example"
        assert stack.account_keys["anaccount"].reveal() == "canary-account-key=="
    state, _, said = call(credentials.import_credentials, **given)
    assert state > 1
    assert "'imported' is there already" in said
    assert call(credentials.import_credentials, **{**given, "replace": True})[0] == 0


@pytest.fixture
def site(tls_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    tls_emulator.add_vm("vm", "web", [DiskSpec()])
    return Site(tls_emulator, tmp_path, monkeypatch)


def test_a_repository_is_created_once(
    site: Site, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The recovery key alone is on standard output; a repository that is there stays as it is."""
    before = sorted(site.repository.store.list(""))
    state, _, said = call(repository.init_repository, config=str(site.conf))
    assert state > 1
    assert "error: " in said
    assert sorted(site.repository.store.list("")) == before
    assert PASSPHRASE not in said


def test_the_doctor_names_what_fails_and_goes_on(
    site: Site, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong secret and missing pool: two failures, and the repository is asked all the same."""
    fields = connections(site.emulator, site.store_url, site.repository.id)["azure_stack_default"]
    wrong = json.dumps({**fields, "password": "wrong"})
    monkeypatch.setenv("AIRFLOW_CONN_AZURE_STACK_DEFAULT", wrong)
    state, answers, _ = call(doctor.doctor, config=str(site.conf))
    verdicts = {answer["question"]: answer["verdict"] for answer in answers}
    assert state > 1
    assert verdicts["stack"] == "failed"
    findings = {answer["question"]: answer["finding"] for answer in answers}
    assert (findings["versions"], findings["permissions"]) == ("as stack", "as stack")
    assert verdicts["repository"] == "ok"
    assert verdicts["store"] in {"ok", "warning"}


def test_the_doctor_tries_a_stack_on_its_first_day(site: Site, call: Call) -> None:
    """What no permission and no version shows: what the stack does with disks and blobs."""
    site.emulator.add_group("scratch")
    site.emulator.add_storage_account("staging", "scratch")
    site.emulator.behaviour.upload = False
    given = {"config": str(site.conf), "scratch_group": "scratch", "account": "staging"}
    _, answers, _ = call(doctor.doctor, **given)
    verdicts = {answer["question"]: answer["verdict"] for answer in answers}
    assert verdicts["direct upload"] == "warning"
    assert verdicts["import"] == verdicts["read a snapshot"] == verdicts["copy a blob"] == "ok"
    assert site.emulator.leftovers() == []


def test_versions_that_a_stack_does_not_list_are_told(
    site: Site, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(versions.SUPPORTED, "Microsoft.Network/networkInterfaces", ("2016-09-01",))
    _, answers, _ = call(doctor.doctor, config=str(site.conf))
    told = [
        a["finding"] for a in answers if (a["question"], a["verdict"]) == ("versions", "warning")
    ]
    assert len(told) == 1
    assert "2018-11-01 of microsoft.network/networkinterfaces, it has 2016-09-01" in told[0]


def test_what_fails_several_questions_is_told_once(site: Site, call: Call) -> None:
    site.conf.write_text("{")
    state, answers, _ = call(doctor.doctor, config=str(site.conf))
    assert state > 1
    assert str(site.conf) in answers[0]["finding"]
    assert {answer["finding"] for answer in answers[1:]} == {"as configuration"}


def test_default_connections_need_no_configuration(
    site: Site, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The doctor answers what it can of a machine that is being set up."""
    monkeypatch.delenv("AZSTACK_CONF", raising=False)
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "nothing-here"))
    _, answers, _ = call(doctor.doctor, config=None)
    failed = {answer["question"] for answer in answers if answer["verdict"] == "failed"}
    assert failed == {"configuration", "pools"}
    assert call(points.points, config=None, vm="")[0] == 0


def test_a_cache_that_cannot_be_written_is_said(
    site: Site, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Who runs a command need not be who runs the workers."""
    (tmp_path / "file").touch()
    every = connections(site.emulator, site.store_url, site.repository.id)
    fields = every["azstack_repository_default"]
    fields["extra"]["cache_directory"] = str(tmp_path / "file")
    monkeypatch.setenv("AIRFLOW_CONN_AZSTACK_REPOSITORY_DEFAULT", json.dumps(fields))
    state, rows, said = call(points.points, vm="")
    assert (state, rows) == (0, [])
    told = "cache_directory of connection azstack_repository_default is not used"
    assert said.count(told) == 1


def test_a_database_that_was_never_made_is_one_line(
    site: Site, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.models.pool import Pool
    from sqlalchemy.exc import OperationalError

    def no_table(**_: object) -> None:
        raise OperationalError("SELECT ...", {}, Exception("no such table: slot_pool"))

    monkeypatch.setattr(Pool, "get_pools", no_table)
    state, _, said = call(pools.sync_pools, config=str(site.conf), dry_run=False, prune=False)
    assert state > 1
    assert "no such table: slot_pool" in said
    assert "airflow db migrate" in said


def test_the_doctor_names_a_missing_permission(site: Site, call: Call) -> None:
    site.emulator.behaviour.denied.add("Microsoft.Compute/disks/read")
    _, answers, _ = call(doctor.doctor, config=str(site.conf))
    failed = [answer for answer in answers if answer["verdict"] == "failed"]
    assert [answer["question"] for answer in failed] == ["read disks"]
    assert "Microsoft.Compute/disks/read" in failed[0]["finding"]
    assert "role 'reader'" in failed[0]["finding"]


def test_the_doctor_names_a_subscription_that_is_not_visible(
    site: Site, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = connections(site.emulator, site.store_url, site.repository.id)["azure_stack_default"]
    other = "11111111-2222-3333-4444-555555555555"
    wrong = json.dumps({**fields, "extra": {**fields["extra"], "subscription_id": other}})
    monkeypatch.setenv("AIRFLOW_CONN_AZURE_STACK_DEFAULT", wrong)
    _, answers, _ = call(doctor.doctor, config=str(site.conf))
    failed = [answer for answer in answers if answer["verdict"] == "failed"]
    assert [answer["question"] for answer in failed] == ["versions", "permissions"]
    assert other in failed[0]["finding"]
    assert f"visible are {site.emulator.subscription_id}" in failed[0]["finding"]


def test_no_points_is_an_empty_list_and_no_error(site: Site, call: Call) -> None:
    state, listed, _ = call(points.points, config=str(site.conf), vm="")
    assert (state, listed) == (0, [])


def test_an_empty_repository_is_sound_and_its_reports_are_empty(site: Site, call: Call) -> None:
    """The console's own commands, with the repository of the connection."""
    conf = str(site.conf)
    assert call(reports.jobs, config=conf, last=0)[:2] == (0, [])
    assert call(reports.coverage, config=conf, max_age=1.0)[:2] == (0, [])
    assert call(reports.usage, config=conf, by="policy")[:2] == (0, [])
    page = site.conf.with_name("report.html")
    given = {"to": str(page), "days": 30, "max_age": 1.0, "job": "", "usage": True}
    state, told, _ = call(reports.report, config=conf, timezone="UTC", **given)
    assert (state, told["vms"], told["attention"]) == (0, 0, [])
    assert "No job has ended yet." in page.read_text()
    state, report, _ = call(
        reports.verify, config=conf, mode="full", budget=None, days=30, resume=False
    )
    assert (state, report["findings"]) == (0, [])
