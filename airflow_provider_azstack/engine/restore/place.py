"""
Where one VM goes, and what names mean there.

Owns the precedence: a VM's own changes, then rules, then the request, then what was.
Invariant: an id of a restore point is used only in the subscription and on the stack that the
request names.
"""

from typing import NamedTuple, Self

from airflow_provider_azstack.engine.machines import id_part
from airflow_provider_azstack.engine.restore.request import Change, RestoreRequest, mapped
from airflow_provider_azstack.engine.restore.survey import Survey
from airflow_provider_azstack.model import RestorePoint, VirtualMachine
from airflow_provider_azstack.repo.repository import Repository


class Place(NamedTuple):
    """Where one VM goes."""

    subscription: str
    group: str
    location: str
    vm_name: str
    is_other_stack: bool

    @classmethod
    def of(
        cls, request: RestoreRequest, vm: str, point: RestorePoint, stack: str, survey: Survey
    ) -> Self:
        """Return where the request says that a VM goes."""
        change, was = request.change(vm), point.vm
        is_other_stack = stack != point.stack
        if is_other_stack and not request.subscription_id:
            survey.refuse(
                f"{was.name} was backed up from stack {point.stack}, this is {stack}: "
                "give subscription_id"
            )
        group = (
            change.resource_group
            or mapped(request.map.resource_groups, [was.resource_group])
            or request.resource_group
            or was.resource_group
        )
        name = change.name or mapped(request.map.names, [was.name]) or was.name
        subscription = request.subscription_id or was.subscription_id
        found = survey.require(f"/subscriptions/{subscription}/resourceGroups/{group}", "group")
        location = request.location or (
            str((found or {}).get("location", "")) if is_other_stack else was.location
        )
        return cls(subscription, group, location, name, is_other_stack)

    @property
    def base(self) -> str:
        """The id of the resource group."""
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.group}"

    def has(self, resource_id: str) -> bool:
        """Tell whether an id of the restore point may be used here."""
        same = id_part(resource_id, "subscriptions").lower() == self.subscription.lower()
        return same and not self.is_other_stack

    def resolved(self, name: str, provider: str, kind: str) -> str:
        """Return the id that an id, a name or group/name stands for."""
        if name.startswith("/"):
            return name
        group, _, last = name.rpartition("/")
        base = f"/subscriptions/{self.subscription}/resourceGroups/{group}" if group else self.base
        return f"{base}/{provider}/{kind}/{last}"

    def renamed(self, name: str, was: str) -> str:
        """Return what something of the VM ``was`` is called when the VM may have a new name."""
        if was == self.vm_name:
            return name
        at = name.lower().find(was.lower())
        new = self.vm_name
        return (f"{new}-{name}" if at < 0 else name[:at] + new + name[at + len(was) :])[:80]


class Case(NamedTuple):
    """One VM to plan for: what was asked, what was, where it goes, and whom to ask."""

    survey: Survey
    repository: Repository
    request: RestoreRequest
    change: Change
    point: RestorePoint
    place: Place
    plan: str  # its id

    @property
    def was(self) -> VirtualMachine:
        """The VM as it was backed up."""
        return self.point.vm

    @property
    def is_in_place(self) -> bool:
        """Whether everything keeps its name and place."""
        return self.request.mode == "original"

    def renamed(self, name: str) -> str:
        """Return what something of the VM is called now."""
        return self.place.renamed(name, self.was.name)
