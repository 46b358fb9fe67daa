"""Sign-in, by the bare protocol and by the library that clients use."""

import ssl
import time
from pathlib import Path

import pytest
import urllib3
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import CertificateCredential, ClientSecretCredential
from support.stack_client import RESOURCES, StackClient

from airflow_provider_azstack.emulator import Emulator

pytestmark = pytest.mark.tier1


def authority(emulator: Emulator) -> dict[str, object]:
    return {
        "authority": emulator.arm_url,
        "disable_instance_discovery": True,
        "connection_verify": str(emulator.ca_file),
    }


def scope(emulator: Emulator) -> str:
    return f"{emulator.world.audience}/.default"


@pytest.mark.parametrize("identity", ["aad", "adfs"])
def test_the_library_signs_in_with_secret_and_certificate(tmp_path: Path, identity: str) -> None:
    """azure-identity gets tokens that Resource Manager takes, on both identity providers."""
    with Emulator(tmp_path, identity=identity) as emulator:
        who = (emulator.tenant_id, emulator.client_id)
        settings = authority(emulator)
        credentials = (
            ClientSecretCredential(*who, emulator.client_secret, **settings),
            CertificateCredential(*who, certificate_data=emulator.client_certificate, **settings),
        )
        for credential in credentials:
            with credential:
                token = credential.get_token(scope(emulator)).token
            client = StackClient(emulator, token)
            assert client.get("/subscriptions", "2016-06-01")["value"]
            client.close()


def test_the_library_is_refused_with_a_wrong_secret(tls_emulator: Emulator) -> None:
    """The error names the reason."""
    who = (tls_emulator.tenant_id, tls_emulator.client_id)
    credential = ClientSecretCredential(*who, "wrong", **authority(tls_emulator))
    with credential, pytest.raises(ClientAuthenticationError, match="AADSTS7000215"):
        credential.get_token(scope(tls_emulator))


def test_a_certificate_of_another_is_refused(tls_emulator: Emulator, tmp_path: Path) -> None:
    """The assertion's signature is really checked."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    from airflow_provider_azstack.emulator import pki

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    forged = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    pem = forged + pki.client_pair().certificate_pem()
    who = (tls_emulator.tenant_id, tls_emulator.client_id)
    credential = CertificateCredential(*who, certificate_data=pem, **authority(tls_emulator))
    with credential, pytest.raises(ClientAuthenticationError, match="invalid signature"):
        credential.get_token(scope(tls_emulator))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"client_secret": "wrong"}, "AADSTS7000215"),
        ({"client_secret": "größer"}, "AADSTS7000215"),
        ({"client_id": "someone"}, "AADSTS700016"),
        ({"resource": "https://elsewhere"}, "AADSTS500011"),
        ({"grant_type": "password"}, "AADSTS70003"),
    ],
)
def test_wrong_requests_get_no_token(
    client: StackClient, changes: dict[str, str], code: str
) -> None:
    """Each with the reason that a real sign-in gives."""
    answer = client.sign_in(**changes)
    assert answer.status in {400, 401}
    assert code in answer.json()["error_description"]


def test_old_ad_fs_refuses_the_default_scope(tmp_path: Path) -> None:
    """MSIS9605 for v2, while v1 goes on working."""
    with Emulator(tmp_path, tls=False, identity="adfs") as emulator:
        emulator.behaviour.adfs_default_scope = False
        client = StackClient(emulator)
        form = f"grant_type=client_credentials&scope={scope(emulator)}&client_id=x"
        url = f"{emulator.arm_url}/adfs/oauth2/token"
        answer = client.pool.request("POST", url, body=form)
        assert "MSIS9605" in answer.json()["error_description"]
        client.close()


def test_tokens_die_by_the_clock(tmp_path: Path) -> None:
    """No token, a wrong token and an old token are three answers of 401."""
    now = time.time()
    with Emulator(tmp_path, tls=False, clock=lambda: now) as emulator:
        client = StackClient(emulator)
        path = "/subscriptions"
        assert client.arm("GET", path, "2016-06-01").status == 200
        now += emulator.behaviour.token_seconds
        answer = client.arm("GET", path, "2016-06-01")
        assert (answer.status, answer.json()["error"]["code"]) == (
            401,
            "ExpiredAuthenticationToken",
        )
        client.token = "wrong"
        answer = client.arm("GET", path, "2016-06-01")
        assert answer.json()["error"]["code"] == "InvalidAuthenticationToken"
        answer = client.pool.request("GET", f"{emulator.arm_url}/subscriptions")
        assert answer.json()["error"]["code"] == "AuthenticationFailed"
        client.close()


def test_endpoints_are_told_without_a_token(tmp_path: Path) -> None:
    """AAD and AD FS differ in the login endpoint's end."""
    for identity, end in (("aad", "/"), ("adfs", "/adfs")):
        with Emulator(tmp_path / identity, tls=False, identity=identity) as emulator:
            url = f"{emulator.arm_url}/metadata/endpoints?api-version=2015-01-01"
            with urllib3.PoolManager() as pool:
                told = pool.request("GET", url).json()["authentication"]
            assert told["loginEndpoint"] == f"{emulator.arm_url}{end}"
            assert told["audiences"] == [emulator.world.audience]


@pytest.mark.parametrize("certificate", ["expired", "other name"])
def test_broken_certificates_are_refused(tmp_path: Path, certificate: str) -> None:
    """A client that checks refuses an expired certificate and one for another host."""
    with Emulator(tmp_path, certificate=certificate) as emulator:
        pool = urllib3.PoolManager(ca_certs=str(emulator.ca_file), retries=False)
        with pool, pytest.raises(urllib3.exceptions.SSLError):
            pool.request("GET", f"{emulator.arm_url}/metadata/endpoints")


def test_an_unknown_authority_is_refused(tls_emulator: Emulator) -> None:
    """Without our CA nothing is said; with it the page opens."""
    with urllib3.PoolManager(retries=False) as pool, pytest.raises(urllib3.exceptions.SSLError):
        pool.request("GET", f"{tls_emulator.arm_url}/metadata/endpoints")
    context = ssl.create_default_context(cafile=str(tls_emulator.ca_file))
    with urllib3.PoolManager(ssl_context=context) as pool:
        assert pool.request("GET", f"{tls_emulator.arm_url}/metadata/endpoints").status == 200


def test_permissions_can_be_taken_away(emulator: Emulator, client: StackClient) -> None:
    """403 names the action and the scope."""
    emulator.behaviour.denied.add("Microsoft.Resources/resourceGroups/read")
    answer = client.arm("GET", "~/resourceGroups", RESOURCES)
    error = answer.json()["error"]
    assert (answer.status, error["code"]) == (403, "AuthorizationFailed")
    assert "Microsoft.Resources/resourceGroups/read" in error["message"]
