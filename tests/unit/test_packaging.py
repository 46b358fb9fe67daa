"""What is shipped: the wheel's files, its metadata, and pins that fit what it asks for."""

import ast
import configparser
import email
import shutil
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import airflow_provider_azstack

ROOT = Path(__file__).parents[2]
SHIPPED = ["airflow_provider_azstack", "setup.cfg", "pyproject.toml", "MANIFEST.in", "LICENSE"]
SHIPPED += ["README.md", "CHANGELOG.md"]


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def requirements() -> list[Requirement]:
    """Return what the package and all its extras ask for."""
    parser = setup_cfg()
    texts = [parser["options"]["install_requires"], *parser["options.extras_require"].values()]
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    found = [Requirement(line) for line in lines]
    return [r for r in found if canonicalize_name(r.name) != "airflow-provider-azstack"]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.tier1
@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_every_requirement_is_pinned_to_a_version_that_fits(requirement: Requirement) -> None:
    """What CI and the demo install is one known set of versions: `make constraints` renews it."""
    version = pins().get(canonicalize_name(requirement.name))
    assert version, f"{requirement.name} has no pin"
    assert requirement.specifier.contains(version)


@pytest.mark.tier1
@pytest.mark.parametrize("folder", ["dags", "docs"])
def test_a_source_distribution_has_every_file_of(folder: str) -> None:
    lines = (ROOT / "MANIFEST.in").read_text().splitlines()
    (patterns,) = (line.split()[2:] for line in lines if f"recursive-include {folder} " in line)
    files = [path.name for path in (ROOT / folder).rglob("*.*") if path.is_file()]
    files = [name for name in files if not name.endswith(".pyc")]
    assert files
    assert [name for name in files if not any(fnmatch(name, p) for p in patterns)] == []


@pytest.mark.tier1
def test_the_changelog_knows_this_version() -> None:
    assert f"## [{airflow_provider_azstack.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build the wheel from a copy of what it is made of, offline, and open it."""
    source = tmp_path_factory.mktemp("source")
    for name in SHIPPED:
        whole = ROOT / name
        if whole.is_dir():
            shutil.copytree(whole, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(whole, source / name)
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(source / "dist")]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True, timeout=200
    )
    (built,) = (source / "dist").iterdir()
    return zipfile.ZipFile(built)


@pytest.mark.tier2
def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    package = ROOT / "airflow_provider_azstack"
    there = {
        str(path.relative_to(ROOT))
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == there
    assert "airflow_provider_azstack/py.typed" in held


@pytest.mark.tier2
def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    """Licence, readme and the entry point by which Airflow finds a provider are in its metadata."""
    info = f"airflow_provider_azstack-{airflow_provider_azstack.__version__}.dist-info"
    names = wheel.namelist()
    assert any(name.startswith(info) and name.endswith("/LICENSE") for name in names)
    metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
    assert metadata["Name"] == "airflow-provider-azstack"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "# " in str(metadata.get_payload())
    entry_points = configparser.ConfigParser()
    entry_points.read_string(wheel.read(f"{info}/entry_points.txt").decode())
    assert entry_points["apache_airflow_provider"]["provider_info"] == (
        "airflow_provider_azstack:get_provider_info"
    )


# Imported under a name that is not the distribution's.
DISTRIBUTIONS = {
    "airflow": "apache-airflow",
    "airflow.providers.common.compat": "apache-airflow-providers-common-compat",
    "azure.core": "azure-core",
    "azure.mgmt.compute": "azure-mgmt-compute",
    "yaml": "pyyaml",
}
# By the extras s3, azureblob, gcs; objectlock (botocore comes with boto3).
# Not imported: the Azure provider is used through Airflow's configuration, as a secrets backend.
GIVEN = {"apache-airflow-providers-microsoft-azure"}
OPTIONAL = {"obstore", "boto3", "botocore"}
OF_AIRFLOW = {"sqlalchemy"}  # the metadata database's, in Airflow's own commands


def imports() -> set[str]:
    """Return the distributions that the package imports from, anywhere in it."""
    found = set()
    for path in (ROOT / "airflow_provider_azstack").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {distribution_of(name) for name in names}
    return found - {"", "airflow-provider-azstack"} - OF_AIRFLOW


def distribution_of(module: str) -> str:
    root = module.partition(".")[0]
    if root in sys.stdlib_module_names:
        return ""
    prefixes = [name for name in DISTRIBUTIONS if f"{module}.".startswith(f"{name}.")]
    return DISTRIBUTIONS[max(prefixes, key=len)] if prefixes else canonicalize_name(root)


@pytest.mark.tier1
def test_what_is_imported_is_required_and_nothing_else() -> None:
    """A requirement that nothing needs is weight in every Airflow that installs this."""
    lines = setup_cfg()["options"]["install_requires"].splitlines()
    required = {canonicalize_name(Requirement(line).name) for line in lines if line.strip()}
    assert imports() - OPTIONAL == required - GIVEN


# What common-compat's oldest version that is allowed offers of Airflow's SDK: a site's constraints
# may hold it there. What is not here is imported from ``airflow.sdk`` itself.
OF_COMPAT = {
    *("AirflowFailException", "AirflowNotFoundException", "AirflowSkipException", "Asset"),
    *("AssetAlias", "BaseHook", "BaseOperator", "BaseOperatorLink", "Connection", "Context", "DAG"),
    *("Param", "Stats", "TaskGroup", "TriggerRule", "Variable", "XCom", "get_parsing_context"),
    "task_group",
}


@pytest.mark.tier1
def test_what_is_imported_is_there_in_the_oldest_common_compat() -> None:
    found = {
        alias.name
        for path in (ROOT / "airflow_provider_azstack").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "airflow.providers.common.compat.sdk"
        for alias in node.names
    }
    assert found <= OF_COMPAT
