"""A real Airflow restores: one disk by two hosts at once, and what exists only after a yes."""

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from support.compound import Rig, rig
from support.real_airflow import RealAirflow, showing
from support.restores import disk_at

from airflow_provider_azstack.emulator import DiskSpec, EmulatedVm, Emulator
from airflow_provider_azstack.emulator.faults import Fault
from airflow_provider_azstack.emulator.http import Answer, Call
from airflow_provider_azstack.engine.backup import disk as backup_disk
from airflow_provider_azstack.engine.backup import pipeline
from airflow_provider_azstack.engine.restore.records import PartDone

pytestmark = [pytest.mark.tier2, pytest.mark.timeout(1800)]

MIB = 1 << 20
REGION = 8 * MIB  # of the images here, that a small disk has many
REGIONS, HELD = 8, 4 * MIB  # bytes of data in each
LIMIT = 2  # MB/s of each host: what one needs 17 s for
HOST = {"NO_OF_BACKUP_STREAMS_PER_NODE": 1, "limit_mb_per_second": LIMIT}
DAG = """\
from datetime import timedelta

from airflow_provider_azstack.dag_factory import restore_dag

dag = restore_dag({dag_id!r}, config={conf!r})
for task in dag.tasks:
    task.retries, task.retry_delay = 2, timedelta(seconds=1)
"""
WAITING = "select state from task_instance where run_id = ? and task_id = 'approve'"
TO_DR = {"vms": ["web01"], "mode": "alternate", "resource_group": "dr"}


