"""
The whole surface of the stack in two tables, and the gate that every call passes.

Owns the order of checks: token, subscription, api-version, permission; knows nothing of sockets.
Invariant: a request that is in no table is answered 404 and does nothing.
"""

from collections.abc import Callable
from functools import partial

from airflow_provider_azstack.emulator import (
    access,
    blobs,
    copies,
    disks,
    machines,
    network,
    offers,
    operations,
    reads,
    resources,
    sign_in,
    signatures,
    storage,
    versions,
    writes,
)
from airflow_provider_azstack.emulator.http import Answer, Call, Problem, Route, Router
from airflow_provider_azstack.emulator.state import Seen, World

_S = "/subscriptions/{subscription}"
_G = f"{_S}/resourceGroups/{{group}}"


def _kind(
    resource_type: str, handlers: dict[str, Callable[..., Answer]], *, path: str = ""
) -> list[Route]:
    """List the routes that all resource types have: lists, and one by name."""
    pattern = f"providers/{path or resource_type}"
    one = f"{_G}/{pattern}/{{name}}"
    routes = [
        Route("GET", f"{scope}/{pattern}", handlers["list"], resource_type, "read")
        for scope in (_S, _G)
    ]
    verbs = {"get": ("GET", "read"), "put": ("PUT", "write"), "delete": ("DELETE", "delete")}
    for name, (method, verb) in verbs.items():
        if name in handlers:
            routes.append(Route(method, one, handlers[name], resource_type, verb))
    return routes


def _network_kind(resource_type: str) -> list[Route]:
    generic = resources.Kind(resource_type)
    return _kind(
        resource_type,
        {
            "list": generic.list,
            "get": generic.get,
            "put": partial(network.put, resource_type),
            "delete": partial(network.delete, resource_type),
        },
    )


_DISK = {"list": disks.list_all, "get": disks.get, "put": disks.put, "delete": disks.delete}
_VM = {
    "list": machines.list_all,
    "get": machines.get,
    "put": machines.put,
    "delete": machines.delete,
}
_ACCOUNT = resources.Kind(storage.ACCOUNTS)
_SET = resources.Kind("Microsoft.Compute/availabilitySets")
_SCALE_SET = resources.Kind("Microsoft.Compute/virtualMachineScaleSets")
_EXTENSION = resources.Kind(machines.EXTENSIONS)
_ONE_VM = f"{_G}/providers/{machines.VMS}/{{name}}"
_LOCATION = f"{_S}/providers/Microsoft.Compute/locations/{{location}}"
_NETWORK = f"{_G}/providers/{network.NETWORKS}/{{name}}/subnets"
_R = "Microsoft.Resources"
_C = "Microsoft.Compute"

