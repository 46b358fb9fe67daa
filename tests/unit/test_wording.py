"""What a validation error says: the place, what is allowed there, and what was probably meant."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_azstack.config import Config, load_config
from airflow_provider_azstack.engine.backup.fleets import load_fleet
from airflow_provider_azstack.engine.restore.request import RestoreRequest, read_request
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.policy import Policy, load_policy, read_trigger
from airflow_provider_azstack.wording import one_line

pytestmark = pytest.mark.tier1

DISKS: dict[str, Any] = {"vms": ["web"], "mode": "disks"}


def refusal(read: Callable[[Any], object], value: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read(value)
    return str(caught.value)


def config_in(directory: Path) -> Callable[[Any], object]:
    def read(value: object) -> object:
        file = directory / "azurestack.conf"
        file.write_bytes(msgspec.json.encode(value))
        return load_config(file)

    return read


@pytest.mark.parametrize(
    ("read", "value", "said"),
    [
        (
            load_policy,
            {"name": "p", "mode": "incremantal"},
            "unknown value 'incremantal' - at `$.mode`; allowed are full, incremental; did you ",
        ),
        (
            load_policy,
            {"name": "p", "consistency": "frozen"},
            "'frozen' - at `$.consistency`; allowed are crash, required_stopped, stopped;",
        ),
        (read_trigger, {"mode": "FULL"}, "allowed are full, incremental; did you mean full?"),
        (
            read_request,
            {**DISKS, "mode": "replace"},
            "unknown value 'replace' - at `$.mode`; allowed are alternate, disks, original;",
        ),
        (
            read_request,
            {**DISKS, "changes": {"web": {"disks": {"os": {"sku": "Premium"}}}}},
            "`$.changes[...].disks[...].sku`; allowed are Premium_LRS, Standard_LRS; did you ",
        ),
    ],
)
def test_a_wrong_word_is_answered_with_the_right_ones(
    read: Callable[[Any], object], value: object, said: str
) -> None:
    assert said in refusal(read, value)


@pytest.mark.parametrize(
    ("read", "value", "said"),
    [
        (load_policy, {"name": "p", "mood": "full"}, r"unknown key 'mood'; .*did you mean mode\?"),
        (load_policy, {"name": "p", "selection": {"vm": []}}, r"known are .*did you mean vms\?"),
        (read_trigger, {"host": ["a"]}, r"did you mean hosts\?"),
        (read_request, {**DISKS, "salvag": True}, r"did you mean salvage\?"),
        (read_request, {**DISKS, "salvag": None}, r"did you mean salvage\?"),
        (read_request, {**DISKS, "map": {"sizez": {}}}, r"`\$\.map`.*did you mean sizes\?"),
    ],
)
def test_a_mistyped_key_is_answered_with_the_known_ones(
    read: Callable[[Any], object], value: object, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        read(value)


@pytest.mark.parametrize(
    ("read", "value", "said"),
    [
        (read_request, {**DISKS, "vms": "web"}, "a list, such as [a, b], got `str` - at `$.vms`"),
        (load_policy, {"name": "p", "selection": ["web"]}, "keys and values, such as {a: b}, got"),
        (read_request, {**DISKS, "at": "2026-11-02 06:00"}, "a time such as 2026-11-02T06:00:00Z"),
        (read_request, {**DISKS, "at": datetime(2026, 11, 2, 6)}, "a time with its zone, such as"),  # noqa: DTZ001 - the mistake
    ],
)
def test_a_wrong_kind_of_value_is_answered_with_how_to_write_it(
    read: Callable[[Any], object], value: object, said: str
) -> None:
    assert said in refusal(read, value)


def test_files_of_hosts_and_fleets_say_it_as_well(tmp_path: Path) -> None:
    read = config_in(tmp_path)
    assert "did you mean disk?" in refusal(read, {"hosts": {"a": {}}, "caps": {"disks": 1}})
    said = refusal(read, {"hosts": {"a": {}, "b": {"executer": "x"}}})
    assert "hosts, 'b': unknown key 'executer'" in said
    assert "did you mean executor?" in said
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text("groups: {web: {vms: 1, disks_gib: [1], sku: Premium_SSD}}\n")
    assert "allowed are Premium_LRS, Standard_LRS" in refusal(load_fleet, fleet)


def test_what_was_given_is_shown_shortened_and_in_one_line() -> None:
    said = refusal(load_policy, {"name": "p", "mode": "x\n" * 5000})
    assert "allowed are full, incremental" in said
    assert "\n" not in said
    assert len(said) < 300


@given(st.sampled_from([Config, Policy, RestoreRequest]), st.recursive(
    st.none() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
        st.sampled_from(["mode", "hosts", "a", "changes", "disks", "os", "sku", "caps", "a`- b"]),
        inner,
    ),
    max_leaves=6,
))  # fmt: skip
def test_whatever_is_wrong_is_said_in_one_bounded_line(kind: type[Any], value: object) -> None:
    try:
        msgspec.convert(value, type=kind)
    except msgspec.ValidationError as error:
        said = one_line(error, kind)
        assert said.isprintable()
        assert len(said) < 600
