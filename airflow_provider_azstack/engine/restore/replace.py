"""
Put restored disks into a VM that exists, in the place of those that it has.

Owns the order of the steps, and the way back; how disks are written is not its business.
Invariants: a VM has either all of its old disks or all of the restored ones when this ends, well or
not, or the error says what to do by hand. Old disks and safety snapshots are never deleted. Every
step may be done again after a kill.

In order, for each VM: R1 note how it is. R2 stop it. R3 take a safety snapshot of every disk that
gives way; where that can be, let the stack make the new disk of it, and write what differs. Now all
disks are written, as far as they are not. R4 put in the new OS disk and take out the data disks
that give way; where the stack lets no OS disk be changed, delete the VM, which keeps disks and
interfaces, and create it again. R5 put in the new data disks. R6 start it, if it shall run. R7 note
the end.
"""

import logging
from collections.abc import Mapping
from typing import Literal

from airflow_provider_azstack.arm.compute import Compute
from airflow_provider_azstack.engine.machines import Body, cleaned, power_state, vm_key
from airflow_provider_azstack.engine.power import OFF
from airflow_provider_azstack.engine.restore import bodies, safety
from airflow_provider_azstack.engine.restore.difference import overwrite
from airflow_provider_azstack.engine.restore.disks import first_use
from airflow_provider_azstack.engine.restore.records import PlannedVm
from airflow_provider_azstack.engine.restore.safety import ReplaceNotes, Stopped
from airflow_provider_azstack.engine.restore.writing import Restore
from airflow_provider_azstack.errors import (
    AzStackError,
    ConfigurationError,
    Refused,
    SourceBusy,
    SourceError,
)

log = logging.getLogger(__name__)

_Has = Literal["old", "new", "some"]
_Entries = Mapping[str, Body | None]  # by key; None: nothing is there


def prepare(restore: Restore, vm: PlannedVm) -> None:
    """
    Stop a VM and take its safety snapshots (R1 to R3); doing it again changes nothing.

    :raises Refused: it is not what it was when the plan was made.
    :raises SourceBusy: it is being backed up.
    """
    _Replacement(restore, vm).prepare()


def check(restore: Restore, vm: PlannedVm) -> None:
    """
    Check that a VM still is what it was when the plan was made, or what became of it by the plan.

    :raises Refused: it is not.
    :raises SourceBusy: it is being backed up.
    """
    _Replacement(restore, vm).check()


def put_in(restore: Restore, vm: PlannedVm) -> None:
    """
    Give a VM its restored disks, which are complete (R4 to R7).

    :raises AzStackError: it could not be done: see :func:`give_up`.
    """
    _Replacement(restore, vm).put_in()


def give_up(restore: Restore, vm: PlannedVm) -> str:
    """
    Make up for a stop that came to nothing: old disks, and running if it ran.

    A VM that has all of its new disks keeps them.

    :returns: what the VM has now, in words; nothing when there was nothing to make up for.

    :raises SourceError: it could not be done; says what to do by hand.
    """
    return _Replacement(restore, vm).give_up()


