"""
Policies (what to back up, and how) and trigger configs (what of it, this time).

Owns their shape, their matching rules and the schema fragments of the trigger form; knows neither
ARM nor Airflow. Invariant: a trigger config only ever narrows a policy, and nothing in either that
is not plain ASCII names and patterns gets past here.
"""

import re
from collections.abc import Mapping
from fnmatch import translate
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import msgspec
import pendulum
from msgspec import Meta

from airflow_provider_azstack.config import (
    GIB,
    MEGABYTE,
    ConnectionId,
    HostName,
    Megabytes,
)
from airflow_provider_azstack.documents import read_document
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.model import (
    WITHIN_PATTERN,
    Compression,
    Consistency,
    Mode,
    Record,
    Retention,
)
from airflow_provider_azstack.wording import one_line

R = TypeVar("R", bound=Record)

# Names of the stack are letters, digits and a little punctuation. Look-alikes from other alphabets,
# paths, templates and options are refused rather than looked up. `$(?!\n)`: see `config`.
PolicyName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$(?!\n)")]
SubscriptionId = Annotated[
    str, Meta(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$(?!\n)")
]
GroupName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_(][A-Za-z0-9_().-]{0,89}$(?!\n)")]
VmPattern = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_*?][A-Za-z0-9_.*?-]{0,79}$(?!\n)")]
_DISK = r"^[A-Za-z0-9_*?][A-Za-z0-9_.*?-]{0,79}/[A-Za-z0-9_*?][A-Za-z0-9_.*?-]{0,79}$(?!\n)"
DiskPattern = Annotated[str, Meta(pattern=_DISK)]
TagName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9 _.:@+=()-]{0,127}$(?!\n)")]
TagPattern = Annotated[
    str, Meta(pattern=r"^([A-Za-z0-9_*?@+(][A-Za-z0-9 _.:@+=()*?,-]{0,255})?$(?!\n)")
]
MAX_NAMES = 1000
# Words of Airflow's that cron has not.
_NOT_CRON = {"@once", "@continuous", "@quarterly"}
# A clock's time or a span. YAML takes 22:00 without quotes for a number.
_WINDOW_END = (
    r"^(([01][0-9]|2[0-3]):[0-5][0-9]|[1-9][0-9]{0,2}h([1-5]?[0-9]m)?|[1-9][0-9]{0,3}m)$(?!\n)"
)
WindowEnd = Annotated[str, Meta(pattern=_WINDOW_END)]


def pattern_of(kind: Any) -> str:
    """Return the pattern that texts of this kind must have."""
    return str(get_args(kind)[1].pattern)


# What to say in place of patterns.
IN_WORDS = {
    pattern_of(PolicyName): "a name of small letters, digits, '.', '_' and '-'",
    pattern_of(SubscriptionId): "a subscription's id, as 11111111-2222-3333-4444-555555555555",
    pattern_of(GroupName): "a resource group's name",
    pattern_of(VmPattern): "a VM's name, or a pattern such as web-*",
    pattern_of(TagName): "a tag's name",
    pattern_of(TagPattern): "a tag's value, or a pattern",
    _WINDOW_END: 'a time in quotes such as "06:00", or a span such as 8h, 7h30m or 90m',
    _DISK: "vm/disk, each a name or a pattern",
    WITHIN_PATTERN: "a time such as 14d or 1y6m",
}


class Selection(Record, frozen=True, kw_only=True):
    """Which VMs: all conditions hold, each by any one of its names. Nothing named is everything."""

    subscriptions: Annotated[tuple[SubscriptionId, ...], Meta(max_length=100)] = ()
    resource_groups: Annotated[tuple[GroupName, ...], Meta(max_length=MAX_NAMES)] = ()
    vms: Annotated[tuple[VmPattern, ...], Meta(max_length=MAX_NAMES)] = ()
    tags: Annotated[dict[TagName, TagPattern], Meta(max_length=50)] = {}  # noqa: RUF012 - msgspec copies it

    def matches(self, *, name: str, resource_group: str, tags: Mapping[str, str]) -> bool:
        """Tell whether a VM of these names and tags is meant. Case does not count, as in ARM."""
        groups = {group.lower() for group in self.resource_groups}
        return (
            (not groups or resource_group.lower() in groups)
            and (not self.vms or any(is_like(name, pattern) for pattern in self.vms))
            and has_tags(tags, self.tags)
        )


