"""
What every test of a fault ends with.

R1: every restore point that was reported complete, and not forgotten, reads back bit-exactly. The
digests are SHA-256 that the test took from its own disks; nothing that is compared was computed by
the package. R2: a full verification finds nothing.
"""

from collections.abc import Mapping

from support.points import restored_digest

from airflow_provider_azstack.repo.repository import Repository
from airflow_provider_azstack.repo.verify.verification import verify

# (VM key, point id) -> disk key -> SHA-256
Expected = Mapping[tuple[str, str], Mapping[str, str]]


def assert_nothing_is_missing(repository: Repository) -> None:
    """Hold R2: all is there and whole. Packs that no point needs are not looked down upon."""
    report = verify(Repository(repository.store, repository.keys), "full", progress=lambda _: None)
    assert report.findings == ()
    assert report.affected == ()


def assert_repository_sound(repository: Repository, expected: Expected) -> None:
    """
    Hold R1 and R2: all expected points are there and right, and whatever is there can be read.

    A point that nobody expects may be one whose run died before it could report it.
    """
    fresh = Repository(repository.store, repository.keys)  # remembers nothing, as a restore would
    try:
        found = {(point.vm.key, point.id): point for point in fresh.points()}
        missing = sorted(expected.keys() - found.keys())
        assert not missing, f"restore points were lost: {missing}"
        for which, point in found.items():
            digests = {
                image.disk_key: restored_digest(fresh, image.image) for image in point.images
            }
            assert digests == expected.get(which, digests), f"{which} restores to other bytes"
        assert_nothing_is_missing(fresh)
    finally:
        fresh.close()
