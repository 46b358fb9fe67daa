"""``azstack verify`` and ``azstack rebuild-index``: states, tables and JSON."""

import json
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
from support.damage import flip_files, packs_of
from support.disks import SparseDisk
from support.points import back_up_vm
from support.repositories import CHEAP, noise

from airflow_provider_azstack.console import main
from airflow_provider_azstack.console.verify import size
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store.local import LocalStore

pytestmark = pytest.mark.tier1


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one VM, and an environment that leads to it."""
    directory = tmp_path / "store"
    directory.mkdir()
    repository, _ = Repository.create(LocalStore(directory), Secret("passphrase"), kdf=CHEAP)
    disk = SparseDisk(3 * 2**20)
    disk.write(2**20, noise(1, 5000))
    back_up_vm(repository, {"os": disk})
    monkeypatch.setenv("AZSTACK_REPOSITORY", str(directory))
    monkeypatch.setenv("AZSTACK_PASSPHRASE", "passphrase")
    return directory


def pack(place: Path) -> Path:
    [found] = packs_of(place)
    return found


@pytest.mark.parametrize("mode", [[], ["--structure"], ["--cycle", "--budget", "1G"], ["--full"]])
def test_a_sound_repository_is_state_0(place: Path, mode: list[str]) -> None:
    assert main(["verify", *mode]) == 0


def test_damage_is_state_2_and_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip_files([pack(place)], 100)
    assert main(["verify", "--full"]) == 2
    text = capsys.readouterr()
    assert pack(place).name in text.err
    assert "vm-1" in text.out
    assert "1048576+1048576" in text.out
    assert "1 restore point damaged (1 restore point, 1 of 1 pack read)" in text.err
    assert text.err.count("blocks damaged") == 0, "the tables say it"
    assert main(["verify", "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["affected"][0]["ranges"] == [{"offset": 1048576, "length": 1048576}]


def test_damage_that_costs_nothing_is_state_1(place: Path) -> None:
    """The directory of a pack serves to rebuild the index, and nothing else."""
    flip_files([pack(place)], -1)
    assert main(["verify", "--full"]) == 1


def test_a_budget_that_is_too_small_is_told(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "--cycle", "--budget", "1", "--days", "1"]) == 0
    text = capsys.readouterr().err
    assert "too little" in text
    assert "everything in 1 day; " in text


def test_the_index_is_rebuilt(
    place: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    [segment] = (place / "index").iterdir()
    flip_files([segment], 0)
    assert main(["verify"]) == 2
    assert "azstack rebuild-index" in capsys.readouterr().err
    assert "to find its blocks again" not in caplog.text, "the tables and the verdict say it"
    assert main(["rebuild-index"]) == 0
    assert main(["verify", "--full"]) == 0


def test_sizes_are_read_with_their_units() -> None:
    assert [size(text) for text in ("1", "2K", "3MiB", "4 G", "5tb")] == [
        1,
        2 * 2**10,
        3 * 2**20,
        4 * 2**30,
        5 * 2**40,
    ]
    for text in ("", "0", "-1", "1X", "1.5G", "G"):
        with pytest.raises(ArgumentTypeError):
            size(text)
