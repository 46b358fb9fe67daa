"""
The five layer rules of docs/architecture.md, held by walking every import and every call.

What is read is the source, so a rule holds for imports inside functions as well.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import airflow_provider_azstack

pytestmark = pytest.mark.tier1

PACKAGE = "airflow_provider_azstack"
ROOT = Path(airflow_provider_azstack.__file__).parent

BASE = {"", "errors", "model", "secret", "speed", "wording"}
# Part -> parts it may import; "" is the package itself, for its version.
MAY_IMPORT = {
    "": set[str](),
    "errors": set[str](),
    "secret": {"errors"},
    "speed": set[str](),
    "wording": set[str](),
    "model": {"errors", "secret", "wording"},
    "config": BASE,
    "documents": BASE | {"config"},
    "policy": BASE | {"config", "documents"},
    "store": BASE,
    "repo": BASE | {"store"},
    "arm": BASE,
    "engine": BASE | {"config", "documents", "policy", "store", "repo", "arm"},
    "hooks": BASE | {"config", "policy", "store", "repo", "arm", "engine"},
    "links": BASE | {"config"},
    "operators": BASE | {"config", "policy", "engine", "hooks", "links", "repo", "store", "arm"},
    "params": BASE | {"policy", "engine"},
    "triggers": BASE | {"hooks"},
    "dag_factory": BASE
    | {"config", "policy", "links", "operators", "params", "triggers", "engine"},
    "plugin": BASE | {"hooks", "links"},
    "commands": BASE
    | {"config", "policy", "store", "repo", "arm", "engine", "hooks", "console", "emulator"},
    "console": BASE | {"config", "policy", "store", "repo", "arm", "engine"},
    "__main__": {"console"},
    "emulator": BASE,
}
# Inside the repository: each may import those before it, so no two need each other. Types of
# arguments may point the other way: a function may be handed the repository that it works for.
REPO_ORDER = (
    "parallel",
    "sealing",
    "room",
    "blocks",
    "images",
    "points",
    "sessions",
    "repository",
    "restores",
    "prune",
    "verify",
    "copies",
    "immutability",
    "usage",
    "reports",
)
IMPORT_AIRFLOW = {
    "hooks",
    "links",
    "operators",
    "params",
    "triggers",
    "dag_factory",
    "plugin",
    "commands",
}
# What the DAG processor imports all day, and what must not come with it.
LIGHT = (
    "dag_factory",
    "operators",
    "hooks",
    "links",
    "params",
    "config",
    "policy",
    "model",
    "errors",
    "secret",
    "speed",
    "",
)
HEAVY = {"azure", "msal", "cryptography", "zstandard", "obstore", "blake3", "urllib3", "requests"}
# The outside world: passed in as arguments with these as defaults, never called where it is needed.
OUTSIDE = {
    "time": {"time", "time_ns", "monotonic", "monotonic_ns", "sleep"},
    "datetime": {"now", "utcnow", "today"},
    "random": {"random", "randint", "randrange", "uniform", "choice", "sample", "randbytes"},
    "os": {"urandom", "getrandom"},
    "secrets": {"token_bytes", "token_hex", "token_urlsafe", "randbelow", "choice"},
}
PURE = {"store", "repo", "arm", "engine", "config", "policy", "model", "secret", "speed"}


def modules() -> dict[str, ast.Module]:
    """Return every module of the package: dotted name below it -> syntax tree."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(), str(path))
    return found


MODULES = modules()


def part_of(name: str) -> str:
    return name.split(".", maxsplit=1)[0]