class Exclude(Record, frozen=True, kw_only=True):
    """What is left out of the selection: whole VMs, or single disks as ``vm/disk``."""

    vms: Annotated[tuple[VmPattern, ...], Meta(max_length=MAX_NAMES)] = ()
    disks: Annotated[tuple[DiskPattern, ...], Meta(max_length=MAX_NAMES)] = ()

    def leaves_out_vm(self, name: str) -> bool:
        """Tell whether the VM of this name is left out."""
        return any(is_like(name, pattern) for pattern in self.vms)

    def leaves_out_disk(self, vm_name: str, disk_key: str, disk_name: str) -> bool:
        """Tell whether a disk is left out, called by its key (``data-3``) or by its name."""
        for pattern in self.disks:
            vm, _, disk = pattern.partition("/")
            if is_like(vm_name, vm) and (is_like(disk_key, disk) or is_like(disk_name, disk)):
                return True
        return False


class Policy(Record, frozen=True, kw_only=True):
    """What to back up, and how."""

    name: PolicyName
    # A cron expression or one of Airflow's words; without one the DAG runs when it is triggered.
    schedule: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    # Of the schedule: one o'clock at night is the operator's night, summer time included.
    timezone: Annotated[str, Meta(min_length=1, max_length=64)] = "UTC"
    stack_conn_id: ConnectionId | None = None
    repository_conn_id: ConnectionId | None = None
    selection: Selection = Selection()
    exclude: Exclude = Exclude()
    consistency: Consistency = "crash"
    mode: Mode = "incremental"
    compression: Compression = "standard"
    hosts: Annotated[tuple[HostName, ...], Meta(max_length=200)] = ()
    snapshot_resource_group: GroupName | None = None
    batch_gib: Annotated[int, Meta(ge=1, le=65536)] = 64
    # The backup window, by the clock of `timezone`: when no VM is begun any more, and when those
    # that run are stopped.
    stop_starting_after: WindowEnd | None = None
    stop_running_after: WindowEnd | None = None
    # Over all backup hosts: each gets a share by its streams.
    limit_mb_per_second: Megabytes | None = None
    retention: Retention = Retention()
    # For policies by tag whose VMs come and go: finding none is then nothing to do, not an error.
    may_be_empty: bool = False

    def within(self, subscription: str) -> "Policy":
        """Return the policy for one subscription, unless it names some itself."""
        if self.selection.subscriptions or not subscription:
            return self
        selection = msgspec.structs.replace(self.selection, subscriptions=(subscription,))
        return msgspec.structs.replace(self, selection=selection)

    @property
    def batch_bytes(self) -> int:
        """How much several small VMs may come to before they make two workloads."""
        return self.batch_gib * GIB

    @property
    def limit_bytes(self) -> int | None:
        """Bytes a second that a job may move over all its hosts; None: no limit."""
        return self.limit_mb_per_second and self.limit_mb_per_second * MEGABYTE


class TriggerConf(Record, frozen=True, kw_only=True):
    """What a trigger asks for: a part of the policy, this time."""

    vms: Annotated[
        tuple[VmPattern, ...],
        Meta(
            max_length=MAX_NAMES,
            title="Virtual machines",
            description="Names or patterns (`web-*`), one a line. None: every VM of the policy.",
        ),
    ] = ()
    resource_groups: Annotated[
        tuple[GroupName, ...],
        Meta(
            max_length=MAX_NAMES,
            title="Resource groups",
            description="Names, one a line. None: every resource group of the policy.",
        ),
    ] = ()
    tags: Annotated[
        dict[TagName, TagPattern],
        Meta(
            max_length=50,
            title="Tags",
            description='Only VMs that carry all of these, such as `{"tier": "gold"}`.',
        ),
    ] = {}  # noqa: RUF012 - msgspec copies it
    mode: Annotated[
        Mode | None,
        Meta(
            title="Mode",
            description="`incremental` reads what changed, `full` reads every allocated range. "
            "None: as the policy says.",
        ),
    ] = None
    compression: Annotated[
        Compression | None,
        Meta(
            title="Compression",
            description="`fast` costs less CPU, `small` stores fewer bytes. "
            "None: as the policy says.",
        ),
    ] = None
    hosts: Annotated[
        tuple[HostName, ...],
        Meta(
            max_length=200,
            title="Backup hosts",
            description="Only these of the policy's hosts. None: all of them.",
        ),
    ] = ()

    @property
    def narrows(self) -> bool:
        """Tell whether fewer VMs are asked for than the policy selects."""
        return bool(self.vms or self.resource_groups or self.tags)

    def matches(self, *, name: str, resource_group: str, tags: Mapping[str, str]) -> bool:
        """Tell whether a VM that the policy selects is asked for."""
        asked = Selection(vms=self.vms, resource_groups=self.resource_groups, tags=self.tags)
        return asked.matches(name=name, resource_group=resource_group, tags=tags)


