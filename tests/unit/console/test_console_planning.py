"""``azstack simulate`` and ``estimate``: repeatable tables, and errors that name the option."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from support.disks import SparseDisk
from support.points import back_up_vm
from support.repositories import CHEAP, PASSPHRASE, noise

from airflow_provider_azstack.console import main
from airflow_provider_azstack.engine.backup.fleets import Fleet, load_fleet, made_up
from airflow_provider_azstack.engine.backup.past import Past
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.model import HostForecast
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.store.local import LocalStore

pytestmark = pytest.mark.tier1

DOCS = Path(__file__).parents[3] / "docs"
FLEET = {
    "seed": 7,
    "hosts": 2,
    "streams": 2,
    "speeds": {"stream_mb_per_second": 50, "seconds_per_disk": 2},
    "groups": {
        "web": {"vms": 40, "disks_gib": [32, 64], "change": 0.05, "spread": 0.8},
        "db": {"vms": 2, "disks_gib": [64, 1023], "sku": "Premium_LRS", "data": 0.9},
    },
}


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    file = tmp_path / "fleet.yaml"
    file.write_text(json.dumps(FLEET))
    return file


def rows(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["simulate", *arguments, "--json"]) == 0
    return list(json.loads(capsys.readouterr().out))


def test_two_more_hosts_bring_an_earlier_end(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = rows(capsys, str(fleet), "--more", "0,1,2")
    assert [row["hosts"] for row in table] == [2, 3, 4]
    ends = [row["seconds"] for row in table]
    assert ends == sorted(ends, reverse=True)
    assert ends[2] < 0.7 * ends[0]
    assert len({row["moved_bytes"] for row in table}) == 1, "the same work"
    assert rows(capsys, str(fleet), "--more", "0,1,2") == table, "the same again"


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A repository with a job of one VM on host ``a``, of which nothing was forecast."""
    directory = tmp_path / "store"
    directory.mkdir()
    repository, _ = Repository.create(LocalStore(directory), PASSPHRASE, kdf=CHEAP)
    disk = SparseDisk(2 * 2**20)
    disk.write(0, noise(1, 5000))
    back_up_vm(repository, {"os": disk})
    monkeypatch.setenv("AZSTACK_REPOSITORY", str(directory))
    monkeypatch.setenv("AZSTACK_PASSPHRASE", PASSPHRASE.reveal())
    return repository


def test_a_recorded_job_is_simulated_on_the_hosts_that_it_had(
    recorded: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of its forecast, idle ones as well; without a forecast those of its VMs."""
    [row] = rows(capsys, "--more", "0")
    assert (row["hosts"], row["streams"], row["busiest"].split()[0]) == (1, 4, "a")
    [record] = recorded.jobs()
    forecast = tuple(
        HostForecast(
            host=host,
            made_at=record.started_at,
            streams=streams,
            workloads=0,
            vms=0,
            expected_bytes=0,
            busy_seconds=0.0,
            end_seconds=0.0,
        )
        for host, streams in (("b", 3), ("a", 2))
    )
    session = recorded.open_session("backup", run="later")
    later = replace(record.job, run="later", session=session.id)
    session.put_job(replace(record, job=later, forecast=forecast))
    session.close()
    table = rows(capsys, "--run", "later", "--more", "0,1")
    assert [(row["hosts"], row["streams"]) for row in table] == [(2, 5), (3, 7)]
    [row] = rows(capsys, "--run", "later", "--more", "0", "--hosts", "1", "--streams", "8")
    assert (row["hosts"], row["streams"]) == (1, 8)


def test_limits_and_windows_count(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    free, limited, stacked = (
        rows(capsys, str(fleet), "--more", "0", *more)[0]
        for more in ((), ("--policy-limit", "40"), ("--stack-rate", "40"))
    )
    for held_up in (limited, stacked):
        assert held_up["seconds"] >= free["moved_bytes"] / 40e6 * 0.99
        assert held_up["seconds"] > free["seconds"]
    assert rows(capsys, str(fleet), "--more", "0", "--window", "0.1")[0]["left_out"] > 0


def test_a_full_backup_moves_all_the_data(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed, full = (
        rows(capsys, str(fleet), "--more", "0", "--mode", mode)[0]["moved_bytes"]
        for mode in ("incremental", "full")
    )
    assert full > 5 * changed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--more", "1,x"), "--more"),
        (("--more", "-1"), "--more"),
        (("--hosts", "many"), "--hosts"),
        (("--hosts", "0"), "--hosts"),
        (("--hosts", "201"), "--hosts"),
        (("--streams", "0"), "--streams"),
        (("--host-limit", "0"), "--host-limit"),
        (("--policy-limit", "0"), "--policy-limit"),
        (("--stack-rate", "0"), "--stack-rate"),
        (("--stream-rate", "0"), "--stream-rate"),
        (("--run", "job-1"), "--run"),
        (("--mode", "fast"), "--mode"),
        (("--window", "1e9"), "--window"),
    ],
)
def test_what_is_no_number_is_named(
    fleet: Path, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", str(fleet), f"{arguments[0]}={arguments[1]}"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"groups": {}},
        {"groups": {"a": {"vms": 0, "disks_gib": [1]}}},
        {"groups": {"a": {"vms": 1, "disks_gib": [2000]}}},
        {"groups": {"a": {"vms": 1, "disks_gib": [1], "sku": "Gold"}}},
        {"groups": {"a": {"vms": 100_000, "disks_gib": [1]}, "b": {"vms": 1, "disks_gib": [1]}}},
        {"hots": 1},
    ],
)
def test_a_fleet_that_makes_no_sense_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(json.dumps({**FLEET, **change}))
    with pytest.raises(ConfigurationError, match=r"fleet\.yaml"):
        load_fleet(file)


def test_a_fleet_is_the_same_for_the_same_seed_and_another_for_another(fleet: Path) -> None:
    def moved(made: Fleet) -> dict[str, int]:
        return made_up(made, "incremental").past.expected_bytes("incremental")

    loaded = load_fleet(fleet)
    assert moved(loaded) == moved(load_fleet(fleet))
    fleet.write_text(json.dumps({**FLEET, "seed": 8}))
    assert moved(loaded) != moved(load_fleet(fleet))
    assert isinstance(made_up(loaded, "full").past, Past)


def test_the_example_of_the_documentation_is_a_fleet() -> None:
    assert load_fleet(DOCS / "fleet.example.yaml").groups
