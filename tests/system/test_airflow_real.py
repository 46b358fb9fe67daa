"""A real Airflow (scheduler, DAG processor, API server, LocalExecutor) backs up a stack."""

import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from support.points import restored_digest
from support.real_airflow import ROOT, RealAirflow, showing
from support.statsd_server import StatsdServer

from airflow_provider_azstack.emulator import DiskSpec, Emulator
from airflow_provider_azstack.emulator.faults import Fault, shorter
from airflow_provider_azstack.emulator.http import Answer, Call
from airflow_provider_azstack.repo.images.runs import REGION_BYTES
from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store import open_store

pytestmark = [pytest.mark.tier2, pytest.mark.timeout(1800)]
MIB = 1 << 20
MANAGED = 4  # VMs; with the one of unmanaged disks more than all slots
SIZE = 256 * MIB  # of a disk: enough that no two VMs share a workload
PASSPHRASE = "canary passphrase/with+odd=signs&more"
HOSTS = {
    "alpha": {"NO_OF_BACKUP_STREAMS_PER_NODE": 2},
    "beta": {"NO_OF_BACKUP_STREAMS_PER_NODE": 1},
}
# Without retries, so that what fails has failed soon.
FAILING = """\
from airflow_provider_azstack.dag_factory import backup_dag

dag = backup_dag("failing", policy={"name": "failing", "selection": {"resource_groups": ["bad"]}})
for task in dag.tasks:
    task.retries = 0
"""
# One disk, in a part for each host.
SPLIT = """\
from airflow_provider_azstack.dag_factory import backup_dag

dag = backup_dag("split", policy={"name": "split", "selection": {"resource_groups": ["huge"]}})
"""
SPLIT_GIB = 0.01  # more than any other VM's disks have, less than what this one moved last


class Site:
    """A stack, an Airflow that backs it up, and every secret that passed between them."""

    def __init__(self, directory: Path) -> None:
        self.emulator = Emulator(directory / "stack")
        self.secrets = {self.emulator.client_secret, PASSPHRASE, "canary+account/key=="}
        home = directory / "airflow"
        self.store_url = f"file://{directory}/repository"
        repository = {
            "conn_type": "azstack_repository",
            "host": self.store_url,
            "password": PASSPHRASE,
        }
        self.statsd = StatsdServer()
        self.airflow = RealAirflow(
            home,
            AIRFLOW__METRICS__STATSD_ON="True",
            AIRFLOW__METRICS__STATSD_HOST="127.0.0.1",
            AIRFLOW__METRICS__STATSD_PORT=str(self.statsd.port),
            AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED="True",
            AZSTACK_CONF=str(home / "azurestack.conf"),
            AIRFLOW_CONN_AZSTACK_REPOSITORY_DEFAULT=json.dumps(repository),
        )
        (home / "azurestack.conf").write_text(json.dumps({"hosts": HOSTS, "split_gib": SPLIT_GIB}))
        (home / "policies").mkdir()
        policy = "name: nightly\nbatch_gib: 1\nselection: {resource_groups: [good]}\n"
        (home / "policies" / "nightly.yaml").write_text(policy)
        shutil.copy(ROOT / "dags" / "azstack_backup.py", self.airflow.dags)
        (self.airflow.dags / "failing.py").write_text(FAILING)
        (self.airflow.dags / "split.py").write_text(SPLIT)

    def open(self) -> Repository:
        return Repository.open(open_store(self.store_url), Secret(PASSPHRASE))

    def remember(self, call: Call, answer: Answer) -> Answer:
        """Note every token, key and signature that was used."""
        if signature := call.query.get("sig"):
            self.secrets.add(signature)
        authorization = call.header("Authorization")
        if authorization.startswith(("Bearer ", "SharedKey ")):
            self.secrets.add(authorization.split(" ")[1])
        return answer

    def settle(self) -> None:
        """Set Airflow up as docs/getting-started.md says."""
        credentials = self.airflow.home / "credentials.json"
        credentials.write_text(
            json.dumps(
                {
                    "IdentityProvider": "AAD",
                    "TenantId": self.emulator.tenant_id,
                    "ClientId": self.emulator.client_id,
                    "ClientSecret": self.emulator.client_secret,
                    "AuthResource": "https://management.example",
                    "anaccount": "canary+account/key==",
                }
            )
        )
        run = self.airflow.run
        run("db", "migrate")
        endpoint = ("--endpoint", self.emulator.arm_url)
        bundle = ("--ca-bundle", str(self.emulator.ca_file))
        run("azstack", "import-credentials", str(credentials), *endpoint, *bundle)
        credentials.unlink()
        created = run("azstack", "init-repository")
        self.secrets.add(created.stdout.strip())
        run("azstack", "sync-pools")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("real"))
    for number in range(MANAGED):
        disks = [DiskSpec(size_bytes=SIZE)] * (1 + number % 2)
        vm = site.emulator.add_vm(f"vm{number}", "good", disks)
        # Whatever a host is given, there is something to read: keys, and so the shares, are random.
        for disk in vm.disks:
            disk.write(0, os.urandom(2 * MIB))
    account = site.emulator.add_storage_account("vhds1", "good")
    assert account
    spec = DiskSpec(kind="unmanaged", size_bytes=SIZE, account="vhds1")
    classic = site.emulator.add_vm("classic", "good", [spec])
    classic.disks[0].write(0, os.urandom(MIB))
    for name in ("bad", "worse"):
        vm = site.emulator.add_vm(name, "bad", [DiskSpec(size_bytes=4 * MIB)])
        vm.disks[0].write(0, name.encode() * 1000)
    huge = site.emulator.add_vm("huge", "huge", [DiskSpec(size_bytes=REGION_BYTES + 8 * MIB)])
    for offset in (0, REGION_BYTES - MIB):
        huge.disks[0].write(offset, os.urandom(8 * MIB))
    # Reading takes a moment, so that streams would overlap if nothing held them back.
    site.emulator.faults.slow(r"md-", 0.3, method="GET")
    site.emulator.faults.add(Fault("*", ".", alter=site.remember, times=10**9))
    with site.emulator, site.statsd:
        site.settle()
        site.airflow.start()
        try:
            yield site
        finally:
            site.airflow.stop()
    assert site.emulator.crashes == []


