"""
What a user asks a restore for: which VMs, from when, where to, and what shall be different.

Owns the request's shape, its rules of mapping, and every refusal that needs neither stack nor
repository; knows nothing of what is there. Loads nothing heavy: DAG files draw a form of it.
Invariant: a ``RestoreRequest`` that exists asks for nothing contradictory, and what is wrong with
one is refused by name.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from airflow_provider_azstack.documents import read_document
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.model import DiskKey, DiskKind, Moment, Record
from airflow_provider_azstack.policy import (
    IN_WORDS,
    GroupName,
    SubscriptionId,
    TagName,
    pattern_of,
)
from airflow_provider_azstack.wording import one_line

LATEST = "latest"
SAME, NONE, NEW, DYNAMIC = "same", "none", "new", "dynamic"
RestoreMode = Literal["original", "alternate", "disks"]

# `$(?!\n)`: see `config`. No look-alikes, templates, options or ways up: refused, not looked up.
_IN_PATHS = r"[A-Za-z0-9_().-]"
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}$(?!\n)")]
Reference = Annotated[
    str,
    Meta(
        pattern=rf"^(?!-)(?!.*\.\.)(/?{_IN_PATHS}+)(/{_IN_PATHS}+){{0,20}}$(?!\n)", max_length=1024
    ),
]
_IN_RULES = r"[A-Za-z0-9_().*-]"
Rule = Annotated[
    str,
    Meta(
        pattern=rf"^(?!-)(?!.*\.\.)(/?{_IN_RULES}+)(/{_IN_RULES}+){{0,20}}$(?!\n)", max_length=1024
    ),
]
Rules = Annotated[dict[Rule, Rule], Meta(max_length=500)]
PointId = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,127}$(?!\n)")]
VmSize = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$(?!\n)")]
Sku = Literal["Standard_LRS", "Premium_LRS"]
AccountName = Annotated[str, Meta(pattern=r"^[a-z0-9]{3,24}$(?!\n)")]
PrivateAddress = Annotated[str, Meta(pattern=r"^(same|dynamic|[0-9]{1,3}(\.[0-9]{1,3}){3})$(?!\n)")]
TagValue = Annotated[str, Meta(max_length=256)]

_IN_WORDS = {
    **IN_WORDS,
    pattern_of(Name): "a name of letters, digits, '.', '_' and '-'",
    pattern_of(Reference): "a name, or an id",
    pattern_of(Rule): "a name or an id, with * for what may differ",
    pattern_of(PointId): "latest, or a restore point's id",
    pattern_of(VmSize): "a size such as Standard_DS2_v2",
    pattern_of(AccountName): "a storage account's name, of 3 to 24 small letters and digits",
    pattern_of(PrivateAddress): "an address such as 10.0.0.4, dynamic, or same",
    pattern_of(DiskKey): "os, or data- and a LUN, such as data-0",
}


class NicChange(Record, frozen=True, kw_only=True):
    """What shall be different of one network interface."""

    subnet: Annotated[Reference, Meta(description="Id, net/subnet or group/net/subnet.")] | None = (
        None
    )
    security_group: (
        Annotated[Reference, Meta(description="Id, name or group/name; none for none.")] | None
    ) = None
    private_address: (
        Annotated[
            PrivateAddress, Meta(description="dynamic, same, or an address, which is static then.")
        ]
        | None
    ) = None
    public_address: (
        Annotated[
            Reference,
            Meta(description="none, new, or id, name or group/name of one that is there."),
        ]
        | None
    ) = None


class DiskChange(Record, frozen=True, kw_only=True):
    """What shall be different of one disk."""

    name: Name | None = None
    sku: Sku | None = None
    skip: Annotated[bool, Meta(description="Leave this disk out.")] = False


class Change(Record, frozen=True, kw_only=True):
    """What shall be different of one VM."""

    name: Name | None = None
    size: VmSize | None = None
    resource_group: GroupName | None = None
    availability_set: (
        Annotated[Reference, Meta(description="A name in the VM's group; same, or none.")] | None
    ) = None
    tags: Annotated[
        dict[TagName, TagValue | None],
        Meta(max_length=50, description="Go on top of the tags it had; null takes one away."),
    ] = {}  # noqa: RUF012 - msgspec copies it
    nics: Annotated[
        dict[Name, NicChange], Meta(max_length=50, description="By the interface's old name.")
    ] = {}  # noqa: RUF012 - msgspec copies it
    disks: Annotated[
        dict[DiskKey, DiskChange], Meta(max_length=70, description="By key: os, data-0, data-1...")
    ] = {}  # noqa: RUF012 - msgspec copies it
    power_on: bool | None = None
    attach_to: (
        Annotated[Reference, Meta(description="Mode disks: id, name or group/name of a VM.")] | None
    ) = None


class MappingRules(Record, frozen=True, kw_only=True):
    """Rules for many VMs, as ``rg-*: dr-*``: the first that fits what was says what will be."""

    names: Rules = {}  # noqa: RUF012 - msgspec copies it
    resource_groups: Rules = {}  # noqa: RUF012 - msgspec copies it
    subnets: Rules = {}  # noqa: RUF012 - msgspec copies it
    security_groups: Rules = {}  # noqa: RUF012 - msgspec copies it
    sizes: Rules = {}  # noqa: RUF012 - msgspec copies it


class RestoreRequest(Record, frozen=True, kw_only=True):
    """What to restore, from when, where to, and what shall be different."""

    vms: Annotated[
        tuple[Reference, ...],
        Meta(
            min_length=1,
            max_length=200,
            title="Virtual machines",
            description="What they were called when they were backed up: names, keys or ids.",
        ),
    ]
    mode: Annotated[
        RestoreMode,
        Meta(
            title="Mode",
            description=(
                "original: same names, same place, over something that exists only with Replace. "
                "alternate: another name, group, network... disks: disks only."
            ),
        ),
    ]
    point: Annotated[
        PointId,
        Meta(title="Restore point", description="`latest`, or the id of one VM's restore point."),
    ] = LATEST
    at: (
        Annotated[
            Moment,
            Meta(title="At or before", description="Instead: the newest one up to this time."),
        ]
        | None
    ) = None
    resource_group: (
        Annotated[
            GroupName,
            Meta(title="Resource group", description="Where to, unless rules or changes say more."),
        ]
        | None
    ) = None
    subscription_id: (
        Annotated[SubscriptionId, Meta(title="Subscription", description="Where to.")] | None
    ) = None
    location: (
        Annotated[Name, Meta(title="Location", description="Default: the VM's own.")] | None
    ) = None
    disk_kind: (
        Annotated[
            DiskKind, Meta(title="Kind of disks", description="Default: the kind that they were.")
        ]
        | None
    ) = None
    storage_account: (
        Annotated[
            AccountName,
            Meta(
                title="Storage account",
                description="For unmanaged disks; and for staging, where the stack takes no direct "
                "uploads to managed ones.",
            ),
        ]
        | None
    ) = None
    map: Annotated[
        MappingRules,
        Meta(
            title="Mapping rules",
            description='For many VMs, such as `{"resource_groups": {"rg-*": "dr-*"}}`. Rules are '
            "for names, resource_groups, subnets, security_groups, sizes.",
        ),
    ] = MappingRules()
    changes: Annotated[
        dict[Reference, Change],
        Meta(
            max_length=200,
            title="Changes",
            description='By VM, such as `{"web-01": {"name": "web-01-dr"}}`. Of each may differ: '
            "name, size, resource_group, availability_set, tags, nics, disks, power_on, attach_to.",
        ),
    ] = {}  # noqa: RUF012 - msgspec copies it
    power_on: Annotated[bool, Meta(title="Power on", description="Leave restored VMs running.")] = (
        False
    )
    extensions: Annotated[
        bool,
        Meta(title="Extensions", description="Install its extensions: they run code in the guest."),
    ] = False
    identity: Annotated[
        bool, Meta(title="Identity", description="Give it a managed identity as it had one.")
    ] = False
    verify: Annotated[
        bool, Meta(title="Verify", description="Read every disk back before it is used.")
    ] = False
    replace: Annotated[
        bool,
        Meta(
            title="Replace",
            description="Mode `original`: take the disks of a VM that exists out and put the "
            "restored ones in. Safety snapshots are taken first; the old disks are kept.",
        ),
    ] = False
    salvage: Annotated[
        bool,
        Meta(
            title="Salvage",
            description="Write zeros where the repository is damaged, and list the places.",
        ),
    ] = False

    def change(self, vm: str) -> Change:
        """Return what shall be different of the VM that ``vms`` calls so."""
        return self.changes.get(vm) or Change()


def read_request(value: object, what: str = "the restore request") -> RestoreRequest:
    """
    Read a request from plain values; keys with ``None`` count as absent, as do blank lines.

    :raises ConfigurationError: a key is unknown, or a value is not what it must be, by name.
    """
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{what}: must be keys and values")
    known = RestoreRequest.__struct_fields__
    given = {
        key: _without_blanks(one)
        for key, one in value.items()
        if one is not None or key not in known
    }
    try:
        request = msgspec.convert(given, type=RestoreRequest)
    except msgspec.ValidationError as error:
        said = _not_filled_in(given, str(error)) or one_line(error, RestoreRequest, _IN_WORDS)
        raise ConfigurationError(f"{what}: {said}; docs/restore.md lists the keys") from None
    except RecursionError:
        raise ConfigurationError(f"{what}: nested too deeply") from None
    if wrong := "; ".join(_contradictions(request)):
        raise ConfigurationError(f"{what}: {wrong}")
    return request


def _not_filled_in(given: Mapping[str, object], error: str) -> str:
    """Return what must be given and is not; "" if the error is about something else."""
    if not ("missing required field" in error or error.endswith("of length >= 1 - at `$.vms`")):
        return ""
    needed = {
        "vms": "vms: name at least one VM",
        "mode": "mode: choose original, alternate or disks",
    }
    return "; ".join(said for key, said in needed.items() if not given.get(key))


def _without_blanks(value: object) -> object:
    """Drop what a form makes of blank lines."""
    return [one for one in value if one != ""] if isinstance(value, list | tuple) else value


def load_request(file: Path) -> RestoreRequest:
    """
    Read a request from a YAML or JSON file.

    :raises ConfigurationError: it cannot be read, or is no such request.
    """
    return read_request(read_document(file, "give the path of a restore request"), str(file))


def mapped(rules: Mapping[str, str], candidates: Iterable[str]) -> str | None:
    """
    Return what the first rule that fits says, or None.

    :param candidates: what the same thing may be called; case does not count, as in ARM.
    """
    names = list(candidates)
    for pattern, target in rules.items():
        expression = "(.*)".join(re.escape(part) for part in pattern.split("*"))
        for name in names:
            if match := re.fullmatch(expression, name, re.IGNORECASE):
                fills = iter(match.groups())
                return re.sub(r"\*", lambda _: next(fills, ""), target)  # noqa: B023 - called at once
    return None


def _contradictions(request: RestoreRequest) -> Iterator[str]:
    if request.at and request.point != LATEST:
        yield "point and at: give one of them"
    if request.point != LATEST and len(request.vms) > 1:
        yield "point: an id is one VM's: restore the others with `at`, or by themselves"
    if len({vm.lower() for vm in request.vms}) < len(request.vms):
        yield "vms: one is there twice"
    for vm in sorted(set(request.changes) - set(request.vms)):
        yield f"changes: {vm[:80]!r} is not among vms"
    for vm, change in request.changes.items():
        yield from (f"changes, {vm[:80]!r}: {wrong}" for wrong in _misplaced(request, change))
    yield from _never_replaced(request)
    if request.mode == "original":
        yield from _elsewhere(request)


def _elsewhere(request: RestoreRequest) -> Iterator[str]:
    for key in ("resource_group", "subscription_id", "location", "disk_kind"):
        if getattr(request, key) is not None:
            yield f"{key}: mode original restores in place: use mode alternate"
    if request.map != MappingRules():
        yield "map: mode original restores in place: use mode alternate"


def _never_replaced(request: RestoreRequest) -> Iterator[str]:
    if not request.replace:
        return
    if request.mode != "original":
        yield f"replace: mode {request.mode} never touches what exists: use mode original"
    for key in ("extensions", "identity"):
        if getattr(request, key):
            yield f"{key}: with replace a VM keeps what it has but its disks"
    for vm, change in request.changes.items():
        for key in ("size", "availability_set", "tags", "nics"):
            if getattr(change, key):
                yield f"changes, {vm[:80]!r}: {key}: with replace a VM keeps what it has but disks"


def _misplaced(request: RestoreRequest, change: Change) -> Iterator[str]:
    mode = request.mode
    if mode == "original":
        for key in ("name", "resource_group"):
            if getattr(change, key) is not None:
                yield f"{key}: mode original restores in place: use mode alternate"
        if any(disk.name for disk in change.disks.values()):
            yield "disks: mode original keeps their names: use mode alternate"
    if mode == "disks":
        for key in ("name", "size", "availability_set", "nics", "power_on"):
            if getattr(change, key):
                yield f"{key}: mode disks restores no VM: use mode alternate"
    elif change.attach_to:
        yield "attach_to: only disks are attached: use mode disks"
    elif "os" in change.disks and change.disks["os"].skip and not request.replace:
        yield "disks: a VM needs its os disk: use mode disks to restore the others"
