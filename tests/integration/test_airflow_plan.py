"""Before and after a run: plan, estimate, simulation; and a window that ends a DAG run."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.airflow_run import Site

from airflow_provider_azstack.commands import plan
from airflow_provider_azstack.console.scenario_options import OPTIONS
from airflow_provider_azstack.emulator import DiskSpec, Emulator
from airflow_provider_azstack.engine.backup.window import Window

pytestmark = pytest.mark.tier2

MIB = 1 << 20
Call = Callable[..., Any]


@pytest.fixture
def site(tls_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    for name in ("web-1", "web-2"):
        vm = tls_emulator.add_vm(name, "web", [DiskSpec(size_bytes=4 * MIB)])
        vm.disks[0].write(0, name.encode() * 5000)
    return Site(tls_emulator, tmp_path, monkeypatch)


@pytest.fixture
def call(call: Call, site: Site) -> Call:
    return partial(call, config=str(site.conf))


def policy_file(site: Site, **keys: Any) -> str:
    file = site.path / "policy.yaml"
    file.write_text(json.dumps({"name": "nightly", **keys}))
    return str(file)


def planned(call: Call, policy: str, **given: Any) -> tuple[int, Any, str]:
    settings = {"policy": policy, "at": "", "mode": None, "workloads": True, **given}
    return call(plan.plan, **settings)


def simulated(call: Call, **given: Any) -> tuple[int, Any, str]:
    options = {name.replace("-", "_"): "" for name, _, _ in OPTIONS}
    return call(plan.simulate, fleet="", **{**options, **given})


def test_a_plan_says_what_a_run_will_do_and_changes_nothing(site: Site, call: Call) -> None:
    before = sorted(site.repository.store.list(""))
    site.emulator.requests.clear()
    state, told, _ = planned(call, policy_file(site))
    assert state == 0
    assert {row["host"]: row["streams"] for row in told["hosts"]} == {"one": 4, "two": 4}
    assert sum(row["vms"] for row in told["hosts"]) == 2
    assert sum(row["expected_bytes"] for row in told["workloads"]) == 8 * MIB
    assert sorted(site.repository.store.list("")) == before
    asked = {(seen.method, seen.path.rpartition("/")[2]) for seen in site.emulator.requests}
    assert {method for method, _ in asked if method != "GET"} <= {"POST"}, "to sign in"
    assert {last for method, last in asked if method == "POST"} <= {"token"}


def test_a_plan_refuses_a_schedule_that_is_none(site: Site, call: Call) -> None:
    """Before the stack is asked: the scheduler would be the first to find it otherwise."""
    site.emulator.requests.clear()
    state, told, said = planned(call, policy_file(site, schedule="61 1 * * *"))
    assert (state, told, list(site.emulator.requests)) == (2, None, [])
    assert "schedule: '61 1 * * *' is none" in said


def test_a_plan_tells_whether_the_run_ends_inside_its_window(site: Site, call: Call) -> None:
    policy = policy_file(site, timezone="Europe/Berlin", stop_starting_after="06:00")
    state, told, _ = planned(call, policy, at="2026-05-04T22:00")
    assert state == 0
    assert "inside the backup window, which ends at 06:00" in told["verdict"]
    assert {row["begins"] for row in told["hosts"]} == {"2026-05-04 22:00"}
    state, told, _ = planned(call, policy, at="2026-05-05T05:59:59")
    assert state == 1
    assert "2 VMs would be left out" in told["verdict"]
    state, _, said = planned(call, policy, at="tonight")
    assert state > 1
    assert "2026-05-04T22:00" in said


def test_after_a_run_the_estimate_is_set_beside_what_came(site: Site, call: Call) -> None:
    assert call(plan.estimate, run="")[0] > 1, "there is no job yet"
    run = site.run(site.dag("planned", selection={"vms": ["web-*"]}))
    assert run.state == "success"
    state, told, _ = call(plan.estimate, run="")
    assert state == 0
    *hosts, whole = told["hosts"]
    assert {row["host"] for row in hosts} == {"one", "two"}
    assert whole["expected_bytes"] == 8 * MIB, "nothing was known: all of the disks"
    assert whole["moved_bytes"] < whole["expected_bytes"]
    assert whole["end_seconds"] > 0
    assert {row["vm"] for row in told["vms"]} == {"web-1", "web-2"}
    assert call(plan.estimate, run=told["run"])[1] == told
    state, _, said = call(plan.estimate, run="none")
    assert state > 1
    assert "'none'" in said
    _, told, _ = planned(call, policy_file(site))
    assert sum(row["expected_bytes"] for row in told["workloads"]) == whole["moved_bytes"]
    state, rows, _ = simulated(call, more="0,2")
    assert state == 0
    assert [row["hosts"] for row in rows] == [2, 4], "those of the configuration, and two more"
    state, rows, _ = simulated(call, more="0", hosts="3", streams="1", stream_rate="10")
    assert [(row["hosts"], row["streams"]) for row in rows] == [(3, 3)]


def test_a_run_whose_window_ended_is_red_and_its_streams_are_not(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-L4: what a window leaves out is no error of a stream; the run says it."""
    over = datetime.now(UTC) - timedelta(seconds=1)
    monkeypatch.setattr(
        "airflow_provider_azstack.operators.backup.window", lambda *_: Window(over, None)
    )
    run = site.run(site.dag("too_late", stop_starting_after="06:00"))
    assert run.state == "failed"
    assert {*run.of("one.workloads.stream"), *run.of("two.workloads.stream")} == {"skipped"}
    assert run.of("complete") == ["failed"]
    assert run.of("clean_up") == ["success"]
    (record,) = site.reopen().jobs()
    assert {vm.reason for vm in record.vms} == {
        f"not begun: the backup window ended at {over:%H:%M}"
    }
    assert all(vm.is_waiting for vm in record.vms)
    assert site.emulator.leftovers() == []
