"""The documentation names only what is there: files, tests, commands, settings of this package."""

import ast
import re
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

import pytest
import support.airflow_home
from airflow.cli.cli_config import ActionCommand, GroupCommand

from airflow_provider_azstack import errors
from airflow_provider_azstack.commands import get_commands
from airflow_provider_azstack.console import COMMANDS, load

pytestmark = pytest.mark.tier1

assert support.airflow_home.HOME

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FAULT = re.compile(r"\bF-[A-Z]\d+\b")


def all_tests() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield every test as ``<path below tests>::<name>`` with its function."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield f"{path.relative_to(ROOT / 'tests')}::{node.name}", node


TESTS = dict(all_tests())


def fault_rows() -> dict[str, set[str]]:
    """Return the tests that docs/faults.md names for each fault."""
    lines = (ROOT / "docs" / "faults.md").read_text().splitlines()
    cells = [line.strip("|").split("|") for line in lines if line.startswith("| F-")]
    ids = [row[0].strip() for row in cells]
    assert len(ids) == len(set(ids)), "a fault is there twice"
    return {row[0].strip(): set(re.findall(r"`([^`]+::[^`]+)`", row[3])) for row in cells}


def heading_anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in heading_anchors(linked), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    """A promise without the test that holds it is not made."""
    named = set(re.findall(r"`(?:tests/)?([\w/]+\.py::test_\w+)`", page.read_text()))
    assert not named - TESTS.keys()


def test_the_fault_table_names_every_test_of_a_fault() -> None:
    """Both ways: a test in the table carries the id in its docstring, and is there if it does."""
    carried: dict[str, set[str]] = {}
    for name, function in TESTS.items():
        for fault in FAULT.findall(ast.get_docstring(function) or ""):
            carried.setdefault(fault, set()).add(name)
    table = {fault: names for fault, names in fault_rows().items() if names}
    assert table == carried


def error_classes() -> dict[str, type[errors.AzStackError]]:
    found = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
    return {name: kind for name, kind in found.items() if issubclass(kind, errors.AzStackError)}


def test_troubleshooting_knows_every_error_and_whether_it_is_retried() -> None:
    """A reader finds each class of error, and what Airflow does with it."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (\w+)", page, re.MULTILINE))
    # Never seen by themselves: bases of others, a task that was told to stop, and what the store's
    # callers expect and handle.
    unseen = {"AzStackError", "SourceError", "TransientError", "IntegrityError", "Cancelled"}
    unseen |= {"ObjectNotFound", "PointForgotten", "ObjectExists", "ShortRead", "ChangesUnknown"}
    assert rows.keys() == error_classes().keys() - unseen
    for name, retried in rows.items():
        assert (retried == "no") == error_classes()[name].never_retry, name


def lines_of_code() -> Iterator[tuple[str, str]]:
    """Yield each piece of code in the pages, and each line of an example, with the page's name."""
    for page in PAGES:
        text = page.read_text()
        for code in re.findall(r"`([^`\n]+)`", text):
            yield page.name, code
        for block in re.findall(r"^```(?:console)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            for line in block.splitlines():
                yield page.name, line.partition(" #")[0]


def options_in(line: str) -> set[str]:
    """Return the options of the first command of a line."""
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", re.split(r"[|&;]", line)[0]))


def options_of(parser: ArgumentParser, words: set[str]) -> set[str]:
    """Return what a parser takes, and what those of its actions take that are among the words."""
    taken = set(parser._option_string_actions)
    for action in parser._subparsers._group_actions if parser._subparsers else ():
        for name, inner in dict(action.choices or {}).items():
            taken |= options_of(inner, words) if name in words else set()
    return taken


def test_the_commands_in_the_pages_exist_with_these_options() -> None:
    """`airflow azstack ...` in a page is a command of this package, and takes what stands there."""
    (group,) = get_commands()
    assert isinstance(group, GroupCommand)
    known = {
        command.name: {flag for arg in command.args for flag in arg.flags}
        for command in group.subcommands
        if isinstance(command, ActionCommand)
    }
    seen = 0
    for page, line in lines_of_code():
        for command, rest in re.findall(r"\bairflow azstack ([a-z-]+)(.*)", line):
            assert command in known, f"{page}: {line}"
            assert options_in(rest) <= known[command], f"{page}: {line}"
            seen += 1
    assert seen > 20


def test_the_commands_of_the_console_in_the_pages_exist_with_these_options() -> None:
    """`azstack ...` in a page, as code or in an example, works as it stands there."""
    seen = 0
    for page, line in lines_of_code():
        for command, rest in re.findall(r"^(?:\$ )?azstack ([a-z][a-z-]*)(.*)", line):
            assert command in COMMANDS, f"{page}: {line}"
            parser = ArgumentParser()
            load(command).add(parser)
            taken = options_of(parser, set(rest.split()))
            assert options_in(rest) <= taken, f"{page}: {line}"
            seen += 1
    assert seen > 50


def test_the_code_in_the_pages_is_python() -> None:
    for page in PAGES:
        for block in re.findall(
            r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL
        ):
            compile(block, page.name, "exec")
