"""
Storage accounts: their bodies and their keys.

Owns accounts as resources; knows no blobs. Invariant: a key is told only by ``listKeys``.
"""

import base64
import secrets

from airflow_provider_azstack.emulator import resources
from airflow_provider_azstack.emulator.http import Answer, Call, Json, Problem, json_answer
from airflow_provider_azstack.emulator.state import Resource, World, body

ACCOUNTS = "Microsoft.Storage/storageAccounts"


def add_account(world: World, group: str, name: str, sent: Json) -> Resource:
    """Create a storage account with two keys and a blob endpoint."""
    path = f"{world.get(f'{world.scope}/resourceGroups/{group}').id}/providers/{ACCOUNTS}/{name}"
    made = body(path, ACCOUNTS, world.location, sent, kind="Storage")
    made["sku"] = {"name": (sent.get("sku") or {}).get("name", "Standard_LRS"), "tier": "Standard"}
    made["properties"] = {
        "creationTime": world.now(),
        "primaryEndpoints": {"blob": f"{world.blob_url}/{name}/"},
        "primaryLocation": world.location,
        "provisioningState": "Succeeded",
        "statusOfPrimary": "available",
        "supportsHttpsTrafficOnly": world.blob_url.startswith("https"),
    }
    keys = [base64.b64encode(secrets.token_bytes(64)).decode() for _ in range(2)]
    return world.add(Resource(made, settings={"keys": keys}))


def put(world: World, call: Call) -> Answer:
    """``PUT`` a storage account."""
    found = world.find(resources.resource_id(world, call, ACCOUNTS))
    if found:
        return json_answer(200, found.body)
    name = call.params["name"]
    if not (3 <= len(name) <= 24 and name.isalnum() and name == name.lower()):
        raise Problem(400, "AccountNameInvalid", f"{name} is not a valid storage account name.")
    if account_named(world, name):
        raise Problem(409, "StorageAccountAlreadyTaken", f"The account name {name} is taken.")
    return json_answer(200, add_account(world, call.params["group"], name, call.json()).body)


def account_named(world: World, name: str) -> Resource | None:
    """Return the storage account of that name: names are unique on a stack."""
    return next((a for a in world.of_type(ACCOUNTS) if a.body["name"] == name), None)


def delete(world: World, call: Call) -> Answer:
    """``DELETE`` a storage account with all its blobs."""
    found = world.find(resources.resource_id(world, call, ACCOUNTS))
    if found is None:
        return Answer(204)
    name = found.body["name"]
    if any(key[0] == name and blob.leased_by for key, blob in world.blobs.items()):
        raise Problem(409, "StorageAccountInUse", f"The storage account {name} holds leased blobs.")
    for key in [key for key in world.blobs if key[0] == name]:
        del world.blobs[key]
    world.remove(found)
    return Answer(200)


def list_keys(world: World, call: Call) -> Answer:
    """``POST .../listKeys``."""
    account = resources.target(world, call, ACCOUNTS)
    keys = [
        {"keyName": f"key{number}", "permissions": "FULL", "value": value}
        for number, value in enumerate(account.settings["keys"], 1)
    ]
    return json_answer(200, {"keys": keys})


def keys_of(world: World, account: str) -> list[bytes]:
    """Return the keys of an account, decoded; none when there is no such account."""
    found = account_named(world, account)
    return [base64.b64decode(key) for key in found.settings["keys"]] if found else []
