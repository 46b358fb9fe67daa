"""What lies between us and a stack: names, proxies, certificates. What is wrong is named."""

import base64
import json
import socket
from contextlib import ExitStack
from pathlib import Path

import certifi
import pytest
from support.http_server import Reply, serving
from support.ports import closed_port
from support.stacks import SOMEBODY, patient, stack_of, subscriptions
from support.virtual_clock import VirtualClock

from airflow_provider_azstack.arm.addresses import ca_context
from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.emulator import Emulator
from airflow_provider_azstack.emulator.faults import Fault
from airflow_provider_azstack.errors import (
    AccessDenied,
    ConfigurationError,
    Unreachable,
)

pytestmark = pytest.mark.tier1


@pytest.mark.tier2
@pytest.mark.parametrize("certificate", ["expired", "other name"])
def test_a_bad_certificate_is_refused(tmp_path: Path, certificate: str) -> None:
    """F-N14: expired, or made for another host: refused at once, and the message helps."""
    with Emulator(tmp_path, certificate=certificate) as emulator:  # type: ignore[arg-type]
        clock = VirtualClock()
        stack = stack_of(emulator, **patient(clock))
        with stack, pytest.raises(ConfigurationError, match="ca_bundle"):
            subscriptions(stack)
        assert clock.slept == []
        assert emulator.requests == []


