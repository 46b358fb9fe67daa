"""A process that dies at the n-th call that changes something, on the stack or in a repository."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_azstack.arm.client import Stack
from airflow_provider_azstack.arm.disk_writer import DiskWriter
from airflow_provider_azstack.arm.storage import Storage
from airflow_provider_azstack.store.local import LocalStore

_ON_BLOBS = (
    "create_page_blob",
    "copy_page_blob",
    "number_page_blob",
    "delete_page_blob",
    "snapshot_blob",
)


class DeathError(BaseException):
    """The process is gone."""


class Mortal:
    """
    Dies at a call to Resource Manager, to the blob service, or to the repository.

    :param at: which one; never when None.
    :param after: the call had its effect.
    """

    def __init__(self, patch: pytest.MonkeyPatch, at: int | None, *, after: bool) -> None:
        self.calls = 0
        self.at, self.after = at, after
        self.is_dead = False
        self.lock = threading.Lock()
        request = Stack.request
        patch.setattr(Stack, "request", self._dying(request, lambda args: args[1] != "GET"))
        for kind, names in (
            (DiskWriter, ("write",)),
            (Storage, _ON_BLOBS),
            (LocalStore, ("put",)),
        ):
            for name in names:
                patch.setattr(kind, name, self._dying(getattr(kind, name), lambda _: True))

    def _dying(self, real: Callable[..., Any], counts: Callable[[Any], bool]) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            if self.is_dead:
                raise DeathError
            strikes = counts(args) and self._strikes()
            if strikes and not self.after:
                raise DeathError
            result = real(*args, **more)
            if strikes or self.is_dead:
                raise DeathError
            return result

        return call

    def _strikes(self) -> bool:
        with self.lock:
            self.calls += 1
            if self.at is not None and self.calls == self.at:
                self.is_dead = True
                return True
            return False
