"""
A restore request as a form that Airflow draws, and as a schema for editors.

Owns both schemas; reads no request. Loads nothing heavy: DAG files offer the form.
Invariant: every key of a request has its field, and what a form makes of one that was left empty
counts as absent.
"""

from typing import Any

import msgspec

from airflow_provider_azstack.engine.restore.request import RestoreRequest


def request_schema() -> dict[str, Any]:
    """Return the JSON schema of a request; ``restore.schema.json`` holds this."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Restore request",
        **msgspec.json.schema(RestoreRequest),
    }


def request_params() -> dict[str, dict[str, Any]]:
    """Return, for every key of a request, a JSON schema that a form can draw, with a default."""
    properties = msgspec.json.schema(RestoreRequest)["$defs"]["RestoreRequest"]["properties"]
    return {key: _form_field(fragment) for key, fragment in properties.items()}


def _form_field(fragment: dict[str, Any]) -> dict[str, Any]:
    """Make a schema fragment flat; nested ones are checked by the first task, not by the form."""
    flat = {**next((part for part in fragment.get("anyOf", ())), {}), **fragment}
    flat.pop("anyOf", None)
    if flat.get("type") == "object" or flat.pop("$ref", None):
        texts = {key: flat[key] for key in ("title", "description")}
        return {**texts, "type": ["object", "null"], "default": None}
    if "enum" in flat:
        return {**flat, "type": ["string", "null"], "enum": [*flat["enum"], None], "default": None}
    if flat["type"] == "boolean":
        return flat
    # A form gives null for a field that was emptied, and "" for a blank line.
    flat = {**flat, "type": [flat["type"], "null"]}
    if items := flat.get("items"):
        blank_or_name = {**items, "pattern": f"^(?!\\n)$|{items['pattern']}"}
        return {**flat, "items": blank_or_name, "minItems": 0, "default": []}
    return {**flat, "default": flat.get("default")}
