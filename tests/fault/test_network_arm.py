"""What the Resource Manager and the sign-in service do to us, and what we make of it."""

import base64
import itertools
import json
import random
import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import certifi
import pytest
from support.http_server import Came, Reply, serving
from support.stacks import granting, snapshot_id, stack_of
from support.virtual_clock import VirtualClock

from airflow_provider_azstack.arm.addresses import ca_context
from airflow_provider_azstack.arm.client import Credentials, Stack
from airflow_provider_azstack.arm.compute import Compute
from airflow_provider_azstack.arm.wire import Wire
from airflow_provider_azstack.emulator import Emulator
from airflow_provider_azstack.emulator.faults import Fault
from airflow_provider_azstack.emulator.http import Answer, Call, json_answer
from airflow_provider_azstack.errors import (
    AccessDenied,
    AzStackError,
    ConfigurationError,
    Refused,
    Throttled,
    Unreachable,
)
from airflow_provider_azstack.secret import Secret

pytestmark = pytest.mark.tier1

SOMEBODY = Credentials("tenant", "client", Secret("canary-secret"))


def patient(clock: VirtualClock, budget: float = 900.0) -> dict[str, object]:
    return {
        "clock": clock,
        "sleep": clock.sleep,
        "rng": random.Random(7),
        "retry_budget_seconds": budget,
    }


def subscriptions(stack: Stack) -> list[str]:
    return [str(s["subscriptionId"]) for s in stack.subscriptions()]


@pytest.mark.parametrize(
    "retry_after", ["0", "5", None, "soon", "-3", "1e9", "99999999999999", "date"]
)
def test_a_storm_of_429_ends_within_the_budget(emulator: Emulator, retry_after: str | None) -> None:
    """F-N5: ``Retry-After`` is obeyed with jitter, the budget holds, and nothing spins."""
    if retry_after == "date":
        retry_after = format_datetime(datetime.now(UTC), usegmt=True)
    storm = emulator.faults.throttle("/subscriptions", retry_after=retry_after, times=1000)
    clock = VirtualClock()
    with stack_of(emulator, **patient(clock)) as stack, pytest.raises(Throttled):
        subscriptions(stack)
    assert 5 <= storm.struck < 200
    assert clock.now - 1000.0 <= 900.0
    assert min(clock.slept) >= (5.0 if retry_after == "5" else 0.5)
    assert len(set(clock.slept)) > len(clock.slept) / 2, (
        "no jitter: refused together, back together"
    )


def test_a_retry_after_beyond_the_budget_is_not_waited_for(emulator: Emulator) -> None:
    """F-N5: an hour is longer than the budget: give up at once and pass the hour on."""
    emulator.faults.throttle("/subscriptions", retry_after="3600", times=1000)
    clock = VirtualClock()
    with stack_of(emulator, **patient(clock)) as stack, pytest.raises(Throttled) as caught:
        subscriptions(stack)
    assert caught.value.retry_after_seconds == 3600
    assert clock.slept == []


@pytest.mark.parametrize("status", [503, 500, 408, 502, 504])
def test_a_storm_of_14_minutes_is_outlasted(emulator: Emulator, status: int) -> None:
    """F-N6: healthy again before the budget ends: the request succeeds."""
    clock = VirtualClock()

    def sick(call: Call) -> Answer:
        if clock.now < 1000.0 + 14 * 60:
            return json_answer(status, {"error": {"code": "Sick", "message": "sick"}})
        return json_answer(200, {"value": [{"subscriptionId": "well"}]})

    storm = emulator.faults.answer("GET", "/subscriptions", status, times=1000)
    storm.instead = sick
    with stack_of(emulator, **patient(clock)) as stack:
        assert subscriptions(stack) == ["well"]
    assert storm.struck < 40


@pytest.mark.parametrize(
    ("status", "kind"), [(503, Throttled), (500, Unreachable), (408, Unreachable)]
)
def test_a_storm_without_end_fails_at_the_budget(
    emulator: Emulator, status: int, kind: type[AzStackError]
) -> None:
    """F-N6: for ever: fails with a transient error, between most and all of the budget."""
    emulator.faults.answer("GET", "/subscriptions", status, times=10_000)
    clock = VirtualClock()
    with stack_of(emulator, **patient(clock)) as stack, pytest.raises(kind):
        subscriptions(stack)
    assert 800.0 < clock.now - 1000.0 <= 900.0