@pytest.fixture(scope="module")
def nightly(site: Site) -> dict[str, Any]:
    """One run of the shipped DAG, and what Airflow's database says of it."""
    run_id = site.airflow.trigger("azstack_nightly")
    state = site.airflow.wait("azstack_nightly", run_id)
    columns = ("task_id", "map_index", "state", "pool", "queue", "start_date", "end_date", "label")
    rows = site.airflow.query(
        "select task_id, map_index, state, pool, queue, start_date, end_date, "
        "rendered_map_index from task_instance where run_id = ?",
        run_id,
    )
    return {
        "run_id": run_id,
        "state": state,
        "tasks": [dict(zip(columns, row, strict=True)) for row in rows],
    }


def test_the_shipped_dag_backs_up_every_vm(site: Site, nightly: dict[str, Any]) -> None:
    states = {task["task_id"]: task["state"] for task in nightly["tasks"]}
    assert nightly["state"] == "success", states
    names = [*(f"vm{number}" for number in range(MANAGED)), "classic"]
    assert sorted(point.vm.name for point in site.open().points()) == sorted(names)


def test_metrics_and_the_summary_of_real_tasks_arrive(site: Site, nightly: dict[str, Any]) -> None:
    """Emitted in the tasks' own processes, which end at once afterwards."""
    done = site.statsd.named("airflow.azstack.backup.done")
    assert [line.rpartition(":")[2] for line in done[:1]] == [f"{MANAGED + 1}|c"]
    assert "policy=nightly" in done[0]
    hosts = {
        part
        for line in site.statsd.named("airflow.azstack.backup.stream.read_bytes")
        for part in line.split(",")
        if part.startswith("host=")
    }
    assert {host.partition(":")[0] for host in hosts} == {"host=alpha", "host=beta"}
    sql = "select value from xcom where run_id = ? and key = 'summary'"
    [(summary,)] = site.airflow.query(sql, nightly["run_id"])
    assert f"VMs done: {MANAGED + 1}; failed: 0" in json.loads(summary)["markdown"]


