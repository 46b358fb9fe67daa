"""
The bodies that create a VM and what belongs to it again, from those that a restore point kept.

Owns which properties go to the stack: an explicit list for each type of resource. Asks nobody.
Invariant: what is not on a list is not sent. So nothing that is read-only, secret, of the moment,
or of another subscription reaches the stack, and nothing that runs code in a guest unless it was
asked for.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from airflow_provider_azstack.engine.machines import Body, reference

TAG = "azstack-restore"  # on everything that a restore creates; its value is the plan's id
COMPUTE, NETWORK = "providers/Microsoft.Compute", "providers/Microsoft.Network"

_NIC = ("enableIPForwarding", "enableAcceleratedNetworking")
_ADDRESS = ("publicIPAllocationMethod", "publicIPAddressVersion", "idleTimeoutInMinutes")
_SET = ("platformFaultDomainCount", "platformUpdateDomainCount")
_EXTENSION = ("publisher", "type", "typeHandlerVersion", "autoUpgradeMinorVersion", "settings")
_DISK = ("osType", "hyperVGeneration")


def tagged(body: Body, plan: str, tags: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the tags of what a body described, with ours."""
    return {**(dict(body.get("tags") or {}) if tags is None else dict(tags)), TAG: plan}


def picked(properties: Mapping[str, Any], names: Iterable[str]) -> Body:
    """Return the properties of these names that are there."""
    return {name: properties[name] for name in names if properties.get(name) is not None}


def managed_disk_properties(body: Body, *, is_os: bool, os_type: str) -> Body:
    """Return what a new managed disk says about itself beyond its content."""
    kept = picked(body.get("properties") or {}, _DISK)
    if is_os:
        kept.setdefault("osType", os_type)
    return kept


def public_address(body: Body, location: str, plan: str, *, keep_label: bool) -> Body:
    """
    Return the body of a new public address like the one of ``body``.

    :param keep_label: the DNS label, which no second address of a stack may have.
    """
    properties = body.get("properties") or {}
    made = picked(properties, _ADDRESS)
    label = (properties.get("dnsSettings") or {}).get("domainNameLabel")
    if keep_label and label:
        made["dnsSettings"] = {"domainNameLabel": label}
    return _resource(body, location, plan, made, sku=_sku(body))


def nic(body: Body, location: str, plan: str, configurations: list[Body], group: str) -> Body:
    """
    Return the body of a network interface.

    :param configurations: from :func:`ip_configuration`.
    :param group: id of its security group, or nothing.
    """
    properties = body.get("properties") or {}
    made: Body = {**picked(properties, _NIC), "ipConfigurations": configurations}
    dns = picked(properties.get("dnsSettings") or {}, ("dnsServers", "internalDnsNameLabel"))
    if any(dns.values()):
        made["dnsSettings"] = dns
    if group:
        made["networkSecurityGroup"] = {"id": group}
    return _resource(body, location, plan, made)


def ip_configuration(body: Body, subnet: str, static_address: str, public: str) -> Body:
    """
    Return one IP configuration.

    :param static_address: the private address, or nothing for a dynamic one.
    :param public: id of the public address, or nothing.
    """
    properties = body.get("properties") or {}
    made: Body = picked(properties, ("primary", "privateIPAddressVersion"))
    made["subnet"] = {"id": subnet}
    made["privateIPAllocationMethod"] = "Static" if static_address else "Dynamic"
    if static_address:
        made["privateIPAddress"] = static_address
    if public:
        made["publicIPAddress"] = {"id": public}
    return {"name": body["name"], "properties": made}


def availability_set(body: Body, location: str, plan: str) -> Body:
    """Return the body of an availability set."""
    made = picked(body.get("properties") or {}, _SET)
    return _resource(body, location, plan, made, sku=_sku(body))


def machine(
    body: Body,
    location: str,
    tags: Mapping[str, str],
    *,
    size: str,
    disks: list[Body],
    nics: list[Body],
    availability_set_id: str,
    boot_diagnostics: bool,
    identity: bool,
) -> Body:
    """
    Return the body of a VM that is created by attaching disks.

    Neither ``osProfile`` nor ``imageReference``: those are for disks that were never booted.

    :param disks: from :func:`storage_entry`, the OS disk first.
    :param nics: references, as ``{"id": ...}``, in their order.
    """
    properties = body.get("properties") or {}
    made: Body = {
        "hardwareProfile": {"vmSize": size},
        "storageProfile": {"osDisk": disks[0], "dataDisks": disks[1:]},
        "networkProfile": {"networkInterfaces": nics},
        **picked(properties, ("licenseType",)),
    }
    if availability_set_id:
        made["availabilitySet"] = {"id": availability_set_id}
    diagnostics = (properties.get("diagnosticsProfile") or {}).get("bootDiagnostics")
    if boot_diagnostics and diagnostics:
        made["diagnosticsProfile"] = {
            "bootDiagnostics": picked(diagnostics, ("enabled", "storageUri"))
        }
    whole: Body = {"location": location, "tags": dict(tags), "properties": made}
    if plan := body.get("plan"):  # of the marketplace: an image's terms go with its disks
        whole["plan"] = picked(plan, ("name", "publisher", "product", "promotionCode"))
    if identity and body.get("identity"):
        whole["identity"] = identity_of(body["identity"])
    return whole


