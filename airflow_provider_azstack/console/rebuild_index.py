"""
``azstack rebuild-index``: make the index again from what the packs say of themselves.

Owns nothing but the form of the result.
Invariant: the old index serves until the new one is complete.
"""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from airflow_provider_azstack.console.arguments import add_output, add_repository, open_repository
from airflow_provider_azstack.console.present import DONE, PARTLY, say, show_one
from airflow_provider_azstack.speed import counted

if TYPE_CHECKING:
    from airflow_provider_azstack.repo.repository import Repository


def add(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    add_repository(parser)
    add_output(parser)


def run(args: Namespace) -> int:
    """Rebuild; the state is 1 when packs were found damaged."""
    return rebuild(open_repository(args), args.output)


def rebuild(repository: "Repository", output: str) -> int:
    """Rebuild the index of a repository and print what was found."""
    rebuilt = repository.rebuild_index()
    show_one(rebuilt._asdict(), output)
    if not (rebuilt.packs or rebuilt.damaged or rebuilt.unreadable):
        say("the index was complete: every pack is in it")
    if rebuilt.damaged:
        damaged = counted(len(rebuilt.damaged), "pack")
        say(f"[yellow]damaged:[/] {damaged}; 'azstack verify --full' names more")
        return PARTLY
    return DONE
