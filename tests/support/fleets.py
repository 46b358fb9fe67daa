"""What a job begins with: numbered virtual machines with disks of given sizes, and backup hosts."""

import uuid
from collections.abc import Sequence

from airflow_provider_azstack.config import BackupHost
from airflow_provider_azstack.model import Disk, VirtualMachine


def host(name: str, streams: int = 4, limit: int | None = None) -> BackupHost:
    """:param limit: MB a second."""
    return BackupHost(
        name=name, streams=streams, queue=name, executor=None, limit_mb_per_second=limit
    )


def key_of(number: int) -> str:
    return str(uuid.UUID(int=number))


def machine(
    number: int, sizes: Sequence[int] = (), account: str = "", sku: str = ""
) -> VirtualMachine:
    """:param account: of its disks in turn, joined by ``+``; none means managed disks."""
    key = key_of(number)
    accounts = account.split("+")
    return VirtualMachine(
        id=f"/vms/{number}",
        key=key,
        name=f"vm{number}",
        subscription_id="s",
        resource_group="g",
        location="local",
        size="Standard_A1",
        os_type="Linux",
        power_state="running",
        disks=tuple(
            Disk(
                key="os" if n == 0 else f"data-{n - 1}",
                name=f"d{n}",
                kind="unmanaged" if account else "managed",
                source=f"https://x/{account}/c/{key}-{n}.vhd" if account else f"/disks/{key}-{n}",
                size_bytes=size,
                unique_id=f"{key}-{n}",
                storage_account=accounts[n % len(accounts)],
                sku=sku,
            )
            for n, size in enumerate(sizes)
        ),
    )
