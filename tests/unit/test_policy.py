"""Policies and trigger configs: strict, and refused by name."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.policy import (
    Exclude,
    Policy,
    Selection,
    TriggerConf,
    load_policy,
    read_trigger,
    trigger_params,
)

pytestmark = pytest.mark.tier1

DOCS = Path(__file__).parents[2] / "docs"


def test_the_example_policy_is_valid() -> None:
    policy = load_policy(DOCS / "policy.example.yaml")
    assert policy.name == "nightly"
    assert policy.batch_bytes == 64 << 30
    assert policy.compression == "standard"
    assert policy.retention.keep_daily == 14
    assert policy.exclude.leaves_out_vm("Web-scratch")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "name"),
        ({"name": "Nightly"}, "Expected a name of small letters, digits.*name"),
        ({"name": "a", "selection": {"vms": ["web 1"]}}, "Expected a VM's name, or a pattern"),
        ({"name": "a", "selection": {"subscriptions": ["prod"]}}, "Expected a subscription's id"),
        ({"name": "a", "selektion": {}}, "selektion"),
        ({"name": "a", "selection": {"vm": []}}, "vm"),
        ({"name": "a", "selection": {"vms": "web"}}, r"\$\.selection\.vms"),
        ({"name": "a", "consistency": "application"}, "application"),
        ({"name": "a", "compression": "best"}, "'best'.*compression.*fast, small, standard"),
        ({"name": "a", "exclude": {"disks": ["data-1"]}}, "Expected vm/disk, .*disks"),
        ({"name": "a", "stop_starting_after": "25:00"}, '"06:00", or a span .*stop_starting_after'),
        ({"name": "a", "stop_running_after": 1320}, "stop_running_after`: put it in quotes"),
        ({"name": "a", "timezone": "Mars/Base"}, "timezone: 'Mars/Base'"),
        ({"name": "a", "timezone": "../etc/passwd"}, "timezone"),
        ({"name": "a", "retention": {"keep_last": -1}}, "keep_last"),
        ({"name": "a", "schedule": "nightly"}, "schedule: 'nightly' is none .*write cron text"),
        ({"name": "a", "schedule": "0 1 * *"}, r"schedule: '0 1 \* \*' is none"),
        ({"name": "a", "schedule": "0 25 * * *"}, "schedule: .* is none"),
        ({"name": "a", "schedule": "@nightly"}, "a word of Airflow's such as @daily"),
        ({"name": "a", "schedule": "0 0 30 2 *"}, "schedule: .*failed to find next date"),
        ({"name": "a", "retention": {"keep_within": "14 days"}}, "such as 14d .*keep_within"),
    ],
)
def test_a_wrong_policy_names_the_key(value: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        load_policy(value)


@pytest.mark.parametrize(
    "text", ["name: [", "- a", "", "a: !!python/object:os.system x", "{" * 1500]
)
def test_a_malformed_policy_file_is_one_line_with_its_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=r"p\.yaml") as caught:
        load_policy(file)
    assert "\n" not in str(caught.value)


HOSTILE = [
    "../",
    "../../etc/passwd",
    "%2e%2e",
    "%2e%2e%2f",
    "vm1\n",
    "vm1\r",
    "\nvm1",
    "vm1\x00",
    "\x00",
    "x" * 10_000_000,
    "vm\u0430",  # a Cyrillic a
    "\uff56\uff4d",  # full-width letters
    "vm\u202e1",
    "{{ conn.x }}",
    "{% raw %}",
    "-rf",
    "--help",
    "",
    " ",
    "vm/../x",
    "<img src=x onerror=alert(1)>",
    "$(id)",
    "`id`",
    "vm;x",
]


@pytest.mark.parametrize("key", ["vms", "resource_groups", "hosts"])
@pytest.mark.parametrize("bad", [t for t in HOSTILE if t], ids=lambda text: repr(text[:12]))
def test_hostile_names_are_refused_by_key(key: str, bad: str) -> None:
    """F-A13: rejected by name, before anything could be asked of a stack."""
    with pytest.raises(ConfigurationError, match=rf"\$\.{key}\[1\]") as caught:
        read_trigger({key: ["fine", bad]})
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [t for t in HOSTILE if t], ids=lambda text: repr(text[:12]))
def test_hostile_tags_modes_and_keys_are_refused(bad: str) -> None:
    """F-A13, for the other keys of a trigger's config."""
    for conf in ({"tags": {bad: "x"}}, {"tags": {"x": bad}}, {"mode": bad}, {bad: 1}):
        with pytest.raises(ConfigurationError) as caught:
            read_trigger(conf)
        assert len(str(caught.value)) < 400
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "bad", [[], "x", 3, {"vms": "web"}, {"vms": {"a": 1}}, {"vms": [1]}, {"vms": ["a"] * 1001}]
)
def test_the_wrong_shape_is_refused(bad: object) -> None:
    with pytest.raises(ConfigurationError):
        read_trigger(bad)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists) | st.binary())
