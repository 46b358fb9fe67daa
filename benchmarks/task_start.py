"""
Measure what a task of ours costs before its first byte: CPU-seconds of each step, medians.

Each round is a process of its own, in which Airflow's part of a task is loaded already. Then come
the DAG file, the repository's code, the key, the code that streams, and the first request over
HTTPS to an emulated stack.

    python benchmarks/task_start.py --rounds 9
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import processes

OURS = "airflow_provider_azstack"
# What Airflow loads for any task, and for any DAG file that has a mapped group.
AIRFLOWS = (
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.sdk.definitions.decorators",
)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(dict(steps(json.loads(args.child)))))
        return
    with tempfile.TemporaryDirectory() as directory:
        measure(Path(directory), args.rounds)


def measure(directory: Path, rounds: int) -> None:
    """Prepare a stack and a repository, and let children start."""
    # The children must not have loaded what the emulator loads.
    from emulated import PASSPHRASE, facts_of  # noqa: PLC0415

    from airflow_provider_azstack.emulator import Emulator  # noqa: PLC0415
    from airflow_provider_azstack.repo.repository import Repository  # noqa: PLC0415
    from airflow_provider_azstack.store.local import LocalStore  # noqa: PLC0415

    place = directory / "repository"
    place.mkdir()
    Repository.create(LocalStore(place), PASSPHRASE)  # with the cost that users pay
    with Emulator(directory / "stack") as emulator:
        facts = {**facts_of(emulator), "store": place.as_uri(), "passphrase": PASSPHRASE.reveal()}
        told = json.dumps(facts)
        found = [processes.answer(__file__, "--child", told) for _ in range(rounds)]
    for step in found[0]:
        print(f"{statistics.median(one[step] for one in found):8.3f}  {step}")
    print(f"{statistics.median(sum(one.values()) for one in found):8.3f}  all of it")


def steps(facts: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Do what a streaming task does first; yield what each step took."""
    for module in AIRFLOWS:
        import_module(module)
    laps = _laps()
    next(laps)
    import_module(f"{OURS}.dag_factory.backup")
    gc.freeze()  # as our operators do, before they begin
    yield "loading what the DAG file needs", next(laps)
    open_repository = import_module(f"{OURS}.repo.repository").Repository.open
    open_store = import_module(f"{OURS}.store").open_store
    secret = import_module(f"{OURS}.secret").Secret
    yield "loading the repository's code", next(laps)
    open_repository(open_store(facts["store"]), secret(facts["passphrase"]))
    yield "opening the repository", next(laps)
    import_module(f"{OURS}.engine.backup.stream")
    arm = import_module(f"{OURS}.arm.client")
    yield "loading the code that streams", next(laps)
    credentials = arm.Credentials(facts["tenant"], facts["client"], secret(facts["secret"]))
    with arm.Stack(facts["url"], credentials, ca_bundle=facts["ca"]) as stack:
        next(stack.subscriptions())
    yield "endpoints, sign-in and the first request", next(laps)


def _laps() -> Iterator[float]:
    """Yield the CPU time since the last time."""
    before = time.process_time()
    while True:
        now = time.process_time()
        yield now - before
        before = now


if __name__ == "__main__":
    main()
