"""
The stack as one object: starts and stops the servers, builds the fleet, tells what is left.

Owns putting the parts together; knows no details of any.
Invariant: after ``stop`` no thread and no socket of the stack is left.
"""

import ssl
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from airflow_provider_azstack.emulator import control, leftovers, pki, routes
from airflow_provider_azstack.emulator.faults import Faults
from airflow_provider_azstack.emulator.fleet import Fleet
from airflow_provider_azstack.emulator.http import Answer, Call
from airflow_provider_azstack.emulator.server import Server
from airflow_provider_azstack.emulator.state import Behaviour, Seen, World


class Emulator(Fleet):
    """
    An Azure Stack Hub on 127.0.0.1.

    :param root: a directory for disk layers and certificates.
    :param tls: serve over HTTPS with the certificate authority in ``ca_file``.
    :param clock: what time it is on the stack, in seconds.
    :param operation_seconds: how long long operations take, by that clock.
    :param port: of Resource Manager; blobs take the next one. 0 chooses free ports.
    :param certificate: "expired" or "other name" for clients that must refuse it.
    """

    def __init__(
        self,
        root: Path,
        *,
        tls: bool = True,
        identity: Literal["aad", "adfs"] = "aad",
        clock: Callable[[], float] = time.time,
        port: int = 0,
        operation_seconds: float = 0.0,
        page_size: int = 100,
        certificate: pki.ServerCertificate = "good",
    ) -> None:
        root.mkdir(parents=True, exist_ok=True)
        super().__init__(
            World(root, identity, clock, operation_seconds=operation_seconds, page_size=page_size)
        )
        self.ca_file, server_file = pki.write_files(root, certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if tls else None
        if context is not None:
            context.load_cert_chain(server_file)
        faults = self.world.faults
        self._arm = Server(port, self._arm_or_control, faults, context)
        blobs = partial(routes.blob_application, self.world)
        self._blobs = Server(port and port + 1, blobs, faults, context)
        self.world.blob_url = self._blobs.url

    def start(self) -> Self:
        """Begin to serve."""
        self._arm.start()
        self._blobs.start()
        return self

    def stop(self) -> None:
        """Serve no more, and leave nothing running."""
        self._arm.stop()
        self._blobs.stop()

    def close(self) -> None:
        """Give the ports back when the emulator was never started."""
        self._arm.server_close()
        self._blobs.server_close()

    def _arm_or_control(self, call: Call) -> Answer:
        if call.path.startswith(control.PREFIX):
            return control.application(self, call)
        return routes.arm_application(self.world, call)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def arm_url(self) -> str:
        """The Resource Manager endpoint."""
        return self._arm.url

    @property
    def blob_url(self) -> str:
        """The blob endpoint; accounts are the first segment of its paths."""
        return self._blobs.url

    @property
    def tenant_id(self) -> str:
        """The tenant; ``adfs`` with AD FS."""
        return self.world.tenant_id

    @property
    def client_id(self) -> str:
        """The service principal."""
        return self.world.client_id

    @property
    def client_secret(self) -> str:
        """The service principal's secret."""
        return self.world.client_secret

    @property
    def client_certificate(self) -> bytes:
        """The service principal's certificate and key, as PEM: another way to sign in."""
        return pki.client_pair().pem()

    @property
    def control_token(self) -> str:
        """What opens the control endpoint, ``<arm_url>/emulator``."""
        return self.world.control_token

    @property
    def subscription_id(self) -> str:
        """The one subscription."""
        return self.world.subscription_id

    @property
    def location(self) -> str:
        """The stack's region."""
        return self.world.location

    @property
    def airflow_connection(self) -> dict[str, Any]:
        """How Airflow reaches the stack, the secret included."""
        return {
            "conn_type": "azure_stack",
            "host": self.arm_url,
            "login": self.client_id,
            "password": self.client_secret,
            "extra": {
                "tenant_id": self.tenant_id,
                "subscription_id": self.subscription_id,
                "ca_bundle": str(self.ca_file),
            },
        }

    @property
    def behaviour(self) -> Behaviour:
        """Traits and limits, to be changed at any time."""
        return self.world.behaviour

    @property
    def faults(self) -> Faults:
        """The script of what goes wrong."""
        return self.world.faults

    @property
    def requests(self) -> list[Seen]:
        """The request log, oldest first."""
        return self.world.log

    @property
    def crashes(self) -> list[BaseException]:
        """Bugs of the emulator that answered 500; tests assert that there are none."""
        return self._arm.crashes + self._blobs.crashes

    def expire_grants(self) -> None:
        """Let every signed URL of managed disks and snapshots die now."""
        for grant in list(self.world.grants.values()):
            grant.expires = self.world.clock()

    def leftovers(self) -> list[leftovers.Leftover]:
        """List all snapshots, living grants, and disks that carry a backup's tag."""
        return list(leftovers.leftovers(self.world))
