"""Virtual machines made of one image: the first backup of one builds on another's."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from msgspec.structs import replace
from support.compound import Rig, keyed, rig

from airflow_provider_azstack.emulator import DiskSpec, EmulatedVm, Emulator
from airflow_provider_azstack.emulator.guests import GuestDisk
from airflow_provider_azstack.model import JobVm
from airflow_provider_azstack.policy import Policy, Selection, TriggerConf
from airflow_provider_azstack.repo.points.forget import forget

pytestmark = pytest.mark.tier2

PAGE = 4096
PAGES = 60


def changed(source: Path, target: Path) -> Path:
    """A copy of a disk, some scattered pages of it replaced where it holds data."""
    data = bytearray(source.read_bytes())
    noise = Random(5)
    held = [n for n in range(0, len(data), PAGE) if any(data[n : n + PAGE])]
    for offset in noise.sample(held, PAGES):
        data[offset : offset + PAGE] = noise.randbytes(PAGE)
    target.write_bytes(data)
    return target


@pytest.fixture
def fleet(
    emulator: Emulator, guest_disk: Callable[..., GuestDisk], tmp_path: Path
) -> dict[str, EmulatedVm]:
    """A VM, a clone of it that went its own way a little, and one that did so altogether."""
    first, other = guest_disk("first", seed=1), guest_disk("other", seed=2)
    contents = {
        "first": first.path,
        "clone": changed(first.path, tmp_path / "clone.img"),
        "other": other.path,
    }
    return {
        name: emulator.add_vm(
            name, "prod", [DiskSpec(size_bytes=path.stat().st_size, content=path)]
        )
        for name, path in contents.items()
    }


def require_same_bytes(it: Rig, vm: EmulatedVm, done: JobVm) -> int:
    """Compare the OS disk with the guest's; return what its image added to the repository."""
    assert done.status == "done", done
    point = it.point(done)
    assert it.digest(point, "os") == keyed(vm.disks)["os"].sha256(), vm.name
    return it.repository.image(point.images[0].image).stored_bytes


def test_a_clone_stores_the_pages_that_make_it_another(
    emulator: Emulator, fleet: dict[str, EmulatedVm], tmp_path: Path
) -> None:
    """Of a new VM of a known image; of one that only has the image in common, everything."""
    with rig(emulator, tmp_path / "repository") as it:
        first = it.backup(trigger=TriggerConf(vms=("first",)))
        whole = require_same_bytes(it, fleet["first"], first["first"])
        rest = it.backup(trigger=TriggerConf(vms=("first", "clone", "other")))
        assert require_same_bytes(it, fleet["clone"], rest["clone"]) < 1.5 * PAGES * PAGE
        assert require_same_bytes(it, fleet["other"], rest["other"]) > whole // 2
        require_same_bytes(it, fleet["first"], rest["first"])


def test_a_vm_alone_builds_on_one_that_another_policy_backed_up(
    emulator: Emulator, fleet: dict[str, EmulatedVm], tmp_path: Path
) -> None:
    """The records of earlier jobs say of what image a VM was made: no other VM is asked for."""
    with rig(emulator, tmp_path / "repository") as it:
        it.policy = one_vm("first", it.policy)
        whole = require_same_bytes(it, fleet["first"], it.backup()["first"])
        it.policy = one_vm("clone", it.policy)
        alone = it.backup()
        assert list(alone) == ["clone"]
        assert require_same_bytes(it, fleet["clone"], alone["clone"]) < 1.5 * PAGES * PAGE < whole


def test_a_vm_builds_on_one_that_still_has_restore_points(
    emulator: Emulator, fleet: dict[str, EmulatedVm], tmp_path: Path
) -> None:
    """Those of the one that was done last were forgotten meanwhile."""
    with rig(emulator, tmp_path / "repository") as it:
        every = it.policy
        for name in ("first", "other"):
            it.policy = one_vm(name, every)
            done = it.backup()[name]
        forget(it.repository, [(done.key, done.point)], confirm=it.repository.id)
        it.policy = one_vm("clone", every)
        assert require_same_bytes(it, fleet["clone"], it.backup()["clone"]) < 1.5 * PAGES * PAGE


def one_vm(name: str, like: Policy) -> Policy:
    """A policy that has one VM."""
    return replace(like, name=f"only-{name}", selection=Selection(vms=(name,)))
