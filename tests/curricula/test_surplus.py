from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curricula.surplus import SurplusBuffer, is_informative


def test_informative_groups_are_those_whose_outcomes_differ() -> None:
    assert is_informative([0.0, 0.0, 1.0])
    assert not is_informative([0.0] * 8)
    assert not is_informative([1.0] * 8)
    # A constant fraction has std 0 but a mean strictly between 0 and 1.
    assert not is_informative([0.5] * 8)


def test_fewer_than_two_valid_outcomes_are_not_informative() -> None:
    assert not is_informative([])
    assert not is_informative([1.0])


def test_surplus_groups_are_kept_for_the_next_step_oldest_first() -> None:
    buffer = SurplusBuffer[str](max_age=1)
    for item in ("a", "b", "c"):
        buffer.put(item, born=4)
    assert buffer.take(2, now=5) == ["a", "b"]
    buffer.put("d", born=5)
    assert buffer.take(9, now=5) == ["c", "d"]
    assert buffer.num_expired == 0


def test_surplus_older_than_its_freshness_is_dropped_and_counted() -> None:
    buffer = SurplusBuffer[str](max_age=1)
    buffer.put("old", born=4)
    buffer.put("fresh", born=5)
    assert buffer.take(9, now=6) == ["fresh"]
    assert buffer.num_expired == 1


def test_age_zero_keeps_nothing_for_the_next_step() -> None:
    buffer = SurplusBuffer[str](max_age=0)
    buffer.put("a", born=4)
    assert buffer.take(1, now=5) == []
    assert buffer.num_expired == 1


def test_items_put_back_out_of_order_are_taken_oldest_first() -> None:
    buffer = SurplusBuffer[str](max_age=9)
    for item, born in (("b", 2), ("c", 3), ("a", 1), ("b2", 2)):
        buffer.put(item, born=born)
    assert list(buffer) == [("a", 1), ("b", 2), ("b2", 2), ("c", 3)]


@given(
    max_age=st.integers(0, 3),
    steps=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=20),
)
def test_surplus_is_never_used_past_its_freshness_nor_lost(max_age: int, steps: list[tuple[int, int]]) -> None:
    buffer = SurplusBuffer[tuple[int, int]](max_age=max_age)
    put: list[tuple[int, int]] = []
    taken: list[tuple[int, int]] = []
    for now, (num_put, num_take) in enumerate(steps):
        for k in range(num_put):
            put.append((now, k))
            buffer.put((now, k), born=now)
        before = len(buffer)
        expired_before = buffer.num_expired
        got = buffer.take(num_take, now)
        assert all(now - born <= max_age for born, _ in got)
        # Nothing is held back either: what is fresh is given while it lasts.
        assert len(got) == min(num_take, before - (buffer.num_expired - expired_before))
        taken += got
    kept = [item for item, _ in buffer]
    assert len(put) == len(taken) + len(kept) + buffer.num_expired
    assert len(set(taken) | set(kept)) == len(taken) + len(kept)


def test_negative_age_is_refused() -> None:
    with pytest.raises(ValueError, match="max_surplus_age=-1"):
        SurplusBuffer[str](max_age=-1)