def test_anything_is_a_trigger_or_a_configuration_error(value: object) -> None:
    """F-A13: no other exception leaves the parser."""
    for key in TriggerConf.__struct_fields__:
        try:
            conf = read_trigger({key: value})
        except ConfigurationError:
            continue
        assert all(re.fullmatch(r"[A-Za-z0-9_.*?()-]+", name) for name in conf.vms)


def test_the_form_and_the_parser_agree() -> None:
    """Every key of the form is a key of the parser; its defaults are accepted and ask for all."""
    params = trigger_params()
    assert set(params) == set(TriggerConf.__struct_fields__)
    assert all(field["title"] and field["description"] for field in params.values())
    assert read_trigger({key: field["default"] for key, field in params.items()}) == TriggerConf()
    assert set(params["mode"]["enum"]) == {"full", "incremental", None}
    assert params["compression"]["enum"] == ["fast", "small", "standard", None]
    pattern = params["vms"]["items"]["pattern"]
    assert re.search(pattern, "web-*")
    assert not re.search(pattern, "vm1\n")
    assert not re.search(pattern, "\n")


def test_what_a_form_makes_of_fields_that_were_touched() -> None:
    """A blank line is no name, an emptied field asks for nothing; only blanks are a mistake."""
    assert read_trigger({"vms": ["web-*", ""], "hosts": None, "tags": None}).vms == ("web-*",)
    with pytest.raises(ConfigurationError, match="vms"):
        read_trigger({"vms": ["", ""]})


def test_conditions_hold_together_and_names_do_not_count_case() -> None:
    selection = Selection(resource_groups=("Prod",), vms=("web-*", "db?"), tags={"Tier": "g*"})
    tags = {"tier": "gold"}
    assert selection.matches(name="WEB-1", resource_group="PROD", tags=tags)
    assert selection.matches(name="db1", resource_group="prod", tags=tags)
    assert not selection.matches(name="db10", resource_group="prod", tags=tags)
    assert not selection.matches(name="web-1", resource_group="test", tags=tags)
    assert not selection.matches(name="web-1", resource_group="prod", tags={"tier": "Gold"})
    assert Selection().matches(name="x", resource_group="y", tags={})


def test_disks_are_excluded_by_key_or_name() -> None:
    exclude = Exclude(disks=("db-*/data-3", "web/swap*"))
    assert exclude.leaves_out_disk("DB-1", "data-3", "anything")
    assert exclude.leaves_out_disk("web", "data-0", "Swap-disk")
    assert not exclude.leaves_out_disk("db-1", "data-2", "x")
    assert not exclude.leaves_out_disk("web2", "data-3", "swap")


def test_a_policy_is_frozen() -> None:
    policy = Policy(name="a")
    with pytest.raises(AttributeError):
        policy.name = "b"  # type: ignore[misc]
    assert msgspec.convert(msgspec.to_builtins(policy), Policy) == policy
