"""Agentless backup and restore of Azure Stack Hub virtual machines, from inside Apache Airflow."""

from typing import Any

__version__ = "0.1.0"

_PACKAGE = "airflow_provider_azstack"


def get_provider_info() -> dict[str, Any]:
    """Describe this provider to Airflow; a plain dict, since every Airflow process asks for it."""
    return {
        # Must be the distribution's name: a mismatch breaks the discovery of all providers.
        "package-name": "airflow-provider-azstack",
        "name": "Azure Stack Hub backup",
        "description": "Agentless backup and restore of Azure Stack Hub virtual machines.",
        "versions": [__version__],
        "integrations": [
            {
                "integration-name": "Azure Stack Hub",
                "external-doc-url": "https://learn.microsoft.com/azure-stack/",
                "tags": ["azure", "backup"],
            }
        ],
        "hooks": [
            {
                "integration-name": "Azure Stack Hub",
                "python-modules": [f"{_PACKAGE}.hooks.stack", f"{_PACKAGE}.hooks.repository"],
            }
        ],
        "operators": [
            {
                "integration-name": "Azure Stack Hub",
                "python-modules": [
                    f"{_PACKAGE}.operators.backup",
                    f"{_PACKAGE}.operators.janitor",
                    f"{_PACKAGE}.operators.prune",
                    f"{_PACKAGE}.operators.rehearse",
                    f"{_PACKAGE}.operators.restore",
                    f"{_PACKAGE}.operators.sync",
                    f"{_PACKAGE}.operators.verify",
                ],
            }
        ],
        "connection-types": [_stack_connection(), _repository_connection()],
        "extra-links": [f"{_PACKAGE}.links.PortalLink"],
        "cli": [f"{_PACKAGE}.commands.get_commands"],
    }


def _field(label: str, description: str, **schema: Any) -> dict[str, Any]:
    return {
        "label": label,
        "description": description,
        "schema": {"type": ["string", "null"], **schema},
    }


def _stack_connection() -> dict[str, Any]:
    return {
        "connection-type": "azure_stack",
        "hook-class-name": f"{_PACKAGE}.hooks.stack.AzureStackHook",
        "hook-name": "Azure Stack Hub",
        "ui-field-behaviour": {
            "hidden-fields": ["schema", "port", "extra"],
            "relabeling": {
                "host": "Resource Manager endpoint",
                "login": "Client id",
                "password": "Client secret",
            },
            "placeholders": {"host": "https://management.region.fqdn"},
        },
        "conn-fields": {
            "tenant_id": _field("Tenant id", "Directory of the client; empty on AD FS."),
            "subscription_id": _field("Subscription id", "Where a policy names no other."),
            "ca_bundle": _field(
                "CA bundle", "Path of a PEM file that every backup host has; empty: public CAs."
            ),
            "sign_in": _field(
                "Sign-in",
                "v1 where AD FS answers MSIS9605; auto tries both forms.",
                # No word by default: of one so short, and be it no secret, each task's log warns
                # that it is not masked.
                enum=[None, "v1", "v2"],
                values_display={"null": "auto"},
            ),
            "profile": _field(
                "API profile",
                "The newest profile that the stack's build knows.",
                type="string",
                enum=["2020-09-01-hybrid", "2019-03-01-hybrid"],
                default="2020-09-01-hybrid",
            ),
            "certificate_path": _field(
                "Certificate file", "PEM with key, on every backup host; instead of the secret."
            ),
            "certificate_private_key": _field(
                "Certificate", "The PEM text itself, with its key.", format="password"
            ),
            "certificate_password": _field(
                "Certificate password", "Of an encrypted key.", format="password"
            ),
            "secret_account_keys": {
                "label": "Storage account keys",
                "description": "For unmanaged disks, where listing keys is not allowed: "
                '{"account": "key", ...}.',
                "schema": {"type": ["object", "null"], "format": "json"},
            },
        },
    }


def _repository_connection() -> dict[str, Any]:
    return {
        "connection-type": "azstack_repository",
        "hook-class-name": f"{_PACKAGE}.hooks.repository.RepositoryHook",
        "hook-name": "Azure Stack Hub backup repository",
        "ui-field-behaviour": {
            "hidden-fields": ["schema", "port", "login", "extra"],
            "relabeling": {"host": "Repository URL", "password": "Passphrase"},
            "placeholders": {"host": "file:///backups/azstack or s3://bucket/prefix"},
        },
        "conn-fields": {
            "expected_repository_id": _field(
                "Repository id", "Refuse any other repository at this URL."
            ),
            "cache_directory": _field(
                "Cache directory", "For the index, on every backup host; empty: no cache on disk."
            ),
            "secret_store_options": {
                "label": "Store options",
                "description": 'Options of the object store: {"access_key_id": "...", ...}.',
                "schema": {"type": ["object", "null"], "format": "json"},
            },
        },
    }
