"""Restore requests: strict, refused by name, and never contradictory."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import airflow_provider_azstack
from airflow_provider_azstack.engine.restore.form import request_schema
from airflow_provider_azstack.engine.restore.request import load_request, mapped, read_request
from airflow_provider_azstack.errors import ConfigurationError

pytestmark = pytest.mark.tier1

ROOT = Path(airflow_provider_azstack.__file__).parents[1]
ALTERNATE = {"vms": ["web"], "mode": "alternate"}


def test_nothing_but_vms_and_mode_is_needed() -> None:
    request = read_request({**ALTERNATE, "at": None})
    assert (request.vms, request.point, request.at) == (("web",), "latest", None)
    asked = {request.power_on, request.extensions, request.identity, request.verify}
    assert asked == {False}


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"vmz": ["web"]}, "vmz"),
        ({"vms": []}, "vms"),
        ({"vms": ["../web"]}, "vms"),
        ({"vms": ["%2e%2e"]}, "vms"),
        ({"vms": ["web\n"]}, "vms"),
        ({"vms": ["w\u0435b"]}, "vms"),  # a Cyrillic letter
        ({"vms": ["-web"]}, "vms"),
        ({"vms": ["{{ conf }}"]}, "vms"),
        ({"vms": ["web", "WEB"]}, "twice"),
        ({"mode": "elsewhere"}, "mode"),
        ({"point": "p-1", "at": "2026-01-01T00:00:00Z"}, "point and at"),
        ({"at": "2026-01-01T00:00:00"}, "at"),
        ({"vms": ["a", "b"], "point": "p-1"}, "point"),
        ({"changes": {"db": {}}}, "'db'"),
        ({"changes": {"web": {"sise": "x"}}}, "sise"),
        ({"changes": {"web": {"attach_to": "db"}}}, "attach_to"),
        ({"changes": {"web": {"disks": {"os": {"skip": True}}}}}, "os disk"),
        ({"changes": {"web": {"disks": {"lun0": {}}}}}, "disks"),
        ({"changes": {"web": {"nics": {"n": {"private_address": "ten"}}}}}, "private_address"),
        ({"mode": "original", "resource_group": "dr"}, "resource_group"),
        ({"mode": "original", "map": {"names": {"*": "*-dr"}}}, "map"),
        ({"mode": "original", "changes": {"web": {"name": "x"}}}, "name"),
        ({"mode": "disks", "changes": {"web": {"size": "x"}}}, "size"),
        ({"subscription_id": "mine"}, "subscription_id"),
        ({"storage_account": "No"}, "storage_account"),
    ],
    ids=str,
)
def test_what_is_wrong_is_refused_by_name(wrong: dict[str, Any], names: str) -> None:
    """F-A13: nothing reaches the stack that is no plain name."""
    with pytest.raises(ConfigurationError, match=names) as caught:
        read_request({**ALTERNATE, **wrong})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"vms": [""], "mode": None}, "vms: name at least one VM; mode: choose original, alt"),
        ({"vms": ["web"], "mode": None}, "config: mode: choose original, alternate or disks"),
        ({"mode": "disks"}, "config: vms: name at least one VM"),
        ({"vmz": ["web"]}, "unknown key 'vmz'"),
    ],
)
def test_a_form_that_was_not_filled_in_says_what_is_needed(sent: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_request(sent, "config")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"vms": ["web 1"]}, "Expected a name, or an id - at `$.vms[0]`"),
        ({"resource_group": "-dr"}, "Expected a resource group's name"),
        ({"point": "{{ x }}"}, "Expected latest, or a restore point's id"),
        ({"storage_account": "My-Disks"}, "Expected a storage account's name, of 3 to 24 small"),
        ({"map": {"names": {"w b": "x"}}}, "Expected a name or an id, with *"),
        ({"changes": {"web": {"name": "a b"}}}, "Expected a name of letters, digits"),
        ({"changes": {"web": {"size": "?"}}}, "Expected a size such as Standard_DS2_v2"),
        ({"changes": {"web": {"disks": {"lun0": {}}}}}, "Expected os, or data- and a LUN"),
        ({"changes": {"web": {"nics": {"n": {"private_address": "ten"}}}}}, "such as 10.0.0.4"),
    ],
    ids=str,
)
def test_no_pattern_is_shown_to_people(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_request({**ALTERNATE, **wrong})
    assert said in str(caught.value)
    assert "regex" not in str(caught.value)


@pytest.mark.parametrize("value", [None, [], "web", 7])
def test_a_request_is_keys_and_values(value: object) -> None:
    with pytest.raises(ConfigurationError):
        read_request(value)


@given(st.dictionaries(st.text(max_size=20), st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
), max_size=5))  # fmt: skip
def test_whatever_is_sent_is_a_request_or_one_line(value: dict[str, Any]) -> None:
    """F-A13: fuzzed requests end in our own error, in one line."""
    try:
        read_request(value)
    except ConfigurationError as error:
        assert "\n" not in str(error)  # noqa: PT017 - it need not fail


def test_files_are_yaml_or_json(tmp_path: Path) -> None:
    file = tmp_path / "request.yaml"
    file.write_text("vms: [web]\nmode: disks\nat: 2026-01-02T03:04:05Z\n")
    assert load_request(file).at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    file.write_text(json.dumps(ALTERNATE))
    assert load_request(file) == read_request(ALTERNATE)
    file.write_text("vms: [web\n")
    with pytest.raises(ConfigurationError, match="line 2"):
        load_request(file)
    with pytest.raises(ConfigurationError, match="no-such"):
        load_request(tmp_path / "no-such")


@pytest.mark.parametrize(
    ("rules", "names", "expected"),
    [
        ({"rg-*": "dr-*"}, ["RG-web"], "dr-web"),
        ({"a": "b", "*": "c"}, ["a"], "b"),
        ({"*/front": "*/back"}, ["net/front"], "net/back"),
        ({"*-*": "*.*"}, ["a-b"], "a.b"),
        ({"net/a": "net/b"}, ["/id/of/a", "group/net/a", "net/a"], "net/b"),
        ({"a.c": "x"}, ["abc"], None),
        ({}, ["a"], None),
    ],
)
def test_rules_map_what_was_to_what_will_be(
    rules: dict[str, str], names: list[str], expected: str | None
) -> None:
    assert mapped(rules, names) == expected


def test_the_schema_that_is_shipped_is_the_requests() -> None:
    """Editors check requests by it."""
    file = ROOT / "airflow_provider_azstack" / "restore.schema.json"
    assert json.loads(file.read_text()) == request_schema()