def test_every_stream_had_its_hosts_pool_and_queue(nightly: dict[str, Any]) -> None:
    """What a scheduler did, not what the DAG file says."""
    streams = [task for task in nightly["tasks"] if ".workloads." in task["task_id"]]
    assert len(streams) >= 2 * (MANAGED + 1), "VMs of two disks are cut: split_gib is small here"
    for task in streams:
        host = task["task_id"].split(".")[0]
        assert (task["pool"], task["queue"]) == (f"azstack_{host}", host)
        assert task["label"].startswith(f"{host} / ")


def test_no_pool_ran_more_than_its_slots_and_hosts_ran_at_once(nightly: dict[str, Any]) -> None:
    """From the start and end of each task instance: the most that ran at one moment."""
    most: dict[str, int] = {}
    for pool in ("azstack_alpha", "azstack_beta"):
        tasks = [task for task in nightly["tasks"] if task["pool"] == pool]
        starts = [(task["start_date"], 1) for task in tasks]
        ends = [(task["end_date"], -1) for task in tasks]
        running = 0
        for _, change in sorted([*starts, *ends], key=lambda event: (event[0], event[1])):
            running += change
            most[pool] = max(most.get(pool, 0), running)
    assert most == {"azstack_alpha": 2, "azstack_beta": 1}


def test_a_run_that_fails_is_red_and_leaves_nothing_on_the_stack(site: Site) -> None:
    """R4, R6: a stack that sends wrong bytes for ever: the run failed, all snapshots are gone."""
    script = site.emulator.faults.script
    lost = site.emulator.faults.alter_reads(shorter, path="md-", times=10**9)
    script.insert(0, script.pop())  # earlier faults strike first, and one of them fits all
    run_id = site.airflow.trigger("failing")
    try:
        assert site.airflow.wait("failing", run_id) == "failed"
    finally:
        script.remove(lost)
    assert lost.struck
    assert not [left for left in site.emulator.leftovers() if "/bad/" in left.id]


def test_streams_that_are_stopped_or_killed_leave_nothing(site: Site) -> None:
    """F-A1, F-A2: a stream told to stop ends within seconds; the teardown revokes and deletes."""
    script = site.emulator.faults.script
    disks, over = set[str](), threading.Event()

    def wait(call: Call, answer: Answer) -> Answer:
        disks.add(call.path)
        over.wait(600)
        return answer

    stuck = site.emulator.faults.add(Fault("GET", "/md-", alter=wait, times=10**9))
    script.insert(0, script.pop())
    run_id = site.airflow.trigger("failing")
    sql = (
        "select pid from task_instance where run_id = ? and state = 'running' "
        "and task_id like '%.stream' order by task_id"
    )
    try:
        site.airflow.until(lambda: len(site.airflow.query(sql, run_id)) == 2, "streams")
        site.airflow.until(lambda: len(disks) >= 2, "reads")
        (stopped,), (killed,) = site.airflow.query(sql, run_id)
        os.kill(stopped, signal.SIGTERM)
        os.kill(killed, signal.SIGKILL)
        # Before the read that it is in would be given up, after a minute.
        site.airflow.until(lambda: not Path(f"/proc/{stopped}").exists(), "the end", 50)
        assert site.airflow.wait("failing", run_id) == "failed"
    finally:
        over.set()
        script.remove(stuck)
    sql = "select state from task_instance where run_id = ? and task_id = 'clean_up'"
    assert site.airflow.query(sql, run_id) == [("success",)]
    assert not [left for left in site.emulator.leftovers() if "/bad/" in left.id]
    logs = "".join(log.read_text() for log in site.airflow.logs.rglob(f"*{run_id}/**/*.log"))
    assert "the task was told to stop" in logs


def test_two_hosts_back_one_disk_up_together(site: Site) -> None:
    """R1, R4: first and incremental, each host a part, one snapshot set, bit-exact points."""
    (vm,) = (vm for vm in site.emulator.vms.values() if vm.name == "huge")
    (disk,) = vm.disks
    sql = (
        "select task_id, state, rendered_map_index from task_instance "
        "where run_id = ? and task_id like '%.stream' order by task_id"
    )
    for day in range(2):
        disk.write(REGION_BYTES - 4096, f"day {day}".encode() * 2000)
        run_id = site.airflow.trigger("split")
        assert site.airflow.wait("split", run_id) == "success"
        assert site.airflow.query(sql, run_id) == [
            ("alpha.workloads.stream", "success", "alpha / huge 1/2"),
            ("beta.workloads.stream", "success", "beta / huge 2/2"),
        ]
        repository = site.open()
        point = repository.latest_point(vm.vm_id)
        assert point is not None
        (image,) = point.images
        assert restored_digest(repository, image.image) == disk.sha256()
        assert image.changes_known == ("difference" if day else "allocated")
        left = [left.kind for left in site.emulator.leftovers() if vm.vm_id in str(left.tags)]
        assert left == ["snapshot"]
        assert len(list(repository.sets(point.run))) == 1


