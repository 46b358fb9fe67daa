"""The command line: another process gets a stack it can sign in to and control."""

import hashlib
import json
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import urllib3

pytestmark = pytest.mark.tier2

MODULE = "airflow_provider_azstack.emulator"


def start(root: Path, *flags: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """Run the emulator; return when ``connection.json`` is there."""
    command = [sys.executable, "-m", MODULE, "--root", str(root), *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    file, patience = root / "connection.json", time.monotonic() + 250
    while not file.exists():
        if process.poll() is not None or time.monotonic() > patience:
            process.kill()
            raise AssertionError(process.communicate()[0])
        time.sleep(0.05)
    facts: dict[str, Any] = json.loads(file.read_text())
    return process, facts


def stop(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return output


def test_the_demo_is_controlled_from_another_process(tmp_path: Path) -> None:
    """Guests change on request, disks are read and digested, and only with the token."""
    process, facts = start(tmp_path, "--demo")
    pool = urllib3.PoolManager(ca_certs=facts["ca_file"])
    try:
        url = facts["control_url"]
        assert pool.request("GET", f"{url}/disks").status == 401
        headers = {"Authorization": f"Bearer {facts['control_token']}"}
        disks = pool.request("GET", f"{url}/disks", headers=headers).json()["value"]
        assert len({disk["vm"] for disk in disks}) == 6
        assert {disk["kind"] for disk in disks} == {"managed", "unmanaged"}
        source = {"source": disks[0]["source"]}
        before = pool.request("GET", f"{url}/disks/digest", fields=source, headers=headers).json()
        body = json.dumps({"seed": 1, "vms": [disks[0]["vm"]]})
        change = pool.request("POST", f"{url}/guests/change", body=body, headers=headers).json()
        assert [entry["vm"] for entry in change["value"]] == [disks[0]["vm"]]
        assert change["value"][0]["changed_bytes"] > 0
        content = pool.request("GET", f"{url}/disks/content", fields=source, headers=headers).data
        after = pool.request("GET", f"{url}/disks/digest", fields=source, headers=headers).json()
        assert hashlib.sha256(content).hexdigest() == after["sha256"] != before["sha256"]
        assert len(content) == disks[0]["size_bytes"]
        left = pool.request("GET", f"{url}/leftovers", headers=headers).json()
        assert left == {"value": []}
        assert pool.request("GET", f"{url}/nothing", headers=headers).status == 404
    finally:
        pool.clear()
        output = stop(process)
    assert facts["arm_url"] in output


def test_settings_are_for_their_owner_only(tmp_path: Path) -> None:
    """connection.json has mode 0600 and holds an Airflow connection; no secret is printed."""
    process, facts = start(tmp_path, "--http", "--identity", "adfs")
    output = stop(process)
    assert stat.S_IMODE((tmp_path / "connection.json").stat().st_mode) == 0o600
    connection = facts["airflow_connection"]
    assert connection["conn_type"] == "azure_stack"
    assert connection["host"] == facts["arm_url"]
    assert connection["extra"]["tenant_id"] == "adfs"
    assert facts["client_secret"] not in output
    assert facts["control_token"] not in output


def test_missing_tools_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without e2fsprogs the demo says what to install."""
    from airflow_provider_azstack.emulator import guests
    from airflow_provider_azstack.emulator.__main__ import main

    monkeypatch.setattr(guests, "_SBIN", "/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["--root", str(tmp_path), "--demo", "--http"]) == 2
    assert "install e2fsprogs" in capsys.readouterr().out
