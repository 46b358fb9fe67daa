"""
``airflow azstack emulator``: a stack on this machine.

Owns nothing but the hand-over: the emulator has a command line of its own.
Invariant: without the extra ``emulator`` the user is told how to install it.
"""

from argparse import Namespace

from airflow_provider_azstack.commands.console import command
from airflow_provider_azstack.errors import ConfigurationError


@command
def run_emulator(args: Namespace) -> int:
    """Run it until it is stopped."""
    try:
        from airflow_provider_azstack.emulator.__main__ import main  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigurationError(
            f"{error.name} is not installed: pip install 'airflow-provider-azstack[emulator]'"
        ) from None
    argv = ["--root", args.root, "--port", str(args.port)]
    return main([*argv, "--demo"] if args.demo else argv)
