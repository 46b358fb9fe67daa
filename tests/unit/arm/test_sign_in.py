import json
from pathlib import Path
from typing import Any, Literal

import pytest
from support.stacks import stack_of

from airflow_provider_azstack.arm.client import Credentials, Stack
from airflow_provider_azstack.emulator import Emulator
from airflow_provider_azstack.errors import AccessDenied, ConfigurationError
from airflow_provider_azstack.secret import Secret

pytestmark = pytest.mark.tier1

Identity = Literal["aad", "adfs"]


def sign_in(emulator: Emulator, credentials: Credentials | None = None, **more: Any) -> list[str]:
    """Ask for something that needs a token; return the bodies of the token requests."""
    with stack_of(emulator, **more) as stack:
        if credentials:
            stack._credentials = credentials
        assert [s["subscriptionId"] for s in stack.subscriptions()] == [emulator.subscription_id]
    return [r.path for r in emulator.requests if r.path.endswith("/token")]


def by_certificate(emulator: Emulator) -> Credentials:
    pem = Secret(emulator.client_certificate.decode())
    return Credentials(emulator.tenant_id, emulator.client_id, certificate=pem)


@pytest.mark.parametrize("identity", ["aad", "adfs"])
@pytest.mark.parametrize("form", ["auto", "v1", "v2"])
@pytest.mark.parametrize("proof", ["secret", "certificate"])
def test_every_way_to_sign_in(tmp_path: Path, identity: Identity, form: Any, proof: str) -> None:
    """Both directories, both proofs, both forms; AD FS is asked at /adfs once, not twice."""
    with Emulator(tmp_path, identity=identity) as emulator:
        credentials = by_certificate(emulator) if proof == "certificate" else None
        (path,) = sign_in(emulator, credentials, sign_in=form)
    tenant = "adfs" if identity == "adfs" else emulator.tenant_id
    middle = "/oauth2" if form == "v1" or identity == "adfs" else "/oauth2/v2.0"
    assert path == f"/{tenant}{middle}/token"


@pytest.mark.parametrize("proof", ["secret", "certificate"])
def test_adfs_before_the_hotfix_gets_the_older_form(tmp_path: Path, proof: str) -> None:
    """MSIS9605 to the .default scope: asked again with resource=, and only so from then on."""
    with Emulator(tmp_path, identity="adfs") as emulator:
        emulator.behaviour.adfs_default_scope = False
        credentials = by_certificate(emulator) if proof == "certificate" else None
        assert len(sign_in(emulator, credentials)) == 2
        with pytest.raises(AccessDenied, match="MSIS9605"):
            sign_in(emulator, credentials, sign_in="v2")


def test_a_token_that_the_resource_manager_does_not_take_is_asked_for_in_the_older_form(
    tmp_path: Path,
) -> None:
    """A directory that does not understand .default can give a token that is good for nothing."""
    with Emulator(tmp_path, identity="adfs") as emulator:
        emulator.behaviour.default_scope_tokens = False
        assert len(sign_in(emulator)) == 2
        with pytest.raises(AccessDenied):
            sign_in(emulator, sign_in="v2")


@pytest.mark.parametrize("form", ["auto", "v1", "v2"])
def test_a_wrong_secret_is_said_once_and_in_one_line(tls_emulator: Emulator, form: Any) -> None:
    """No second form is tried with a wrong secret: some directories lock accounts."""
    wrong = Credentials(tls_emulator.tenant_id, tls_emulator.client_id, Secret("canary"))
    with pytest.raises(AccessDenied, match="check tenant id, client id and secret") as caught:
        sign_in(tls_emulator, wrong, sign_in=form)
    assert "canary" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len([r for r in tls_emulator.requests if r.path.endswith("/token")]) == 1


def test_the_token_goes_to_arm_only(emulator: Emulator) -> None:
    """Neither the endpoint list nor the sign-in service sees the bearer token."""
    sign_in(emulator)
    seen = {r.path: r.authorized for r in emulator.requests}
    assert seen.pop("/subscriptions") is True
    assert set(seen.values()) == {False}


def test_one_token_serves_many_requests_and_is_told_before_its_use(emulator: Emulator) -> None:
    """Whoever masks logs hears of each secret first."""
    told: list[tuple[str, int]] = []
    with stack_of(emulator, on_secret=lambda s: told.append((s, len(emulator.requests)))) as stack:
        for _ in range(3):
            list(stack.subscriptions())
    ((token, requests_before),) = told
    assert token in emulator.world.tokens
    assert [r.authorized for r in emulator.requests[:requests_before]] == [False, False]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"authentication": {}},
        {"authentication": {"loginEndpoint": "https://login.example"}},
        {"authentication": {"loginEndpoint": 5, "audiences": ["x"]}},
        {"authentication": {"loginEndpoint": "https://login.example", "audiences": "x"}},
        {"authentication": ["x"]},
    ],
)
def test_an_address_that_is_no_stack_is_named(emulator: Emulator, body: dict[str, Any]) -> None:
    emulator.faults.answer("GET", "/metadata", 200, body=json.dumps(body).encode())
    with pytest.raises(ConfigurationError, match="Resource Manager"):
        sign_in(emulator)


@pytest.mark.parametrize(
    ("secret", "certificate"), [(None, None), (Secret("a"), Secret("b")), (Secret(""), None)]
)
def test_credentials_have_exactly_one_proof(
    secret: Secret | None, certificate: Secret | None
) -> None:
    with pytest.raises(ConfigurationError, match="either a client secret or a certificate"):
        Credentials("tenant", "client", secret, certificate)


@pytest.mark.parametrize("form", ["v1", "v2"])
def test_a_certificate_that_cannot_be_read_is_said(tls_emulator: Emulator, form: Any) -> None:
    bad = Credentials(tls_emulator.tenant_id, "client", certificate=Secret("no PEM canary"))
    with pytest.raises(ConfigurationError) as caught:
        sign_in(tls_emulator, bad, sign_in=form)
    assert "canary" not in str(caught.value)


def test_a_directory_needs_a_tenant(tls_emulator: Emulator) -> None:
    nobody = Credentials("", "client", Secret("x"))
    with pytest.raises(ConfigurationError, match="tenant id"):
        sign_in(tls_emulator, nobody)


def test_credentials_print_no_secret() -> None:
    shown = repr(Credentials("tenant", "client", Secret("canary")))
    assert "canary" not in shown
    assert "canary" not in repr(
        Stack("https://management.example", Credentials("t", "c", Secret("canary")))
    )
