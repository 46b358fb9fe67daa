"""Files that people write: a mistake is answered with its line, and nothing is lost silently."""

from pathlib import Path

import pytest

from airflow_provider_azstack.documents import read_document
from airflow_provider_azstack.errors import ConfigurationError

pytestmark = pytest.mark.tier1


def read(directory: Path, text: str) -> object:
    file = directory / "request.yaml"
    file.write_text(text)
    return read_document(file, "give its path")


def test_yaml_and_json_are_read_alike(tmp_path: Path) -> None:
    wanted = {"vms": ["web"], "changes": {"web": {"name": "web-dr"}}}
    assert read(tmp_path, '{"vms": ["web"], "changes": {"web": {"name": "web-dr"}}}') == wanted
    assert read(tmp_path, "vms: [web]\nchanges:\n  web: {name: web-dr}\n") == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("vms: [web01]\nmode: disks\nvms: [db01]\n", r"line 3, column 1: 'vms' is there twice"),
        ("changes:\n  a: {x: 1}\n  'a': {x: 2}\n", r"line 3, column 3: 'a' is there twice"),
        ('{"vms": [], "vms": []}', r"'vms' is there twice"),
        ("changes: {web: {name: a, name: b}}", r"'name' is there twice"),
    ],
)
def test_a_key_that_is_there_twice_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """Otherwise the last one would win, and other VMs be restored than the first line says."""
    with pytest.raises(ConfigurationError, match=said):
        read(tmp_path, text)


def test_what_an_anchor_brings_may_be_overridden(tmp_path: Path) -> None:
    found = read(tmp_path, "a: &a {x: 1, y: 1}\nb: {<<: *a, x: 2}\n")
    assert found == {"a": {"x": 1, "y": 1}, "b": {"x": 2, "y": 1}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("vms: [web01\nmode: x\n", "line 2, column 5: .*expected ',' or ']'"),
        ("vms:\n\t- web01\n", r"line 2, column 1: .*'\\t'"),
        ("a: !!python/object:os.system x", "line 1, column 4: could not determine a constructor"),
        (f"a: *{'x' * 5000}", "undefined alias"),
        ("a: \x07", "neither YAML nor JSON"),
        ("at: 2026-02-31", "neither YAML nor JSON"),
        ("[" * 5000, "nested too deeply"),
        ("? [a, b]\n: c\n? {a: b}\n: d\n", "unhashable"),
    ],
)
def test_a_mistake_is_told_with_its_place_in_one_bounded_line(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        read(tmp_path, text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
