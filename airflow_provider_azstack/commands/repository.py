"""
``airflow azstack init-repository``: create the repository that a connection describes.

Owns the one place where a repository is created; a backup never does that.
Invariant: where a repository is already, nothing is written. The recovery key is shown once and
kept nowhere.
"""

from argparse import Namespace

from airflow_provider_azstack.commands.connections import repository_hook
from airflow_provider_azstack.commands.console import command
from airflow_provider_azstack.console.present import say


@command
def init_repository(args: Namespace) -> None:
    """Create it, print the recovery key, and say what to do with both."""
    from airflow_provider_azstack.repo.repository import Repository  # noqa: PLC0415 - heavy

    hook = repository_hook(args)
    store = hook.get_store(create=True)
    repository, recovery_key = Repository.create(store, hook.get_passphrase())
    say(f"created repository [bold]{repository.id}[/] at {store.url}")
    say(
        "Put that id into the connection's field 'expected_repository_id'. Print the recovery key "
        "below and lock it away: it opens the repository when the passphrase is lost, and it is "
        "not shown again."
    )
    print(recovery_key.reveal())  # noqa: T201 - for a pipe into a printer, without any markup
