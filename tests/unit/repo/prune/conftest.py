"""A repository that is worth a prune."""

import pytest
from support.pruning import forget_all, used

from airflow_provider_azstack.repo.repository import Repository


@pytest.fixture
def repository() -> Repository:
    """A repository of which two points have just been forgotten."""
    repository = used().open()
    forget_all(repository, used())
    return repository
