"""
The stack's memory: resources, blobs, grants, tokens, long operations, and how the stack behaves.

Owns what exists; knows neither requests nor sockets.
Invariant: resources are found by id in any case, and keep the case they were created with.
"""

import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from airflow_provider_azstack.emulator.faults import Faults
from airflow_provider_azstack.emulator.http import Json, Problem
from airflow_provider_azstack.emulator.layers import Content, Volume

Differences = Literal["supported", "ignored", "refused"]


@dataclass
class Behaviour:
    """Traits in which stacks differ, and limits they have; tests change them at any time."""

    blob_differences: Differences = "supported"
    managed_differences: Differences = "supported"
    second_grant: Literal["refused", "allowed"] = "refused"
    disk_checksums: bool = True  # Content-MD5 of what a managed disk's access reads and writes
    sas_in: Literal["both", "operation", "location"] = "both"
    adfs_default_scope: bool = True  # False before hotfix 1.2108.2.130
    default_scope_tokens: bool = True  # False: they are given, and Resource Manager takes none
    upload: bool = True  # createOption Upload
    os_disk_swap: bool = True  # another OS disk for a VM that exists
    sequence_numbers: bool = True  # of page blobs; False: what is said of them is passed over
    copy_from_url: bool = True  # Copy Blob from another account or a managed disk's grant
    copies_fail: bool = False  # it is accepted, and comes to nothing
    token_seconds: int = 3599
    snapshots_per_blob: int = 1000
    snapshot_quota: int = 10_000  # managed snapshots in the subscription
    disk_quota_bytes: int = 1 << 50  # managed disks in the subscription
    page_list_limit_bytes: int = 1 << 60  # a larger window of page ranges times out
    roles_on_groups: bool = False  # what is asked of the whole subscription is refused then
    denied: set[str] = field(default_factory=set)  # actions, as Microsoft.Compute/snapshots/write


class Seen(NamedTuple):
    """One line of the request log. No query: signatures live there."""

    method: str
    path: str
    api_version: str
    ms_version: str
    authorized: bool  # an Authorization header was present
    status: int


@dataclass
class Resource:
    """A resource: its body as sent to clients, and what is behind it."""

    body: Json
    volume: Volume | None = None  # of a managed disk
    content: Content | None = None  # of a managed snapshot
    settings: Json = field(default_factory=dict)  # power state, account keys: not in the body

    @property
    def id(self) -> str:
        """The resource's id, in the case it was created with."""
        return str(self.body["id"])

    @property
    def properties(self) -> Json:
        """The resource's properties."""
        found: Json = self.body["properties"]
        return found


@dataclass
class Grant:
    """Access to one managed disk or snapshot by a signed URL."""

    resource: Resource
    access: str
    signature: str
    expires: float
    url_path: str


@dataclass
class Blob:
    """A page blob with its snapshots, oldest first."""

    volume: Volume
    etag: str
    modified: float
    metadata: dict[str, str] = field(default_factory=dict)
    snapshots: dict[str, "BlobSnapshot"] = field(default_factory=dict)
    leased_by: str = ""  # the id of the VM that has it attached, or a lease id
    copy_status: str = ""  # of what Copy Blob made: success or failed
    sequence: int = 0  # a number that writers may insist on
    created: float = 0.0

    def __post_init__(self) -> None:
        self.created = self.modified


@dataclass
class BlobSnapshot:
    """What a blob was at a time."""

    content: Content
    etag: str
    modified: float
    metadata: dict[str, str]
    sequence: int = 0


@dataclass
class Operation:
    """A long operation: 202 now, its effect and its result later."""

    id: str
    started: float
    ends: float
    finish: Callable[[], Json | None]
    status: str = "InProgress"
    output: Json | None = None
    error: Json | None = None
    forgotten: bool = False  # polling it is answered 404, as scripted


