"""
Buckets: what a server's or a network's refusal becomes, and what must not be seen in it.

S3 is spoken with moto's server over HTTP. For Azure Blob and Google Cloud Storage there is no
server that pip can install; a socket that answers shows that their uploads carry the precondition.
"""

import contextlib
import datetime as dt
import http.server
import ssl
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.s3 import ACCESS_KEY, SECRET_KEY, Fault, S3Server, s3_server

from airflow_provider_azstack.errors import (
    AccessDenied,
    AzStackError,
    ConfigurationError,
    ObjectExists,
    ObjectHeld,
    ObjectNotFound,
    StoreError,
    StoreFull,
    Tampered,
    Throttled,
    Unreachable,
)
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store.cloud import CloudStore
from airflow_provider_azstack.store.cloud_errors import explain
from airflow_provider_azstack.store.guard import RetryingStore

pytestmark = pytest.mark.tier1
KEYS = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}


@pytest.fixture(scope="module")
def running() -> Iterator[S3Server]:
    with s3_server("bucket") as server:
        yield server


@pytest.fixture
def s3(running: S3Server) -> S3Server:
    running.faults.clear()
    running.requests.clear()
    return running


@pytest.fixture
def store(s3: S3Server, request: pytest.FixtureRequest) -> CloudStore:
    return opened(s3, request.node.name.translate(str.maketrans("[]", "--")))


def opened(s3: S3Server, prefix: str = "p", bucket: str = "bucket") -> CloudStore:
    options = {k: Secret(v) if "key" in k else v for k, v in s3.options().items()}
    return CloudStore("s3", bucket, prefix, options=options)


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (401, "InvalidToken", AccessDenied),
        (403, "SignatureDoesNotMatch", AccessDenied),
        (429, "TooManyRequests", Throttled),
        (503, "SlowDown", Throttled),
        (500, "InternalError", Unreachable),
        (502, "BadGateway", Unreachable),
        (408, "RequestTimeout", Unreachable),
        (409, "ConditionalRequestConflict", Unreachable),
        (409, "BlobAlreadyExists", ObjectExists),
        (412, "PreconditionFailed", ObjectExists),
        (400, "InvalidRequest", StoreError),
        (0, "", Unreachable),
    ],
)
def test_a_refused_upload_becomes_our_error(
    s3: S3Server, store: CloudStore, status: int, code: str, error: type[AzStackError]
) -> None:
    """Once: whoever repeats an upload must know that it was sent before."""
    s3.faults.append(Fault("PUT", "packs/one", status, times=99, code=code))
    with pytest.raises(error, match="packs/one") as raised:
        store.put("packs/one", b"x")
    assert type(raised.value) is error
    assert not status or f"HTTP {status} {code}" in str(raised.value)
    assert len(s3.requests) == 1


def test_a_hostile_size_is_refused_before_it_is_read() -> None:
    """F-H5: of an answer of 2 GiB no more is taken than what is under way when its head comes."""
    sent = []

    class Endless(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(2**31))
            self.send_header("ETag", '"0"')
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                for _ in range(2**11):
                    self.wfile.write(bytes(2**20))
                    sent.append(2**20)
            done.set()

        def log_message(self, *_: object) -> None: ...

    done = threading.Event()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        options = {"endpoint": f"http://127.0.0.1:{server.server_port}", "region": "r"}
        store = CloudStore("s3", "bucket", options={**options, **KEYS})
        with pytest.raises(Tampered, match="2147483648 bytes"):
            store.get("huge", 2**20)
        assert done.wait(60)
        server.shutdown()
    assert sum(sent) <= 32 * 2**20


def test_near_stretches_are_one_request_and_far_ones_are_not(
    s3: S3Server, store: CloudStore
) -> None:
    store.put("pack", bytes(3 * 2**20))
    s3.requests.clear()
    store.get_ranges("pack", [(0, 40), (2**17, 99), (2 * 2**20, 1), (2 * 2**20 + 10, 1)])
    assert [method for method, _ in s3.requests] == ["GET", "GET"]


def test_reading_an_object_is_one_request(s3: S3Server, store: CloudStore) -> None:
    store.put("one", b"x")
    s3.requests.clear()
    store.get("one", 1)
    assert [method for method, _ in s3.requests] == ["GET"]


@pytest.mark.parametrize(
    ("status", "code"),
    [(507, "InsufficientStorage"), (403, "QuotaExceeded"), (400, "XMinioStorageFull")],
)
def test_a_full_bucket_is_told_with_the_bytes_needed_and_not_tried_again(
    s3: S3Server, store: CloudStore, status: int, code: str
) -> None:
    """F-S2."""
    s3.faults.append(Fault("PUT", "packs/one", status, times=99, code=code))
    with pytest.raises(StoreFull, match="77 bytes needed"):
        RetryingStore(store).put("packs/one", bytes(77))
    assert len(s3.requests) == 1


