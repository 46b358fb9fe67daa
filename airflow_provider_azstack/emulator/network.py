"""
Networks: interfaces, public addresses, virtual networks, security groups.

Owns creating them with the checks a restore meets; knows no VMs.
Invariant: what a resource refers to exists when it is created.
"""

import ipaddress
import itertools
import uuid

from airflow_provider_azstack.emulator import operations, resources
from airflow_provider_azstack.emulator.http import Answer, Call, Json, Problem, json_answer
from airflow_provider_azstack.emulator.state import Resource, World, body

NICS = "Microsoft.Network/networkInterfaces"
ADDRESSES = "Microsoft.Network/publicIPAddresses"
NETWORKS = "Microsoft.Network/virtualNetworks"
SUBNETS = "Microsoft.Network/virtualNetworks/subnets"
GROUPS = "Microsoft.Network/networkSecurityGroups"
_FIRST_HOST = 4  # a stack keeps those before for itself


def put(resource_type: str, world: World, call: Call) -> Answer:
    """``PUT`` a network resource: 201 when it is new, 200 when it was there."""
    resources.check_name(call)
    path, sent = resources.resource_id(world, call, resource_type), call.json()
    found = world.find(path)
    resource = make(world, path, resource_type, sent)
    status = 200 if found else 201
    kind = f"network.{resource_type.rsplit('/', 1)[-1]}.write"
    answer = operations.start(world, call, kind, lambda: None, body=resource.body, status=status)
    answer.headers.pop("Location", None)
    return answer


def make(world: World, path: str, resource_type: str, sent: Json) -> Resource:
    """Create or replace a network resource."""
    etag = f'W/"{uuid.uuid4()}"'
    made = body(path, resource_type, world.location, sent, etag=etag)
    if "sku" in sent:
        made["sku"] = sent["sku"]
    previous = world.find(path)
    kept = previous.properties if previous else {"resourceGuid": str(uuid.uuid4())}
    made["properties"] = {
        **kept,
        **(sent.get("properties") or {}),
        "provisioningState": "Succeeded",
    }
    shape = {NICS: _shape_nic, ADDRESSES: _shape_address, NETWORKS: _shape_network}
    if previous and resource_type == NICS:
        _release_addresses(world, previous)
    if resource_type in shape:
        shape[resource_type](world, made, etag)
    return world.add(Resource(made))


def _shape_nic(world: World, made: Json, etag: str) -> None:
    properties = made["properties"]
    configurations = properties.get("ipConfigurations") or []
    if not configurations:
        raise Problem(400, "InvalidRequestFormat", "A network interface needs an ipConfiguration.")
    if "networkSecurityGroup" in properties:
        world.get(properties["networkSecurityGroup"]["id"])
    for index, configuration in enumerate(configurations):
        path = f"{made['id']}/ipConfigurations/{configuration['name']}"
        configuration |= {"id": path, "etag": etag, "type": f"{NICS}/ipConfigurations"}
        given = configuration["properties"]
        _shape_configuration(world, given, path)
        given.setdefault("primary", index == 0)
    mac = "-".join(f"{byte:02X}" for byte in uuid.uuid4().bytes[:3])
    properties.setdefault("macAddress", f"00-15-5D-{mac}")
    properties.setdefault("enableIPForwarding", False)
    properties |= {"primary": True, "hostedWorkloads": [], "tapConfigurations": []}
    properties.setdefault("dnsSettings", {"dnsServers": [], "appliedDnsServers": []})


