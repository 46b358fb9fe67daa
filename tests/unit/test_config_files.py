"""azurestack.conf and credentials files: what is wrong is said in one line, by file and key."""

import json
from pathlib import Path

import pytest

from airflow_provider_azstack import config
from airflow_provider_azstack.errors import ConfigurationError

pytestmark = pytest.mark.tier1

DOCS = Path(__file__).parents[2] / "docs"


def write(path: Path, value: object) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_the_example_is_a_valid_config() -> None:
    loaded = config.load_config(DOCS / "azurestack.conf.example")
    hosts = {host.name: host for host in loaded.backup_hosts()}
    assert {name: host.streams for name, host in hosts.items()} == {
        "backup-a": 4,
        "backup-b": 8,
        "backup-c": 4,
    }
    assert hosts["backup-a"].pool == "azstack_backup-a"
    assert hosts["backup-a"].queue == "backup-a"
    assert hosts["backup-c"].queue == "tape-room"
    assert hosts["backup-c"].executor == "EdgeExecutor"
    assert loaded.caps.storage_account == 4


def test_the_schema_file_is_what_the_types_say() -> None:
    """Run ``config_schema()`` and write the file again when this fails."""
    file = Path(config.__file__).parent / "azurestack.schema.json"
    assert json.loads(file.read_text()) == json.loads(json.dumps(config.config_schema()))


def test_a_host_that_is_not_in_the_file_is_named() -> None:
    loaded = config.load_config(DOCS / "azurestack.conf.example")
    with pytest.raises(ConfigurationError, match=r"'backup-z'.*backup-a, backup-b"):
        loaded.backup_hosts(("backup-a", "backup-z"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "line 1, column 2"),
        ("[]", "one JSON object"),
        ({}, "hosts"),
        ({"hosts": {}}, "hosts"),
        ({"hosts": {"a": {}}, "hots": 1}, "hots"),
        ({"hosts": {"a": {"NO_OF_BACKUP_STREAMS_PER_NODE": 0}}}, "'a'"),
        ({"hosts": {"a": {}, "b": {"streams": 3}}}, "'b'.*streams"),
        ({"hosts": {"A/../b": {}}}, "A/../b"),
        ({"hosts": {"a\n": {}}}, "regex"),
        ({"hosts": {"a": {}}, "NO_OF_BACKUP_STREAMS_PER_NODE": "4"}, "NO_OF_BACKUP_STREAMS"),
        ({"hosts": {"a": {}}, "NO_OF_BACKUP_STREAMS_PER_NODE": 65}, "NO_OF_BACKUP_STREAMS"),
        ({"hosts": {"a": {}}, "caps": {"stack": 0}}, "stack"),
        ('{"hosts": {"a": {}, "a": {}}}', "'a' is there twice"),
        ("[" * 100_000, "conf"),
        ('{"hosts": "' + "x" * (1 << 20) + '"}', "more than"),
    ],
)
def test_a_malformed_config_is_one_line_with_file_and_key(
    tmp_path: Path, text: object, said: str
) -> None:
    file = write(tmp_path / "azurestack.conf", text)
    with pytest.raises(ConfigurationError, match=said) as caught:
        config.load_config(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_missing_or_binary_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="AZSTACK_CONF"):
        config.load_config(tmp_path / "none")
    with pytest.raises(ConfigurationError, match="AZSTACK_CONF"):
        config.load_config(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        config.load_config(tmp_path / "binary")


def test_where_the_file_is_looked_for() -> None:
    assert config.config_path({"AZSTACK_CONF": "/etc/x.json"}) == Path("/etc/x.json")
    assert config.config_path({"AIRFLOW_HOME": "/srv/airflow"}).parent == Path("/srv/airflow")
    assert config.config_path({}) == Path.home() / "airflow" / "azurestack.conf"


CREDENTIALS = {
    "IdentityProvider": "AAD",
    "TenantId": "contoso.onmicrosoft.com",
    "ClientId": "11111111-1111-1111-1111-111111111111",
    "ClientSecret": "canary-secret",
    "AuthResource": "https://management.stack.example/0000",
    "account1": "canary-key-1",
    "account2": "canary-key-2",
}


def test_a_credentials_file_is_read_and_shows_no_secret(tmp_path: Path) -> None:
    read = config.read_credentials(write(tmp_path / "creds", CREDENTIALS))
    assert read.identity_provider == "aad"
    assert read.client_secret.reveal() == "canary-secret"
    assert {name: key.reveal() for name, key in read.account_keys.items()} == {
        "account1": "canary-key-1",
        "account2": "canary-key-2",
    }
    assert "canary" not in repr(read)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"IdentityProvider": "canary"}, "AAD or ADFS"),
        ({"ClientSecret": ""}, "ClientSecret"),
        ({"ClientSecret": ["canary"]}, "ClientSecret"),
        ({"account1": "canary\nline"}, "account1"),
    ],
)
def test_an_error_in_a_credentials_file_shows_no_value(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    file = write(tmp_path / "creds", {**CREDENTIALS, **change})
    with pytest.raises(ConfigurationError, match=said) as caught:
        config.read_credentials(file)
    assert "canary" not in str(caught.value)


def test_what_a_credentials_file_lacks_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "creds", {"IdentityProvider": "ADFS", "ClientId": "x"})
    with pytest.raises(ConfigurationError, match="ClientSecret is missing"):
        config.read_credentials(file)
    file = write(tmp_path / "broken", '{"ClientSecret": "canary" oops')
    with pytest.raises(ConfigurationError, match="line 1") as caught:
        config.read_credentials(file)
    assert "canary" not in str(caught.value)
