"""
The api-versions a stack speaks, by profile and resource type.

Owns the profile tables and the reading of a resource type from a path; sends nothing.
Sources: Azure/azure-rest-api-specs, profile/2020-09-01-hybrid.json and 2019-03-01-hybrid.json; for
blobs, MicrosoftDocs/azure-stack-docs, azure-stack/user/azure-stack-acs-differences.md. Disks know
2019-07-01 from build 2102 on only (user/azure-stack-managed-disk-considerations.md), storage
accounts no 2019-06-01 in build 2008: such a stack has most of the newer profile, and takes the
older. Newer versions of blobs, which stacks know since build 2301, are not needed.
Invariant: every request names the version of its own resource type. One version for all cannot
work: virtual machines and disks differ within one profile, and a stack refuses anything newer.
"""

from collections.abc import Iterable
from types import MappingProxyType
from typing import NamedTuple

from airflow_provider_azstack.errors import ConfigurationError, UnsupportedStack


class Profile(NamedTuple):
    """One API profile: versions of ARM resource types, and of the blob service."""

    types: MappingProxyType[str, str]
    blob: str


# Keys are lower case: a namespace alone is the default of its types. What no namespace owns
# (groups, generic resources, the provider list) belongs to Microsoft.Resources.
PROFILES = MappingProxyType(
    {
        "2020-09-01-hybrid": Profile(
            MappingProxyType(
                {
                    "microsoft.compute": "2020-06-01",
                    "microsoft.compute/disks": "2019-07-01",
                    "microsoft.compute/snapshots": "2019-07-01",
                    "microsoft.compute/skus": "2019-04-01",
                    "microsoft.network": "2018-11-01",
                    "microsoft.storage": "2019-06-01",
                    "microsoft.authorization": "2015-07-01",
                    "microsoft.resources": "2019-10-01",
                    "microsoft.resources/subscriptions": "2016-06-01",
                    "microsoft.resources/tenants": "2016-06-01",
                }
            ),
            blob="2019-07-07",
        ),
        "2019-03-01-hybrid": Profile(
            MappingProxyType(
                {
                    "microsoft.compute": "2017-12-01",
                    "microsoft.compute/disks": "2017-03-30",
                    "microsoft.compute/snapshots": "2017-03-30",
                    "microsoft.network": "2017-10-01",
                    "microsoft.storage": "2017-10-01",
                    "microsoft.authorization": "2015-07-01",
                    "microsoft.resources": "2018-05-01",
                    "microsoft.resources/subscriptions": "2016-06-01",
                    "microsoft.resources/tenants": "2016-06-01",
                }
            ),
            blob="2017-11-09",
        ),
    }
)
DEFAULT_PROFILE = "2020-09-01-hybrid"
COMPUTE_TYPES = tuple(f"microsoft.compute/{k}" for k in ("virtualmachines", "disks", "snapshots"))
# By the provider that lists them.
OTHER_TYPES = MappingProxyType(
    {
        "Microsoft.Network": tuple(
            f"microsoft.network/{kind}"
            for kind in (
                "networkinterfaces",
                "publicipaddresses",
                "virtualnetworks",
                "networksecuritygroups",
            )
        ),
        "Microsoft.Storage": ("microsoft.storage/storageaccounts",),
    }
)
# The endpoint list is older than profiles and the same on every stack.
METADATA_VERSION = "2015-01-01"


def profile_named(name: str) -> Profile:
    """
    Return the profile of that name.

    :raises ConfigurationError: there is none.
    """
    if name not in PROFILES:
        known = ", ".join(PROFILES)
        raise ConfigurationError(f"API profile {name!r} is not known: use one of {known}")
    return PROFILES[name]


def resource_type(path: str) -> str:
    """
    Return the resource type that answers for ``path``, in lower case.

    >>> resource_type("/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/disks/d")
    'microsoft.compute/disks'
    """
    parts = [part for part in path.split("?", maxsplit=1)[0].lower().split("/") if part]
    providers = [at for at, part in enumerate(parts) if part == "providers"]
    if providers and len(parts) > providers[-1] + 2:
        namespace, kind = parts[providers[-1] + 1 : providers[-1] + 3]
        return f"{namespace}/{kind}"
    if parts[:1] in (["subscriptions"], ["tenants"]) and len(parts) <= 2:
        return f"microsoft.resources/{parts[0]}"
    return "microsoft.resources/resources"


def versions_of(kinds: Iterable[str], profile: Profile) -> dict[str, str]:
    """Return the api-versions of resource types in lower case."""
    return {kind: profile.types.get(kind) or profile.types[kind.split("/")[0]] for kind in kinds}


def api_version(path: str, profile: Profile) -> str:
    """
    Return the api-version for ``path``.

    :raises UnsupportedStack: the profile has no such resource type.
    """
    kind = resource_type(path)
    version = profile.types.get(kind) or profile.types.get(kind.split("/")[0])
    if version is None:
        raise UnsupportedStack(f"no api-version of {kind} is known for this stack's API profile")
    return version
