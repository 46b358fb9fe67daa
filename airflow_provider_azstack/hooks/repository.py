"""
The connection type ``azstack_repository``: from an Airflow connection to an open repository.

Owns the meaning of the connection's fields; knows nothing of what a repository holds.
Invariant: a repository is opened, never created: that is a command's business.
"""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_azstack.errors import AzStackError
from airflow_provider_azstack.hooks.connections import WAITING_SECONDS, Fields, fields_of
from airflow_provider_azstack.secret import Secret

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository
    from airflow_provider_azstack.store.base import Store

_FIELDS = frozenset({"expected_repository_id", "cache_directory", "secret_store_options"})


class RepositoryHook(BaseHook):
    """
    Open one backup repository.

    :param repository_conn_id: host = URL of the store, password = passphrase.
    """

    conn_name_attr = "repository_conn_id"
    default_conn_name = "azstack_repository_default"
    conn_type = "azstack_repository"
    hook_name = "Azure Stack Hub backup repository"

    def __init__(self, repository_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.repository_conn_id = repository_conn_id

    def get_conn(self, *, budget_seconds: float = 300.0) -> "Repository":
        """
        Return the open repository.

        :param budget_seconds: how long one call to its store may be retried.
        :raises ConfigurationError: a field is missing or wrong.
        :raises WrongKey: the passphrase opens none of its keys.
        """
        # Repositories load cryptography and zstandard: not while DAG files are parsed.
        from airflow_provider_azstack.repo.repository import Repository  # noqa: PLC0415

        fields = self._fields
        cache = fields.text("cache_directory")
        return Repository.open(
            self.get_store(budget_seconds=budget_seconds),
            self.get_passphrase(),
            expected_id=fields.text("expected_repository_id"),
            cache_directory=Path(cache) if cache else None,
        )

    def get_store(self, *, create: bool = False, budget_seconds: float = 300.0) -> "Store":
        """
        Return the store that holds the repository.

        :param create: make a missing local directory, for a repository that is being created.
        """
        from airflow_provider_azstack.store import open_store  # noqa: PLC0415 - obstore is heavy

        fields = self._fields
        url = fields.standard("host", "repository URL")
        return open_store(
            url,
            options=fields.secrets("secret_store_options"),
            create=create,
            budget_seconds=budget_seconds,
        )

    def get_passphrase(self) -> Secret:
        """Return the passphrase, which must be filled in."""
        fields = self._fields
        if not (passphrase := fields.password()):
            raise fields.error("has no passphrase: fill in the field 'password'")
        return passphrase

    def test_connection(self) -> tuple[bool, str]:
        """Open the repository, for the button in the connection form."""
        try:
            repository = self.get_conn(budget_seconds=WAITING_SECONDS)
        except AzStackError as error:
            return False, str(error)
        return True, f"opened repository {repository.id}"

    @cached_property
    def _fields(self) -> Fields:
        # Once: where connections are in a vault, each look is a request to it.
        return fields_of(self.repository_conn_id, self.conn_type, _FIELDS)
