"""
The plan of ``azstack restore``: what a restore will do, before anything is done.

Owns how a request or a plan is read from a file, shown and kept; what it says is the engine's
business.
Invariant: nothing is changed, on the stack or in the repository.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from airflow_provider_azstack.console.present import say, show, show_one
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.model import from_json, to_json, to_plain
from airflow_provider_azstack.speed import duration

if TYPE_CHECKING:
    from airflow_provider_azstack.arm.client import Stack
    from airflow_provider_azstack.engine.restore.records import RestorePlan
    from airflow_provider_azstack.repo.repository import Repository

_MAX_PLAN_BYTES = 64 * 2**20
_ROWS = ("vm", "action", "what", "bytes")


def read_plan(file: Path, stack: "Stack", repository: "Repository") -> "RestorePlan":
    """
    Return the plan that a file holds, or the one of the request that it holds.

    :raises ConfigurationError: it holds neither.
    """
    # The engine loads cryptography and zstandard: not to print a help text.
    from airflow_provider_azstack.engine.restore.plan import plan_restore  # noqa: PLC0415
    from airflow_provider_azstack.engine.restore.records import RestorePlan  # noqa: PLC0415
    from airflow_provider_azstack.engine.restore.request import load_request  # noqa: PLC0415

    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_PLAN_BYTES)
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror or error}") from None
    if b'"made_at"' in data:
        return from_json(RestorePlan, data, str(file))
    return plan_restore(stack, repository, load_request(file))


def show_plan(plan: "RestorePlan", output: str) -> None:
    """Print a plan: in JSON the whole of it, else what a person needs to agree to it."""
    if output == "json":
        show_one(to_plain(plan), output)
        return
    seconds = plan.expected_seconds
    facts = {
        "plan": plan.id,
        "stack": plan.stack,
        "write_bytes": plan.write_bytes,
        "expected": "nothing was measured" if seconds is None else f"about {duration(seconds)}",
        "changes_existing": plan.touched,
    }
    show_one(facts, output)
    vms = [{"vm": vm.name, "point": vm.point, "taken_at": vm.taken_at} for vm in plan.vms]
    show(vms, output, ("vm", "point", "taken_at"), title="restore points")
    if rows := list(_rows(plan)):  # none where nothing that was asked for is known
        show(rows, output, _ROWS, title="steps")
        show([{"permission": p.action, "on": p.scope} for p in plan.permissions], output,
             ("permission", "on"), title="permissions")  # fmt: skip
    for remark in plan.remarks:
        say(f"[yellow]note:[/] {escape(remark)}")
    for refusal in plan.refusals:
        say(f"[red]refused:[/] {escape(refusal)}")


def _rows(plan: "RestorePlan") -> Iterator[dict[str, Any]]:
    for vm in plan.vms:
        row = {"vm": vm.name, "action": "create"}
        for gone in vm.replaces:
            if gone.place:
                yield {**row, "action": "keep safe", "what": gone.place}
        for disk in vm.disks:
            yield {**row, "action": disk.way, "what": disk.id, "bytes": disk.data_bytes}
        for resource in vm.resources:
            yield {**row, "what": resource.id}
        if vm.occupant:
            yield {**row, "action": "replace disks of", "what": vm.target}
        if vm.attach_to:
            yield {**row, "action": "attach to", "what": vm.attach_to}
        elif vm.target:
            yield {**row, "action": "start" if vm.power_on else "stop", "what": vm.target}


def save_plan(file: Path, plan: "RestorePlan") -> None:
    """
    Keep a plan in a file, which may be carried out later; it is for its owner's eyes.

    :raises StoreError: it cannot be written.
    """
    from airflow_provider_azstack.engine.export.new_file import (  # noqa: PLC0415 - fcntl, for it
        explained,
        replaced_file,
    )

    data = to_json(plan)
    with explained(file, lambda: len(data)), replaced_file(file, overwrite=True) as opened:
        left = memoryview(data)
        while left:
            left = left[opened.write(left) :]
