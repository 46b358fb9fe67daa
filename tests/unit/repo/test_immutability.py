"""Object Lock: what restore points need is held, all of it, and lapses are told."""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from oracle import assert_repository_sound
from support.disks import SparseDisk
from support.points import back_up_vm, digest_of
from support.repositories import CHEAP, PASSPHRASE
from support.s3 import ACCESS_KEY, SECRET_KEY, S3Server, s3_server
from support.stores import MemoryStore

from airflow_provider_azstack.console import main
from airflow_provider_azstack.errors import ConfigurationError, ObjectNotFound, Refused
from airflow_provider_azstack.repo.immutability import Report, protect
from airflow_provider_azstack.repo.points.forget import forget
from airflow_provider_azstack.repo.prune.collector import prune
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.store import open_store
from airflow_provider_azstack.store.object_lock import S3ObjectLock, open_object_lock

pytestmark = pytest.mark.tier2

MIB = 1 << 20
NOW = datetime.now(UTC).replace(microsecond=0)  # the server compares with its own clock
_numbers = count(1)  # the server remembers buckets as long as this process lives


class Vault:
    """A repository in a bucket with Object Lock: two points, and what a third left behind."""

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.bucket = f"vault-{next(_numbers)}"
        self.url = f"s3://{self.bucket}/backups"
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=server.url,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )
        self.client.create_bucket(Bucket=self.bucket, ObjectLockEnabledForBucket=True)
        self.store = open_store(self.url, options=server.options())
        self.repository, _ = Repository.create(self.store, PASSPHRASE, kdf=CHEAP, clock=lambda: NOW)
        self.expected = {}
        disk = SparseDisk(3 * MIB)
        for day in range(3):
            disk.write(day * MIB, f"day {day}".encode() * 20_000)
            point = back_up_vm(self.repository, {"os": disk}, day=day)
            self.expected[point.vm.key, point.id] = {"os": digest_of(disk)}
        gone = min(self.expected, key=lambda which: which[1])
        forget(self.repository, [gone])
        del self.expected[gone]
        self.lock = open_object_lock(self.url, server.options(), "COMPLIANCE")

    def protect(self, days: int, **options: Any) -> Report:
        return protect(self.repository, self.lock, NOW + timedelta(days=days), **options)

    def close(self) -> None:
        self.client.close()


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def vault(server: S3Server) -> Iterator[Vault]:
    vault = Vault(server)
    yield vault
    vault.close()


def test_what_is_locked_is_enough_to_restore_everything(vault: Vault) -> None:
    """The locked objects alone, in an empty store: the index is rebuilt, every point restores."""
    report = vault.protect(30)
    assert report.points == 2
    survivors = MemoryStore()
    for held in report.objects:
        survivors.put(held.name, vault.store.get(held.name))
        assert vault.lock.held_until(held.name) == NOW + timedelta(days=30)
    restored = Repository.open(survivors, PASSPHRASE)
    restored.rebuild_index()
    assert_repository_sound(restored, vault.expected)
    kinds = {held.name.partition("/")[0] for held in report.objects}
    assert kinds == {"config", "keys", "packs", "images", "points"}


def test_nobody_deletes_what_is_locked(vault: Vault) -> None:
    """Deleting by name leaves a marker and the bytes; deleting the bytes is refused."""
    report = vault.protect(30)
    name = f"backups/{report.objects[-1].name}"
    (version,) = vault.client.list_object_versions(Bucket=vault.bucket, Prefix=name)["Versions"]
    with pytest.raises(ClientError, match="AccessDenied"):
        vault.client.delete_object(Bucket=vault.bucket, Key=name, VersionId=version["VersionId"])
    vault.store.delete(report.objects[-1].name)
    with pytest.raises(ObjectNotFound):
        vault.store.get(report.objects[-1].name)
    body = vault.client.get_object(Bucket=vault.bucket, Key=name, VersionId=version["VersionId"])
    assert body["Body"].read()