@pytest.mark.parametrize("status", [500, 0])
def test_an_upload_whose_answer_was_lost_is_a_success(
    s3: S3Server, store: CloudStore, status: int
) -> None:
    """The server did its work, then failed or hung up: the second try meets the first one's."""
    s3.faults.append(Fault("PUT", "claims/vm", status, effect=True))
    RetryingStore(store, sleep=lambda _: None).put("claims/vm", b"ours")
    assert [method for method, _path in s3.requests if method == "PUT"] == ["PUT", "PUT"]
    assert store.get("claims/vm") == b"ours"


def test_reads_are_repeated_until_they_succeed(s3: S3Server, store: CloudStore) -> None:
    store.put("one", b"content")
    s3.faults += [Fault("GET", "/one", 503), Fault("GET", "/one", 0), Fault("HEAD", "/one", 500)]
    assert store.get("one") == b"content"
    assert store.info("one").size_bytes == 7
    s3.faults += [Fault("GET", "list-type", 500), Fault("GET", "/one", 500)]
    assert store.get_range("one", 1, 3) == b"ont"
    assert [info.name for info in store.list("")] == ["one"]


def test_a_listing_of_many_pages_is_complete(s3: S3Server, store: CloudStore) -> None:
    """F-S11: three pages; the second one fails at first, then for good."""
    names = {f"packs/{number:02x}" for number in range(120)}
    for name in names:
        store.put(name, b"")
    s3.faults.append(Fault("GET", "continuation-token", 503))
    assert {info.name for info in store.list("packs/")} == names
    s3.faults.append(Fault("GET", "continuation-token", 403, times=99))
    with pytest.raises(AccessDenied, match="list packs/"):
        list(store.list("packs/"))


def test_a_missing_bucket_is_not_an_empty_store(s3: S3Server) -> None:
    """F-S12: the user is told to create it; nothing is taken for 'no such object'."""
    store = opened(s3, bucket="missing")
    for call in (
        lambda: list(store.list("")),
        lambda: store.get("config"),
        lambda: store.put("config", b""),
    ):
        with pytest.raises(ConfigurationError, match="create the bucket"):
            call()


@pytest.mark.parametrize(
    ("status", "code"), [(409, "BlobImmutableDueToPolicy"), (403, "retentionPolicyNotMet")]
)
def test_what_a_retention_policy_holds_is_said_to_be_held(
    s3: S3Server, store: CloudStore, status: int, code: str
) -> None:
    """F-S19: as the clouds say it; missing rights are something else."""
    store.put("packs/held", b"x")
    s3.faults.append(Fault("DELETE", "packs/held", status, code=code))
    with pytest.raises(ObjectHeld, match="retention policy"):
        store.delete("packs/held")
    s3.faults.append(Fault("DELETE", "packs/held", 403, code="AccessDenied"))
    with pytest.raises(AccessDenied) as denied:
        store.delete("packs/held")
    assert not isinstance(denied.value, ObjectHeld)


def test_another_writers_strange_names_never_come_out_of_a_listing(
    s3: S3Server, store: CloudStore
) -> None:
    """F-H4: names that are not ours are passed over; one that would climb stops the listing."""

    def plant(key: str) -> None:
        path = f"/bucket/{store.url.split('/', 3)[3]}/{key}"
        assert urllib3.request("PUT", f"{s3.url}{path}", body=b"x").status == 200, key

    store.put("packs/good", b"x")
    for key in ("packs/UPPER", "packs/sp%20ace", "a/b/c/d/e/f/g/h"):
        plant(key)
    assert [info.name for info in store.list("")] == ["packs/good"]
    plant("packs/..%2f..%2fup")
    with pytest.raises(StoreError, match="not ours"):
        list(store.list(""))


def test_no_error_shows_a_credential_or_an_answers_text(s3: S3Server, store: CloudStore) -> None:
    """R5: the server repeats the secret in its answer; the whole traceback is searched for it."""
    s3.faults += [Fault("PUT", "", 403), Fault("PUT", "", 500), Fault("GET", "", 403)]
    calls = [lambda: store.put("one", b"x")] * 2 + [lambda: store.get("one")]
    for call in calls:
        with pytest.raises(AzStackError) as raised:
            call()
        shown = "".join(traceback.format_exception(raised.value))
        assert SECRET_KEY not in shown
        assert ACCESS_KEY not in shown
    key = Secret("{" + SECRET_KEY)
    with pytest.raises(ConfigurationError) as wrong:
        CloudStore("gs", "bucket", options={"service_account_key": key})
    assert SECRET_KEY not in "".join(traceback.format_exception(wrong.value))