def test_no_secret_is_in_database_logs_or_command_lines(site: Site, nightly: Any) -> None:
    """F-A11: canaries, raw and percent-encoded, nowhere that Airflow keeps or prints anything."""
    site.secrets |= {grant.signature for grant in site.emulator.world.grants.values()}
    assert len(site.secrets) > 10
    places = site.airflow.written()
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            places[str(process)] = process.read_text(errors="replace")
    assert not showing(places, site.secrets)
    assert re.search(r"vm0 os: ", "".join(places.values())), "the logs are not the streams' logs"


def test_the_doctor_is_content_and_finds_what_is_wrong(site: Site) -> None:
    """Exit state 0 on a good site; above 1 when a pool is missing, with what to do."""
    good = site.airflow.run("azstack", "doctor", "--output", "json")
    assert {answer["verdict"] for answer in json.loads(good.stdout)} == {"ok"}
    conf = site.airflow.home / "other.conf"
    conf.write_text(json.dumps({"hosts": {**HOSTS, "gamma": {}}}))
    bad = site.airflow.run("azstack", "doctor", "--config", str(conf), "-o", "json", check=False)
    assert bad.returncode > 1
    failed = [line["finding"] for line in json.loads(bad.stdout) if line["verdict"] == "failed"]
    assert failed == ["azstack_gamma is missing, needs 4: run 'airflow azstack sync-pools'"]


def test_points_are_listed(site: Site, nightly: Any) -> None:
    listed = site.airflow.run("azstack", "points", "--vm", "vm1", "--output", "json")
    (point,) = json.loads(listed.stdout)
    assert (point["vm"], point["disks"]) == ("vm1", 2)


def test_a_wrong_trigger_is_refused_before_there_is_a_run(site: Site) -> None:
    """F-A13: what the form knows, Airflow refuses itself, naming the field."""
    with pytest.raises(HTTPError) as caught:
        site.airflow.trigger("failing", {"vms": ["../../etc"]})
    with caught.value as answer:
        assert answer.code == 400
        assert "vms" in answer.read().decode()


def test_the_provider_is_listed_with_its_connections_and_links(site: Site) -> None:
    """What a user sees after ``pip install``."""
    providers = json.loads(site.airflow.run("providers", "list", "-o", "json").stdout)
    assert "airflow-provider-azstack" in {row["package_name"] for row in providers}
    forms = site.airflow.call("GET", "/ui/connections/hook_meta")
    ours = {form["connection_type"]: form for form in forms}
    stack, repository = ours["azure_stack"], ours["azstack_repository"]
    assert stack["standard_fields"]["password"]["title"] == "Client secret"
    assert {"tenant_id", "ca_bundle", "sign_in"} <= set(stack["extra_fields"])
    assert repository["standard_fields"]["password"]["title"] == "Passphrase"
    assert stack["extra_fields"]["certificate_private_key"]["schema"]["format"] == "password"


def test_a_cleared_stream_makes_no_second_restore_point(site: Site, nightly: Any) -> None:
    """F-A7: the session is closed: the run turns red, says what to do, and changes no point."""
    before = sorted(point.id for point in site.open().points())
    body = {
        "dry_run": False,
        "dag_run_id": nightly["run_id"],
        "task_ids": [["alpha.workloads.stream", 0]],
        "include_downstream": True,
        "only_failed": False,
        "reset_dag_runs": True,
    }
    site.airflow.call("POST", "/api/v2/dags/azstack_nightly/clearTaskInstances", body)
    assert site.airflow.wait("azstack_nightly", nightly["run_id"]) == "failed"
    assert sorted(point.id for point in site.open().points()) == before
    assert list(site.open().store.list("sessions/")) == []
    logs = site.airflow.logs.rglob(f"*{nightly['run_id']}/**/*.log")
    assert "trigger a new run" in "".join(log.read_text() for log in logs)
