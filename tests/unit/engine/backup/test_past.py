"""What earlier jobs tell: bytes, tempo, and whose turn it is; whatever the order of the records."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_azstack.engine.backup.past import Past, Tempo
from airflow_provider_azstack.model import (
    HostShare,
    Job,
    JobOutline,
    JobRecord,
    JobVm,
    from_plain,
    to_plain,
)

pytestmark = pytest.mark.tier1

START = datetime(2026, 5, 4, 20, 0, tzinfo=UTC)
MB = 1_000_000


def key(number: int) -> str:
    return f"00000000-0000-0000-0000-{number:012d}"


def job(day: int, *vms: JobVm) -> JobRecord:
    return JobRecord(
        job=Job(run=f"r{day}", session="s", policy="p", stack="x"),
        status="partial",
        started_at=START + timedelta(days=day),
        ended_at=START + timedelta(days=day, hours=1),
        vms=vms,
    )


def moved(number: int, changed_bytes: int, seconds: float = 0.0, **rest: object) -> JobVm:
    settings = {"host": "a", "status": "done", "disks": 1, **rest}
    return JobVm(
        key=key(number), name="v", changed_bytes=changed_bytes, seconds=seconds, **settings
    )


def test_an_incremental_moves_what_the_last_one_did_and_a_full_the_most_seen() -> None:
    past = Past([job(1, moved(1, 100)), job(2, moved(1, 7)), job(3, moved(1, 9, status="failed"))])
    assert past.expected_bytes("incremental") == {key(1): 7}
    assert past.expected_bytes("full") == {key(1): 100}


def record(day: int, **vms: str) -> JobRecord:
    """:param vms: name -> ``done``, ``failed`` or ``waiting``."""
    return job(
        day,
        *(
            moved(
                ord(name),
                0,
                status="done" if how == "done" else "failed",
                is_waiting=how == "waiting",
            )
            for name, how in vms.items()
        ),
    )


def test_who_waits_longest_is_first_and_who_was_done_or_failed_does_not_wait() -> None:
    records = [
        record(1, a="done", b="done", c="done", d="done"),
        record(2, a="waiting", b="done", c="waiting", d="done"),
        record(3, a="waiting", b="waiting", c="done", d="failed", e="waiting"),
    ]
    random.Random(3).shuffle(records)
    names = [chr(int(key[-12:])) for key in Past(records).waiting()]
    assert names == ["e", "a", "b"], "never done, done on day 1, done on day 2"


def test_a_vm_in_pieces_says_nothing_of_one_host() -> None:
    """Its seconds are those of several hosts: they count for what is usual, and for no host."""
    whole = [moved(number, 400 * MB, 10.0) for number in range(1, 4)]
    pieces = moved(9, 400 * MB, 80.0, more_hosts=("b",))
    rates = Past([job(1, *whole, pieces)]).rates()
    assert rates.tempo("a") == Past([job(1, *whole)]).rates().tempo("a")
    assert set(rates.hosts) == {"a"}
    assert rates.factor(key(9)) > 1.0


def test_what_several_hosts_did_of_a_vm_counts_for_each_of_them() -> None:
    """Where the record has it: host b streamed nothing else, and its tempo is known."""
    shares = (
        HostShare(host="a", disks=1, changed_bytes=400 * MB, seconds=10.0),
        HostShare(host="b", disks=1, changed_bytes=400 * MB, seconds=40.0),
    )
    cut = moved(9, 800 * MB, 50.0, more_hosts=("b",), shares=shares)
    rates = Past([job(1, cut)]).rates()
    assert rates.tempo("a").seconds(0, 400 * MB) == pytest.approx(10.0)
    assert rates.tempo("b").seconds(0, 400 * MB) == pytest.approx(40.0)


def test_of_each_image_the_vm_that_was_done_last_is_first() -> None:
    """A restore point of it is there most likely; who failed since is not asked for."""
    jobs = [
        job(1, moved(1, 1, image="debian"), moved(2, 1, image="debian"), moved(3, 1)),
        job(2, moved(2, 1, image="debian"), moved(4, 1, image="windows")),
        job(3, moved(1, 0, status="failed", image="debian")),
    ]
    random.Random(4).shuffle(jobs)
    assert Past(jobs).of_images() == {"debian": [key(2), key(1)], "windows": [key(4)]}


def test_records_of_earlier_versions_tell_what_they_can() -> None:
    """They know neither images nor what each host did."""
    plain = to_plain(job(1, moved(1, 400 * MB, 10.0, more_hosts=("b",), image="debian")))
    for key_of_later in ("shares", "image"):
        del plain["vms"][0][key_of_later]
    for kind in (JobOutline, JobRecord):
        past = Past([from_plain(kind, plain, "an old record")])
        assert past.of_images() == {}
        assert past.done() == {key(1)}
        assert past.rates().hosts == {}


def test_tempo_is_found_again_in_what_was_measured() -> None:
    """Two hosts of which one is twice as fast; 2 s a disk; sizes over three orders."""
    rng = random.Random(5)
    truth = {"a": Tempo(2.0, 50e6), "b": Tempo(2.0, 100e6)}
    vms = []
    for number in range(60):
        host, disks, count = "ab"[number % 2], 1 + number % 3, int(10 ** rng.uniform(7, 10))
        seconds = truth[host].seconds(disks, count) * rng.uniform(0.9, 1.1)
        vms.append(moved(number, count, seconds, host=host, disks=disks))
    rates = Past([job(1, *vms)]).rates()
    for host, tempo in truth.items():
        assert rates.tempo(host).bytes_per_second == pytest.approx(tempo.bytes_per_second, rel=0.1)
        assert rates.tempo(host).seconds_per_disk == pytest.approx(2.0, rel=0.25)
    assert 50e6 < rates.tempo("new").bytes_per_second < 100e6, "a host that was never seen"
    assert rates.fastest == pytest.approx(100e6, rel=0.15)


def test_a_vm_that_was_slow_is_expected_to_be_slow_but_one_night_is_not_everything() -> None:
    vms = [moved(number, 1000 * MB, 10.0) for number in range(20)]
    rates = Past([job(1, *vms, moved(98, 1000 * MB, 20.0), moved(99, 1000 * MB, 5000.0))]).rates()
    assert rates.factor(key(98)) == pytest.approx(2.0, rel=0.1)
    assert rates.factor(key(99)) == 4.0
    assert rates.factor(key(1)) == pytest.approx(1.0, rel=0.1)
    assert rates.factor(key(77)) == 1.0


@pytest.mark.parametrize(
    "vms",
    [
        (),
        (moved(1, 0, 1.0), moved(2, 4096, 0.5)),
        (moved(1, 1000 * MB, 0.0),),
        (moved(1, 1000 * MB, 10.0, status="failed"),),
    ],
    ids=["none", "hardly a byte", "no time", "failed"],
)
def test_what_tells_nothing_gives_the_assumed_tempo(vms: tuple[JobVm, ...]) -> None:
    assert Past([job(1, *vms)]).rates().tempo("a") == Tempo()


@pytest.mark.parametrize(
    "vms",
    [
        [moved(1, 1000 * MB, 10.0)],
        [moved(n, 1000 * MB, 10.0) for n in range(5)],
        [moved(1, 1000 * MB, 10.0), moved(2, 10 * MB, 30.0), moved(3, 5000 * MB, 12.0)],
        [moved(1, 100 * MB, 1e-6), moved(2, 0, 1e-6)],
        [moved(1, 1000 * MB, 10.0, disks=0)],
    ],
)
def test_odd_measurements_still_give_a_tempo_that_can_be_used(vms: list[JobVm]) -> None:
    tempo = Past([job(1, *vms)]).rates().tempo("a")
    assert tempo.seconds_per_disk >= 0
    assert 0 < tempo.bytes_per_second < float("inf")


def test_the_order_of_records_does_not_matter() -> None:
    jobs = [job(n, *(moved(v, n * v * 70 * MB, n + v) for v in range(8))) for n in range(1, 9)]
    told = Past(jobs).rates()
    random.Random(1).shuffle(jobs)
    assert Past(jobs).rates() == told
