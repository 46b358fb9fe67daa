"""
``azstack init``: create a repository.

Owns the one place where a repository is created; a backup never does that.
Invariant: where a repository is already, nothing is written. The recovery key is shown once and
kept nowhere.
"""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from airflow_provider_azstack.console.arguments import (
    add_repository,
    open_repository_store,
    read_new_passphrase,
)
from airflow_provider_azstack.console.present import say, write
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.secret import Secret

if TYPE_CHECKING:
    from airflow_provider_azstack.store.base import Store


def add(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    add_repository(parser)


def run(args: Namespace) -> int:
    """Create it where --repository says."""
    store = open_repository_store(args, create=True)
    return create_repository(store, read_new_passphrase(args))


def create_repository(store: "Store", passphrase: Secret) -> int:
    """Create it, print the recovery key, and say what to do with both."""
    from airflow_provider_azstack.repo.repository import Repository  # noqa: PLC0415 - heavy

    repository, recovery_key = Repository.create(store, passphrase)
    say(f"created repository [bold]{repository.id}[/] at {store.url}")
    say(
        "Put that id into the connection's field 'expected_repository_id'. Print the recovery key "
        "below and lock it away: it opens the repository when the passphrase is lost, and it is "
        "not shown again."
    )
    print_recovery_key(recovery_key)
    return 0


def print_recovery_key(recovery_key: Secret) -> None:
    """
    Print a new recovery key, alone, for a pipe into a printer.

    :raises ConfigurationError: nobody has got it, and nobody ever will.
    """
    try:
        write(f"{recovery_key.reveal()}\n", must_arrive=True)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{error}: the recovery key is lost; 'azstack keys new-recovery-key' makes another"
        ) from None
