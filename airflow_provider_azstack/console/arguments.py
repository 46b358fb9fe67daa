"""
Options that many commands have, and what they open.

Owns where a repository's address and passphrase, or a stack's credentials, come from: options,
files, the environment, a prompt; knows nothing of what is done with what it opened.
Invariant: no secret is taken from the command line, which every user of the host can read.
"""

import json
import os
import sys
from argparse import ArgumentParser, Namespace, _ActionsContainer
from collections.abc import Callable, Mapping
from getpass import getpass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.secret import Secret

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository
    from airflow_provider_azstack.store.base import Store

_MAX_FILE_BYTES = 2**20

Ask = Callable[[str], str]


def add_output(parser: ArgumentParser) -> None:
    """Declare in which form the result is printed: ``args.output``."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="default: table"
    )
    group.add_argument(
        "--json", dest="output", action="store_const", const="json", help="the same as -o json"
    )


def add_repository(parser: ArgumentParser, prefix: str = "") -> None:
    """
    Declare which repository a command is about.

    :param prefix: of the options' names, for a command with a second repository: ``"to-"``.
    """
    group = parser.add_argument_group(f"{prefix.rstrip('-')} repository".strip())
    for name, metavar, text in (
        ("repository", "URL", "a directory, s3://, az:// or gs:// address"),
        ("repository-id", "ID", "refuse any other repository at that address"),
        ("passphrase-file", "FILE", "its first line is the passphrase, or the recovery key"),
        ("cache-directory", "DIR", "keeps the index between runs"),
    ):
        _add(group, prefix + name, metavar, text)
    add_store_options(group, prefix)


def add_store_options(parser: _ActionsContainer, prefix: str = "") -> None:
    """Declare the file with a store's credentials and the like."""
    text = "a JSON object with the store's options, see docs/stores.md"
    _add(parser, prefix + "store-options", "FILE", text)


def add_new_passphrase(parser: _ActionsContainer) -> None:
    """Declare where a new passphrase comes from."""
    _add(parser, "new-passphrase-file", "FILE", "its first line is the new passphrase")


def open_repository(
    args: Namespace, prefix: str = "", *, passphrase: Secret | None = None
) -> "Repository":
    """
    Open the repository that the options name.

    :param passphrase: if it was read already.
    :raises ConfigurationError: an option is missing or wrong, or there is no repository.
    :raises WrongKey: the passphrase opens none of its keys.
    """
    # Repositories load cryptography and zstandard: not to print a help text.
    from airflow_provider_azstack.repo.repository import Repository  # noqa: PLC0415

    store = open_repository_store(args, prefix)
    return Repository.open(
        store,
        passphrase or read_passphrase(args, prefix),
        expected_id=_option(args, prefix + "repository-id"),
        cache_directory=_cache_directory(args, prefix),
    )


def open_repository_store(args: Namespace, prefix: str = "", *, create: bool = False) -> "Store":
    """
    Open the store that holds, or shall hold, the repository.

    :param create: make a missing local directory.
    """
    name = prefix + "repository"
    url = _option(args, name)
    if not url:
        raise ConfigurationError(f"which repository? Give --{name} or set {_variable(name)}")
    return open_store_at(url, _option(args, prefix + "store-options"), create=create)


def open_store_at(url: str, options_file: str = "", *, create: bool = False) -> "Store":
    """Open a store with the options that a file holds."""
    from airflow_provider_azstack.store import open_store  # noqa: PLC0415 - obstore is heavy

    return open_store(url, options=read_store_options(options_file), create=create)


def read_store_options(file: str) -> dict[str, Secret]:
    """Return the options of a store, all of which may be secret; none where there is no file."""
    options = read_json(file, "store options") if file else {}
    if not all(isinstance(value, str) for value in options.values()):
        raise ConfigurationError(f"store options {file}: values are texts")
    return {name: Secret(str(options[name])) for name in options}


def read_passphrase(args: Namespace, prefix: str = "", *, ask: Ask = getpass) -> Secret:
    """Return the passphrase: of the file, else of the environment, else asked for."""
    return _given_passphrase(args, prefix) or Secret(_typed(ask, _prompt(prefix)))


def read_new_passphrase(args: Namespace, prefix: str = "", *, ask: Ask = getpass) -> Secret:
    """Return a passphrase that nothing is locked with yet; one that is typed is asked for twice."""
    if given := _given_passphrase(args, prefix):
        return given
    typed = _typed(ask, _prompt(prefix))
    if _typed(ask, "Once more: ") != typed:
        raise ConfigurationError("these were two different passphrases")
    return Secret(typed)


def passphrase_from(file: str) -> Secret:
    """Return the first line of a file."""
    text = read_text(file, "passphrase").partition("\n")[0].removesuffix("\r")
    if not text:
        raise ConfigurationError(f"passphrase file {file} begins with an empty line")
    return Secret(text)


def read_text(file: str, what: str) -> str:
    """Return the text of a file of at most 1 MiB."""
    try:
        with Path(file).open("rb") as opened:
            return opened.read(_MAX_FILE_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise ConfigurationError(f"{what} file {file}: {reason}") from None


def read_json(file: str, what: str) -> Mapping[str, object]:
    """
    Return the JSON object that a file holds.

    :raises ConfigurationError: it cannot be read, or holds something else.
    """
    try:
        found = json.loads(read_text(file, what))
    except (ValueError, RecursionError):  # the error would quote what may be secret
        raise ConfigurationError(f"{what} file {file} is not JSON") from None
    if not isinstance(found, dict):
        raise ConfigurationError(f"{what} file {file} holds no JSON object")
    return found


def keeps(directory: Path, called: str) -> bool:
    """Tell whether an index can be kept in a directory, which is made; say why, where not."""
    try:
        if not directory.exists():
            directory.mkdir(mode=0o700, parents=True)
        with TemporaryFile(dir=directory):
            return True
    except OSError as error:
        from airflow_provider_azstack.console.present import say  # noqa: PLC0415 - loads rich

        reason = f"{directory}: {error.strerror or error}"
        say(f"[yellow]note:[/] {called} is not used, the index is read anew each time: {reason}")
        return False


def _add(parser: _ActionsContainer, name: str, metavar: str, text: str) -> None:
    variable = _variable(name)
    parser.add_argument(
        f"--{name}",
        metavar=metavar,
        default=os.environ.get(variable, ""),
        help=f"{text}; default: ${variable}",
    )


def _given_passphrase(args: Namespace, prefix: str) -> Secret | None:
    variable = _variable(prefix + "passphrase")
    if file := _option(args, prefix + "passphrase-file"):
        return passphrase_from(file)
    if text := os.environ.get(variable):
        return Secret(text)
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigurationError(
            f"no passphrase: give --{prefix}passphrase-file, or set {variable}_FILE or {variable}"
        )
    return None


def _typed(ask: Ask, prompt: str) -> str:
    try:
        return ask(prompt)
    except EOFError:
        raise ConfigurationError("no passphrase was typed") from None


def _cache_directory(args: Namespace, prefix: str) -> Path | None:
    name = prefix + "cache-directory"
    given = _option(args, name)
    return Path(given) if given and keeps(Path(given), f"--{name}") else None


def _prompt(prefix: str) -> str:
    return f"{prefix.replace('-', ' ')}passphrase: ".capitalize()


def _option(args: Namespace, name: str) -> str:
    return str(getattr(args, name.replace("-", "_")))


def _variable(name: str) -> str:
    return "AZSTACK_" + name.replace("-", "_").upper()
