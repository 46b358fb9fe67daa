import random
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.virtual_clock import VirtualClock

from airflow_provider_azstack.arm.retry import Patience, retry_after_seconds
from airflow_provider_azstack.errors import Unreachable

pytestmark = pytest.mark.tier1

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 17 ", 17.0),
        (format_datetime(NOW + timedelta(minutes=2), usegmt=True), 120.0),
        (format_datetime(NOW - timedelta(minutes=2), usegmt=True), 0.0),
        (None, None),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("9" * 400, None),
        ("٣", None),
        ("Wed, 99 Foo 2026 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(
    value: str | None, seconds: float | None
) -> None:
    assert retry_after_seconds(value, NOW.timestamp()) == seconds


@given(text=st.text(max_size=60))
def test_no_retry_after_breaks_us(text: str) -> None:
    found = retry_after_seconds(text, 0.0)
    assert found is None or found >= 0


@given(
    asked=st.lists(st.none() | st.floats(0, 500), min_size=1, max_size=60),
    budget=st.floats(0, 2000),
    seed=st.integers(0, 2**32),
)
def test_waits_obey_the_other_side_and_the_budget(
    asked: list[float | None], budget: float, seed: int
) -> None:
    """No wait is shorter than asked for or than half a second; their sum is within the budget."""
    clock = VirtualClock()
    tries = Patience(budget, clock, clock.sleep, random.Random(seed)).start()
    waited: list[float] = []
    try:
        for at_least in asked:
            tries.wait(Unreachable("away"), at_least)
            waited.append(clock.slept[-1])
    except Unreachable:
        pass
    assert sum(waited) <= budget + 1e-6
    assert all(wait >= max(0.5, least or 0.0) for wait, least in zip(waited, asked, strict=False))


def test_waits_grow_to_a_minute() -> None:
    clock = VirtualClock()
    tries = Patience(900.0, clock, clock.sleep, random.Random(1)).start()
    with pytest.raises(Unreachable):
        while True:
            tries.wait(Unreachable("away"))
    assert clock.slept[0] <= 1.0
    assert 30.0 <= clock.slept[-1] <= 60.0
    assert len(clock.slept) < 40
