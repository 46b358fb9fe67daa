"""
Ask the stack what a policy selects.

Owns the inventory: selection, excludes, reasons; what a VM is made of is in ``machines``.
Invariant: every VM that the policy selects is in the inventory, either with all its disks or with
the reason why it cannot be backed up; finding nothing is said, never passed over.

Lists serve everything they can, so the number of requests grows with the number of pages, not of
VMs. The power state would cost one request for each VM: it is looked at when snapshots are taken.
"""

import logging
from collections.abc import Iterable
from contextlib import ExitStack
from threading import Lock
from typing import NamedTuple, Self

from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.engine.accounts import Accounts
from airflow_provider_azstack.engine.machines import (
    BlobFacts,
    Body,
    NotProtectableError,
    id_part,
    outline,
)
from airflow_provider_azstack.errors import AccessDenied, ConfigurationError, SourceGone
from airflow_provider_azstack.model import Disk, Unprotected, VirtualMachine
from airflow_provider_azstack.policy import Policy, TriggerConf, is_like
from airflow_provider_azstack.repo.parallel import in_parallel
from airflow_provider_azstack.speed import counted

log = logging.getLogger(__name__)

THREADS = 8  # for what no list serves: one request for each unmanaged disk

_VMS = "Microsoft.Compute/virtualMachines"
_DISKS = "Microsoft.Compute/disks"


class Inventory(NamedTuple):
    """What a policy selects, each part ordered by id."""

    vms: tuple[VirtualMachine, ...]
    unprotected: tuple[Unprotected, ...]


def discover(
    stack: Stack,
    policy: Policy,
    trigger: TriggerConf | None = None,
    *,
    threads: int = THREADS,
) -> Inventory:
    """
    Return the VMs that the policy selects and the trigger asks for.

    :raises ConfigurationError: that is none, and the policy does not say that it may be; or the
        trigger names a VM that the policy does not have.
    """
    trigger = trigger or TriggerConf()
    subscriptions = _subscriptions(stack, policy)
    with ExitStack() as opened:
        lists = [opened.enter_context(Lists(stack, name)) for name in subscriptions]
        seen = [(place, body) for place in lists for body in place.of(_VMS).values()]
        selected = [(place, body) for place, body in seen if _is_selected(body, policy)]
        _check_names(trigger, [body for _, body in selected])
        asked = [(place, body) for place, body in selected if _fits(body, trigger)]
        if not asked:
            _accept_nothing(stack, policy, trigger, len(seen), subscriptions)
        _check_snapshot_group(stack, policy, {id_part(b["id"], "subscriptions") for _, b in asked})
        found = list(in_parallel(lambda item: _examined(*item, policy), asked, threads))
    inventory = Inventory(
        tuple(sorted((f for f in found if isinstance(f, VirtualMachine)), key=lambda f: f.id)),
        tuple(sorted((f for f in found if isinstance(f, Unprotected)), key=lambda f: f.id)),
    )
    log.info(
        "%s: %s seen, %d to back up, %d that cannot be",
        policy.name,
        counted(len(seen), "VM"),
        len(inventory.vms),
        len(inventory.unprotected),
    )
    return inventory


