"""From a URL to a store: what is accepted, what is refused, and what is loaded for it."""

import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store import open_store
from airflow_provider_azstack.store.guard import RetryingStore
from airflow_provider_azstack.store.local import LocalStore

pytestmark = pytest.mark.tier1


def test_a_directory_by_path_and_by_url(tmp_path: Path) -> None:
    directory = tmp_path / "with space"
    directory.mkdir()
    for url in (str(directory), directory.as_uri()):
        store = open_store(url)
        assert isinstance(store, LocalStore)
        assert store.url == directory.as_uri()


def test_a_missing_directory_is_made_only_when_asked(tmp_path: Path) -> None:
    """A disk that is not mounted must not become an empty repository."""
    missing = tmp_path / "a" / "b"
    with pytest.raises(ConfigurationError, match="create it, or mount it"):
        open_store(str(missing))
    assert not missing.exists()
    open_store(str(missing), create=True).put("one", b"x")
    assert open_store(str(missing), create=True).get("one") == b"x"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="cannot be created"):
        open_store(str(tmp_path / "file" / "below"), create=True)


@pytest.mark.parametrize("scheme", ["s3", "az", "gs"])
def test_buckets_are_patient_and_show_where_they_are(scheme: str) -> None:
    store = open_store(f"{scheme}://bucket/some/prefix/", options=OPTIONS[scheme])
    assert isinstance(store, RetryingStore)
    assert store.url == f"{scheme}://bucket/some/prefix"
    assert "canary" not in repr(vars(store)) + repr(vars(store.inner))


OPTIONS = {
    "s3": {"access_key_id": "canary", "secret_access_key": Secret("canary"), "region": "r"},
    "az": {"account_name": "account", "account_key": Secret("Y2FuYXJ5")},
    "gs": {
        "service_account_key": Secret(
            '{"disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}'
        )
    },
}


@pytest.mark.parametrize(
    "url",
    [
        "",
        "relative/path",
        "file://host/path",
        "file:relative",
        "ftp://host/path",
        "s3://",
        "s3://b",
        "s3://bucket:99/x",
        "s3://bucket/a/../b",
        "s3://bucket/a//b",
        "s3://bucket/a b",
        "S3:bucket",
        "/a/../b",
        "/nul\0byte",
        "file:///a/%2e%2e/b",
    ],
)
def test_other_urls_are_refused_with_the_forms_that_exist(url: str) -> None:
    with pytest.raises(ConfigurationError, match="s3://bucket/prefix"):
        open_store(url)


@pytest.mark.parametrize(
    "url",
    ["s3://canary:canary@bucket/x", "az://c/x?sig=canary", "s3://canary@bucket", "gs://b/x#canary"],
)
def test_a_secret_in_the_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_store(url)
    assert "canary" not in str(refused.value)
    assert "options" in str(refused.value)


def test_a_directory_takes_no_options(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="access_key_id"):
        open_store(str(tmp_path), options={"access_key_id": "x"})


def run(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_obstore_is_loaded_by_the_first_bucket_only(tmp_path: Path) -> None:
    printed = run(f"""
import sys
from airflow_provider_azstack.store import open_store
import airflow_provider_azstack.store.probe
open_store({str(tmp_path)!r}).put("one", b"x")
print("obstore" in sys.modules)
""")
    assert printed == "False\n"


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("az", "azureblob"), ("gs", "gcs")])
def test_a_missing_extra_is_named(scheme: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(ConfigurationError, match=rf"airflow-provider-azstack\[{extra}\]"):
        open_store(f"{scheme}://bucket/x")