@pytest.mark.tier2
def test_a_silent_socket_is_given_up_and_tried_again() -> None:
    """F-N7: no bytes: the read timeout ends the attempt, and the next one succeeds."""
    held: list[Came] = []

    def answer(came: Came) -> Reply:
        if not came.path.startswith("/metadata"):
            body = {"access_token": "t", "expires_in": "3600", "value": []}
            return Reply(200, {}, json.dumps(body).encode())
        login = {"loginEndpoint": server.url, "audiences": ["https://audience"]}
        held.append(came)
        hold = 600.0 if len(held) == 1 else 0.0
        return Reply(200, {}, json.dumps({"authentication": login}).encode(), hold)

    clock = VirtualClock()
    with (
        serving(answer) as server,
        Stack(server.url, SOMEBODY, read_timeout_seconds=0.3, **patient(clock)) as stack,
    ):
        assert subscriptions(stack) == []
    assert len(held) == 2


def test_the_sign_in_service_is_down_for_five_minutes(emulator: Emulator) -> None:
    """F-N10: the token has ended and cannot be had for five minutes: the request survives."""
    clock = VirtualClock()
    with stack_of(emulator, **patient(clock)) as stack:
        subscriptions(stack)
        emulator.world.tokens.clear()
        clock.now += 7200
        back_at = clock.now + 300
        outage = emulator.faults.answer("POST", "/token", 503, times=1000)

        def until_back(seconds: float) -> None:
            clock.sleep(seconds)
            if clock.now >= back_at:
                emulator.faults.clear()

        stack.patience = stack.patience._replace(sleep=until_back)
        assert subscriptions(stack) == [emulator.subscription_id]
    assert outage.struck > 3


def test_a_token_in_hand_outlives_the_sign_in_service(emulator: Emulator) -> None:
    """F-N10: in the last minutes of a token, a sign-in service that is down does no harm."""
    clock = VirtualClock()
    with stack_of(emulator, **patient(clock)) as stack:
        subscriptions(stack)
        clock.now += 3400
        outage = emulator.faults.answer("POST", "/token", 503, times=1000)
        assert subscriptions(stack) == [emulator.subscription_id]
        assert outage.struck == 1
    assert clock.slept == []


def test_a_token_that_the_stack_no_longer_takes_is_renewed_once(emulator: Emulator) -> None:
    """F-N10: 401 in mid-run: a new token, the same request, no word to the caller."""
    with stack_of(emulator) as stack:
        subscriptions(stack)
        emulator.world.tokens.clear()
        assert subscriptions(stack) == [emulator.subscription_id]
        refused = emulator.faults.answer("GET", "/subscriptions", 401, times=1000)
        with pytest.raises(AccessDenied):
            subscriptions(stack)
        assert refused.struck == 2


@pytest.mark.parametrize("hours", [-2, 2])
def test_signatures_hold_though_this_clock_is_wrong(emulator: Emulator, hours: int) -> None:
    """F-N11: SAS times follow the stack's clock, which its answers tell."""
    from airflow_provider_azstack.arm.blobs import BlobDisk
    from airflow_provider_azstack.arm.storage import Storage
    from airflow_provider_azstack.emulator import DiskSpec

    disk = emulator.add_vm("vm", "group", [DiskSpec(kind="unmanaged")]).disks[0]
    disk.write(0, b"x" * 4096)
    stack = stack_of(emulator, wall_clock=lambda: emulator.world.clock() + hours * 3600)
    with stack:
        storage = Storage(stack)
        (account,) = (a["id"] for a in storage.accounts(emulator.subscription_id))
        buffer = bytearray(4096)
        with BlobDisk(lambda: storage.grant_read(account, disk.source, "", 600)) as reader:
            reader.read_into(0, memoryview(buffer))
        storage.close()
    assert buffer == b"x" * 4096


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        ("404", Unreachable, "lost track"),
        ("Failed", Unreachable, "InternalExecutionError"),
        ("Canceled", Unreachable, "operation canceled"),
        ("InProgress", Unreachable, "did not end within 600 s"),
    ],
)
def test_operations_that_do_not_succeed(
    emulator: Emulator, status: str, kind: type[AzStackError], says: str
) -> None:
    """F-N12: each way for an operation to go wrong ends in an error that says which it was."""
    disk = emulator.add_vm("vm", "group").disks[0]
    emulator.faults.end_operation("snapshots.write", status)
    clock = VirtualClock()
    with stack_of(emulator, operation_timeout_seconds=600, **patient(clock)) as stack:
        compute = Compute(stack)
        path = snapshot_id(disk.source)
        with pytest.raises(kind, match=says):
            compute.create_snapshot(path, disk.source, emulator.location, {})
        assert clock.now - 1000.0 <= 600
        assert all(0 < seconds <= 5.0 for seconds in clock.slept)
        emulator.faults.clear()
        compute.delete_snapshot(path)
        assert emulator.leftovers() == []


