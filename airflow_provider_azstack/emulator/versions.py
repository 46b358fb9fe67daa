"""
Which api-versions a stack knows, by resource type, and what it says to any other.

Owns the table of the hybrid profiles 2019-03-01 and 2020-09-01; knows no resources.
Invariant: a version that is not in the table is refused, and the error names those that are.

Sources: Azure/azure-rest-api-specs, profile/2020-09-01-hybrid.json and 2019-03-01-hybrid.json; for
disks and snapshots, what a stack said in 2024, github.com/kubernetes-sigs/azuredisk-csi-driver
issue 2577; for blobs, MicrosoftDocs/azure-stack-docs, user/azure-stack-acs-differences.md.
"""

from airflow_provider_azstack.emulator.http import Call, Json, Problem

_COMPUTE = ("2020-06-01", "2019-12-01", "2019-07-01", "2018-10-01", "2017-12-01")
_DISKS = (
    "2019-11-01", "2019-07-01", "2019-03-01", "2018-09-30", "2018-06-01", "2018-04-01",
    "2017-03-30",
)  # fmt: skip
_NETWORK = ("2018-11-01", "2017-10-01", "2016-09-01")

SUPPORTED: dict[str, tuple[str, ...]] = {
    "Microsoft.Compute/virtualMachines": _COMPUTE,
    "Microsoft.Compute/virtualMachines/extensions": _COMPUTE,
    "Microsoft.Compute/virtualMachineScaleSets": _COMPUTE,
    "Microsoft.Compute/availabilitySets": _COMPUTE,
    "Microsoft.Compute/images": _COMPUTE,
    "Microsoft.Compute/locations": _COMPUTE,
    "Microsoft.Compute/locations/operations": _COMPUTE,
    "Microsoft.Compute/locations/vmSizes": _COMPUTE,
    "Microsoft.Compute/locations/usages": _COMPUTE,
    "Microsoft.Compute/disks": _DISKS,
    "Microsoft.Compute/snapshots": _DISKS,
    "Microsoft.Compute/locations/DiskOperations": _DISKS,
    "Microsoft.Compute/skus": ("2019-04-01", "2017-09-01"),
    "Microsoft.Network/networkInterfaces": _NETWORK,
    "Microsoft.Network/publicIPAddresses": _NETWORK,
    "Microsoft.Network/virtualNetworks": _NETWORK,
    "Microsoft.Network/virtualNetworks/subnets": _NETWORK,
    "Microsoft.Network/networkSecurityGroups": _NETWORK,
    "Microsoft.Network/locations/operations": _NETWORK,
    "Microsoft.Storage/storageAccounts": ("2019-06-01", "2017-10-01", "2016-01-01"),
    "Microsoft.Resources/resourceGroups": ("2019-10-01", "2018-05-01", "2016-06-01"),
    "Microsoft.Resources/resources": ("2019-10-01", "2018-05-01", "2016-06-01"),
    "Microsoft.Resources/providers": ("2019-10-01", "2018-05-01", "2016-06-01"),
    "Microsoft.Resources/subscriptions": ("2016-06-01",),
    "Microsoft.Resources/tenants": ("2016-06-01",),
    "Microsoft.Authorization/permissions": ("2018-07-01", "2015-07-01"),
}

# The blob service of builds 2008 and later; the newest is the last one a stack accepts.
BLOB_VERSIONS = (
    "2015-04-05", "2015-07-08", "2015-12-11", "2016-05-31", "2017-04-17", "2017-07-29",
    "2017-11-09", "2018-03-28", "2018-11-09", "2019-02-02", "2019-07-07",
)  # fmt: skip


def check(call: Call, resource_type: str, location: str) -> None:
    """Refuse a call whose api-version the stack does not know for ``resource_type``."""
    asked = call.query.get("api-version", "")
    if not asked:
        raise Problem(
            400,
            "MissingApiVersionParameter",
            "The api-version query parameter (?api-version=) is required for all requests.",
        )
    supported = SUPPORTED[resource_type]
    if asked in supported:
        return
    _, _, name = resource_type.partition("/")
    listing = ", ".join(sorted(supported))
    raise Problem(
        400,
        "NoRegisteredProviderFound",
        f"No registered resource provider found for location '{location}' and API version "
        f"'{asked}' for type '{name}'. The supported api-versions are '{listing}'. "
        f"The supported locations are '{location}'.",
    )


def providers(subscription_id: str, location: str) -> list[Json]:
    """Describe the resource providers as ``GET .../providers`` does."""
    by_namespace: dict[str, list[Json]] = {}
    for full_type, known in SUPPORTED.items():
        namespace, _, name = full_type.partition("/")
        entry = {"resourceType": name, "locations": [location], "apiVersions": list(known)}
        by_namespace.setdefault(namespace, []).append(entry)
    return [
        {
            "id": f"/subscriptions/{subscription_id}/providers/{namespace}",
            "namespace": namespace,
            "resourceTypes": types,
            "registrationState": "Registered",
        }
        for namespace, types in by_namespace.items()
    ]