def within(name: str, parts: set[str] | tuple[str, ...]) -> bool:
    return part_of(name) in parts


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted names that a tree imports, ``from a import b`` as ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}: write the full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import(tree: ast.Module) -> Iterator[str]:
    """Yield what is imported when the module is: no function bodies, no TYPE_CHECKING blocks."""
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imported(node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo.extend(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo.extend(ast.iter_child_nodes(node))


def ours(names: Iterator[str]) -> Iterator[str]:
    """Yield those of our modules that imported names stand for, below the package."""
    for name in names:
        if name == PACKAGE or name.startswith(PACKAGE + "."):
            below = name.removeprefix(PACKAGE).removeprefix(".")
            yield below if below in MODULES else below.rpartition(".")[0]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_the_parts_below_it(name: str) -> None:
    """Store and repo know no stack, arm knows no repository, only the CLI knows the emulator."""
    part = part_of(name)
    assert part in MAY_IMPORT, f"{name}: add the new part to the layers, in the documentation too"
    wrong = {n for n in ours(imported(MODULES[name])) if not within(n, MAY_IMPORT[part] | {part})}
    assert not wrong, f"{name} imports {sorted(wrong)}"


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("repo.")])
def test_the_packages_of_the_repository_have_an_order(name: str) -> None:
    """Who looks for a fault in reading blocks never has to read how pruning or copying works."""
    part = name.split(".")[1]
    assert part in REPO_ORDER, f"{name}: give the new part its place in the order"
    below = {n for n in ours(at_import(MODULES[name])) if n.startswith("repo.")}
    allowed = REPO_ORDER[: REPO_ORDER.index(part) + 1]
    wrong = {n for n in below if n.split(".")[1] not in allowed}
    assert not wrong, f"{name} imports {sorted(wrong)}"


@pytest.mark.parametrize("name", [name for name in MODULES if not within(name, IMPORT_AIRFLOW)])
def test_no_airflow_below_the_hooks(name: str) -> None:
    """When the stack is down Airflow may be down as well, and a restore must still work."""
    assert "airflow" not in {part_of(n) for n in imported(MODULES[name])}


@pytest.mark.parametrize("name", [name for name in MODULES if within(name, {"store", "repo"})])
def test_store_and_repo_import_no_azure(name: str) -> None:
    assert "azure" not in {part_of(n) for n in imported(MODULES[name])}


@pytest.mark.parametrize("name", [name for name in MODULES if within(name, LIGHT)])
def test_what_the_dag_processor_imports_is_light(name: str) -> None:
    """Followed through our own modules: nothing heavy is imported when a DAG file is."""
    seen: dict[str, str] = {name: name}
    todo = [name]
    while todo:
        current = todo.pop()
        names = list(at_import(MODULES[current]))
        heavy = {part_of(n) for n in names} & HEAVY
        assert not heavy, f"{seen[current]} imports {sorted(heavy)}"
        for below in ours(iter(names)):
            # Importing a.b runs a as well.
            for module in (below, below.rpartition(".")[0]):
                if module in MODULES and module not in seen:
                    seen[module] = f"{seen[current]} -> {module}"
                    todo.append(module)


def is_outside(call: ast.Call) -> bool:
    if not isinstance(call.func, ast.Attribute):
        return False
    owner = ast.unparse(call.func.value).rpartition(".")[2]
    return call.func.attr in OUTSIDE.get(owner, ())


def outside_defaults(tree: ast.Module) -> list[ast.Call]:
    """Return the calls that are not inside a default: ``clock=_now`` and ``clock=lambda: ...``."""
    arguments = [node for node in ast.walk(tree) if isinstance(node, ast.arguments)]
    given = [value for a in arguments for value in [*a.defaults, *a.kw_defaults] if value]
    names = {value.id for value in given if isinstance(value, ast.Name)}
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    given += [function for function in functions if function.name in names]
    inside = {node for value in given for node in ast.walk(value)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if call not in inside]


@pytest.mark.parametrize("name", [name for name in MODULES if within(name, PURE)])
def test_clock_and_chance_are_arguments(name: str) -> None:
    """A test can run fourteen days with clock jumps only if nothing asks the clock by itself."""
    calls = outside_defaults(MODULES[name])
    asked = {f"line {call.lineno}: {ast.unparse(call)}" for call in calls if is_outside(call)}
    assert not asked, f"{name}: {sorted(asked)}"


@pytest.mark.parametrize("name", [name for name in MODULES if within(name, PURE)])
def test_clock_and_chance_are_named_where_they_are_used(name: str) -> None:
    """``from time import sleep`` would hide a call from the test above."""
    hidden = {f"{owner}.{name}" for owner, names in OUTSIDE.items() for name in names}
    assert not hidden & set(imported(MODULES[name]))