ARM = Router([
    # sign-in and discovery: anonymous
    Route("GET", "/metadata/endpoints", sign_in.endpoints),
    Route("GET", "/{tenant}/v2.0/.well-known/openid-configuration", sign_in.openid_configuration),
    Route("GET", "/{tenant}/.well-known/openid-configuration", sign_in.openid_configuration),
    Route("POST", "/{tenant}/oauth2/v2.0/token", sign_in.token),
    Route("POST", "/{tenant}/oauth2/token", sign_in.token),
    # subscriptions, providers, groups
    Route("GET", "/tenants", resources.tenants, f"{_R}/tenants", "read"),
    Route("GET", "/subscriptions", resources.subscriptions, f"{_R}/subscriptions", "read"),
    Route("GET", _S, resources.subscription, f"{_R}/subscriptions", "read"),
    Route("GET", f"{_S}/providers", resources.list_providers, f"{_R}/providers", "read"),
    Route("GET", f"{_S}/providers/{{namespace}}", resources.provider, f"{_R}/providers", "read"),
    Route("GET", f"{_S}/resourceGroups", resources.list_groups, f"{_R}/resourceGroups", "read"),
    Route("GET", f"{_S}/resources", resources.list_all, f"{_R}/resources", "read"),
    Route("GET", f"{_G}/resources", resources.list_all, f"{_R}/resources", "read"),
    Route("GET", _G, resources.get_group, f"{_R}/resourceGroups", "read"),
    Route("HEAD", _G, resources.get_group, f"{_R}/resourceGroups", "read"),
    Route("PUT", _G, resources.put_group, f"{_R}/resourceGroups", "write"),
    *(
        Route(
            "GET",
            f"{scope}/providers/Microsoft.Authorization/permissions",
            resources.permissions,
            "Microsoft.Authorization/permissions",
            "read",
        )
        for scope in (_S, _G)
    ),
    # virtual machines
    *_kind(machines.VMS, _VM),
    Route("GET", f"{_ONE_VM}/instanceView", machines.instance_view, machines.VMS,
          "instanceView/read"),
    *(
        Route("POST", f"{_ONE_VM}/{verb}", machines.power, machines.VMS, f"{verb}/action")
        for verb in ("start", "restart", "powerOff", "deallocate")
    ),
    Route("GET", f"{_ONE_VM}/extensions", _EXTENSION.list, machines.EXTENSIONS, "read"),
    Route("GET", f"{_ONE_VM}/extensions/{{child}}", _EXTENSION.get, machines.EXTENSIONS, "read"),
    Route("PUT", f"{_ONE_VM}/extensions/{{child}}", machines.put_extension, machines.EXTENSIONS,
          "write"),
    *_kind(_SET.type, {"list": _SET.list, "get": _SET.get, "put": _SET.put}),
    *_kind(_SCALE_SET.type, {"list": _SCALE_SET.list, "get": _SCALE_SET.get}),
    Route("GET", f"{_LOCATION}/vmSizes", offers.vm_sizes, f"{_C}/locations/vmSizes", "read"),
    Route("GET", f"{_LOCATION}/usages", offers.usages, f"{_C}/locations/usages", "read"),
    Route("GET", f"{_S}/providers/{_C}/skus", offers.skus, f"{_C}/skus", "read"),
    # managed disks and snapshots
    *_kind(disks.DISKS, _DISK),
    *_kind(disks.SNAPSHOTS, _DISK),
    *(
        Route("POST", f"{_G}/providers/{kind}/{{name}}/{verb}", handler, kind, f"{verb}/action")
        for kind in (disks.DISKS, disks.SNAPSHOTS)
        for verb, handler in (
            ("beginGetAccess", access.begin_get_access),
            ("endGetAccess", access.end_get_access),
        )
    ),
    # networks
    *_network_kind(network.NICS),
    *_network_kind(network.ADDRESSES),
    *_network_kind(network.NETWORKS),
    *_network_kind(network.GROUPS),
    Route("GET", _NETWORK, network.list_subnets, network.SUBNETS, "read"),
    Route("GET", f"{_NETWORK}/{{child}}", network.get_subnet, network.SUBNETS, "read"),
    # storage accounts
    *_kind(
        storage.ACCOUNTS,
        {"list": _ACCOUNT.list, "get": _ACCOUNT.get, "put": storage.put, "delete": storage.delete},
    ),
    Route(
        "POST",
        f"{_G}/providers/{storage.ACCOUNTS}/{{name}}/listKeys",
        storage.list_keys,
        storage.ACCOUNTS,
        "listKeys/action",
    ),
    # long operations
    Route("GET", f"{_LOCATION}/DiskOperations/{{operation}}", operations.poll,
          "Microsoft.Compute/locations/DiskOperations", "read"),
    *(
        Route("GET", f"{_S}/providers/{namespace}/locations/{{location}}/operations/{{operation}}",
              operations.poll, f"{namespace}/locations/operations", "read")
        for namespace in ("Microsoft.Compute", "Microsoft.Network")
    ),
])  # fmt: skip

# The blob service tells its operations apart by ``restype`` and ``comp``: they are written as the
# last segment of the pattern's path, which ``blob_application`` appends.
_MANAGED = "/md-{account}/{container}/{blob*}"
_CONTAINER = "/{account}/{container}"
_BLOB = "/{account}/{container}/{blob*}"

