"""
The demo's fleet: six VMs as a small office has them, with real file systems.

Owns what is in the fleet; knows nothing of how it is served.
Invariant: every disk of the fleet has a guest whose files can be changed and checked.
"""

from pathlib import Path

from airflow_provider_azstack.emulator import guests
from airflow_provider_azstack.emulator.fleet import Fleet
from airflow_provider_azstack.emulator.handles import DiskSpec, Kind

MIB = 1 << 20
# A disk: its kind, the storage account of an unmanaged one, MiB, MiB of files in it.
Shape = tuple[Kind, str, int, int]
# VM: group, tags, disks.
FLEET: dict[str, tuple[str, dict[str, str], list[Shape]]] = {
    "web01": ("prod", {"tier": "web", "backup": "nightly"}, [("managed", "", 96, 24)]),
    "web02": ("prod", {"tier": "web", "backup": "nightly"}, [("managed", "", 96, 24)]),
    "db01": (
        "prod",
        {"tier": "database", "backup": "nightly"},
        [("managed", "", 96, 24), ("managed", "", 160, 64), ("managed", "", 64, 16)],
    ),
    "files01": (
        "prod",
        {"tier": "files", "backup": "nightly"},
        [("unmanaged", "officevhds", 96, 24), ("unmanaged", "officevhds", 192, 80)],
    ),
    "legacy01": ("legacy", {"backup": "nightly"}, [("unmanaged", "legacyvhds", 96, 32)]),
    "scratch01": ("legacy", {"backup": "never"}, [("managed", "", 64, 8)]),
}


def build(fleet: Fleet, directory: Path, *, scale: int = 1) -> None:
    """
    Create the demo's fleet.

    :param directory: keeps the guests' disk images, to be changed later.
    :param scale: multiplies the sizes of disks and files.
    """
    guests.require_tools()
    directory.mkdir(parents=True, exist_ok=True)
    for account, group in (("officevhds", "prod"), ("legacyvhds", "legacy")):
        fleet.add_storage_account(account, group)
    for number, (name, (group, tags, shapes)) in enumerate(FLEET.items()):
        shared = number // 2 * 10  # pairs of VMs share files: something to dedup
        images = _images(directory, name, shapes, shared, scale)
        specs = [
            DiskSpec(kind, image.size_bytes, image.path, account=account)
            for image, (kind, account, _, _) in zip(images, shapes, strict=True)
        ]
        vm = fleet.add_vm(
            name,
            group,
            specs,
            tags=tags,
            size="Standard_DS2_v2",
            public_address=name == "web01",
            static_address="10.0.1.10" if name == "db01" else "",
            availability_set="web" if name.startswith("web") else "",
            extensions=["CustomScript"] if name == "web02" else (),
        )
        fleet.guests |= {disk.source: image for disk, image in zip(vm.disks, images, strict=True)}


def _images(
    directory: Path, name: str, shapes: list[Shape], seed: int, scale: int
) -> list[guests.GuestDisk]:
    return [
        guests.build(
            directory / f"{name}-{position}.img",
            size_bytes=size * MIB * scale,
            content_bytes=files * MIB * scale,
            seed=seed + position,
            label=name,
        )
        for position, (_, _, size, files) in enumerate(shapes)
    ]
