"""The breaker as a state machine, on a clock that the test moves."""

from __future__ import annotations

import random

import pytest

from rewards.breaker import Breaker, BreakerPolicy


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def call(breaker: Breaker, *, ok: bool) -> bool:
    """One call, if it is let through; whether it was."""
    ticket = breaker.admit()
    if ticket is None:
        return False
    breaker.record(ticket, ok=ok)
    return True


def opened() -> tuple[Breaker, Clock]:
    clock = Clock()
    breaker = Breaker(BreakerPolicy(cooldown_s=15.0), clock=clock)
    for _ in range(20):
        call(breaker, ok=False)
    assert breaker.state == "open"
    return breaker, clock


def test_a_dead_service_is_called_twenty_times_and_no_more() -> None:
    breaker = Breaker(clock=Clock())
    assert sum(call(breaker, ok=False) for _ in range(1000)) == 20
    assert (breaker.state, breaker.num_opened) == ("open", 1)


def test_fifteen_failures_of_the_last_twenty_open_it_and_fourteen_do_not() -> None:
    for failures, state in ((14, "closed"), (15, "open")):
        breaker = Breaker(clock=Clock())
        for i in range(20):
            call(breaker, ok=i >= failures)
        assert breaker.state == state


def test_old_outcomes_are_forgotten() -> None:
    breaker = Breaker(clock=Clock())
    for ok in [False] * 14 + [True] * 20 + [False] * 14:
        assert call(breaker, ok=ok)
    assert breaker.state == "closed"


def test_three_failures_in_ten_do_not_open_it() -> None:
    rng = random.Random(0)
    breaker = Breaker(clock=Clock())
    assert all(call(breaker, ok=rng.random() >= 0.3) for _ in range(5000))


def test_after_the_pause_one_call_is_let_through_and_its_success_closes() -> None:
    breaker, clock = opened()
    clock.now = 14.9
    assert breaker.admit() is None and breaker.admits_again_in_s() == pytest.approx(0.1)
    clock.now = 15.0
    assert breaker.state == "half_open"
    ticket = breaker.admit()
    assert ticket is not None and breaker.admit() is None
    breaker.record(ticket, ok=True)
    assert breaker.state == "closed" and call(breaker, ok=True)


def test_a_failed_probe_opens_it_for_another_pause() -> None:
    breaker, clock = opened()
    clock.now = 15.0
    assert call(breaker, ok=False)
    assert breaker.state == "open" and breaker.admits_again_in_s() == 15.0


def test_calls_from_before_the_opening_say_nothing_about_the_service_now() -> None:
    breaker = Breaker(clock=(clock := Clock()))
    late = [breaker.admit() for _ in range(30)]
    for ticket in late[:20]:
        assert ticket is not None
        breaker.record(ticket, ok=False)
    assert breaker.state == "open"
    clock.now = 15.0
    probe = breaker.admit()
    for ticket in late[20:]:
        assert ticket is not None
        breaker.record(ticket, ok=True)
    assert breaker.state == "half_open"
    assert probe is not None
    breaker.record(probe, ok=False)
    assert breaker.state == "open"


def test_after_it_closed_a_full_window_is_needed_again() -> None:
    breaker, clock = opened()
    clock.now = 15.0
    call(breaker, ok=True)
    assert sum(call(breaker, ok=False) for _ in range(100)) == 20


@pytest.mark.parametrize("wrong", [{"window_calls": 0}, {"max_failure_frac": 0.0}, {"cooldown_s": -1.0}])
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="BreakerPolicy"):
        BreakerPolicy(**wrong)
