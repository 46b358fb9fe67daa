"""Clients of an emulated stack, as the tests of the layers above it use them."""

import random
from collections.abc import Callable
from typing import Any

from support.virtual_clock import VirtualClock

from airflow_provider_azstack.arm.blobs import BlobDisk
from airflow_provider_azstack.arm.client import Credentials, Stack
from airflow_provider_azstack.arm.compute import Compute
from airflow_provider_azstack.arm.grants import Grant
from airflow_provider_azstack.emulator import Emulator
from airflow_provider_azstack.secret import Secret

MIB = 2**20
SOMEBODY = Credentials("tenant", "client", Secret("canary-secret"))


def credentials_of(emulator: Emulator) -> Credentials:
    return Credentials(emulator.tenant_id, emulator.client_id, Secret(emulator.client_secret))


def stack_of(emulator: Emulator, **more: Any) -> Stack:
    is_tls = emulator.arm_url.startswith("https")
    given = {"ca_bundle": str(emulator.ca_file) if is_tls else None, **more}
    return Stack(emulator.arm_url, credentials_of(emulator), **given)


def snapshot_id(disk_id: str, name: str = "snapshot") -> str:
    group = disk_id.split("/providers/", maxsplit=1)[0]
    return f"{group}/providers/Microsoft.Compute/snapshots/{name}"


def granting(compute: Compute, resource_id: str, seconds: int = 3600) -> Callable[[], Grant]:
    return lambda: compute.grant_read(resource_id, seconds)


def disk_reader(compute: Compute, resource_id: str, **more: Any) -> BlobDisk:
    return BlobDisk(granting(compute, resource_id), **more)


def patient(clock: VirtualClock, budget: float = 900.0) -> dict[str, object]:
    return {
        "clock": clock,
        "sleep": clock.sleep,
        "rng": random.Random(7),
        "retry_budget_seconds": budget,
    }


def subscriptions(stack: Stack) -> list[str]:
    return [str(s["subscriptionId"]) for s in stack.subscriptions()]
