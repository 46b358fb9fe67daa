"""
``azstack keys``: who can open the repository.

Owns the commands; the order that keeps one key working at every moment is ``repo.sealing``'s.
Invariant: nothing is removed before what stays was seen to open.
"""

from argparse import ArgumentParser, Namespace

from airflow_provider_azstack.console.arguments import (
    add_new_passphrase,
    add_output,
    add_repository,
    open_repository,
    read_new_passphrase,
    read_passphrase,
)
from airflow_provider_azstack.console.init import print_recovery_key
from airflow_provider_azstack.console.present import PARTLY, say, show

_COLUMNS = ("key", "label", "created_at", "problem")


def add(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    one = actions.add_parser("list", help="list the keys, oldest first")
    add_output(one)
    add_repository(one)
    one = actions.add_parser("add", help="let one more passphrase open the repository")
    one.add_argument("--label", default="passphrase", help="what the list calls it")
    add_new_passphrase(one)
    add_repository(one)
    one = actions.add_parser(
        "change-passphrase", help="put a new passphrase in the old one's place"
    )
    add_new_passphrase(one)
    add_repository(one)
    one = actions.add_parser("new-recovery-key", help="make one more recovery key and print it")
    add_repository(one)
    one = actions.add_parser("remove", help="let keys open the repository no more")
    one.add_argument("key", nargs="+", help="its id in the list; the passphrase is another key's")
    add_repository(one)


def run(args: Namespace) -> int:
    """Do what ``args.action`` says."""
    return _ACTIONS[args.action](args)


def _list(args: Namespace) -> int:
    """Print the keys; the state is 1 if one of them cannot be trusted."""
    from airflow_provider_azstack.repo.sealing import keyring  # noqa: PLC0415 - loads cryptography

    found = keyring.list_keys(open_repository(args))
    rows = [
        {
            "key": key.id,
            "label": key.label,
            "created_at": key.created_at or "",
            "problem": key.problem,
        }
        for key in found
    ]
    show(rows, args.output, _COLUMNS)
    return PARTLY if any(key.problem for key in found) else 0


def _add(args: Namespace) -> int:
    from airflow_provider_azstack.repo.sealing import keyring  # noqa: PLC0415 - loads cryptography

    repository = open_repository(args)
    key_id = keyring.add_key(repository, read_new_passphrase(args, "new-"), label=args.label)
    say(f"added key {key_id}")
    return 0


def _change_passphrase(args: Namespace) -> int:
    from airflow_provider_azstack.repo.sealing import keyring  # noqa: PLC0415 - loads cryptography

    old = read_passphrase(args)
    repository = open_repository(args, passphrase=old)
    key_id = keyring.change_passphrase(repository, old, read_new_passphrase(args, "new-"))
    say(f"changed: key {key_id}. Put the new passphrase into the connections of this repository")
    return 0


def _new_recovery_key(args: Namespace) -> int:
    from airflow_provider_azstack.repo.sealing import keyring  # noqa: PLC0415 - loads cryptography

    repository = open_repository(args)
    old = [key.id for key in keyring.list_keys(repository) if key.label == keyring.RECOVERY]
    key_id, recovery = keyring.add_recovery_key(repository)
    print_recovery_key(recovery)
    say(f"added key {key_id}: print it and lock it away, it is not shown again")
    if old:
        say(f"the old one opens as well, until you 'azstack keys remove {' '.join(old)}'")
    return 0


def _remove(args: Namespace) -> int:
    from airflow_provider_azstack.repo.sealing import keyring  # noqa: PLC0415 - loads cryptography

    passphrase = read_passphrase(args)
    repository = open_repository(args, passphrase=passphrase)
    key_id = keyring.remove_keys(repository, args.key, passphrase)
    say(f"removed {len(args.key)} key(s); your passphrase now opens key {key_id}")
    return 0


_ACTIONS = {
    "list": _list,
    "add": _add,
    "change-passphrase": _change_passphrase,
    "new-recovery-key": _new_recovery_key,
    "remove": _remove,
}
