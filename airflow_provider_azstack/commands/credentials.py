"""
``airflow azstack import-credentials``: the predecessor's credentials file as a connection.

Owns the translation; reading the file is the configuration's business.
Invariant: no secret is printed, and a connection that exists is replaced only when asked.
"""

import json
from argparse import Namespace

from airflow_provider_azstack.commands.console import command
from airflow_provider_azstack.config import Credentials, read_credentials
from airflow_provider_azstack.console.present import say
from airflow_provider_azstack.errors import ConfigurationError


@command
def import_credentials(args: Namespace) -> None:
    """Create the connection, keys of storage accounts included."""
    credentials = read_credentials(args.file)
    _store(args, credentials)
    say(f"connection {args.conn_id!r} is ready: try 'airflow azstack doctor'")


def _store(args: Namespace, credentials: Credentials) -> None:
    from airflow.models.connection import Connection  # noqa: PLC0415 - opens the database
    from airflow.utils.session import create_session  # noqa: PLC0415
    from sqlalchemy import select  # noqa: PLC0415

    extra = {
        "tenant_id": credentials.tenant_id,
        "ca_bundle": args.ca_bundle,
        "secret_account_keys": {
            account: key.reveal() for account, key in credentials.account_keys.items()
        },
    }
    connection = Connection(
        conn_id=args.conn_id,
        conn_type="azure_stack",
        host=args.endpoint,
        login=credentials.client_id,
        password=credentials.client_secret.reveal(),
        extra=json.dumps({key: value for key, value in extra.items() if value}),
    )
    with create_session() as session:
        query = select(Connection).where(Connection.conn_id == args.conn_id)
        if there := session.scalar(query):
            if not args.replace:
                raise ConfigurationError(
                    f"connection {args.conn_id!r} is there already: name another with --conn-id, "
                    "or give --replace"
                )
            session.delete(there)
            session.flush()
        session.add(connection)
