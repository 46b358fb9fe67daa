"""
From what a policy selects to what each backup host has to do, and what is expected of it.

Owns the order of the steps, which a job, a plan and a simulation share; pure, knows no requests.
Invariant: what was planned is what a job would do, given the same VMs and the same past.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from airflow_provider_azstack.config import BackupHost, Caps
from airflow_provider_azstack.engine.backup.distribute import distribute
from airflow_provider_azstack.engine.backup.forecast import (
    Costs,
    host_speeds,
    parts_at_once,
    with_forecast,
    with_limit,
)
from airflow_provider_azstack.engine.backup.past import Past, Rates
from airflow_provider_azstack.engine.backup.siblings import siblings
from airflow_provider_azstack.model import Job, Manifest, VirtualMachine
from airflow_provider_azstack.policy import Policy


class Terms(NamedTuple):
    """What the configuration and the policy say of sharing work out."""

    policy: Policy
    caps: Caps = Caps()
    split_bytes: int | None = None


def prepare(
    job: Job,
    vms: Iterable[VirtualMachine],
    hosts: Sequence[BackupHost],
    terms: Terms,
    past: Past,
    *,
    now: datetime,
    rates: Rates | None = None,
    costs: Costs | None = None,
    stack_rate: float | None = None,
    has_points: Callable[[str], bool] = lambda _: True,
) -> tuple[Manifest, ...]:
    """
    Return one manifest for each host, with what is expected of it.

    :param rates: what to count with instead of what the past tells.
    :param stack_rate: bytes a second that the stack gives all hosts together; None: any.
    :param has_points: tells whether a VM still has restore points, for others to build on.
    """
    rates = rates or past.rates()
    vms = tuple(vms)
    shared = distribute(
        job,
        vms,
        hosts,
        history=past.expected_bytes(job.mode),
        waiting=past.waiting(),
        siblings=siblings(vms, past.done(), past.of_images(), has_points),
        batch_bytes=terms.policy.batch_bytes,
        account_cap=terms.caps.storage_account,
        stack_cap=terms.caps.stack,
        split_bytes=terms.split_bytes,
        at_once=parts_at_once(rates, hosts, terms.caps.disk),
        speeds=host_speeds(rates, hosts, terms.policy.limit_bytes),
    )
    limited = with_limit(shared, hosts, terms.policy.limit_bytes)
    return with_forecast(limited, hosts, rates, now=now, costs=costs, stack_rate=stack_rate)