@pytest.mark.tier2
def test_an_unknown_ca_is_refused_and_the_environment_cannot_change_that(
    tls_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-N14: no ``ca_bundle``: refused. With one, ``REQUESTS_CA_BUNDLE`` does not override it."""
    stack = stack_of(tls_emulator, ca_bundle=None)
    with stack, pytest.raises(ConfigurationError, match="put the CA"):
        subscriptions(stack)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    monkeypatch.setenv("CURL_CA_BUNDLE", certifi.where())
    with stack_of(tls_emulator) as stack:
        assert subscriptions(stack) == [tls_emulator.subscription_id]


@pytest.mark.tier2
@pytest.mark.parametrize(
    "endpoint",
    ["http://management.local.azurestack.external", "http://10.0.0.1", "ftp://127.0.0.1"],
)
def test_plain_http_is_for_this_machine_only(endpoint: str) -> None:
    """F-N14: a downgrade to HTTP is refused before anything is sent."""
    with pytest.raises(ConfigurationError):
        Stack(endpoint, SOMEBODY)


@pytest.mark.tier2
def test_a_sign_in_address_without_tls_is_refused(emulator: Emulator) -> None:
    """F-N14: the endpoint list cannot lead the secret onto plain HTTP either."""
    body = {"authentication": {"loginEndpoint": "http://login.example/", "audiences": ["a"]}}
    emulator.faults.answer("GET", "/metadata", 200, body=json.dumps(body).encode())
    with stack_of(emulator) as stack, pytest.raises(ConfigurationError, match="plain http"):
        subscriptions(stack)


@pytest.mark.tier2
@pytest.mark.parametrize("content", [None, "", "no certificate in here"])
def test_a_ca_bundle_that_cannot_be_used_is_named(tmp_path: Path, content: str | None) -> None:
    """F-N14: a wrong path or file is said at once, not as a TLS error later."""
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_text(content)
    with pytest.raises(ConfigurationError, match=r"ca\.pem"):
        Stack("https://management.example", SOMEBODY, ca_bundle=str(bundle))


def names_fail(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let no name resolve: the answer of this machine's own resolver is not ours to choose."""

    def fail(host: str, *_: object, **__: object) -> None:
        raise socket.gaierror(number, f"no address for {host}")

    monkeypatch.setattr(socket, "getaddrinfo", fail)


@pytest.mark.parametrize("mid_work", [False, True])
@pytest.mark.parametrize("place", ["127.0.0.1", "::1", "management.stack.invalid"])
def test_nobody_there_is_unreachable(
    place: str, monkeypatch: pytest.MonkeyPatch, *, mid_work: bool
) -> None:
    """
    F-N18: connection refused (IPv4, IPv6) and names that nobody can look up: tried again.

    For two minutes by who has not begun anything, for a quarter of an hour by who has.
    """
    clock = VirtualClock()
    with ExitStack() as held:
        if "invalid" in place:
            names_fail(monkeypatch, socket.EAI_AGAIN)
            endpoint = f"https://{place}"
        else:
            port = held.enter_context(closed_port(place))
            endpoint = f"http://[{place}]:{port}" if ":" in place else f"http://{place}:{port}"
        stack = Stack(endpoint, SOMEBODY, mid_work=mid_work, **patient(clock))  # type: ignore[arg-type]
        with stack, pytest.raises(Unreachable, match="check address, DNS, proxy and firewall"):
            subscriptions(stack)
    most = 900.0 if mid_work else 120.0
    assert most / 2 < clock.now - 1000.0 <= most


def test_a_name_that_does_not_exist_is_said_at_once_unless_work_has_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F-N18: it is a wrong address, then; in mid-work it may be a name service that is ill."""
    names_fail(monkeypatch, socket.EAI_NONAME)
    clock = VirtualClock()
    endpoint = "https://management.stack.invalid"
    stack = Stack(endpoint, SOMEBODY, **patient(clock))  # type: ignore[arg-type]
    with (
        stack,
        pytest.raises(ConfigurationError, match=r"management\.stack\.invalid.*check address"),
    ):
        subscriptions(stack)
    assert clock.slept == []
    stack = Stack(endpoint, SOMEBODY, mid_work=True, **patient(clock))  # type: ignore[arg-type]
    with stack, pytest.raises(Unreachable):
        subscriptions(stack)
    assert clock.now - 1000.0 > 450.0


@pytest.mark.parametrize("heard", [False, True])
def test_a_stack_that_was_heard_once_is_waited_for(emulator: Emulator, *, heard: bool) -> None:
    """F-N18: who said "not well" is there, and comes back; who never said a word may be nobody."""
    if heard:
        emulator.faults.answer("GET", "/metadata/endpoints", 503, times=1)
    emulator.faults.add(Fault("GET", "/metadata/endpoints", hang_up=True, times=10_000))
    clock = VirtualClock()
    with stack_of(emulator, **patient(clock)) as stack, pytest.raises(Unreachable):
        subscriptions(stack)
    assert (clock.now - 1000.0 > 120.0) is heard


def test_a_proxy_that_is_not_there_is_unreachable(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-N18: the environment's proxy is used, and named among the things to check."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    clock = VirtualClock()
    stack = stack_of(emulator, **patient(clock, 30.0))
    with stack, pytest.raises(Unreachable, match="proxy"):
        subscriptions(stack)
    assert emulator.requests == []


def test_a_proxy_is_told_its_password_and_nobody_else(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-N18: the password in the proxy's address goes to the proxy; no scheme means http."""
    with serving(lambda _: Reply(403, {}, b"{}")) as proxy:
        monkeypatch.setenv("http_proxy", f"user:p%40ss@127.0.0.1:{proxy.server_address[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        stack = stack_of(emulator)
        with stack, pytest.raises(AccessDenied) as caught:
            subscriptions(stack)
        told = {came.headers.get("proxy-authorization") for came in proxy.came}
    assert told == {"Basic " + base64.b64encode(b"user:p@ss").decode()}
    assert "p%40ss" not in str(caught.value)
    assert emulator.requests == []


def test_proxies_are_looked_up_once_for_each_host(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To look through the environment takes longer than all else before a request."""
    asked: list[str] = []

    def no_proxy_for(host: str) -> bool:
        asked.append(host)
        return True

    monkeypatch.setattr("urllib.request.proxy_bypass", no_proxy_for)
    with stack_of(emulator) as stack:
        for _ in range(3):
            subscriptions(stack)
    assert len(emulator.requests) > 3
    assert asked == ["127.0.0.1"]


def test_a_proxy_of_another_kind_is_named(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-N18: what we cannot speak is said at once, without the proxy's password."""
    monkeypatch.setenv("http_proxy", "socks5://user:canary@127.0.0.1:1080")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    stack = stack_of(emulator)
    with stack, pytest.raises(ConfigurationError, match=r"socks5.*NO_PROXY") as caught:
        subscriptions(stack)
    assert "canary" not in str(caught.value)


@pytest.mark.tier2
def test_a_ca_that_was_replaced_is_read_again(tls_emulator: Emulator, tmp_path: Path) -> None:
    """F-N14: CAs are read once, until their file is another one."""
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(Path(certifi.where()).read_bytes())
    assert ca_context(str(bundle)) is ca_context(str(bundle))
    with stack_of(tls_emulator, ca_bundle=str(bundle)) as stack, pytest.raises(ConfigurationError):
        subscriptions(stack)
    bundle.write_bytes(tls_emulator.ca_file.read_bytes())
    with stack_of(tls_emulator, ca_bundle=str(bundle)) as stack:
        assert subscriptions(stack) == [tls_emulator.subscription_id]