def identity_of(identity: Body) -> Body:
    """Return a new identity of the same kind; user-assigned ones are references."""
    users: dict[str, Body] = {name: {} for name in identity.get("userAssignedIdentities") or {}}
    return {"type": identity.get("type"), **({"userAssignedIdentities": users} if users else {})}


def storage_entry(
    *, name: str, kind: str, place: str, lun: int | None, caching: str, os_type: str
) -> Body:
    """
    Return a disk's entry in a VM's storage profile.

    :param place: id of a managed disk, or URL of a page blob.
    :param lun: None for the OS disk.
    """
    where: Body = {"managedDisk": {"id": place}} if kind == "managed" else {"vhd": {"uri": place}}
    entry: Body = {"name": name, "createOption": "Attach", "caching": caching, **where}
    return {"osType": os_type, **entry} if lun is None else {"lun": lun, **entry}


def place_of(entry: Body | None) -> str:
    """Return where an entry's disk is, in small letters; nothing when there is no entry."""
    entry = entry or {}
    return (reference(entry.get("managedDisk")) or _uri(entry)).lower()


def _uri(entry: Body) -> str:
    return str((entry.get("vhd") or {}).get("uri") or "")


def key_of(entry: Body) -> str:
    """Return the key of the disk that an entry is of."""
    return f"data-{int(entry['lun'])}" if "lun" in entry else "os"


def entries_of(body: Body) -> dict[str, Body]:
    """Return the entries of a VM's storage profile by key, the OS disk first."""
    profile = (body.get("properties") or {}).get("storageProfile") or {}
    found = [profile.get("osDisk") or {}, *(profile.get("dataDisks") or ())]
    return {key_of(entry): entry for entry in found}


def attached(entry: Body) -> Body:
    """Return what attaches the disk of an entry, in the same place."""
    place = (
        {"managedDisk": {"id": reference(entry["managedDisk"])}}
        if entry.get("managedDisk")
        else {"vhd": {"uri": _uri(entry)}}
    )
    return {
        **picked(entry, ("lun", "osType", "name", "caching")),
        "createOption": "Attach",
        **place,
    }


def os_entry_like(now: Body, wanted: Body) -> Body:
    """Return the OS disk's entry with another disk: how it was made, no stack lets be changed."""
    kept = picked(now, ("createOption", "osType", "caching"))
    return {**attached(wanted), **kept}


def with_disks(body: Body, entries: list[Body]) -> Body:
    """Return the body that gives an existing VM more data disks: all else as it says it is."""
    profile = (body.get("properties") or {}).get("storageProfile") or {}
    there = profile.get("dataDisks") or ()
    return with_storage(body, profile.get("osDisk") or {}, [*there, *entries])


def with_storage(body: Body, os_disk: Body, data_disks: Iterable[Body]) -> Body:
    """Return the body that gives an existing VM these disks: all else as it says it is."""
    properties = {
        name: value
        for name, value in (body.get("properties") or {}).items()
        if name not in {"vmId", "provisioningState", "instanceView", "timeCreated"}
    }
    profile = dict(properties.get("storageProfile") or {})
    profile |= {"osDisk": os_disk, "dataDisks": list(data_disks)}
    kept = picked(body, ("location", "tags", "plan", "zones"))
    if body.get("identity"):
        kept["identity"] = identity_of(body["identity"])
    return {**kept, "properties": {**properties, "storageProfile": profile}}


def again(body: Body, entries: list[Body], plan: str) -> Body:
    """Return the body that creates a VM that was deleted as it was, from disks that are there."""
    properties = body.get("properties") or {}
    return machine(
        body,
        str(body.get("location", "")),
        tagged(body, plan),
        size=str((properties.get("hardwareProfile") or {}).get("vmSize", "")),
        disks=sorted(entries, key=lambda entry: entry.get("lun", -1)),
        nics=list((properties.get("networkProfile") or {}).get("networkInterfaces") or ()),
        availability_set_id=reference(properties.get("availabilitySet")),
        boot_diagnostics=True,
        identity=True,
    )


def extension(body: Body, location: str) -> Body:
    """Return the body of a VM extension; its protected settings are in no backup."""
    return {
        "location": location,
        "tags": dict(body.get("tags") or {}),
        "properties": picked(body.get("properties") or {}, _EXTENSION),
    }


def _resource(body: Body, location: str, plan: str, properties: Body, **more: Any) -> Body:
    kept = {name: value for name, value in more.items() if value}
    return {"location": location, "tags": tagged(body, plan), **kept, "properties": properties}


def _sku(body: Body) -> Body:
    return picked(body.get("sku") or {}, ("name",))
