"""
The forms that Airflow shows when a backup or a restore is triggered by hand.

Owns their sections and examples; titles, texts and rules are those of the trigger's config.
Invariant: form and first task check by one source, and the first task checks again: keys that a
form does not know pass Airflow unseen.
"""

from typing import Any

from airflow.providers.common.compat.sdk import Param

from airflow_provider_azstack.engine.restore.form import request_params
from airflow_provider_azstack.model import to_plain
from airflow_provider_azstack.policy import TriggerConf, trigger_params

_SECTIONS = {
    "vms": "Which virtual machines",
    "resource_groups": "Which virtual machines",
    "tags": "Which virtual machines",
    "mode": "How",
    "compression": "How",
    "hosts": "How",
}

_RESTORE_SECTIONS = {
    "vms": "What, and from when",
    "mode": "What, and from when",
    "point": "What, and from when",
    "at": "What, and from when",
    "resource_group": "Where to",
    "subscription_id": "Where to",
    "location": "Where to",
    "disk_kind": "Where to",
    "storage_account": "Where to",
    "map": "What shall be different",
    "changes": "What shall be different",
    "power_on": "How",
    "extensions": "How",
    "identity": "How",
    "verify": "How",
    "replace": "How",
    "salvage": "How",
}
_NOTHING_CHOSEN = {"mode": "choose one", "disk_kind": "as they were"}


def trigger_form(hosts: tuple[str, ...]) -> dict[str, Param]:
    """
    Return the form's fields.

    :param hosts: names to offer: those that the DAG was built for.
    """
    nothing_asked = to_plain(TriggerConf())
    form = {}
    for key, schema in trigger_params().items():
        fields: dict[str, Any] = dict(schema)
        fields.pop("default", None)
        fields["description_md"] = fields.pop("description")
        fields["section"] = _SECTIONS[key]
        if key == "hosts":
            fields["examples"] = list(hosts)
        if key in {"mode", "compression"}:
            fields["values_display"] = {"null": "as the policy says"}
        form[key] = Param(nothing_asked[key], **fields)
    return form


def restore_form() -> dict[str, Param]:
    """Return the fields of a restore request; what must be given is empty at first."""
    form = {}
    for key, schema in request_params().items():
        fields: dict[str, Any] = dict(schema)
        default = fields.pop("default")
        fields["description_md"] = fields.pop("description")
        fields["section"] = _RESTORE_SECTIONS[key]
        if key in _NOTHING_CHOSEN:
            fields["values_display"] = {"null": _NOTHING_CHOSEN[key]}
        form[key] = Param(default, **fields)
    return form