def load_policy(source: Policy | str | Path | Mapping[str, Any]) -> Policy:
    """
    Read a policy from a YAML file, or take it from a DAG file, as a mapping or as what it is.

    :raises ConfigurationError: it is not a policy; the message names the file and the key.
    """
    if isinstance(source, Policy):
        return _checked(source, f"policy {source.name}")
    if isinstance(source, Mapping):
        return _checked(_convert(dict(source), Policy, "policy"), "policy")
    file = Path(source)
    value = read_document(file, "give the path of a policy file")
    return _checked(_convert(value, Policy, str(file)), str(file))


def _checked(policy: Policy, what: str) -> Policy:
    """Return the policy, of which types do not say all."""
    try:
        pendulum.timezone(policy.timezone)
    except (ValueError, OSError):
        raise ConfigurationError(
            f"{what}: timezone: {policy.timezone!r} is none: give a name such as Europe/Berlin"
        ) from None
    if policy.schedule is not None:
        _check_schedule(policy.schedule, what)
    return policy


def _check_schedule(schedule: str, what: str) -> None:
    """Refuse what Airflow would refuse later, or never find a time for, not saying whose it is."""
    if schedule in _NOT_CRON:
        return
    # What Airflow itself reads cron by; tasks and the console need no schedule.
    from croniter import croniter  # noqa: PLC0415

    try:
        croniter(schedule).get_next()
    except ValueError as error:
        raise ConfigurationError(
            f"{what}: schedule: {schedule!r} is none ({one_line(error)}): write cron text such as "
            "'0 1 * * *', or a word of Airflow's such as @daily"
        ) from None


def read_trigger(conf: object) -> TriggerConf:
    """
    Read a trigger's config; keys that are there with ``None`` count as absent, as do blank lines.

    :raises ConfigurationError: a key is unknown or a value is not what it must be, by name.
    """
    if conf is None:
        return TriggerConf()
    if not isinstance(conf, Mapping):
        raise ConfigurationError("the trigger's config must be a JSON object, {...}")
    given = {key: _without_blanks(value) for key, value in conf.items() if value is not None}
    return _convert(given, TriggerConf, "the trigger's config")


def _without_blanks(value: object) -> object:
    """Drop what a form makes of blank lines; nothing but blanks stays, and is refused."""
    names = isinstance(value, list | tuple) and [name for name in value if name != ""]
    return names or value


def read_retention(value: Mapping[str, Any]) -> Retention:
    """
    Read a retention rule.

    :raises ConfigurationError: a key is unknown or a value is not what it must be, by name.
    """
    return _convert(dict(value), Retention, "retention")


def trigger_params() -> dict[str, dict[str, Any]]:
    """Return, for every key of a trigger config, its JSON schema with title, text and default."""
    schema = msgspec.json.schema(TriggerConf)["$defs"]["TriggerConf"]["properties"]
    return {key: _form_field(fragment) for key, fragment in schema.items()}


def is_like(text: str, pattern: str) -> bool:
    """Tell whether ``text`` fits ``pattern``: ``*`` is anything, ``?`` one character, no case."""
    return _compiled(pattern.lower()).match(text.lower()) is not None


def has_tags(tags: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Tell whether every wanted tag is there. Tag names have no case in ARM, values do."""
    if not wanted:
        return True
    found = {name.lower(): value for name, value in tags.items()}
    return all(
        name.lower() in found and _compiled(pattern).match(found[name.lower()])
        for name, pattern in wanted.items()
    )


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern))


def _convert(value: object, kind: type[R], what: str) -> R:
    if not isinstance(value, dict):
        raise ConfigurationError(f"{what}: must be keys and values")
    try:
        return msgspec.convert(value, type=kind)
    except msgspec.ValidationError as error:
        said = one_line(error, kind, IN_WORDS)
        quotes = ": put it in quotes" if "got `int`" in said and "$.stop_" in said else ""
        raise ConfigurationError(
            f"{what}: {said}{quotes}; docs/configuration.md lists the keys"
        ) from None
    except RecursionError:
        raise ConfigurationError(f"{what}: nested too deeply") from None


def _form_field(fragment: dict[str, Any]) -> dict[str, Any]:
    """Put a schema fragment into the form that a trigger form draws best."""
    if "items" in fragment or "additionalProperties" in fragment:
        # A form gives null for a field that was emptied, and "" for a blank line.
        fragment = {**fragment, "type": [fragment["type"], "null"]}
        if items := fragment.get("items"):
            fragment["items"] = {**items, "pattern": f"^(?!\\n)$|{items['pattern']}"}
    if "anyOf" in fragment:  # an optional choice: a list of values, and none of them
        choices = [value for part in fragment["anyOf"] for value in part.get("enum", [None])]
        rest = {key: value for key, value in fragment.items() if key != "anyOf"}
        return {**rest, "type": ["string", "null"], "enum": choices}
    return fragment