def test_a_polling_retry_after_is_honoured_and_capped(emulator: Emulator) -> None:
    """F-N12: an operation that says "come back in an hour" is looked at after half a minute."""
    disk = emulator.add_vm("vm", "group").disks[0]

    def in_an_hour(_: Call, answer: Answer) -> Answer:
        return replace(answer, headers={**answer.headers, "Retry-After": "3600"})

    emulator.faults.add(Fault("PUT", "/snapshots/", alter=in_an_hour))
    clock = VirtualClock()
    with stack_of(emulator, **patient(clock)) as stack:
        Compute(stack).create_snapshot(snapshot_id(disk.source), disk.source, emulator.location, {})
    assert max(clock.slept) == 30.0


Redirect = Callable[[Emulator, str], None]


def next_link(emulator: Emulator, elsewhere: str) -> None:
    body = json.dumps({"value": [], "nextLink": f"{elsewhere}/subscriptions?page=2"}).encode()
    emulator.faults.answer("GET", "/subscriptions", 200, body=body)


def redirect(emulator: Emulator, elsewhere: str) -> None:
    emulator.faults.answer("GET", "/subscriptions", 307, Location=f"{elsewhere}/subscriptions")


def polling_address(emulator: Emulator, elsewhere: str) -> None:
    emulator.faults.answer("PUT", "/snapshots/", 202, Azure_AsyncOperation=f"{elsewhere}/op")


def location_address(emulator: Emulator, elsewhere: str) -> None:
    emulator.faults.answer("PUT", "/snapshots/", 202, Location=f"{elsewhere}/op")


@pytest.mark.parametrize("lead", [next_link, redirect, polling_address, location_address])
@pytest.mark.parametrize("address", ["{}", "//127.0.0.1:{port}", "https://user@127.0.0.1:{port}"])
def test_no_token_for_another_host(emulator: Emulator, lead: Redirect, address: str) -> None:
    """F-N13: what leads to another host is refused, and that host never hears of the token."""
    disk = emulator.add_vm("vm", "group").disks[0]
    with (
        serving(lambda _: Reply(200, {}, b'{"value": []}')) as other,
        stack_of(emulator, **patient(VirtualClock())) as stack,
    ):
        lead(emulator, address.format(other.url, port=other.server_address[1]))
        with pytest.raises(Refused, match="another host"):
            if lead in {next_link, redirect}:
                subscriptions(stack)
            Compute(stack).create_snapshot(
                snapshot_id(disk.source), disk.source, emulator.location, {}
            )
        assert other.came == []


def test_the_wire_itself_sends_the_token_to_one_host_only(emulator: Emulator) -> None:
    """F-N13: were a check above forgotten, the last one before the socket still holds."""
    wire = Wire(emulator.arm_url, ca_bundle=None)
    with serving(lambda _: Reply(200, {}, b"{}")) as other:
        for url in (other.url, emulator.arm_url):
            wire.send("GET", f"{url}/subscriptions", what="GET", token=Secret("canary"))
        assert [c.headers.get("authorization") for c in other.came] == [None]
    assert [r.authorized for r in emulator.requests] == [True]
    wire.close()


def test_a_redirect_within_the_host_is_followed_but_not_for_ever(emulator: Emulator) -> None:
    """F-N13: the same host may redirect; a circle ends."""
    here = f"{emulator.arm_url}/subscriptions?api-version=2016-06-01"
    emulator.faults.answer("GET", "/subscriptions", 307, Location=here, times=1)
    with stack_of(emulator) as stack:
        assert subscriptions(stack) == [emulator.subscription_id]
        emulator.faults.answer("GET", "/subscriptions", 307, Location=here, times=1000)
        with pytest.raises(Refused, match="without end"):
            subscriptions(stack)


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


DEEP = b'{"error": ' + b'{"error": ' * 10_000 + b"1" + b"}" * 10_001
NONSENSE = {
    "10 MB": b'{"error": {"code": "Big", "message": "' + b"x" * 10_000_000 + b'"}}',
    "10 MB of spaces": b" " * 10_000_000,
    "no JSON": b"<html>" + b"\x00\xff" * 100,
    "empty": b"",
    "10,000 deep": DEEP,
    "a list": b"[1, 2, 3]",
    "a number": b"17",
    "wrong types": b'{"error": {"code": {"a": []}, "message": 5}}',
    "an error that is a text": b'{"error": "invalid", "error_description": {"a": 1}}',
    "half an object": b'{"error": {"code": "Ha',
    "control characters": b'{"error": {"code": "C", "message": "a\\n\\u001b[31mb\\u2028?c"}}',
    "a signed URL": b'{"error": {"code": "C", "message": "see https://x.y/z?sig=canary%3D ok"}}',
}