def _shape_configuration(world: World, given: Json, path: str) -> None:
    subnet = _subnet(world, (given.get("subnet") or {}).get("id", ""))
    network = ipaddress.ip_network(subnet["properties"]["addressPrefix"])
    taken = world.addresses.setdefault(subnet["id"].lower(), {})
    given.setdefault("privateIPAllocationMethod", "Dynamic")
    asked = given.get("privateIPAddress", "")
    if given["privateIPAllocationMethod"] == "Static":
        if not asked or ipaddress.ip_address(asked) not in network:
            raise Problem(
                400, "PrivateIPAddressNotInSubnet", f"{asked!r} is not in subnet {network}."
            )
        if asked in taken:
            raise Problem(400, "PrivateIPAddressInUse", f"{asked} is already in use.")
    elif not asked or asked in taken:
        hosts = (str(network[number]) for number in itertools.count(_FIRST_HOST + len(taken)))
        asked = next(host for host in hosts if host not in taken)
    given["privateIPAddress"] = asked
    taken[asked] = path
    given |= {"provisioningState": "Succeeded", "privateIPAddressVersion": "IPv4"}
    if "publicIPAddress" in given:
        address = world.get(given["publicIPAddress"]["id"])
        owner = address.properties.get("ipConfiguration", {}).get("id", path)
        if owner.lower() != path.lower():
            raise Problem(400, "PublicIPAddressInUse", f"{address.id} is used by {owner}.")
        address.properties["ipConfiguration"] = {"id": path}


def _subnet(world: World, subnet_id: str) -> Json:
    network = world.find(subnet_id.rpartition("/subnets/")[0])
    for subnet in network.properties["subnets"] if network else []:
        if subnet["id"].lower() == subnet_id.lower():
            found: Json = subnet
            return found
    raise Problem(400, "InvalidResourceReference", f"Subnet {subnet_id!r} was not found.")


def _release_addresses(world: World, nic: Resource) -> None:
    for configuration in nic.properties["ipConfigurations"]:
        given = configuration["properties"]
        taken = world.addresses.get(given["subnet"]["id"].lower(), {})
        taken.pop(given["privateIPAddress"], None)


def _shape_address(world: World, made: Json, _: str) -> None:
    properties = made["properties"]
    used = sum(1 for _ in world.of_type(ADDRESSES))
    properties.setdefault("publicIPAddressVersion", "IPv4")
    properties.setdefault("publicIPAllocationMethod", "Dynamic")
    properties.setdefault("idleTimeoutInMinutes", 4)
    properties.setdefault("ipTags", [])
    properties["ipAddress"] = f"192.0.2.{used + 10}"
    made.setdefault("sku", {"name": "Basic"})


def _shape_network(_: World, made: Json, etag: str) -> None:
    for subnet in made["properties"].setdefault("subnets", []):
        subnet |= {"id": f"{made['id']}/subnets/{subnet['name']}", "etag": etag, "type": SUBNETS}
        subnet["properties"]["provisioningState"] = "Succeeded"


def get_subnet(world: World, call: Call) -> Answer:
    """``GET .../virtualNetworks/{n}/subnets/{s}``."""
    path = resources.resource_id(world, call, SUBNETS)
    try:
        return json_answer(200, _subnet(world, path))
    except Problem as problem:
        raise Problem(404, "NotFound", problem.message) from None


def list_subnets(world: World, call: Call) -> Answer:
    """``GET .../virtualNetworks/{n}/subnets``."""
    network = resources.target(world, call, NETWORKS)
    return resources.page(world, call, network.properties["subnets"])


def delete(resource_type: str, world: World, call: Call) -> Answer:
    """``DELETE`` a network resource that nothing uses."""
    found = world.find(resources.resource_id(world, call, resource_type))
    if found is None:
        return Answer(204)
    user = found.properties.get("virtualMachine") or found.properties.get("ipConfiguration")
    if user:
        raise Problem(400, "InUse", f"{found.id} is in use by {user['id']}.")
    kind = f"network.{resource_type.rsplit('/', 1)[-1]}.delete"

    def finish() -> None:
        if resource_type == NICS:
            _release_addresses(world, found)
        for address in world.of_type(ADDRESSES):
            owner = address.properties.get("ipConfiguration", {}).get("id", "")
            if owner.lower().startswith(f"{found.id.lower()}/"):
                del address.properties["ipConfiguration"]
        world.remove(found)

    return operations.start(world, call, kind, finish)