@dataclass
class World:
    """Everything the stack remembers."""

    root: Path
    identity: Literal["aad", "adfs"] = "aad"
    clock: Callable[[], float] = time.time
    operation_seconds: float = 0.0
    page_size: int = 100
    location: str = "local"
    behaviour: Behaviour = field(default_factory=Behaviour)
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        self.tenant_id = "adfs" if self.identity == "adfs" else str(uuid.uuid4())
        self.client_id = str(uuid.uuid4())
        self.client_secret = secrets.token_urlsafe(32)
        self.subscription_id = str(uuid.uuid4())
        self.audience = f"https://management.emulator.example/{uuid.uuid4()}"
        self.control_token = secrets.token_urlsafe(32)
        self.blob_url = ""  # set when the servers listen
        self.lock = threading.RLock()
        self.resources: dict[str, Resource] = {}
        self.blobs: dict[tuple[str, str, str], Blob] = {}
        self.containers: set[tuple[str, str]] = set()
        self.grants: dict[str, Grant] = {}
        self.addresses: dict[str, dict[str, str]] = {}  # subnet -> private address -> whose
        self.tokens: dict[str, float] = {}
        self.operations: dict[str, Operation] = {}
        self.running: list[Operation] = []
        self.log: list[Seen] = []
        self.layers = self.root / "layers"
        self.layers.mkdir(parents=True, exist_ok=True)

    @property
    def scope(self) -> str:
        """The subscription's id as ids begin."""
        return f"/subscriptions/{self.subscription_id}"

    def now(self) -> str:
        """Return the moment as Resource Manager writes it."""
        return stamp(self.clock())

    def find(self, resource_id: str) -> Resource | None:
        """Return the resource of that id, written in any case."""
        return self.resources.get(resource_id.lower().rstrip("/"))

    def get(self, resource_id: str) -> Resource:
        """Return the resource of that id; the answer is 404 when there is none."""
        found = self.find(resource_id)
        if found is None:
            raise not_found(resource_id)
        return found

    def add(self, resource: Resource) -> Resource:
        """Remember a resource under its id."""
        self.resources[resource.id.lower()] = resource
        return resource

    def remove(self, resource: Resource) -> None:
        """Forget a resource."""
        self.resources.pop(resource.id.lower(), None)

    def of_type(self, resource_type: str, under: str = "") -> Iterator[Resource]:
        """Yield resources of a type whose ids begin with ``under``, in order of creation."""
        prefix = under.lower()
        for resource in list(self.resources.values()):
            same_type = str(resource.body.get("type", "")).lower() == resource_type.lower()
            if same_type and resource.id.lower().startswith(prefix):
                yield resource

    def active_grant(self, resource: Resource) -> Grant | None:
        """Return the grant on ``resource`` that has not expired."""
        for grant in self.grants.values():
            if grant.resource is resource and grant.expires > self.clock():
                return grant
        return None

    def etag(self) -> str:
        """Return an ETag that was never used."""
        return f'"0x8D{secrets.token_hex(7).upper()}"'


def not_found(resource_id: str) -> Problem:
    """Return the answer for a resource that does not exist."""
    parts = resource_id.strip("/").split("/")
    if len(parts) == 4:
        return Problem(
            404, "ResourceGroupNotFound", f"Resource group '{parts[3]}' could not be found."
        )
    names = "/".join(["/".join(parts[5:7]), *parts[7:]]) if len(parts) > 6 else resource_id
    return Problem(
        404,
        "ResourceNotFound",
        f"The Resource '{names}' under resource group '{parts[3] if len(parts) > 3 else ''}' "
        "was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix",
    )


def stamp(moment: float) -> str:
    """Write a moment with seven digits of a second, as Resource Manager and blobs do."""
    when = datetime.fromtimestamp(moment, UTC)
    return f"{when:%Y-%m-%dT%H:%M:%S}.{when.microsecond:06d}0+00:00"


def body(resource_id: str, resource_type: str, location: str, sent: Json, **extra: Any) -> Json:
    """Begin a resource's body with what all resources have."""
    return {
        "name": resource_id.rsplit("/", 1)[-1],
        "id": resource_id,
        "type": resource_type,
        "location": sent.get("location", location),
        "tags": dict(sent.get("tags") or {}),
        **extra,
    }