class Site:
    """A stack, a repository with one VM's restore point, and an Airflow with two hosts."""

    def __init__(self, directory: Path, stack: Emulator, made: Rig, vm: EmulatedVm) -> None:
        self.emulator, self.rig, self.vm = stack, made, vm
        self.secrets = {stack.client_secret}
        repository = {
            "conn_type": "azstack_repository",
            "host": f"file://{directory}/repository",
            "password": "passphrase",
        }
        self.airflow = RealAirflow(
            directory / "airflow",
            AZSTACK_CONF=str(directory / "two_hosts.conf"),
            AZSTACK_RUNTIME_DIR=str(directory / "pace"),
            AIRFLOW_CONN_AZURE_STACK_DEFAULT=json.dumps(stack.airflow_connection),
            AIRFLOW_CONN_AZSTACK_REPOSITORY_DEFAULT=json.dumps(repository),
        )
        for dag_id, hosts in (("one_host", ["alpha"]), ("two_hosts", ["alpha", "beta"])):
            conf = directory / f"{dag_id}.conf"
            settings = {"split_gib": 0.01, "shared_uploads": True}
            conf.write_text(json.dumps({"hosts": dict.fromkeys(hosts, HOST), **settings}))
            (self.airflow.dags / f"{dag_id}.py").write_text(
                DAG.format(dag_id=dag_id, conf=str(conf))
            )

    def remember(self, call: Call, answer: Answer) -> Answer:
        """Note every signature that was used."""
        if signature := call.query.get("sig"):
            self.secrets.add(signature)
        return answer

    def writers(self, run_id: str) -> dict[str, Any]:
        """Return start, end, pool, pid and number of tries of the writing tasks, by host."""
        rows = self.airflow.query(
            "select task_id, start_date, end_date, pool, pid, try_number, state "
            "from task_instance where run_id = ? and task_id like '%.write_disk'",
            run_id,
        )
        columns = ("start", "end", "pool", "pid", "tries", "state")
        return {
            row[0].split(".")[0]: dict(zip(columns, row[1:], strict=True))
            for row in rows
            if row[1] is not None
        }

    @contextmanager
    def both_writing(self, run_id: str) -> Iterator[dict[str, Any]]:
        """Yield the writing tasks when both hosts have one; whoever is first waits meanwhile."""
        over, numbers, script = threading.Event(), count(), self.emulator.faults.script

        def hold(call: Call, answer: Answer) -> Answer:
            if next(numbers):  # the first one gets its answer: something was written
                over.wait(600)
            return self.remember(call, answer)

        self.airflow.until(lambda: bool(self.writers(run_id)), "a host")
        held = Fault("PUT", r"comp=page(&|$)", alter=hold, times=10**9)
        script.insert(0, held)
        try:
            self.airflow.until(
                lambda: self.writers(run_id).keys() == {"alpha", "beta"}, "both hosts"
            )
            self.airflow.until(lambda: held.struck > 1, "pages")
            yield self.writers(run_id)
        finally:
            over.set()
            script.remove(held)

    def seconds(self, run_id: str) -> float:
        """Return how long the hosts wrote, from the first one's start to the last one's end."""
        (row,) = self.airflow.query(
            "select (julianday(max(end_date)) - julianday(min(start_date))) * 86400 "
            "from task_instance where run_id = ? and task_id like '%.write_disk'",
            run_id,
        )
        return float(row[0])

    def noted(self, kind: str = "part") -> list[PartDone]:
        """Return what is noted of restores so far."""
        records = self.rig.repository.records
        names = [info.name for info in records.store.list("restores/")]
        return [records.get(name, PartDone) for name in names if f"/{kind}" in name]

    def restored(self, name: str) -> str:
        """Return the digest of the OS disk of the VM of that name in the group dr."""
        scope = f"{self.emulator.world.scope}/resourceGroups/dr/providers/Microsoft.Compute"
        vm = self.emulator.world.get(f"{scope}/virtualMachines/{name}")
        place = vm.properties["storageProfile"]["osDisk"]["managedDisk"]["id"]
        return disk_at(self.emulator, place).sha256()

    def request(self, name: str, **more: Any) -> dict[str, Any]:
        return {**TO_DR, "changes": {"web01": {"name": name}}, **more}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("restores")
    with (
        Emulator(directory / "stack") as stack,
        rig(stack, directory / "repository") as made,
        pytest.MonkeyPatch.context() as patch,
    ):
        for module in (backup_disk, pipeline):
            patch.setattr(module, "REGION_BYTES", REGION)
        vm = stack.add_vm("web01", "rg", [DiskSpec(size_bytes=REGIONS * REGION)])
        for region in range(REGIONS):
            vm.disks[0].write(region * REGION, os.urandom(HELD))
        made.backup()
        stack.add_group("dr")
        stack.add_storage_account("staging", "rg")
        site = Site(directory, stack, made, vm)
        stack.faults.add(Fault("*", ".", alter=site.remember, times=10**9))
        site.airflow.run("db", "migrate")
        site.airflow.run("azstack", "sync-pools")
        site.airflow.start()
        try:
            yield site
        finally:
            site.airflow.stop()
        assert stack.crashes == []


