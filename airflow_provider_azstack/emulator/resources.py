"""
What all kinds of resources share: ids, reading, listing by pages, deleting, resource groups.

Owns the generic handlers; knows nothing special of any type.
Invariant: what a list shows is what a GET of each id shows.
"""

import re
from collections.abc import Iterable
from urllib.parse import quote

from airflow_provider_azstack.emulator import versions
from airflow_provider_azstack.emulator.http import Answer, Call, Json, Problem, json_answer
from airflow_provider_azstack.emulator.state import Resource, World, body, not_found

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


def group_id(world: World, call: Call) -> str:
    """Return the id of the call's resource group, which must exist."""
    return world.get(f"{world.scope}/resourceGroups/{call.params['group']}").id


def resource_id(world: World, call: Call, resource_type: str) -> str:
    """Return the id that the call's path means, in the stack's case."""
    namespace, *types = resource_type.split("/")
    names = [call.params["name"], *([call.params["child"]] if "child" in call.params else [])]
    pairs = "/".join(f"{kind}/{name}" for kind, name in zip(types, names, strict=True))
    return f"{group_id(world, call)}/providers/{namespace}/{pairs}"


def target(world: World, call: Call, resource_type: str) -> Resource:
    """Return the resource that the call's path names; 404 when there is none."""
    return world.get(resource_id(world, call, resource_type))


def check_name(call: Call) -> None:
    """Refuse names that a stack refuses."""
    name = call.params.get("child") or call.params["name"]
    if not _NAME.fullmatch(name):
        raise Problem(
            400,
            "InvalidResourceName",
            f"The entity name '{name}' is invalid according to its validation rule.",
        )


def page(world: World, call: Call, bodies: Iterable[Json]) -> Answer:
    """Answer with one page of a list, and a ``nextLink`` when there is more."""
    everything = list(bodies)
    try:
        start = int(call.query.get("$skiptoken", "0"))
    except ValueError:
        raise Problem(400, "InvalidSkipToken", "The skip token is invalid.") from None
    answer: Json = {"value": everything[start : start + world.page_size]}
    if start + world.page_size < len(everything):
        kept = {k: v for k, v in call.query.items() if k != "$skiptoken"}
        kept["$skiptoken"] = str(start + world.page_size)
        query = "&".join(f"{k}={quote(v)}" for k, v in kept.items())
        answer["nextLink"] = f"{call.base_url}{call.raw_path}?{query}"
    return json_answer(200, answer)


def subscriptions(world: World, call: Call) -> Answer:
    """``GET /subscriptions``."""
    return page(world, call, [_subscription(world)])


def subscription(world: World, _: Call) -> Answer:
    """``GET /subscriptions/{s}``."""
    return json_answer(200, _subscription(world))


def _subscription(world: World) -> Json:
    return {
        "id": world.scope,
        "subscriptionId": world.subscription_id,
        "displayName": "Emulated subscription",
        "state": "Enabled",
    }


def tenants(world: World, call: Call) -> Answer:
    """``GET /tenants``."""
    entry = {"id": f"/tenants/{world.tenant_id}", "tenantId": world.tenant_id}
    return page(world, call, [entry])


def list_providers(world: World, call: Call) -> Answer:
    """``GET .../providers``."""
    return page(world, call, versions.providers(world.subscription_id, world.location))


def provider(world: World, call: Call) -> Answer:
    """``GET .../providers/{namespace}``: the api-versions that the stack speaks."""
    for entry in versions.providers(world.subscription_id, world.location):
        if entry["namespace"].lower() == call.params["namespace"].lower():
            return json_answer(200, entry)
    raise Problem(404, "InvalidResourceNamespace", "The resource namespace is invalid.")


def permissions(world: World, call: Call) -> Answer:
    """``GET .../Microsoft.Authorization/permissions``: all but what a test denies."""
    denied = sorted(world.behaviour.denied)
    return page(world, call, [{"actions": ["*"], "notActions": denied}])


def list_groups(world: World, call: Call) -> Answer:
    """``GET .../resourceGroups``."""
    groups = world.of_type("Microsoft.Resources/resourceGroups")
    return page(world, call, (group.body for group in groups))


def get_group(world: World, call: Call) -> Answer:
    """``GET`` or ``HEAD .../resourceGroups/{g}``."""
    group = world.get(group_id(world, call))
    return json_answer(200, group.body) if call.method == "GET" else Answer(204)


def put_group(world: World, call: Call) -> Answer:
    """``PUT .../resourceGroups/{g}``."""
    sent, path = call.json(), f"{world.scope}/resourceGroups/{call.params['group']}"
    found = world.find(path)
    if found:
        found.body["tags"] = dict(sent.get("tags") or {})
        return json_answer(200, found.body)
    return json_answer(201, add_group(world, call.params["group"], sent).body)


def add_group(world: World, name: str, sent: Json) -> Resource:
    """Create a resource group."""
    path = f"{world.scope}/resourceGroups/{name}"
    made = body(path, "Microsoft.Resources/resourceGroups", world.location, sent)
    return world.add(Resource({**made, "properties": {"provisioningState": "Succeeded"}}))


def list_all(world: World, call: Call) -> Answer:
    """``GET .../resources``, of the subscription or of a group."""
    prefix = f"{group_id(world, call)}/" if "group" in call.params else f"{world.scope}/"
    kept = ("id", "name", "type", "location", "tags", "managedBy", "sku")
    found = [r for r in list(world.resources.values()) if _is_listed(r, prefix)]
    return page(world, call, ({k: r.body[k] for k in kept if k in r.body} for r in found))


def _is_listed(resource: Resource, prefix: str) -> bool:
    in_scope = resource.id.lower().startswith(prefix.lower())
    return in_scope and "/providers/" in resource.id


class Kind:
    """The generic handlers of one resource type."""

    def __init__(self, resource_type: str) -> None:
        self.type = resource_type

    def get(self, world: World, call: Call) -> Answer:
        """``GET`` one."""
        found = target(world, call, self.type)
        answer = json_answer(200, found.body)
        if "etag" in found.body:
            answer.headers["ETag"] = found.body["etag"]
        return answer

    def put(self, world: World, call: Call) -> Answer:
        """``PUT`` one: 201 when it is new, 200 when it was there."""
        check_name(call)
        path, sent = resource_id(world, call, self.type), call.json()
        if not sent.get("location"):
            raise Problem(400, "LocationRequired", "The location property is required.")
        found = world.find(path)
        made = body(path, self.type, world.location, sent)
        made |= {name: sent[name] for name in ("sku",) if name in sent}
        made["properties"] = {**(sent.get("properties") or {}), "provisioningState": "Succeeded"}
        world.add(Resource(made))
        return json_answer(200 if found else 201, made)

    def list(self, world: World, call: Call) -> Answer:
        """``GET`` those of the subscription, of a group, or of a parent."""
        under = f"{group_id(world, call)}/" if "group" in call.params else world.scope
        if "name" in call.params:
            parent = resource_id(world, call, self.type.rpartition("/")[0])
            if world.find(parent) is None:
                raise not_found(parent)
            under = f"{parent}/"
        return page(world, call, (found.body for found in world.of_type(self.type, under)))
