"""
Long operations: accepted with 202 now, done when the clock says so, polled by two URLs.

Owns their life; knows nothing of what they do. Invariant: an operation's effect happens once, at
the first request after its end, whoever makes that request.
"""

import uuid
from collections.abc import Callable

from airflow_provider_azstack.emulator.faults import Outcome
from airflow_provider_azstack.emulator.http import Answer, Call, Json, Problem, json_answer
from airflow_provider_azstack.emulator.state import Operation, World, stamp

RETRY_AFTER_SECONDS = 2


def start(
    world: World,
    call: Call,
    kind: str,
    finish: Callable[[], Json | None],
    *,
    body: Json | None = None,
    fail: Callable[[], None] | None = None,
    status: int = 202,
) -> Answer:
    """
    Begin an operation and answer 202 with its polling URLs.

    :param kind: its name for scripted outcomes, as ``snapshots.write``.
    :param finish: its effect; returns the operation's output.
    :param fail: what a failure leaves behind.
    """
    now = world.clock()
    operation = Operation(str(uuid.uuid4()), now, now + world.operation_seconds, finish)
    outcome = world.faults.outcome(kind)
    if outcome:
        _script(operation, outcome, fail)
    world.operations[operation.id] = operation
    world.running.append(operation)
    settle(world)
    answer = Answer(status) if body is None else json_answer(status, body)
    answer.headers |= _polling_urls(world, call, kind, operation.id)
    return answer


def _script(operation: Operation, outcome: Outcome, fail: Callable[[], None] | None) -> None:
    """Let the operation end as a test says."""
    if outcome.status in {"Failed", "Canceled"}:
        error = {"code": outcome.code, "message": outcome.message}
        operation.finish = lambda: _fail(operation, outcome.status, error, fail)
    elif outcome.status == "InProgress":
        operation.ends = float("inf")
    elif outcome.status == "404":
        operation.forgotten = True


def _polling_urls(world: World, call: Call, kind: str, identifier: str) -> dict[str, str]:
    folder = "DiskOperations" if kind.startswith(("disks.", "snapshots.")) else "operations"
    namespace = "Microsoft.Network" if kind.startswith("network") else "Microsoft.Compute"
    url = f"{call.base_url}{world.scope}/providers/{namespace}/locations/{world.location}/{folder}"
    version = f"api-version={call.query['api-version']}"
    headers = {
        "Azure-AsyncOperation": f"{url}/{identifier}?{version}",
        "Location": f"{url}/{identifier}?monitor=true&{version}",
        "x-ms-request-id": identifier,
    }
    if world.operation_seconds:  # otherwise there is nothing to wait for
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return headers


def settle(world: World) -> None:
    """Let every operation that is due have its effect."""
    now = world.clock()
    due = [operation for operation in world.running if operation.ends <= now]
    for operation in due:
        if operation in world.running:  # an effect may have settled others
            world.running.remove(operation)
            operation.status = "Succeeded"
            operation.output = operation.finish()


def poll(world: World, call: Call) -> Answer:
    """``GET`` on either polling URL of an operation."""
    operation = world.operations.get(call.params["operation"])
    if operation is None or operation.forgotten:
        raise Problem(404, "NotFound", "The operation was not found.")
    if call.query.get("monitor") == "true":
        return _monitor(world, call, operation)
    body: Json = {"startTime": stamp(operation.started), "status": operation.status}
    if operation.status != "InProgress":
        body["endTime"] = stamp(operation.ends)
    if operation.error:
        body["error"] = operation.error
    if operation.output is not None and not _hidden(world, operation, "operation"):
        body["properties"] = {"output": operation.output}
    body["name"] = operation.id
    answer = json_answer(200, body)
    if operation.status == "InProgress":
        answer.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return answer


def _monitor(world: World, call: Call, operation: Operation) -> Answer:
    if operation.status == "InProgress":
        location = {"Location": f"{call.base_url}{call.target}"}
        return Answer(202, {**location, "Retry-After": str(RETRY_AFTER_SECONDS)})
    if operation.error:
        return json_answer(409, {"error": operation.error})
    if operation.output is None or _hidden(world, operation, "location"):
        return Answer(200)
    return json_answer(200, operation.output)


def _hidden(world: World, operation: Operation, place: str) -> bool:
    """Some stacks show a grant's URL in one of the two places only."""
    is_grant = "accessSAS" in (operation.output or {})
    return is_grant and world.behaviour.sas_in not in {"both", place}


def _fail(
    operation: Operation, status: str, error: Json, fail: Callable[[], None] | None
) -> Json | None:
    operation.status, operation.error = status, error
    if fail:
        fail()
    return None
