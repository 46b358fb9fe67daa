"""From an Airflow connection to a stack or a repository, and what is said when that fails."""

import json
from pathlib import Path
from typing import Any

import pytest
import support.airflow_home
from airflow.sdk.log import redact

from airflow_provider_azstack import get_provider_info
from airflow_provider_azstack.errors import AzStackError, ConfigurationError
from airflow_provider_azstack.hooks.masking import forms, mask
from airflow_provider_azstack.hooks.repository import RepositoryHook
from airflow_provider_azstack.hooks.stack import AzureStackHook
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sealing.crypto import Cost
from airflow_provider_azstack.secret import MASK, Secret
from airflow_provider_azstack.store import open_store

pytestmark = pytest.mark.tier1

assert support.airflow_home.HOME
CANARY = "canary/secret+of=the&client"
SHORTEST_MASKED = 5  # characters, unless Airflow is configured otherwise


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(conn_id: str, **fields: Any) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))

    return put


def stack_fields(**changes: Any) -> dict[str, Any]:
    fields = {
        "conn_type": "azure_stack",
        "host": "https://management.local.azurestack.external",
        "login": "client",
        "password": CANARY,
        "extra": {"tenant_id": "tenant", "subscription_id": "sub"},
    }
    return {**fields, **changes}


def test_a_connection_becomes_a_stack(connect: Any) -> None:
    connect("s", **stack_fields())
    hook = AzureStackHook("s")
    with hook.get_conn() as stack:
        assert stack.name == "management.local.azurestack.external"
        assert hook.subscription_id == "sub"


def test_a_form_that_was_left_as_it_is_holds_no_short_word(connect: Any) -> None:
    """Airflow masks each text of a connection, and warns in each task's log of one too short."""
    defaults = [
        field["schema"].get("default")
        for kind in get_provider_info()["connection-types"]
        for field in kind["conn-fields"].values()
    ]
    assert all(default is None or len(default) >= SHORTEST_MASKED for default in defaults)
    connect("s", **stack_fields(extra={"tenant_id": "tenant", "sign_in": None}))
    AzureStackHook("s").get_conn().close()


def test_keys_of_storage_accounts_are_masked_and_handed_on(connect: Any) -> None:
    extra = {"secret_account_keys": {"account": "canary-account-key=="}}
    connect("s", **stack_fields(extra=extra))
    with AzureStackHook("s").get_conn() as stack:
        assert stack.account_keys["account"].reveal() == "canary-account-key=="
    assert "canary-account-key" not in str(redact("x canary-account-key== y"))


def test_opening_a_stack_masks_its_secret(connect: Any) -> None:
    """R5: raw and percent-encoded, before the first use."""
    connect("s", **stack_fields())
    AzureStackHook("s").get_conn().close()
    assert CANARY not in str(redact(f"x {CANARY} y"))
    assert "canary%2Fsecret%2Bof%3Dthe%26client" not in str(
        redact("x canary%2Fsecret%2Bof%3Dthe%26client y")
    )


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"host": ""}, "'host'"),
        ({"login": ""}, "'login'"),
        ({"password": ""}, "neither a client secret nor a certificate"),
        ({"extra": {"tenent_id": "x"}}, "tenent_id"),
        ({"extra": {"sign_in": "v3"}}, "'sign_in'"),
        ({"extra": {"sign_in": 2}}, "'sign_in'"),
        ({"extra": {"secret_account_keys": {"a": 1}}}, "'secret_account_keys'"),
        ({"extra": {"profile": "latest"}}, "profile"),
        ({"extra": {"certificate_path": "/no/such/file"}}, "/no/such/file"),
    ],
)
def test_a_bad_field_is_named_and_its_value_is_not_shown(
    connect: Any, changes: dict[str, Any], named: str
) -> None:
    connect("s", **stack_fields(**changes))
    with pytest.raises(ConfigurationError, match=named) as caught:
        AzureStackHook("s").get_conn()
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("hook", "kind"),
    [(AzureStackHook("mistyped"), "azure_stack"), (RepositoryHook("mistyped"), "azstack_reposit")],
    ids=["stack", "repository"],
)
def test_a_connection_that_is_not_there_is_named(hook: Any, kind: str) -> None:
    """Another try may help: Airflow says the same when it cannot ask for the connection."""
    with pytest.raises(ConfigurationError, match=f"'mistyped'.*add it, of type '{kind}") as caught:
        hook.get_conn()
    assert not caught.value.never_retry
    assert hook.test_connection() == (False, str(caught.value))


def test_testing_a_connection_answers_and_does_not_raise(connect: Any) -> None:
    connect("s", **stack_fields(host=""))
    worked, message = AzureStackHook("s").test_connection()
    assert not worked
    assert "'host'" in message


@pytest.fixture
def repository(tmp_path: Path, connect: Any) -> Repository:
    store = open_store(f"file://{tmp_path}/repository", create=True)
    repository, _ = Repository.create(store, Secret("a good passphrase"), kdf=Cost(2**10))
    connect(
        "r",
        conn_type="azstack_repository",
        host=f"file://{tmp_path}/repository",
        password="a good passphrase",
        extra={"expected_repository_id": repository.id, "cache_directory": str(tmp_path / "c")},
    )
    return repository


def test_a_connection_becomes_a_repository(repository: Repository) -> None:
    assert RepositoryHook("r").get_conn().id == repository.id
    assert RepositoryHook("r").test_connection() == (True, f"opened repository {repository.id}")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"password": "wrong passphrase"}, "WrongKey"),
        ({"password": ""}, "ConfigurationError"),
        ({"host": ""}, "ConfigurationError"),
        ({"extra": {"expected_repository_id": "0" * 32}}, None),
        ({"extra": {"secret_store_options": {"key": 7}}}, "ConfigurationError"),
    ],
)
def test_another_repository_is_never_opened_nor_made(
    repository: Repository, connect: Any, tmp_path: Path, changes: dict[str, Any], error: str | None
) -> None:
    """F-H1: wrong passphrase, other repository, no passphrase: refused, nothing is written."""
    before = sorted(tmp_path.rglob("*"))
    fields = {"host": f"file://{tmp_path}/repository", "password": "a good passphrase"}
    connect("r", **{"conn_type": "azstack_repository", **fields, **changes})
    with pytest.raises(AzStackError) as caught:
        RepositoryHook("r").get_conn()
    assert error in {None, type(caught.value).__name__}
    assert "wrong passphrase" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_signed_url_is_masked_in_every_form() -> None:
    """Logs may show the signature alone, decoded or not."""
    url = "https://disk.example/md-1/abcd?sv=2018-03-28&sr=b&si=x&sig=a%2Bb%2Fc%3Dlong"
    assert {"a+b/c=long", "a%2Bb%2Fc%3Dlong", url} <= forms(url)
    mask(url)
    assert "a%2Bb%2Fc%3Dlong" not in str(redact("GET /md-1?sig=a%2Bb%2Fc%3Dlong"))


@pytest.mark.parametrize(
    "secret",
    ["pass phrase", "with 'one' and \"two\"", "back\\slash", "-----BEGIN\nkey\n", "Schlüssel"],
)
def test_a_secret_is_masked_however_it_is_quoted(secret: str) -> None:
    """Log lines are JSON, and exceptions quote what they are about."""
    mask(secret)
    for written in (secret, repr(secret), json.dumps(secret), json.dumps({"a": [secret]})):
        shown = redact(f"before {written} after")
        assert MASK in shown
        assert secret not in shown
        assert json.dumps(secret)[1:-1] not in shown
