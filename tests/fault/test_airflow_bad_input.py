"""What users get wrong: each is one line that says what, where and what to do; nothing is left."""

import json
import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.airflow_run import PASSPHRASE, Site, connections
from support.mounts import tmpfs

from airflow_provider_azstack.emulator import DiskSpec, Emulator
from airflow_provider_azstack.hooks.repository import RepositoryHook
from airflow_provider_azstack.hooks.stack import AzureStackHook

pytestmark = pytest.mark.tier2
MIB = 1 << 20


@pytest.fixture
def site(tls_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    tls_emulator.add_vm("vm", "web", [DiskSpec(size_bytes=4 * MIB)])
    return Site(tls_emulator, tmp_path, monkeypatch)


def change(site: Site, patch: pytest.MonkeyPatch, conn_id: str, **changes: Any) -> None:
    """Get one field of a connection wrong."""
    fields = connections(site.emulator, site.store_url, site.repository.id)[conn_id]
    extra = {**fields["extra"], **changes.pop("extra", {})}
    patch.setenv(
        f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps({**fields, **changes, "extra": extra})
    )


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return everything a user could read of what happened."""
    return lambda: caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "case",
    [
        ("azure_stack_default", {"password": "wrong"}, "discover", "AccessDenied"),
        ("azure_stack_default", {"login": ""}, "open_session", "fill in the field 'login'"),
        ("azure_stack_default", {"extra": {"ca_bundle": ""}}, "discover", "ca_bundle"),
        (
            "azure_stack_default",
            {"extra": {"ca_bundle": "/no/such.pem"}},
            "open_session",
            "/no/such",
        ),
        ("azstack_repository_default", {"password": "wrong one"}, "open_session", "WrongKey"),
        (
            "azstack_repository_default",
            {"host": "/no/such/place"},
            "open_session",
            "/no/such/place",
        ),
    ],
    ids=["secret", "no-client", "unknown-ca", "no-ca-file", "passphrase", "no-repository"],
)
def test_a_wrong_connection_fails_the_run_and_says_why(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    told: Callable[[], str],
    case: tuple[str, dict[str, Any], str, str],
) -> None:
    conn_id, changes, task, said = case
    change(site, monkeypatch, conn_id, **changes)
    run = site.run(site.dag("bad-connection"))
    assert run.state == "failed"
    assert run.of(task) == ["failed"]
    assert said in told()
    assert site.emulator.leftovers() == []
    assert not list(site.repository.points())


@pytest.mark.parametrize(
    ("action", "task"),
    [
        ("Microsoft.Compute/virtualMachines/read", "discover"),
        ("Microsoft.Compute/snapshots/write", "complete"),
        ("Microsoft.Compute/snapshots/beginGetAccess/action", "complete"),
    ],
)
def test_a_missing_permission_is_named(
    site: Site, told: Callable[[], str], action: str, task: str
) -> None:
    site.emulator.behaviour.denied.add(action)
    run = site.run(site.dag("bad-permission"))
    assert run.state == "failed"
    assert run.of(task) == ["failed"]
    assert action in told()
    assert site.emulator.leftovers() == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with tmpfs(tmp_path, 3) as place:
        yield place


def test_a_full_disk_fails_the_run_and_room_is_all_that_the_next_needs(
    tls_emulator: Emulator,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    told: Callable[[], str],
) -> None:
    """F-S1: says for how many bytes there was no room; with room again the next run succeeds."""
    vm = tls_emulator.add_vm("vm", "web", [DiskSpec(size_bytes=4 * MIB)])
    vm.disks[0].write(0, os.urandom(4 * MIB))
    site = Site(tls_emulator, small_disk, monkeypatch)
    run = site.run(site.dag("full-disk"))
    assert run.state == "failed"
    assert run.of("one.workloads.stream") == ["failed"]
    assert run.of("clean_up") == ["success"]
    said = told()
    assert "StoreFull" in said
    assert "bytes needed" in said
    assert tls_emulator.leftovers() == []
    assert not site.repository.points()
    remount = ["mount", "-o", "remount,size=32m", str(small_disk)]
    subprocess.run(remount, check=True, capture_output=True)
    assert site.run(site.dag("full-disk")).state == "success"
    (point,) = site.reopen().points()
    assert point.vm.name == "vm"


def test_a_malformed_configuration_is_an_import_error_of_one_line(site: Site) -> None:
    """Airflow shows it above its list of DAGs."""
    from airflow.dag_processing.dagbag import BundleDagBag
    from support.airflow_run import DAGS, SOURCE

    site.conf.write_text('{"hosts": {"one": {"NO_OF_BACKUP_STREAMS_PER_NODE": 0}}}')
    file = DAGS / "malformed.py"
    file.write_text(SOURCE.format(dag_id="malformed", policy={"name": "p"}, conf=str(site.conf)))
    bag = BundleDagBag(dag_folder=file, bundle_path=DAGS, bundle_name="dags-folder")
    file.unlink()
    (error,) = bag.import_errors.values()
    last = error.strip().splitlines()[-1]
    assert str(site.conf) in last
    assert "'one'" in last
    assert "NO_OF_BACKUP_STREAMS_PER_NODE" in last


def test_an_unreachable_stack_is_said_to_be_while_a_person_waits(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The button in the connection form does not take a quarter of an hour."""
    monkeypatch.setattr("airflow_provider_azstack.hooks.stack.WAITING_SECONDS", 0.5)
    change(site, monkeypatch, "azure_stack_default", host="https://127.0.0.1:1")
    worked, message = AzureStackHook().test_connection()
    assert not worked
    assert "127.0.0.1:1" in message
    assert "\n" not in message


def test_good_connections_say_so(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert AzureStackHook().test_connection() == (True, "signed in; 1 subscription visible")
    assert RepositoryHook().test_connection()[0]
    assert PASSPHRASE not in caplog.text
