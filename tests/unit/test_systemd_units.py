"""The units in docs/systemd/: systemd and Airflow understand them, docs/hosts.md says the same."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_azstack.console.present import FAILED, PARTLY
from demo.workers import PATIENCE

UNITS = Path(__file__).parents[2] / "docs" / "systemd"
HOSTS_PAGE = UNITS.parent / "hosts.md"
AIRFLOW = "/opt/airflow/bin/airflow"
NAMES = sorted(unit.name for unit in UNITS.glob("*.service"))
TIMERS = sorted(unit.name for unit in UNITS.glob("*.timer"))
DOCTOR = "airflow-azstack-doctor"
# Airflow's own parser, with the commands of its providers: does it take these arguments?
PARSE = """
import json, sys
from airflow.cli.cli_parser import get_parser
for arguments in json.loads(sys.argv[1]):
    print(get_parser().parse_args(arguments))
"""


class Unit(configparser.ConfigParser):
    """Upper and lower case count."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def read_unit(name: str) -> Unit:
    parser = Unit(strict=False, interpolation=None)
    parser.read(UNITS / name)
    return parser


def variables(name: str) -> dict[str, str]:
    """Return what an environment file sets."""
    lines = (UNITS / f"{name}.env.example").read_text().splitlines()
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {key: value for key, _, value in pairs}


@pytest.mark.tier2
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not on this machine")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    for name in NAMES:  # what it starts must exist
        text = (UNITS / name).read_text().replace(AIRFLOW, sys.executable)
        (tmp_path / name).write_text(text)
    for name in TIMERS:
        shutil.copy(UNITS / name, tmp_path)
    command = ["systemd-analyze", "verify", *(str(tmp_path / name) for name in NAMES + TIMERS)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    ours = [line for line in checked.stderr.splitlines() if str(tmp_path) in line]
    assert (checked.returncode, ours) == (0, [])


@pytest.mark.tier1
@pytest.mark.parametrize("name", NAMES)
def test_a_unit_has_its_secrets_in_files_and_runs_as_nobody_special(name: str) -> None:
    service = read_unit(name)["Service"]
    assert service["User"] == "airflow"
    assert service["EnvironmentFile"].startswith("/etc/airflow/")
    if service["Type"] != "oneshot":
        assert service["Restart"] == "always"
    assert service["UMask"] == "0077"
    assert "secret" not in service["ExecStart"].lower()


@pytest.mark.tier1
def test_every_variable_of_a_command_is_in_an_environment_file() -> None:
    known = variables("airflow") | variables("host")
    for name in NAMES:
        for variable in re.findall(r"\$\{(\w+)\}", read_unit(name)["Service"]["ExecStart"]):
            assert variable in known, f"{name}: {variable}"


@pytest.mark.tier1
@pytest.mark.parametrize("name", ["airflow-edge-worker.service", "airflow-celery-worker.service"])
def test_a_worker_that_is_stopped_lets_its_streams_end(name: str) -> None:
    """Only the worker is told; it gets longer than it gives its streams."""
    service = read_unit(name)["Service"]
    assert service["KillMode"] == "mixed"
    drain_seconds = int(variables("host")["AIRFLOW__EDGE__DRAIN_TIMEOUT_SEC"])
    assert int(service["TimeoutStopSec"].removesuffix("min")) * 60 >= drain_seconds


@pytest.mark.tier1
def test_a_timer_asks_the_doctor_and_only_what_fails_a_backup_fails_its_unit() -> None:
    """It sees the real pools: with the settings of the scheduler, which has the database."""
    assert f"{DOCTOR}.timer" in TIMERS
    assert read_unit(f"{DOCTOR}.timer")["Timer"]["OnCalendar"]
    text = (UNITS / f"{DOCTOR}.service").read_text()
    service = read_unit(f"{DOCTOR}.service")["Service"]
    assert service["ExecStart"] == f"{AIRFLOW} azstack doctor"
    assert int(service["SuccessExitStatus"]) == PARTLY < FAILED
    assert "EnvironmentFile=/etc/airflow/server.env" in text
    page = HOSTS_PAGE.read_text()
    for name in (f"{DOCTOR}.service", f"{DOCTOR}.timer"):
        assert name in page
    assert f"systemctl enable --now {DOCTOR}.timer" in page


@pytest.mark.tier2
def test_airflow_understands_the_commands() -> None:
    known = variables("airflow") | variables("host")
    commands = []
    for name in NAMES:
        text = re.sub(
            r"\$\{(\w+)\}",
            lambda found: known[found[1]],
            read_unit(name)["Service"]["ExecStart"],
        )
        executable, *arguments = shlex.split(text)
        assert executable == AIRFLOW
        commands.append(arguments)
    command = [sys.executable, "-c", PARSE, json.dumps(commands)]
    parsed = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert parsed.returncode == 0, parsed.stderr[-2000:]
    assert parsed.stdout.count("Namespace(") == len(NAMES)
    assert "queues='backup-a'" in parsed.stdout


@pytest.mark.tier1
def test_the_example_is_run_with_the_settings_that_the_page_and_the_units_have() -> None:
    """`make hosts OUTAGE=120` proves what a reader copies, not something else."""
    host, server = variables("host"), variables("server")
    server["AIRFLOW__API_AUTH__JWT_LEEWAY"] = variables("airflow")["AIRFLOW__API_AUTH__JWT_LEEWAY"]
    assert PATIENCE.items() <= host.items()
    page = HOSTS_PAGE.read_text()
    for variable, value in {**host, **server}.items():
        found = re.fullmatch(
            r"AIRFLOW__(WORKERS|SCHEDULER|EXECUTION_API|API_AUTH)__(\w+)", variable
        )
        if found:
            option = rf"\[{found[1].lower()}\] {found[2].lower()}` \| [^|]+ \| {value} \|"
            assert re.search(option, page), variable
