"""
Deleting what a collector decided on.

Owns the deletions themselves, many at once, and what cannot go yet; knows not why anything goes.
Invariant: what the store does not let go, and what must not go before that, is returned and told.
"""

from collections.abc import Callable, Collection, Mapping

from airflow_provider_azstack.errors import ObjectHeld, ObjectNotFound
from airflow_provider_azstack.repo.parallel import in_parallel
from airflow_provider_azstack.repo.prune import litter
from airflow_provider_azstack.repo.prune.report import Action
from airflow_provider_azstack.store.base import Store

Say = Callable[[Action, str, int, str], None]  # the action, the object, its size in bytes, and why


class Deleter:
    """Deletes objects of a store."""

    def __init__(self, store: Store, threads: int, say: Say) -> None:
        self._store = store
        self._threads = threads
        self._say = say

    def packs(self, names: Collection[str], sizes: Mapping[str, int]) -> set[str]:
        """
        Delete packs, and return those that the store did not let go.

        :param sizes: of packs that are listed, in bytes. What is not listed is deleted as well:
            the record that condemned a pack must not go before it.
        """
        return self._each(names, "nothing needs it", sizes)

    def objects(self, names: Collection[str]) -> set[str]:
        """Delete other objects in the order in which they must go; return those that are there."""
        first, others = litter.in_order(names)
        held = self._each(first, "nothing refers to it")
        stuck = {litter.group(name) for name in held}
        waiting = {name for name in others if litter.group(name) in stuck}
        for name in sorted(waiting):
            self._say("held", name, 0, "what must go before it is held")
        return held | waiting | self._each({*others} - waiting, "nothing refers to it")

    def one(self, name: str) -> str:
        """Delete an object; return why the store does not let it go, if so."""
        try:
            self._store.delete(name)
        except ObjectNotFound:
            return ""
        except ObjectHeld as error:
            until = f"held until {error.until:%Y-%m-%d %H:%M} UTC" if error.until else "held"
            return f"{until}: {error}"
        return ""

    def _each(
        self, names: Collection[str], because: str, sizes: Mapping[str, int] | None = None
    ) -> set[str]:
        held, order = set(), sorted(names)
        for name, why in zip(order, in_parallel(self.one, order, self._threads), strict=True):
            size_bytes = sizes.get(name, 0) if sizes else 0
            self._say("held" if why else "delete", name, size_bytes, why or because)
            if why:
                held.add(name)
        return held