def test_two_hosts_restore_one_disk_together(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each in its own pool, with a grant of its own, at the same time; what that gains is told."""
    site.emulator.behaviour.second_grant = "allowed"
    alone = site.airflow.trigger("one_host", site.request("alone"))
    assert site.airflow.wait("one_host", alone) == "success"
    assert {part.host for part in site.noted()} == {"alpha"}
    together = site.airflow.trigger("two_hosts", site.request("together", verify=True))
    with site.both_writing(together):
        pass  # else the first one could be through before the other has begun
    assert site.airflow.wait("two_hosts", together) == "success"
    hosts = site.writers(together)
    assert {host: found["pool"] for host, found in hosts.items()} == {
        "alpha": "azstack_alpha",
        "beta": "azstack_beta",
    }
    assert sum(part.bytes for part in site.noted() if part.host == "beta") == REGIONS // 2 * HELD
    assert site.restored("alone") == site.restored("together") == site.vm.disks[0].sha256()
    one, two = site.seconds(alone), site.seconds(together)
    with capsys.disabled():
        print(  # noqa: T201 - what was measured
            f"\n{REGIONS * HELD / 1e6:.0f} MB at {LIMIT} MB/s for each host: one host writes "
            f"{one:.1f} s, two {two:.1f} s: {one / two:.2f} times as fast"
        )


def test_a_killed_host_goes_on_with_its_share(site: Site) -> None:
    """F-A2: what the other one wrote stays; by way of a page blob, as most stacks need it."""
    site.emulator.behaviour.second_grant = "refused"
    run_id = site.airflow.trigger("two_hosts", site.request("killed", storage_account="staging"))
    with site.both_writing(run_id) as hosts:
        os.kill(hosts["beta"]["pid"], signal.SIGKILL)
    assert site.airflow.wait("two_hosts", run_id) == "success"
    hosts = site.writers(run_id)
    assert {host: found["tries"] for host, found in hosts.items()} == {"alpha": 1, "beta": 2}
    assert site.restored("killed") == site.vm.disks[0].sha256()
    assert not site.emulator.world.blobs


def ask(site: Site) -> str:
    """Trigger a restore that attaches a disk to the VM that exists; return when it waits."""
    request = {
        "vms": ["web01"],
        "mode": "disks",
        "changes": {"web01": {"attach_to": "web01"}},
    }
    run_id = site.airflow.trigger("two_hosts", request)

    def is_asked() -> bool:
        assert site.airflow.state("two_hosts", run_id) != "failed"
        return site.airflow.query(WAITING, run_id) == [("awaiting_input",)]

    site.airflow.until(is_asked, "the question")
    path = f"/api/v2/dags/two_hosts/dagRuns/{run_id}/hitlDetails"
    (asked,) = site.airflow.call("GET", path)["hitl_details"]
    assert asked["options"] == ["Approve", "Reject"]
    assert site.vm.id.lower() in asked["body"].lower()
    return run_id


def answer(site: Site, run_id: str, option: str) -> str:
    """
    Answer as a person does in the UI; return how the run ended.

    A person takes a moment. Airflow loses an answer that comes before its scheduler has heard that
    the task waits, which takes some seconds; then it asks again.
    """
    log = site.airflow.home / "scheduler.log"
    heard = re.compile(rf"Received executor event .*'approve', run_id='{re.escape(run_id)}'")
    site.airflow.until(lambda: bool(heard.search(log.read_text())), "the scheduler")
    path = f"/api/v2/dags/two_hosts/dagRuns/{run_id}/taskInstances/approve/-1/hitlDetails"
    site.airflow.call("PATCH", path, {"chosen_options": [option], "params_input": {}})
    return site.airflow.wait("two_hosts", run_id)


def attached(site: Site) -> list[str]:
    disks = site.emulator.world.get(site.vm.id).properties["storageProfile"].get("dataDisks") or []
    return [disk["managedDisk"]["id"] for disk in disks]


def test_what_exists_is_touched_only_after_a_yes(site: Site) -> None:
    """The person's no fails the run and nothing was written; the yes goes on to the end."""
    site.emulator.behaviour.second_grant = "allowed"
    run_id = ask(site)
    changes = len(written(site))
    assert answer(site, run_id, "Reject") == "failed"
    sql = "select task_id, state from task_instance where run_id = ?"
    states = dict(site.airflow.query(sql, run_id))
    assert states["approve"] == states["complete"] == "failed"
    assert states["prepare"] == "upstream_failed"
    assert states["finish_disks"] == "skipped"
    assert states["clean_up"] == "success"
    assert len(written(site)) == changes
    assert attached(site) == []
    assert answer(site, ask(site), "Approve") == "success"
    (place,) = attached(site)
    assert disk_at(site.emulator, place).sha256() == site.vm.disks[0].sha256()


def written(site: Site) -> list[Any]:
    """Return the requests that created, changed or deleted something."""
    return [seen for seen in site.emulator.requests if seen.method in {"PUT", "DELETE", "PATCH"}]


def test_no_signature_is_in_the_database_or_the_logs(site: Site) -> None:
    """F-A11, R5: each host asked for its own access; nothing of it was handed on."""
    assert len(site.secrets) > 4
    places = site.airflow.written()
    assert "this share is done" in "".join(places.values())
    assert not showing(places, site.secrets)