def test_a_signature_in_a_url_does_not_reach_the_error() -> None:
    with answering(403) as (url, _seen):
        options = {"account_name": "acc", "endpoint": url, "sas_key": Secret("sv=1&sig=canary")}
        store = CloudStore("az", "container", options=options)
        with pytest.raises(AccessDenied) as raised:
            store.put("one", b"x")
    assert "canary" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [("http://127.0.0.1:1", "refused"), ("http://no-such-host.invalid", "host name")],
)
def test_a_server_that_is_not_there_is_unreachable(endpoint: str, told: str) -> None:
    options = {"endpoint": endpoint, "access_key_id": "a", "secret_access_key": "b"}
    store = CloudStore("s3", "bucket", options={**options, "region": "us-east-1"})
    with pytest.raises(Unreachable, match=told):
        store.put("one", b"x")


@contextmanager
def answering(status: int, tls: ssl.SSLContext | None = None) -> Iterator[tuple[str, list]]:
    """Run a server that answers every upload with ``status`` and notes what was asked."""
    seen: list[tuple[str, dict[str, str]]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        log_message: ClassVar = lambda *_args: None

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
            self.send_response(status)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_args: None  # type: ignore[method-assign] # refused handshakes
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http{'s' if tls else ''}://localhost:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_uploads_to_azure_carry_the_precondition() -> None:
    with answering(201) as (url, seen):
        options = {"account_name": "acc", "account_key": Secret("Y2FuYXJ5"), "endpoint": url}
        CloudStore("az", "container", "deep/er", options=options).put("packs/one", [b"x", b"y"])
    ((path, headers),) = seen
    assert path == "/container/deep/er/packs/one"
    assert headers["if-none-match"] == "*"
    assert headers["x-ms-blob-type"] == "BlockBlob"


def test_uploads_to_google_carry_the_precondition() -> None:
    key = '{"disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}'
    with answering(200) as (url, seen):
        options = {"service_account_key": Secret(key), "base_url": url}
        CloudStore("gs", "bucket", "deep", options=options).put("packs/one", b"xy")
    ((path, headers),) = seen
    assert path.endswith("deep/packs/one") or "deep%2Fpacks%2Fone" in path
    assert headers["x-goog-if-generation-match"] == "0"


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for localhost that nobody but the test trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    public = tmp_path / "ca.pem"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = tmp_path / "key.pem"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return public, context


def test_a_private_ca_is_trusted_when_it_is_given_and_only_then(
    certificate: tuple[Path, ssl.SSLContext],
) -> None:
    """F-N14 for stores: refused, and the message says what to do."""
    public, context = certificate
    with answering(200, context) as (url, seen):
        options = {
            "endpoint": url,
            "region": "us-east-1",
            "access_key_id": "a",
            "secret_access_key": "b",
        }
        with pytest.raises(ConfigurationError, match="ca_bundle"):
            CloudStore("s3", "bucket", options=options).put("one", b"x")
        assert seen == []
        CloudStore("s3", "bucket", options={**options, "ca_bundle": str(public)}).put("one", b"x")
        assert len(seen) == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"verify": "no"}, "verify"),
        ({"allow_http": "true"}, "allow_http"),
        ({"endpoint": "ftp://host"}, "endpoint"),
        ({"endpoint": "not a url"}, "endpoint"),
        ({"endpoint": "https://user:canary@host"}, "endpoint"),
        ({"endpoint": "https://host/?sig=canary"}, "endpoint"),
        ({"ca_bundle": "/does/not/exist"}, "/does/not/exist"),
        ({"ca_bundle": __file__}, "no PEM certificate"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as wrong:
        CloudStore("s3", "bucket", options=options)
    assert "canary" not in str(wrong.value)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("Generic S3 error: ... http://169.254.169.254/latest/api/token ...", AccessDenied),
        ("this normally indicates an incorrectly configured region", ConfigurationError),
        ('status code: 403 Forbidden: {"errors":[{"reason": "rateLimit"}]}', AccessDenied),
        ('status code: 404 Not Found: {"reason": "notFound"}', ObjectNotFound),
        ("nobody knows", Unreachable),
    ],
)
def test_what_the_library_says_without_a_server_is_read(text: str, error: type) -> None:
    assert type(explain(RuntimeError(text), "read", "one in s3://bucket")) is error
