"""
A restore on several backup hosts: where the plan is kept, who writes which disk.

Owns the sharing out and the plan's place in the repository; how a disk is written is not its
business.
Invariants: one disk is written by one host, because a stack need not give two of them access to it;
what hosts carry out is the very plan that was agreed to, sealed in the repository.
"""

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.engine.pace import Pace
from airflow_provider_azstack.engine.restore.disks import write_disk
from airflow_provider_azstack.engine.restore.execute import opened
from airflow_provider_azstack.engine.restore.plan import require_agreed
from airflow_provider_azstack.engine.restore.records import RestorePlan, each_disk, plan_name
from airflow_provider_azstack.errors import ConfigurationError, ObjectExists
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.sessions import Session

MAX_DISKS = 1000  # of a host: Airflow's core.max_map_length is 1,024


def keep(session: Session, plan: RestorePlan, run: str) -> str:
    """Keep a plan in the repository for its run; return its name there."""
    name = plan_name(plan.id, run)
    with suppress(ObjectExists):  # an earlier try of the same task: what it kept is what counts
        session.repository.records.put(name, plan)
    return name


def kept(repository: Repository, name: str) -> RestorePlan:
    """Return a plan by its name."""
    return repository.records.get(name, RestorePlan)


def shared(plan: RestorePlan, streams: Mapping[str, int]) -> dict[str, list[dict[str, Any]]]:
    """
    Share the disks of a plan among hosts: the longest first, to who is done first.

    :param streams: host -> how many disks it writes at once.
    """
    loads = dict.fromkeys(streams, 0.0)
    hosts: dict[str, list[dict[str, Any]]] = {host: [] for host in streams}
    disks = sorted(each_disk(plan), key=lambda pair: (-pair[1].data_bytes, pair[1].id))
    for vm, disk in disks:
        host = min(loads, key=lambda name: (loads[name], name))
        loads[host] += max(disk.data_bytes, 1) / streams[host]
        label = f"{host} / {vm.name} {disk.key}"
        if len(hosts[host]) == MAX_DISKS:
            raise ConfigurationError(
                f"more than {MAX_DISKS} disks for backup host {host}: restore fewer VMs at once"
            )
        hosts[host].append({"vm": vm.key, "key": disk.key, "label": label})
    return hosts


def write_one(
    stack: Stack,
    session: Session,
    plan: RestorePlan,
    vm_key: str,
    disk_key: str,
    *,
    tell: Callable[[str], None],
    cancel: threading.Event | None = None,
    pace: Pace | None = None,
) -> None:
    """
    Write one disk of a plan.

    :raises ConfigurationError: the plan has no such disk.
    """
    require_agreed(plan, stack, session.repository)
    for vm, disk in each_disk(plan):
        if (vm.key, disk.key) == (vm_key, disk_key):
            with opened(stack, session, plan, tell) as restore:
                write_disk(restore._replace(cancel=cancel, pace=pace), vm, disk)
            return
    raise ConfigurationError(f"the plan has no disk {disk_key} of {vm_key}: run again")
