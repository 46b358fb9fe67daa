"""
What ``airflow azstack ...`` adds to the commands: connections come from Airflow.

Owns how Airflow calls a command; what it prints and how it ends is ``console.present``'s.
Invariant: a command that fails ends this process with a state above zero.
"""

import functools
import os
import sys
from argparse import Namespace
from collections.abc import Callable

from airflow.utils.cli import suppress_logs_and_warning

from airflow_provider_azstack.console.present import guarded

Command = Callable[[Namespace], int | None]


def command(function: Command) -> Callable[[Namespace], None]:
    """Let ``function`` raise our errors and return an exit state; the user sees one line."""

    # Airflow logs to standard output, where the result is expected; --verbose shows the logs.
    @suppress_logs_and_warning
    @functools.wraps(function)
    def run(args: Namespace) -> None:
        # As `airflow connections test` does: connections come from the metadata database as well.
        os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
        if state := guarded(function, args):
            sys.exit(state)

    return run