class _Replacement:
    """One VM whose disks are replaced."""

    def __init__(self, restore: Restore, vm: PlannedVm) -> None:
        self._restore = restore
        self._vm = vm
        self._compute = Compute(restore.stack)
        self._notes = ReplaceNotes(restore.session.repository, restore.plan.id, vm.key)
        self._new: _Entries = {bodies.key_of(entry): entry for entry in vm.entries}
        self._old: _Entries = {disk.key: disk.entry or None for disk in vm.replaces}

    def check(self) -> None:
        """
        Claim the VM and look at it.

        :raises Refused: it is gone.
        """
        self._restore.session.claim(self._vm.occupant)
        body, stop = self._live(), self._notes.open()
        if body is not None:
            self._has(body)
        elif stop is None or not self._notes.is_recreated(stop):
            raise Refused(f"{self._vm.target} is gone: plan again")

    def prepare(self) -> None:
        """Do R1 to R3, unless the new disks are in already."""
        self.check()
        stop = self._stopped()
        if stop is None or self._has_all_new():
            return
        for disk in self._vm.replaces:
            if disk.place:
                self._keep_safe(stop, disk.key)
        for new in self._vm.disks:
            if new.base and (kept := self._notes.safety(stop, new.key)):
                overwrite(self._restore, self._vm, new, kept)

    def put_in(self) -> None:
        """Do R4 to R7."""
        self.prepare()
        stop = self._notes.open()
        if stop is None:
            return  # an earlier try did it all
        self._put_in(stop)
        self._settle(stop, runs=self._vm.power_on)
        self._restore.tell(f"{self._vm.name}: {self._vm.target} has its restored disks")

    def give_up(self) -> str:
        """Do the way back, from wherever it stopped."""
        stop = self._notes.open()
        if stop is None:
            return ""
        self._restore.session.claim(self._vm.occupant)
        if self._has_all_new():
            self._settle(stop, runs=self._vm.power_on)
            return f"{self._vm.target} has its restored disks"
        try:
            self._go_back(stop)
        except AzStackError as error:
            raise self._stuck(error) from error
        return f"{self._vm.target} has its old disks" + " and runs" * stop.was_running

    # R1 to R3

    def _stopped(self) -> Stopped | None:
        """Return the stop to go on with, having seen to it that the VM is stopped."""
        body, stop = self._live(), self._notes.open()
        if body is None:
            return stop  # it is being created again
        has = self._has(body)
        if has == "new":
            return stop
        is_off = power_state(body) in OFF
        if stop is not None and has == "old" and not is_off:
            self._notes.end(stop)  # it ran meanwhile: what was saved then is not what it holds now
            stop = None
        if stop is None:
            if has != "old":
                raise Refused(f"{self._vm.target} has some of its disks only: plan again")
            stop = self._notes.begin(cleaned(body), was_running=not is_off)  # R1
        if power_state(body) != "deallocated":
            self._restore.session.check()
            self._restore.tell(f"{self._vm.name}: stopping {self._vm.target}")
            self._compute.deallocate(self._vm.target)  # R2
        return stop

    def _keep_safe(self, stop: Stopped, key: str) -> None:
        kept = self._notes.safety(stop, key)
        stack, accounts = self._restore.stack, self._restore.accounts
        if kept is not None and safety.is_there(stack, accounts, kept):
            return
        disk = next(disk for disk in self._vm.replaces if disk.key == key)
        made = safety.take(stack, accounts, self._vm, disk, stop)  # R3
        self._notes.keep(stop, made)
        self._restore.tell(f"{self._vm.name} {key}: safety snapshot {made.id} {made.blob_snapshot}")

    def _live(self) -> Body | None:
        """Return the VM as it is, which must be the one of the plan, or what became of it."""
        body = self._restore.stack.find(self._vm.target, **{"$expand": "instanceView"})
        if body is None or vm_key(body) == self._vm.occupant:
            return body
        last = self._notes.last()
        if last is None or not self._notes.is_recreated(last):
            raise Refused(f"{self._vm.target} is another VM than it was: plan again")
        return body

    def _has(self, body: Body) -> _Has:
        """Tell which disks the VM has in the places that are replaced."""
        now = bodies.entries_of(body)
        found = set()
        for key in self._new:
            place = bodies.place_of(now.get(key))
            old, new = bodies.place_of(self._old.get(key)), bodies.place_of(self._new[key])
            if place not in {old, new, ""}:
                raise Refused(
                    f"{key} of {self._vm.target} is {place} now, which the plan does not know: "
                    "plan again"
                )
            found.add("new" if place == new else "old" if place == old else "some")
        return "some" if len(found) > 1 else found.pop()  # type: ignore[return-value]

    def _has_all_new(self) -> bool:
        body = self._live()
        return body is not None and self._has(body) == "new"

    # R4 to R7

    def _put_in(self, stop: Stopped) -> None:
        body = self._live()
        if body is None:
            self._create(stop, self._new)
            return
        attached = {bodies.place_of(entry) for entry in bodies.entries_of(body).values()}
        for disk in self._vm.disks:
            if disk.id.lower() not in attached:
                first_use(self._restore, self._vm, disk)
        if self._has(body) == "new":
            return
        try:
            self._exchange(self._new)
        except (SourceBusy, ConfigurationError) as error:
            if not (self._vm.may_recreate and _is_no_change(error)):
                raise
            log.warning("%s: %s: it is deleted, and created again", self._vm.target, error)
            self._notes.recreate(stop)
            self._compute.delete_vm(self._vm.target)
            self._create(stop, self._new)

    def _exchange(self, wanted: _Entries) -> None:
        """Let the VM have these disks: data disks go before others take their LUNs."""
        body = self._compute.vm(self._vm.target)
        now = bodies.entries_of(body)
        os_entry = bodies.os_entry_like(now["os"], wanted.get("os") or now["os"])
        kept = {
            key: entry
            for key, entry in now.items()
            if key != "os" and bodies.place_of(entry) == bodies.place_of(wanted.get(key, entry))
        }
        if bodies.place_of(os_entry) != bodies.place_of(now["os"]) or len(kept) < len(now) - 1:
            self._put(bodies.with_storage(body, os_entry, kept.values()))  # R4
        missing = [
            bodies.attached(entry)
            for key, entry in wanted.items()
            if entry and key != "os" and key not in kept
        ]
        if missing:
            self._put(bodies.with_storage(body, os_entry, [*kept.values(), *missing]))  # R5

    def _create(self, stop: Stopped, wanted: _Entries) -> None:
        """Create the VM again as it was, from these disks."""
        entries = {**bodies.entries_of(stop.body), **wanted}
        found = [bodies.attached(entry) for entry in entries.values() if entry]
        self._put(bodies.again(stop.body, found, self._restore.plan.id))

    def _put(self, body: Body) -> None:
        self._restore.session.check()
        self._restore.stack.put(self._vm.target, body)

    def _settle(self, stop: Stopped, *, runs: bool) -> None:
        """Start or stop the VM (R6), and note the end (R7)."""
        self._restore.session.check()
        is_off = power_state(self._compute.vm(self._vm.target, instance_view=True)) in OFF
        if runs and is_off:
            try:
                self._compute.start(self._vm.target)
            except AzStackError as error:
                raise SourceError(
                    f"{self._vm.target} has the right disks and did not start ({error}): start it"
                ) from error
        elif not runs and not is_off:
            self._compute.deallocate(self._vm.target)
        self._end_access(stop)
        self._notes.end(stop)

    def _end_access(self, stop: Stopped) -> None:
        """End the access to snapshots that a killed comparison may have left."""
        repository = self._restore.session.repository
        for disk in self._vm.disks:
            kept = self._notes.safety(stop, disk.key) if disk.base else None
            if kept is None or kept.blob_snapshot:
                continue
            for place in (kept.id, repository.image(disk.base).snapshot.id):
                try:
                    self._compute.revoke(place)
                except AzStackError as error:
                    log.warning("access to %s is left to end by itself: %s", place, error)

    # The way back

    def _go_back(self, stop: Stopped) -> None:
        body = self._live()
        if body is None:
            self._create(stop, self._old)
        elif self._has(body) != "old":
            self._exchange(self._old)
        self._settle(stop, runs=stop.was_running)

    def _stuck(self, error: AzStackError) -> SourceError:
        disks = ", ".join(f"{disk.key}: {disk.place or 'none'}" for disk in self._vm.replaces)
        return SourceError(
            f"{self._vm.target} could not be put back as it was ({error}): run this restore again, "
            f"or with --discard; by hand, attach {disks}, and start it"
        )


def _is_no_change(error: AzStackError) -> bool:
    """Tell whether the stack says that this cannot be changed of a VM, ever."""
    return "changing property" in str(error).lower()
