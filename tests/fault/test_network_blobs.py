"""What the blob service and the wire do to range reads, and what we make of it."""

import contextlib
import itertools
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from support.blob_reads import RANGE, Setup, read
from support.http_server import Reply, serving
from support.ports import closed_port
from support.stacks import MIB, stack_of

from airflow_provider_azstack.arm.blobs import BlobDisk
from airflow_provider_azstack.arm.checksums import MD5_EVERY
from airflow_provider_azstack.arm.compute import Compute
from airflow_provider_azstack.arm.grants import Grant
from airflow_provider_azstack.emulator import Emulator
from airflow_provider_azstack.emulator.faults import (
    Fault,
    flipped_bit,
    longer,
    other_place,
    shorter,
    whole_blob,
    with_header,
)
from airflow_provider_azstack.emulator.http import Answer, Call
from airflow_provider_azstack.errors import (
    AccessDenied,
    ConfigurationError,
    IntegrityError,
    Refused,
    SourceChanged,
    SourceGone,
    Throttled,
    TransientError,
    Unreachable,
    UnsupportedStack,
)
from airflow_provider_azstack.secret import Secret

pytestmark = pytest.mark.tier1


@pytest.mark.parametrize("at", [0, 1, RANGE // 2, RANGE - 1])
def test_a_range_cut_anywhere_is_read_again_whole(setup: Setup, at: int) -> None:
    """F-N1: the connection ends after byte k: the whole range again, bit-exact."""
    with setup.reader() as disk:
        disk.footer()
        cut = setup.faults.cut(at, times=2)
        assert read(disk, RANGE, RANGE) == setup.content[RANGE : 2 * RANGE]
    assert cut.struck == 2


def test_a_small_range_cut_at_every_byte(setup: Setup) -> None:
    """F-N1: exhaustive for a small range."""
    with setup.reader() as disk:
        disk.footer()
        for at in range(64):
            cut = setup.faults.cut(at)
            assert read(disk, 4096, 64) == setup.content[4096 : 4096 + 64]
            assert cut.struck == 1


def status_200(_: Call, answer: Answer) -> Answer:
    return replace(answer, status=200)


WRONG = {
    "200 with everything": whole_blob,
    "200 with the range": status_200,
    "another Content-Range": with_header("Content-Range", "bytes 0-65535/67109376"),
    "another total": with_header("Content-Range", f"bytes {RANGE}-{2 * RANGE - 1}/1"),
    "no Content-Range": with_header("Content-Range", ""),
    "one byte too few": shorter,
    "one byte too many": longer,
    "encoded": with_header("Content-Encoding", "gzip"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_answer_that_is_not_exactly_the_range_is_never_taken(setup: Setup, name: str) -> None:
    """F-N2: refused and asked for again; when it stays so, an error, and never a byte of it."""
    with setup.reader() as disk:
        disk.footer()
        wrong = setup.faults.alter_reads(WRONG[name], times=3)
        assert read(disk, RANGE, RANGE) == setup.content[RANGE : 2 * RANGE]
        assert wrong.struck == 3
        setup.faults.alter_reads(WRONG[name], times=1000)
        with pytest.raises((IntegrityError, TransientError)):
            read(disk, RANGE, RANGE)
        setup.faults.clear()
        assert read(disk, 0, RANGE) == setup.content[:RANGE]


@pytest.mark.parametrize("alter", [flipped_bit, other_place])
def test_a_checksum_that_differs_is_read_again(setup: Setup, alter: Callable[..., Answer]) -> None:
    """
    F-N3: a Content-MD5 that the bytes do not have: again, and after five times an error.

    Bytes from another place under right headers (F-N2's last form) show in nothing but the
    checksum, which is asked for in a sample of the reads only: a systematic fault is found, a
    single one of this kind inside the service is not, by anybody.
    """
    with setup.reader() as disk:
        disk.footer()
        disk._checksums._requests = itertools.repeat(0)  # type: ignore[assignment] - the sample is every read
        wrong = setup.faults.alter_reads(alter, times=4)
        assert read(disk, 0, RANGE) == setup.content[:RANGE]
        assert wrong.struck == 4
        setup.faults.alter_reads(alter, times=1000)
        with pytest.raises(IntegrityError, match="Content-MD5, 5 times"):
            read(disk, 0, RANGE)


def test_a_checksum_that_was_not_asked_for_says_nothing(setup: Setup) -> None:
    """
    One that was stored with a disk long ago comes with every read, and fits none.

    github.com/microsoft/AzureStorageExplorer/issues/2666
    """
    with setup.reader() as disk:
        disk.footer()
        disk._checksums._requests = itertools.repeat(1)  # type: ignore[assignment] - no read is the sample
        old = setup.faults.alter_reads(with_header("Content-MD5", "1B2M2Y8AsgTpgAmY7PhCfg=="))
        assert read(disk, 0, RANGE) == setup.content[:RANGE]
        assert old.struck == 1


def test_a_sample_of_the_reads_asks_for_a_checksum(setup: Setup) -> None:
    """F-N3: the first read of a disk and one in so many after that carry a checksum."""
    with_md5 = Fault("GET", "sig=", alter=lambda _, a: a, times=1000)
    with_md5.header = ("x-ms-range-get-content-md5", "true")
    setup.faults.add(with_md5)
    with setup.reader() as disk:
        for _ in range(2 * MD5_EVERY):
            read(disk, 0, 512)
    assert with_md5.struck in {2, 3}


@pytest.mark.parametrize("length", ["", "-1", "\u00b2", "9" * 17])
def test_properties_whose_length_is_no_number_are_asked_for_again(
    setup: Setup, length: str
) -> None:
    """F-N2: of the disk as a whole: doubted, never a crash."""
    alter = with_header("Content-Length", length)
    wrong = setup.faults.add(Fault("HEAD", "sig=", alter=alter, times=4))
    with setup.reader() as disk:
        assert disk.size_bytes == setup.disk.size_bytes
    assert wrong.struck == 4


def test_another_etag_ends_the_reading(setup: Setup) -> None:
    """F-N4: the blob is another one now: no answer of it is taken, none is asked for again."""
    with setup.reader() as disk:
        disk.footer()
        setup.faults.alter_reads(with_header("ETag", '"0xOTHER"'))
        with pytest.raises(SourceChanged, match="ETag"):
            read(disk, 0, RANGE)
        setup.faults.answer("GET", "sig=", 412)
        with pytest.raises(SourceChanged):
            read(disk, 0, RANGE)


def test_no_read_carries_a_condition(setup: Setup) -> None:
    """
    F-N4: the access of managed disks takes none; the ETag of every answer is compared instead.

    github.com/Azure/azure-storage-azcopy, ste/downloader-blob.go: "no access conditions (and
    therefore no if-modified checks) are supported".
    """
    with setup.reader() as disk:
        disk.footer()
        assert read(disk, 0, RANGE) == setup.content[:RANGE]
        for condition in ("If-Match", "If-Unmodified-Since"):
            with pytest.raises(ConfigurationError, match="ConditionHeadersNotSupported"):
                disk._client.exchange(
                    "HEAD", disk._keeper, lambda _: None, headers={condition: '"x"'}
                )


def test_a_disk_whose_access_knows_no_checksums_is_read_without(setup: Setup) -> None:
    """F-N3: asked for once, refused, and never asked for again."""
    setup.emulator.behaviour.disk_checksums = False
    with setup.reader() as disk:
        disk.footer()
        disk._checksums._requests = itertools.repeat(0)  # type: ignore[assignment] - the sample is every read
        assert read(disk, 0, RANGE) == setup.content[:RANGE]
        assert read(disk, RANGE, RANGE) == setup.content[RANGE : 2 * RANGE]
    assert [r.status for r in setup.emulator.requests if r.method == "GET"].count(400) == 1


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("retry_after", ["0", "5", None, "soon"])
def test_a_storm_on_reads_ends_within_the_budget(
    setup: Setup, status: int, retry_after: str | None
) -> None:
    """F-N5: the same patience as with the Resource Manager, and the pace goes down to one."""
    with setup.reader(connections=8) as disk:
        disk.footer()
        storm = setup.faults.throttle("sig=", retry_after=retry_after, status=status, times=1000)
        with pytest.raises(Throttled):
            read(disk, 0, RANGE)
        assert disk.concurrency == 1
    assert 5 <= storm.struck < 200
    assert setup.clock.now - 1000.0 <= 900.0


def test_the_pace_halves_once_for_refusals_that_come_together(setup: Setup) -> None:
    """F-N5: four reads throttled at once are one sign, two go on; good answers raise it again."""
    with setup.reader(connections=8) as disk:
        disk.footer()
        together = threading.Barrier(4)

        def refuse(_: Call) -> Answer:
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait(60)  # only a test that fails waits that long
            return Answer(503, {}, b"")

        setup.faults.add(Fault("GET", "sig=", instead=refuse, times=4))
        readers = [threading.Thread(target=read, args=(disk, 0, 512)) for _ in range(4)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert disk.concurrency == 2
        for _ in range(200):
            read(disk, 0, 512)
        assert disk.concurrency == 8


@pytest.mark.parametrize("status", [500, 408, 502, 504])
def test_an_outage_of_reads_is_outlasted_or_ends_at_the_budget(setup: Setup, status: int) -> None:
    """F-N6: healthy again in time: bit-exact. Never again: a transient error at the budget."""
    with setup.reader() as disk:
        disk.footer()
        setup.faults.answer("GET", "sig=", status, times=8)
        assert read(disk, 0, RANGE) == setup.content[:RANGE]
        setup.clock.now = 1000.0
        setup.faults.answer("GET", "sig=", status, times=10_000)
        with pytest.raises(Unreachable):
            read(disk, 0, RANGE)
    assert 800 < setup.clock.now - 1000.0 <= 900.0


@pytest.mark.tier2
def test_a_silent_socket_is_given_up(setup: Setup) -> None:
    """F-N7: no bytes: the read timeout ends the attempt, and the next one succeeds."""
    with setup.reader(read_timeout_seconds=0.3) as disk:
        disk.footer()
        slow = setup.faults.slow("sig=", 1.0, times=1)
        assert read(disk, 0, RANGE) == setup.content[:RANGE]
    assert slow.struck == 1


@pytest.mark.tier2
def test_an_expired_grant_is_renewed_once_for_all_readers(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    """F-N8: 403 in mid-stream: one renewal, the same offset, and no signature in the logs."""
    caplog.set_level(logging.DEBUG)
    grants: list[Grant] = []

    def grant() -> Grant:
        grants.append(setup.compute.grant_read(setup.first, 3600))
        return grants[-1]

    with BlobDisk(grant, connections=8) as disk:
        disk.footer()
        for round_ in range(2, 5):
            setup.compute.revoke(setup.first)
            readers = [threading.Thread(target=read, args=(disk, n * 512, 512)) for n in range(8)]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()
            assert len(grants) == round_
        assert read(disk, RANGE, RANGE) == setup.content[RANGE : 2 * RANGE]
    signatures = [g.url.reveal().split("sig=")[1] for g in grants]
    assert "urllib3.connectionpool" in {r.name for r in caplog.records}
    # A signature may begin with an encoded character: a piece is looked for, not what is before it.
    assert [s for s in signatures if s in caplog.text or s[:12] in caplog.text] == []


@pytest.mark.tier2
def test_a_grant_is_renewed_before_it_ends(setup: Setup) -> None:
    """F-N8: at 80% of its time, without any refusal; a passing failure to renew does no harm."""
    asked: list[float] = []
    fail = False

    def grant() -> Grant:
        asked.append(setup.clock())
        if fail:
            raise Unreachable("the Resource Manager is away")
        return replace(setup.compute.grant_read(setup.first, 3600), granted_at=setup.clock())

    with BlobDisk(grant, clock=setup.clock, sleep=setup.clock.sleep) as disk:
        disk.footer()
        setup.clock.now += 2800
        read(disk, 0, 512)
        assert len(asked) == 1
        setup.clock.now += 100
        fail = True
        read(disk, 0, 512)
        read(disk, 0, 512)
        assert len(asked) == 2
        fail = False
        setup.clock.now += 100
        read(disk, 0, 512)
        assert len(asked) == 3


@pytest.mark.tier2
def test_a_refused_renewal_is_access_denied(setup: Setup) -> None:
    """F-N9: the new grant is refused by the store, or no new one is given: AccessDenied."""
    with setup.reader() as disk:
        disk.footer()
        setup.faults.answer("GET", "sig=", 403, times=1000)
        with pytest.raises(AccessDenied, match="with a new grant too") as caught:
            read(disk, 0, 512)
        assert "sig=" not in str(caught.value)
        setup.faults.clear()
        assert read(disk, 0, 512) == setup.content[:512]
        setup.compute.revoke(setup.first)
        setup.emulator.behaviour.denied.add("Microsoft.Compute/snapshots/beginGetAccess/action")
        with pytest.raises(AccessDenied, match="beginGetAccess"):
            read(disk, 0, 512)


@pytest.mark.tier2
def test_tls_of_blobs_is_verified(tls_emulator: Emulator) -> None:
    """F-N14: the same ``ca_bundle`` for disks; without it, refused with a message that helps."""
    with stack_of(tls_emulator) as stack:
        setup = Setup(tls_emulator, Compute(stack))
        with setup.reader() as disk, pytest.raises(ConfigurationError, match="ca_bundle"):
            disk.footer()
        assert setup.clock.slept == []
        with setup.reader(ca_bundle=str(tls_emulator.ca_file)) as disk:
            assert read(disk, 0, RANGE) == setup.content[:RANGE]


@pytest.mark.tier2
@pytest.mark.parametrize("url", ["http://10.0.0.1/d/a?sig=x", "http://disk.example/a?sig=x"])
def test_a_signature_does_not_travel_in_plain_text(url: str) -> None:
    """F-N14: a signed http URL of another machine is refused before anything is sent."""
    disk = BlobDisk(lambda: Grant(Secret(url), 0.0, 3600.0))
    with disk, pytest.raises(ConfigurationError, match="plain http"):
        disk.footer()


def test_a_redirect_of_a_read_is_refused(setup: Setup) -> None:
    """F-N13: a signed URL leads nowhere else."""
    with serving(lambda _: Reply(200, {})) as other, setup.reader() as disk:
        setup.faults.answer("HEAD", "sig=", 307, Location=other.url)
        with pytest.raises(Refused):
            disk.footer()
        assert other.came == []


def test_nobody_there(setup: Setup) -> None:
    """F-N18: refused connections and unknown names are tried again, then Unreachable."""
    with closed_port() as port:
        for address in (f"http://127.0.0.1:{port}", "https://disk.stack.invalid"):
            setup.clock.slept.clear()
            disk = BlobDisk(
                lambda address=address: Grant(Secret(f"{address}/d?sig=canary"), 1000.0, 1e9),
                retry_budget_seconds=30,
                clock=setup.clock,
                sleep=setup.clock.sleep,
            )
            with disk, pytest.raises(Unreachable, match="check address, DNS") as caught:
                disk.footer()
            assert "canary" not in str(caught.value)
            assert len(setup.clock.slept) >= 3


def test_a_proxy_of_the_environment_is_used(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """F-N18: reads go by way of the proxy that the environment names."""
    with serving(lambda _: Reply(403, {})) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        url = Secret("http://127.0.0.1:1/disk?sig=x")
        disk = BlobDisk(lambda: Grant(url, 0.0, 1e9))
        with disk, pytest.raises(AccessDenied):
            disk.footer()
        assert {c.path for c in proxy.came} == {"http://127.0.0.1:1/disk?sig=x"}


def test_an_older_blob_service_is_named(setup: Setup) -> None:
    """A blob service that does not speak our version: which one, and what to change."""
    setup.faults.answer("HEAD", "sig=", 400, x_ms_error_code="InvalidHeaderValue", body=b" ")
    with setup.reader() as disk, pytest.raises(UnsupportedStack, match="2019-07-07"):
        disk.footer()


def test_a_disk_that_is_gone(setup: Setup) -> None:
    with setup.reader() as disk:
        disk.footer()
        setup.faults.answer("GET", "sig=", 404)
        with pytest.raises(SourceGone):
            read(disk, 0, 512)


def test_a_disk_of_another_size_is_refused(setup: Setup) -> None:
    disk = setup.reader(size_bytes=setup.disk.size_bytes - MIB)
    with disk, pytest.raises(SourceChanged, match="when it was discovered"):
        disk.footer()


def test_messages_hold_no_query(setup: Setup) -> None:
    """No error of a read shows the signature, however the read ended."""
    with setup.reader(retry_budget_seconds=10) as disk:
        disk.footer()
        for status in (400, 403, 404, 409, 412, 416, 418, 429, 500, 501, 503, 307):
            setup.faults.answer(
                "GET", "sig=", status, times=1000, body=json.dumps({"a": 1}).encode()
            )
            with pytest.raises(Exception, match=r"\w") as caught:
                read(disk, 0, 512)
            assert "?" not in str(caught.value)
            assert "sig=" not in str(caught.value)
            setup.faults.clear()
