"""The restore form: what a browser sends for it is what the first task reads."""

from datetime import UTC, datetime
from typing import Any

import pytest
import support.airflow_home
from airflow.sdk.exceptions import ParamValidationError

from airflow_provider_azstack.engine.restore.form import request_params
from airflow_provider_azstack.engine.restore.request import RestoreRequest, read_request
from airflow_provider_azstack.params import restore_form

pytestmark = pytest.mark.tier1
assert support.airflow_home.HOME

# What Airflow's page sends when "web-01", Enter was typed, a mode chosen, and nothing else touched
# but emptied: null for emptied texts, dates, choices and JSON, "" for a blank line.
SENT: dict[str, Any] = {
    "vms": ["web-01", ""],
    "mode": "alternate",
    "point": None,
    "at": None,
    "resource_group": None,
    "subscription_id": None,
    "location": None,
    "disk_kind": None,
    "storage_account": None,
    "map": None,
    "changes": None,
    "power_on": False,
    "extensions": False,
    "identity": False,
    "verify": True,
    "replace": False,
    "salvage": False,
}


def test_the_form_has_exactly_the_keys_of_a_request() -> None:
    """One source, with a title, a text and a section for each."""
    form = restore_form()
    assert set(form) == set(RestoreRequest.__struct_fields__) == set(request_params()) == set(SENT)
    for field in form.values():
        assert {"title", "description_md", "section"} <= field.schema.keys()


def test_what_a_browser_sends_passes_the_form_and_the_first_task() -> None:
    """Blank lines, nulls and emptied fields ask for nothing."""
    form = restore_form()
    for key, value in SENT.items():
        assert form[key].resolve(value) == value
    asked = read_request(SENT)
    assert asked == read_request({"vms": ["web-01"], "mode": "alternate", "verify": True})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("at", "2026-11-02T06:00:00.000Z"),
        ("changes", {"web-01": {"name": "web-02", "disks": {"data-0": {"skip": True}}}}),
        ("map", {"names": {"*": "*-dr"}}),
        ("disk_kind", "unmanaged"),
        ("point", "20261102t060000.000000z-0123456789-0123456789"),
    ],
)
def test_what_is_filled_in_arrives(key: str, value: Any) -> None:
    assert restore_form()[key].resolve(value) == value
    asked = read_request({**SENT, key: value})
    assert getattr(asked, key) != getattr(read_request(SENT), key)


def test_a_time_is_the_one_that_was_chosen() -> None:
    asked = read_request({**SENT, "at": "2026-11-02T06:00:00.000Z"})
    assert asked.at == datetime(2026, 11, 2, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vms", ["../etc"]),
        ("vms", ["web\n"]),
        ("vms", ["\n"]),
        ("mode", "elsewhere"),
        ("point", "{{ x }}"),
        ("resource_group", "-dr"),
        ("power_on", "yes"),
        ("changes", "web-01"),
    ],
)
def test_the_form_refuses_what_the_first_task_refuses(key: str, value: Any) -> None:
    """F-A13: Airflow says no before there is a run."""
    with pytest.raises(ParamValidationError):
        restore_form()[key].resolve(value)
