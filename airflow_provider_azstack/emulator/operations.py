"""
Long operations: accepted with 202 now, done when the clock says so, polled by two URLs.

Owns their life; knows nothing of what they do. Invariant: an operation's effect happens once, at
the first request after its end, whoever makes that request.
"""

import uuid
from collections.abc import Callable

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
    if outcome and outcome.status in {"Failed", "Canceled"}:
        error = {"code": outcome.code, "message": outcome.message}
        operation.finish = lambda: _fail(operation, outcome.status, error, fail)
    elif outcome and outcome.status == "InProgress":
        operation.ends = float("inf")
    if not (outcome and outcome.status == "404"):
        world.operations[operation.id] = operation
    settle(world)
    folder = "DiskOperations" if kind.startswith(("disks.", "snapshots.")) else "operations"
    namespace = "Microsoft.Network" if kind.startswith("network") else "Microsoft.Compute"
    url = f"{call.base_url}{world.scope}/providers/{namespace}/locations/{world.location}/{folder}"
    version = f"api-version={call.query['api-version']}"
    headers = {
        "Azure-AsyncOperation": f"{url}/{operation.id}?{version}",
        "Location": f"{url}/{operation.id}?monitor=true&{version}",
        "Retry-After": str(RETRY_AFTER_SECONDS),
        "x-ms-request-id": operation.id,
    }
    answer = Answer(status) if body is None else json_answer(status, body)
    if not world.operation_seconds:
        del headers["Retry-After"]  # nothing to wait for
    answer.headers |= headers
    return answer


def settle(world: World) -> None:
    """Let every operation that is due have its effect."""
    now = world.clock()
    for operation in list(world.operations.values()):
        if operation.status == "InProgress" and operation.ends <= now:
            operation.status = "Succeeded"
            operation.output = operation.finish()


def poll(world: World, call: Call) -> Answer:
    """``GET`` on either polling URL of an operation."""
    operation = world.operations.get(call.params["operation"])
    if operation is None:
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
