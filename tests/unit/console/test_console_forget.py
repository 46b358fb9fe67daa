"""``azstack forget`` and ``azstack hold``, as a shell runs them."""

import json
from pathlib import Path

import pytest
from support.repositories import CHEAP, VM_KEY, back_up, noise, reopen

from airflow_provider_azstack.console import main
from airflow_provider_azstack.repo.points.forget import forget
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store.local import LocalStore

pytestmark = pytest.mark.tier1


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    directory = tmp_path / "store"
    directory.mkdir()
    secret = Secret("correct horse")
    repository, _ = Repository.create(LocalStore(directory), secret, kdf=CHEAP)
    for number, run in enumerate(("run-1", "run-2", "run-3")):
        back_up(repository, [noise(number)], run)
    monkeypatch.setenv("AZSTACK_REPOSITORY", str(directory))
    monkeypatch.setenv("AZSTACK_PASSPHRASE", secret.reveal())
    return repository


def ids(repository: Repository) -> list[str]:
    return [point.id for point in reopen(repository).points()]


def test_by_rule_it_shows_first_and_does_it_when_told(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["forget", "--keep-last", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["action"] for row in rows] == ["forget", "forget", "keep"]
    assert rows[2]["because"] == "newest good point, last 1"
    assert len(ids(repository)) == 3
    assert main(["forget", "--keep-last", "1", "--execute"]) == 0
    assert "no rule keeps it" in capsys.readouterr().out
    assert ids(repository) == ["p-run-3"]


def test_by_policy_it_takes_the_policys_rule_and_points(
    repository: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("nightly", "weekly"):
        policy = tmp_path / f"{name}.yaml"
        policy.write_text(f"name: {name}\nretention: {{keep_last: 1}}\n")
        assert main(["forget", "--policy", str(policy), "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert len(rows) == (3 if name == "nightly" else 0)


def test_chosen_points(repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forget", "web", "p-run-1"]) == 0
    assert "p-run-1" in capsys.readouterr().out
    assert len(ids(repository)) == 3
    assert main(["forget", VM_KEY, "p-run-1", "--execute"]) == 0
    assert ids(repository) == ["p-run-2", "p-run-3"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["web"],
        ["web", "p-run-1", "--keep-last", "1"],
        ["--keep-last", "-1"],
        ["--keep-within", "soon"],
        ["nobody", "--keep-last", "1"],
        ["nobody", "p-run-1"],
        ["web", "p-run-9"],
        ["--keep-last", "0", "--execute"],
        ["web", "p-run-1", "p-run-2", "p-run-3", "--execute"],
    ],
)
def test_what_is_unclear_or_too_much_changes_nothing(
    repository: Repository, arguments: list[str]
) -> None:
    """F-H11: forgetting everything is refused without the repository's id."""
    assert main(["forget", *arguments]) == 2
    assert len(ids(repository)) == 3


def test_holds(repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hold", "add", "web", "p-run-1", "--reason", "case 4711"]) == 0
    capsys.readouterr()
    assert main(["hold", "list", "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["point"], row["reason"]) == ("p-run-1", "case 4711")
    assert main(["forget", "web", "p-run-1", "--execute"]) == 2
    assert main(["hold", "remove", "web", "p-run-2"]) == 2
    assert main(["hold", "remove", "web", "p-run-1"]) == 0
    assert main(["forget", "web", "p-run-1", "--execute"]) == 0


def test_prune_shows_first_and_does_it_when_told(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then nothing is left to do; what a living session holds back is told."""
    session = repository.open_session("backup")
    with session.writer() as writer:
        writer.add(noise(9))
        writer.flush()
    session.close()
    for point in repository.points():  # their images are of blocks, not of runs: not for a marker
        forget(repository, [(point.vm.key, point.id)], confirm=repository.id)
    packs = len(list(repository.store.list("packs/")))
    assert main(["prune"]) == 2, "all would go"
    confirmed = ["prune", "--confirm", repository.id]
    assert main([*confirmed, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len([row for row in report["rows"] if row["action"] == "condemn"]) >= packs
    assert len(list(repository.store.list("packs/"))) == packs
    living = repository.open_session("restore")
    assert main([*confirmed, "--execute"]) == 0
    assert living.id in capsys.readouterr().err
    assert main([*confirmed, "--execute", "--fence", living.id]) == 0
    assert "no restore point needs it" not in capsys.readouterr().out
    assert not list(repository.store.list("packs/"))
    repository.store.put("condemned/planted/packs", b"")
    assert main([*confirmed, "--execute"]) == 1