class Lists:
    """The bodies of one subscription, by lists: each list is asked for once, when first needed."""

    def __init__(self, stack: Stack, subscription: str) -> None:
        self._stack = stack
        self._subscription = subscription
        self._accounts = Accounts(stack, [subscription])
        self._lists: dict[str, dict[str, Body]] = {}
        self._lock = Lock()

    def of(self, kind: str) -> dict[str, Body]:
        """Return all resources of a type by their ids in small letters: case varies in ARM."""
        with self._lock:
            if kind not in self._lists:
                path = f"/subscriptions/{self._subscription}/providers/{kind}"
                self._lists[kind] = {str(b["id"]).lower(): b for b in self._stack.list(path)}
            return self._lists[kind]

    def body(self, resource_id: str) -> Body | None:
        """Return a managed disk from the list; None for what is in another subscription."""
        return self.of(_DISKS).get(resource_id.lower())

    def blob(self, url: str) -> BlobFacts:
        """Return the facts of an unmanaged disk, by a request of its own."""
        return self._accounts.facts(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._accounts.close()


def _subscriptions(stack: Stack, policy: Policy) -> list[str]:
    """Return the subscriptions to look in: those the policy names, else all that can be seen."""
    visible = {str(s["subscriptionId"]).lower() for s in stack.subscriptions()}
    named = {name.lower() for name in policy.selection.subscriptions}
    if missing := sorted(named - visible):
        raise ConfigurationError(
            f"policy {policy.name}: stack {stack.name} shows no subscription {missing[0]}: "
            "correct the id, or give the connection's application a role in it"
        )
    return sorted(named or visible)


def _is_selected(body: Body, policy: Policy) -> bool:
    name, group, tags = _traits(body)
    return policy.selection.matches(
        name=name, resource_group=group, tags=tags
    ) and not policy.exclude.leaves_out_vm(name)


def _fits(body: Body, trigger: TriggerConf) -> bool:
    name, group, tags = _traits(body)
    return trigger.matches(name=name, resource_group=group, tags=tags)


def _traits(body: Body) -> tuple[str, str, dict[str, str]]:
    return body["name"], id_part(body["id"], "resourceGroups"), body.get("tags") or {}


def _check_names(trigger: TriggerConf, selected: Iterable[Body]) -> None:
    """Refuse a trigger that asks for something the policy does not have: a typing error."""
    traits = [_traits(body) for body in selected]
    for pattern in trigger.vms:
        if not any(is_like(name, pattern) for name, _, _ in traits):
            raise ConfigurationError(
                f"the trigger's config: vms: {pattern!r} fits no VM that the policy selects"
            )
    groups = {group.lower() for _, group, _ in traits}
    for group in trigger.resource_groups:
        if group.lower() not in groups:
            raise ConfigurationError(
                f"the trigger's config: resource_groups: {group!r} has no VM of the policy"
            )


def _accept_nothing(
    stack: Stack, policy: Policy, trigger: TriggerConf, seen: int, subscriptions: Iterable[str]
) -> None:
    """Pass only when the policy may select nothing and every place it names is really there."""
    what = "what the trigger asks of it" if trigger.narrows else "its selection"
    if not policy.may_be_empty:
        raise ConfigurationError(
            f"policy {policy.name}: {what} fits none of the {counted(seen, 'VM')} that the "
            f"connection sees on stack {stack.name}: correct it, check the roles, or set "
            "may_be_empty"
        )
    there = {
        str(group["name"]).lower()
        for subscription in subscriptions
        for group in stack.list(f"/subscriptions/{subscription}/resourcegroups")
    }
    for name in policy.selection.resource_groups:
        if name.lower() not in there:
            raise ConfigurationError(
                f"policy {policy.name}: stack {stack.name} shows no resource group {name!r}: "
                "correct the name, or give the connection's application a role in it"
            )


def _check_snapshot_group(stack: Stack, policy: Policy, subscriptions: Iterable[str]) -> None:
    """Say now, once, what every snapshot would fail with."""
    group = policy.snapshot_resource_group
    for subscription in sorted(subscriptions) if group else ():
        try:
            found = stack.find(f"/subscriptions/{subscription}/resourcegroups/{group}")
        except AccessDenied:
            continue  # the role for snapshots works without reading the group itself
        if found is None:
            raise ConfigurationError(
                f"policy {policy.name}: subscription {subscription} of stack {stack.name} has no "
                f"resource group {group!r} for snapshots: create it, or correct "
                "snapshot_resource_group"
            )


def _examined(lists: Lists, body: Body, policy: Policy) -> VirtualMachine | Unprotected:
    name = str(body["name"])

    def left_out(disk: Disk) -> bool:
        return policy.exclude.leaves_out_disk(name, disk.key, disk.name)

    try:
        return outline(body, lists, left_out)
    except (NotProtectableError, SourceGone) as error:
        return Unprotected(id=body["id"], name=name, reason=str(error))
