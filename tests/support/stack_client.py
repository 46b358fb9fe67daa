"""A bare client of a stack for tests of the emulator: independent of the package's own client."""

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import urllib3

from airflow_provider_azstack.emulator import Emulator

COMPUTE, DISKS, NETWORK, STORAGE, RESOURCES = (
    "2020-06-01",
    "2019-07-01",
    "2018-11-01",
    "2019-06-01",
    "2019-10-01",
)


@dataclass
class StackClient:
    """Signs in with the secret and sends what it is told."""

    emulator: Emulator
    token: str = ""
    headers: dict[str, str] = field(default_factory=lambda: {"x-ms-version": "2019-07-07"})

    def __post_init__(self) -> None:
        ca = str(self.emulator.ca_file)
        self.pool = urllib3.PoolManager(ca_certs=ca, retries=False, timeout=120)
        if not self.token:
            self.token = self.sign_in().json()["access_token"]

    def close(self) -> None:
        self.pool.clear()

    def sign_in(self, path: str = "oauth2/token", **changes: str) -> urllib3.BaseHTTPResponse:
        form = {
            "grant_type": "client_credentials",
            "client_id": self.emulator.client_id,
            "client_secret": self.emulator.client_secret,
            "resource": self.emulator.world.audience,
            **changes,
        }
        url = f"{self.emulator.arm_url}/{self.emulator.tenant_id}/{path}"
        return self.pool.request("POST", url, body=urlencode(form))

    def arm(
        self, method: str, path: str, version: str, body: Any = None, **query: str
    ) -> urllib3.BaseHTTPResponse:
        if path.startswith("~"):
            path = f"/subscriptions/{self.emulator.subscription_id}{path[1:]}"
        if not path.startswith("http"):
            query = {"api-version": version, **query}
            path = f"{self.emulator.arm_url}{path}?{urlencode(query)}"
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body)
        return self.pool.request(method, path, body=data, headers=headers)

    def get(self, path: str, version: str = COMPUTE, **query: str) -> Any:
        answer = self.arm("GET", path, version, **query)
        assert answer.status == 200, answer.data
        return answer.json()

    def poll(self, answer: urllib3.BaseHTTPResponse) -> Any:
        return self.arm("GET", answer.headers["Azure-AsyncOperation"], "").json()

    def snapshot(self, source: str, name: str, **more: Any) -> urllib3.BaseHTTPResponse:
        path = f"{source.rpartition('/providers/')[0]}/providers/Microsoft.Compute/snapshots/{name}"
        creation = {"createOption": "Copy", "sourceResourceId": source}
        properties = {"creationData": creation, "incremental": False}
        body = {"location": "local", "properties": properties, **more}
        return self.arm("PUT", path, DISKS, body)

    def grant(self, path: str, seconds: int = 600, access: str = "Read") -> str:
        asked = {"access": access, "durationInSeconds": seconds}
        answer = self.arm("POST", f"{path}/beginGetAccess", DISKS, asked)
        assert answer.status == 202, answer.data
        return str(self.poll(answer)["properties"]["output"]["accessSAS"])

    def granted_snapshot(self, source: str, name: str) -> str:
        """Snapshot a managed disk; return a URL that reads it."""
        path = self.snapshot(source, name).json()["id"]
        return self.grant(path)

    def blob(
        self, method: str, url: str, body: bytes | None = None, **headers: str
    ) -> urllib3.BaseHTTPResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.pool.request(method, url, body=body, headers={**self.headers, **named})

    def read(self, url: str, offset: int, length: int) -> urllib3.BaseHTTPResponse:
        return self.blob("GET", url, x_ms_range=f"bytes={offset}-{offset + length - 1}")

    def key(self, account_id: str) -> bytes:
        answer = self.arm("POST", f"{account_id}/listKeys", STORAGE)
        return base64.b64decode(answer.json()["keys"][0]["value"])

    def sas(self, url: str, key: bytes, permissions: str = "r", **changes: str) -> str:
        """Sign a URL of a blob or container as the documentation of 2019-07-07 says."""
        path = url.removeprefix(self.emulator.blob_url)
        fields = {
            "sp": permissions,
            "st": "2000-01-01T00:00:00Z",
            "se": "2099-01-01T00:00:00Z",
            "sv": "2019-07-07",
            "sr": "b" if path.count("/") > 2 else "c",
            **changes,
        }
        text = "\n".join([
            fields["sp"], fields["st"], fields["se"], f"/blob{path}",
            "", "", "", fields["sv"], fields["sr"], "", "", "", "", "", "",
        ])  # fmt: skip
        fields["sig"] = base64.b64encode(hmac.digest(key, text.encode(), hashlib.sha256)).decode()
        return f"{url}?{urlencode(fields, quote_via=quote)}"


def code_of(answer: object) -> tuple[int, str]:
    """Return the status and the blob service's code of an error."""
    return answer.status, answer.headers["x-ms-error-code"]  # type: ignore[attr-defined]
