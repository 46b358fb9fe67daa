"""
The network of one restored VM: interfaces, private and public addresses, security groups.

Owns which subnet, group and address an interface gets; asks through the survey, writes nothing.
Invariants: a static private address is kept only where it is free, and asked for or in place; a
dynamic one is never forced. A subnet or group of another place is never joined because a restore
point says so.
"""

from collections.abc import Iterator
from typing import NamedTuple

from airflow_provider_azstack.engine.machines import Body, reference
from airflow_provider_azstack.engine.restore import bodies
from airflow_provider_azstack.engine.restore.place import Case
from airflow_provider_azstack.engine.restore.records import PlannedResource
from airflow_provider_azstack.engine.restore.request import (
    DYNAMIC,
    NEW,
    NONE,
    SAME,
    NicChange,
    mapped,
)

_GROUPS, _ADDRESSES = "networkSecurityGroups", "publicIPAddresses"


class Interface(NamedTuple):
    """One interface to create, after the public addresses that it needs."""

    reference: Body  # how the VM refers to it
    addresses: tuple[PlannedResource, ...]
    resource: PlannedResource


class NetworkPlan:
    """Plans the interfaces of one VM."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._survey = case.survey
        self._changes = {name.lower(): nic for name, nic in case.change.nics.items()}

    def interfaces(self) -> Iterator[Interface]:
        """Yield the VM's interfaces in their order."""
        properties = (self._case.was.resources.get(self._case.was.id) or {}).get("properties") or {}
        for entry in (properties.get("networkProfile") or {}).get("networkInterfaces") or ():
            body = self._case.was.resources.get(reference(entry))
            if body is None:
                self._survey.refuse(
                    f"{self._case.was.name}: the restore point holds nothing of its interface "
                    f"{reference(entry)}: restore its disks and create the VM by hand"
                )
                continue
            yield self._interface(entry, body)

    def _interface(self, entry: Body, body: Body) -> Interface:
        change = self._changes.get(str(body["name"]).lower()) or NicChange()
        name = self._case.renamed(body["name"])
        target = f"{self._case.place.base}/{bodies.NETWORK}/networkInterfaces/{name}"
        target = body["id"] if self._case.is_in_place else target
        made: list[PlannedResource] = []
        configurations = []
        for number, configuration in enumerate(body["properties"].get("ipConfigurations") or ()):
            # What is asked of an interface is meant for its first address; the others follow suit.
            asked = change if number == 0 else NicChange(subnet=change.subnet)
            inner = configuration.get("properties") or {}
            if inner.get("loadBalancerBackendAddressPools"):
                self._survey.remark(f"{name}: it is in no load balancer's pool any more")
            subnet = self._subnet(reference(inner.get("subnet")), asked, name)
            address = self._private_address(inner, asked, subnet, target)
            public, new = self._public_address(inner, asked, name, target)
            made += new
            configurations.append(bodies.ip_configuration(configuration, subnet, address, public))
        group = self._security_group(
            reference(body["properties"].get("networkSecurityGroup")), change
        )
        sent = bodies.nic(body, self._case.place.location, self._case.plan, configurations, group)
        shown = {"properties": entry["properties"]} if entry.get("properties") else {}
        return Interface(
            {"id": target, **shown}, tuple(made), PlannedResource(id=target, body=sent)
        )

    def _subnet(self, old: str, change: NicChange, nic: str) -> str:
        names = _names_of(old, "virtualNetworks", "subnets")
        asked = change.subnet or mapped(self._case.request.map.subnets, names)
        if not asked and not self._case.place.has(old):
            self._survey.refuse(
                f"interface {nic}: subnet {'/'.join(names[-1:])} is of another place: "
                "say which one to use, by nics or map.subnets"
            )
            return ""
        subnet = self._subnet_id(asked) if asked else old
        if subnet:
            self._survey.require(subnet, "subnet")
        return subnet

    def _subnet_id(self, name: str) -> str:
        if name.startswith("/"):
            return name
        rest, _, subnet = name.rpartition("/")
        if not rest:
            self._survey.refuse(f"subnet {name!r}: give its id, network/subnet or group/...")
            return ""
        network = self._case.place.resolved(rest, bodies.NETWORK, "virtualNetworks")
        return f"{network}/subnets/{subnet}"

    def _security_group(self, old: str, change: NicChange) -> str:
        rule = (
            mapped(self._case.request.map.security_groups, _names_of(old, _GROUPS)) if old else None
        )
        asked = change.security_group or rule
        if asked == NONE or not (asked or old):
            return ""
        if not asked and not self._case.place.has(old):
            self._survey.remark(f"security group {old} is of another place: left out")
            return ""
        group = self._case.place.resolved(asked, bodies.NETWORK, _GROUPS) if asked else old
        self._survey.require(group, "security group")
        return group

    def _private_address(self, inner: Body, change: NicChange, subnet: str, nic: str) -> str:
        """Return the static private address, or nothing for a dynamic one."""
        asked = change.private_address or (SAME if self._case.is_in_place else DYNAMIC)
        if asked == SAME:
            is_static = str(inner.get("privateIPAllocationMethod")).lower() == "static"
            asked = str(inner.get("privateIPAddress")) if is_static else DYNAMIC
        if asked == DYNAMIC:
            return ""
        if subnet and (body := self._survey.find(subnet)):
            self._survey.check_address(asked, body, nic)
        return asked

    def _public_address(
        self,
        inner: Body,
        change: NicChange,
        nic_name: str,
        nic: str,
    ) -> tuple[str, list[PlannedResource]]:
        """Return the id of the public address, or nothing, and what to create for it."""
        old = reference(inner.get("publicIPAddress"))
        asked = change.public_address or (SAME if self._case.is_in_place and old else NONE)
        if asked == NONE:
            return "", []
        if asked == SAME and (there := self._survey.find(old)):
            self._check_unused(there, nic)
            return old, []
        if asked not in {SAME, NEW}:
            target = self._case.place.resolved(asked, bodies.NETWORK, _ADDRESSES)
            if found := self._survey.require(target, "public address"):
                self._check_unused(found, nic)
            return target, []
        name = self._case.renamed(old.rpartition("/")[2]) if old else f"{nic_name[:77]}-ip"
        target = (
            old
            if asked == SAME
            else f"{self._case.place.base}/{bodies.NETWORK}/{_ADDRESSES}/{name}"
        )
        body = bodies.public_address(
            self._case.was.resources.get(old) or {},
            self._case.place.location,
            self._case.plan,
            keep_label=self._case.is_in_place,
        )
        return target, [PlannedResource(id=target, body=body)]

    def _check_unused(self, address: Body, nic: str) -> None:
        user = reference((address.get("properties") or {}).get("ipConfiguration"))
        if user and not user.lower().startswith(f"{nic.lower()}/"):
            self._survey.refuse(f"public address {address['id']} is in use by {user}")


def _names_of(resource_id: str, *kinds: str) -> list[str]:
    """Return what a rule may call a resource: its id, group/name, name."""
    parts = resource_id.split("/")
    lowered = [part.lower() for part in parts]
    found = [parts[lowered.index(kind.lower()) + 1] for kind in kinds if kind.lower() in lowered]
    name = "/".join(found)
    group = parts[4] if len(parts) > 4 else ""
    return [resource_id, f"{group}/{name}", name]
