"""What goes wrong between us and a stack: outages, storms, redirects, answers of any kind."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from support.http_server import Came, Reply, serving
from support.stacks import SOMEBODY, granting, patient, snapshot_id, stack_of, subscriptions
from support.virtual_clock import VirtualClock

from airflow_provider_azstack.arm.client import Stack
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
    assert len(held) >= 2  # on a busy machine the second one may come too late as well


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


@pytest.mark.parametrize(("headers", "slept"), [({}, []), ({"Retry-After": "7"}, [7.0])])
def test_an_operation_is_looked_at_at_once_unless_the_stack_says_when(
    emulator: Emulator, headers: dict[str, str], slept: list[float]
) -> None:
    """Each disk is granted and revoked: a wait before each first look would cost every one."""
    disk, clock = emulator.add_vm("vm", "group").disks[0], VirtualClock()
    path = snapshot_id(disk.source)

    def alter(_: Call, answer: Answer) -> Answer:
        return replace(answer, headers={**answer.headers, **headers})

    with stack_of(emulator, **patient(clock)) as stack:
        compute = Compute(stack)
        compute.create_snapshot(path, disk.source, emulator.location, {})
        compute.grant_read(path, 3600)
        assert clock.slept == []
        emulator.faults.add(Fault("POST", "endGetAccess", alter=alter))
        compute.revoke(path)
    assert clock.slept == slept


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