def test_error_bodies_of_any_kind_become_one_line(emulator: Emulator) -> None:
    """F-N15: whatever an error says, ours is typed, short, printable, one line, without queries."""
    with stack_of(emulator) as stack:
        for status, (name, body) in itertools.product(
            (400, 403, 404, 409, 412, 418), NONSENSE.items()
        ):
            fault = emulator.faults.answer("GET", "/subscriptions", status)
            fault.instead = lambda _, status=status, body=body: Answer(status, {}, body)
            with pytest.raises(AzStackError) as caught:
                subscriptions(stack)
            text = str(caught.value)
            assert len(text) < 600, name
            assert text.isprintable(), name
            assert "canary" not in text, name


def test_good_answers_of_any_kind_are_refused_in_bounds(emulator: Emulator) -> None:
    """F-N15: 200 with something that is no resource list is an error, not an empty list."""
    with stack_of(emulator) as stack:
        for name in NONSENSE.keys() - {"empty"}:
            body = NONSENSE[name].replace(b"error", b"value")
            emulator.faults.answer("GET", "/subscriptions", 200, body=body)
            with pytest.raises(AzStackError) as caught:
                subscriptions(stack)
            assert len(str(caught.value)) < 600, name


def test_a_list_that_never_ends_ends(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """F-N15: a nextLink in a circle is noticed."""
    monkeypatch.setattr("airflow_provider_azstack.arm.client.MAX_PAGES", 50)
    body = b'{"value": [], "nextLink": "/subscriptions?again"}'
    circle = emulator.faults.answer("GET", "/subscriptions", 200, body=body, times=1000)
    with stack_of(emulator) as stack, pytest.raises(Unreachable, match="does not end"):
        subscriptions(stack)
    assert circle.struck == 51


@pytest.mark.tier2
@pytest.mark.parametrize("second_grant", ["refused", "allowed"])
def test_an_exported_snapshot_is_deleted_all_the_same(
    emulator: Emulator, second_grant: str
) -> None:
    """F-N16: 409 while an export is active: revoke, try again, gone."""
    emulator.behaviour.second_grant = second_grant  # type: ignore[assignment]
    disk = emulator.add_vm("vm", "group").disks[0]
    path = snapshot_id(disk.source)
    with stack_of(emulator) as stack:
        compute = Compute(stack)
        compute.create_snapshot(path, disk.source, emulator.location, {})
        grant = granting(compute, path)
        assert grant().url != grant().url
        compute.delete_snapshot(path)
        compute.delete_snapshot(path)
        compute.revoke(path)
    assert emulator.leftovers() == []
    assert 409 in {r.status for r in emulator.requests if r.method == "DELETE"}


@pytest.mark.tier2
def test_a_full_quota_is_named(emulator: Emulator) -> None:
    """F-N17: the message of this layer names the quota; that others go on is the engine's."""
    emulator.behaviour.snapshot_quota = 0
    disk = emulator.add_vm("vm", "group").disks[0]
    with stack_of(emulator) as stack, pytest.raises(ConfigurationError, match=r"(?i)quota"):
        Compute(stack).create_snapshot(snapshot_id(disk.source), disk.source, emulator.location, {})


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def names_fail(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let no name resolve: the answer of this machine's own resolver is not ours to choose."""

    def fail(host: str, *_: object, **__: object) -> None:
        raise socket.gaierror(number, f"no address for {host}")

    monkeypatch.setattr(socket, "getaddrinfo", fail)


@pytest.mark.parametrize("mid_work", [False, True])
@pytest.mark.parametrize(
    "endpoint",
    [
        f"http://127.0.0.1:{closed_port()}",
        f"http://[::1]:{closed_port()}",
        "https://management.stack.invalid",
    ],
)
def test_nobody_there_is_unreachable(
    endpoint: str, monkeypatch: pytest.MonkeyPatch, *, mid_work: bool
) -> None:
    """
    F-N18: connection refused (IPv4, IPv6) and names that nobody can look up: tried again.

    For two minutes by who has not begun anything, for a quarter of an hour by who has.
    """
    if "invalid" in endpoint:
        names_fail(monkeypatch, socket.EAI_AGAIN)
    clock = VirtualClock()
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