BLOBS = Router([
    Route("GET", f"{_MANAGED}?", reads.get_managed),
    Route("HEAD", f"{_MANAGED}?", reads.get_managed),
    Route("GET", f"{_MANAGED}?pagelist", reads.list_managed_pages),
    Route("PUT", f"{_MANAGED}?page", writes.put_managed_page),
    Route("PUT", f"{_CONTAINER}?container", blobs.put_container),
    Route("GET", f"{_CONTAINER}?container.list", blobs.list_blobs),
    Route("GET", f"{_BLOB}?", reads.get_blob),
    Route("HEAD", f"{_BLOB}?", reads.get_blob),
    Route("PUT", f"{_BLOB}?", copies.put_blob),
    Route("DELETE", f"{_BLOB}?", blobs.delete_blob),
    Route("GET", f"{_BLOB}?pagelist", reads.list_pages),
    Route("PUT", f"{_BLOB}?page", writes.put_page),
    Route("PUT", f"{_BLOB}?snapshot", blobs.snapshot),
    Route("PUT", f"{_BLOB}?properties", writes.set_properties),
    Route("PUT", f"{_BLOB}?lease", blobs.lease),
])  # fmt: skip


def arm_application(world: World, call: Call) -> Answer:
    """Answer a call to Resource Manager or sign-in; one at a time, as their effects are small."""
    with world.lock:
        try:
            answer = _arm(world, call)
        except Problem as problem:
            answer = problem.as_json()
        world.log.append(seen(call, answer))
    return answer


def _arm(world: World, call: Call) -> Answer:
    route = ARM.find(call, call.path)
    if route is None:
        raise Problem(404, "NotFound", f"No HTTP resource was found that matches {call.path}.")
    if route.resource_type:
        sign_in.require_token(world, call)
        _check_subscription(world, call)
        versions.check(call, route.resource_type, world.location)
        _check_permission(world, call, f"{route.resource_type}/{route.verb}")
        operations.settle(world)
    return route.handler(world, call)


def _check_subscription(world: World, call: Call) -> None:
    asked = call.params.get("subscription", world.subscription_id)
    if asked.lower() != world.subscription_id:
        raise Problem(
            404, "SubscriptionNotFound", f"The subscription '{asked}' could not be found."
        )


def _check_permission(world: World, call: Call, action: str) -> None:
    is_denied = action.lower() in {denied.lower() for denied in world.behaviour.denied}
    if is_denied or (world.behaviour.roles_on_groups and _is_of_all(world, call)):
        raise Problem(
            403,
            "AuthorizationFailed",
            f"The client '{world.client_id}' with object id '{world.client_id}' does not have "
            f"authorization to perform action '{action}' over scope '{call.path}' or the scope "
            "is invalid. If access was recently granted, please refresh your credentials.",
        )


def _is_of_all(world: World, call: Call) -> bool:
    """Tell whether a call takes a role on the subscription; to poll takes none."""
    path = call.path.lower()
    return path.startswith(f"{world.scope.lower()}/providers") and "operations/" not in path


def blob_application(world: World, call: Call) -> Answer:
    """Answer a call to the blob service; many at a time."""
    try:
        answer = _blob(world, call)
    except Problem as problem:
        answer = problem.as_xml()
    answer.headers["x-ms-version"] = call.header("x-ms-version") or call.query.get("sv", "")
    world.log.append(seen(call, answer))
    return answer


def _blob(world: World, call: Call) -> Answer:
    signatures.check_version(call)
    kind = [call.query[name] for name in ("restype", "comp") if name in call.query]
    route = BLOBS.find(call, f"{call.path}?{'.'.join(kind)}")
    if route is None:
        raise Problem(400, "UnsupportedHttpVerb", "The resource doesn't support this request.")
    return route.handler(world, call)


def seen(call: Call, answer: Answer) -> Seen:
    """Return a call's line in the request log."""
    return Seen(
        call.method,
        call.path,
        call.query.get("api-version", ""),
        call.header("x-ms-version"),
        bool(call.header("Authorization")),
        answer.status,
    )