def test_retention_is_lengthened_and_never_shortened(vault: Vault) -> None:
    first = vault.protect(30)
    assert {held.found for held in first.objects} == {"never held"}
    assert vault.protect(30).short == []
    longer = vault.protect(60)
    assert {held.found for held in longer.objects} == {"ends early"}
    assert longer.lapses == []
    name = longer.objects[0].name
    assert vault.protect(10).short == []
    assert vault.lock.held_until(name) == NOW + timedelta(days=60)


def test_lapses_are_told(vault: Vault) -> None:
    """What was not held when we came may have been replaced: that is said, each time."""
    vault.protect(30)
    back_up_vm(vault.repository, {"os": SparseDisk(MIB)}, number=2, day=9)
    report = vault.protect(30)
    assert {held.found for held in report.lapses} == {"never held"}
    assert any(held.name.startswith("points/00000002") for held in report.lapses)
    vault.repository.now = lambda: NOW + timedelta(days=31)
    late = vault.protect(90, dry_run=True)
    assert {held.found for held in late.lapses} == {"lapsed"}
    assert len(late.lapses) == len(late.objects)


def test_a_dry_run_locks_nothing(vault: Vault) -> None:
    report = vault.protect(30, dry_run=True)
    assert report.lapses
    assert {vault.lock.held_until(held.name) for held in report.objects} == {None}


def test_nothing_is_locked_when_something_is_lost(vault: Vault) -> None:
    for info in list(vault.store.list("packs/")):
        vault.store.delete(info.name)
    with pytest.raises(Refused):
        vault.protect(30)
    assert vault.lock.held_until("config") is None


def test_a_prune_leaves_what_is_needed_and_the_lock_goes_on(vault: Vault) -> None:
    vault.protect(30)
    prune(vault.repository)
    prune(vault.repository)
    assert_repository_sound(vault.repository, vault.expected)
    assert {held.found for held in vault.protect(30).objects} <= {"held", "never held"}


def test_stores_without_a_lock_are_refused(vault: Vault) -> None:
    with pytest.raises(ConfigurationError, match="s3:// buckets"):
        open_object_lock("/backup", {}, "COMPLIANCE")
    vault.client.create_bucket(Bucket="plain")
    plain = S3ObjectLock("plain", "", "COMPLIANCE", vault.server.options())
    vault.client.put_object(Bucket="plain", Key="config", Body=b"x")
    with pytest.raises(ConfigurationError, match="has no Object Lock"):
        plain.hold("config", NOW + timedelta(days=1))
    with pytest.raises(ObjectNotFound):
        vault.lock.held_until("config/none")
    with pytest.raises(ConfigurationError, match="past"):
        vault.protect(0)


def test_a_session_token_is_in_no_log(vault: Vault, caplog: pytest.LogCaptureFixture) -> None:
    """The library would log whole requests, and Airflow may be told to log at DEBUG."""
    caplog.set_level(logging.DEBUG)
    options = {**vault.server.options(), "session_token": "canary-token"}
    S3ObjectLock(vault.bucket, "backups", "COMPLIANCE", options).held_until("config")
    assert "canary-token" not in caplog.text
    assert SECRET_KEY not in caplog.text


def test_the_command_says_what_had_no_lock(
    vault: Vault,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The state is 1 when something had no lock, and 0 the next time."""
    (tmp_path / "options").write_text(json.dumps(vault.server.options()))
    monkeypatch.setenv("AZSTACK_REPOSITORY", vault.url)
    monkeypatch.setenv("AZSTACK_STORE_OPTIONS", str(tmp_path / "options"))
    monkeypatch.setenv("AZSTACK_PASSPHRASE", PASSPHRASE.reveal())
    assert main(["lock", "--days", "30", "--json"]) == 1
    printed = capsys.readouterr()
    assert {row["found"] for row in json.loads(printed.out)} == {"never held"}
    assert "needed by 2 restore points" in printed.err
    assert SECRET_KEY not in printed.out + printed.err
    assert main(["lock", "--days", "29"]) == 0
    assert main(["lock", "--days", "0"]) == 2
