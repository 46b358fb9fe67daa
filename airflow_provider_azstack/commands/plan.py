"""
``airflow azstack plan | estimate | simulate``: what a backup will need, and what more hosts bring.

Owns where VMs, hosts and the past come from; what is expected of them the engine decides.
Invariant: the stack is only asked, and nothing is written anywhere.
"""

from argparse import Namespace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pendulum
from rich.markup import escape

from airflow_provider_azstack.commands.connections import open_repository, stack_hook
from airflow_provider_azstack.commands.console import command
from airflow_provider_azstack.config import load_config
from airflow_provider_azstack.console.estimate import show_estimate
from airflow_provider_azstack.console.present import DONE, PARTLY, say, show, show_one
from airflow_provider_azstack.console.simulate import show_simulation
from airflow_provider_azstack.engine.backup import outlook
from airflow_provider_azstack.engine.backup.window import window
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.model import Job, Manifest
from airflow_provider_azstack.policy import Policy, load_policy

if TYPE_CHECKING:
    from airflow_provider_azstack.engine.backup.discover import Inventory

_WORKLOADS = ("host", "number", "workload", "vms", "expected_bytes", "expected_seconds")


@command
def plan(args: Namespace) -> int:
    """Print what a job of a policy would do now; state 1 when it would leave out VMs."""
    from airflow_provider_azstack.engine.backup.discover import discover  # noqa: PLC0415 - azure
    from airflow_provider_azstack.engine.backup.past import Past  # noqa: PLC0415
    from airflow_provider_azstack.engine.backup.prepare import Terms, prepare  # noqa: PLC0415

    policy, config = load_policy(args.policy), load_config(args.config)
    args.stack_conn_id = args.stack_conn_id or policy.stack_conn_id
    args.repository_conn_id = args.repository_conn_id or policy.repository_conn_id
    start = _start(args.at, policy)
    hook = stack_hook(args)
    with hook.get_conn() as stack:
        inventory = discover(stack, policy.within(hook.subscription_id))
        job = _job(policy, stack.name, start, args.mode or policy.mode)
    manifests = prepare(
        job,
        inventory.vms,
        config.backup_hosts(policy.hosts),
        Terms(policy, config.caps, config.split_bytes),
        Past(open_repository(args).job_outlines()),
        now=start,
    )
    return _show(args, policy, job, inventory, manifests)


@command
def estimate(args: Namespace) -> int:
    """Print how well what was expected of a job held."""
    return show_estimate(open_repository(args), args.run, args.output)


@command
def simulate(args: Namespace) -> int:
    """Print what more hosts bring, beginning with those of the configuration."""
    config = None if args.fleet else load_config(args.config)
    return show_simulation(
        args,
        lambda: open_repository(args),
        config.backup_hosts() if config else (),
        config.caps if config else None,
    )


def _start(text: str, policy: Policy) -> datetime:
    """Return when the job is to begin; a time without a zone is the policy's."""
    if not text:
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"--at: {text!r} is no time such as 2026-05-04T22:00") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=pendulum.timezone(policy.timezone))


def _job(policy: Policy, stack: str, start: datetime, mode: str) -> Job:
    ends = window(
        start,
        policy.timezone,
        policy.stop_starting_after or "",
        policy.stop_running_after or "",
    )
    return Job(
        run="plan",
        session="plan",
        policy=policy.name,
        stack=stack,
        mode="full" if mode == "full" else "incremental",
        consistency=policy.consistency,
        stop_starting_at=ends.stop_starting_at,
        stop_running_at=ends.stop_running_at,
    )


def _show(
    args: Namespace,
    policy: Policy,
    job: Job,
    inventory: "Inventory",
    manifests: tuple[Manifest, ...],
) -> int:
    forecasts = [manifest.forecast for manifest in manifests if manifest.forecast]
    hosts = outlook.host_rows(forecasts, pendulum.timezone(policy.timezone))
    workloads = list(_workload_rows(manifests)) if args.workloads else []
    says = outlook.verdict(job, forecasts)
    state = PARTLY if inventory.unprotected or any(f.left_out for f in forecasts) else DONE
    if args.output == "json":
        facts = {"policy": policy.name, "stack": job.stack, "mode": job.mode, "verdict": says}
        unprotected = [{"name": vm.name, "reason": vm.reason} for vm in inventory.unprotected]
        show_one(
            {**facts, "hosts": hosts, "workloads": workloads, "unprotected": unprotected}, "json"
        )
        return state
    show(hosts, args.output, outlook.HOST_COLUMNS)
    show(workloads, args.output, _WORKLOADS, title="workloads")
    for vm in inventory.unprotected:
        say(f"[yellow]not protected:[/] {escape(vm.name)}: {escape(vm.reason)}")
    say(escape(says))
    return state


def _workload_rows(manifests: tuple[Manifest, ...]) -> "list[dict[str, Any]]":
    return [
        {
            "host": workload.host,
            "number": workload.number,
            "workload": workload.label,
            "vms": len(workload.vms),
            "expected_bytes": workload.expected_bytes,
            "expected_seconds": round(sum(vm.expected_seconds for vm in workload.vms), 1),
        }
        for manifest in manifests
        for workload in manifest.workloads
    ]
