"""Each alarm is raised once when its figure stays past its bound, cleared when it stays well inside, and survives a resume."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from rl.alarms import ADVICE, NAMES, Alarms
from rl.config import HealthSection

ACCURACY = "eval/greedy/640/accuracy"
TWO = HealthSection(patience=2)


def alarms(health: HealthSection = TWO) -> Alarms:
    return Alarms(health, last_stage=1, accuracy_metric=ACCURACY)


def changes(watched: Alarms, rows: Iterable[Mapping[str, Any]], first_step: int = 1) -> list[tuple[int, str, bool]]:
    """(step, alarm, raised) of everything that happened over the rows."""
    return [
        (event.step, event.name, event.raised)
        for step, row in enumerate(rows, first_step)
        for event in watched.observe(step, row)
    ]


def series(metric: str, *values: float | None) -> list[dict[str, float | None]]:
    return [{metric: value} for value in values]


def test_every_alarm_has_advice_and_a_metric() -> None:
    assert tuple(ADVICE) == NAMES
    assert alarms().metrics() == {f"health/alarm/{name}": 0.0 for name in NAMES}


@pytest.mark.parametrize(
    ("metric", "name", "good", "bad", "between"),
    [
        ("policy/kl_sampler", "sampler_mismatch", 0.001, 0.011, 0.0095),
        ("curriculum/dead_group_frac", "dead_groups", 0.8, 0.96, 0.9),
        ("reward/invalid_frac", "invalid_scores", 0.0, 0.11, 0.095),
        ("rollout/truncated_frac", "truncated_answers", 0.4, 0.51, 0.46),
    ],
)
def test_raised_once_after_two_steps_past_the_bound_and_cleared_after_two_well_inside(
    metric: str, name: str, good: float, bad: float, between: float
) -> None:
    rows = series(metric, good, good, bad, good, bad, bad, bad, between, between, good, between, good, good, good)
    assert changes(alarms(), rows) == [(6, name, True), (13, name, False)]


def test_entropy_is_held_against_the_mean_of_the_first_steps() -> None:
    # Start (0.4 + 0.6) / 2 = 0.5: collapse below 0.05, cleared from 0.055; explosion above 2, cleared at 1.8.
    rows = series("policy/entropy", 0.4, 0.6, 0.04, 0.04, 0.052, 0.06, 0.06, 2.1, 2.1, 1.9, 1.8, 1.7)
    assert changes(alarms(), rows) == [
        (4, "entropy_collapse", True),
        (7, "entropy_collapse", False),
        (9, "entropy_explosion", True),
        (12, "entropy_explosion", False),
    ]


def test_an_absolute_bound_on_entropy_counts_from_the_first_step() -> None:
    rows = series("policy/entropy", 0.009, 0.009)
    assert changes(alarms(HealthSection(patience=2, entropy_min=0.01)), rows) == [(2, "entropy_collapse", True)]


def test_truncation_is_held_against_the_stages_start() -> None:
    # Stage 0 starts at 0.05, so that 0.25 is the bound; stage 1 starts at 0.3, and 0.2 above it is 0.5.
    fracs = [(0, 0.05), (0, 0.05), (0, 0.26), (1, 0.3), (1, 0.3), (1, 0.26), (1, 0.49), (1, 0.51), (1, 0.51)]
    rows = [{"curriculum/stage": stage, "rollout/truncated_frac": frac} for stage, frac in fracs]
    assert changes(alarms(), rows) == [(9, "truncated_answers", True)]


def test_an_update_that_was_left_out_is_told_at_once() -> None:
    rows = series("health/skipped_updates", 0, 1, 0, 1, 0, 0)
    assert changes(alarms(), rows) == [(2, "skipped_updates", True), (6, "skipped_updates", False)]


def evaluated(*points: tuple[float, float], stage: int = 1) -> list[dict[str, float]]:
    """Two steps an evaluation: the first with the reward 0.1 below, the second 0.1 above."""
    rows = []
    for reward, accuracy in points:
        rows += [
            {"curriculum/stage": stage, "reward/mean": reward - 0.1},
            {"curriculum/stage": stage, "reward/mean": reward + 0.1, ACCURACY: accuracy},
        ]
    return rows


def test_reward_that_rises_while_accuracy_does_not_is_told_at_the_third_evaluation() -> None:
    flat = evaluated((0.5, 0.4), (0.52, 0.41), (0.56, 0.4), (0.56, 0.4), (0.58, 0.45))
    # Evaluations 1 to 3: reward +0.06, accuracy 0. 2 to 4: +0.04, -0.01, in between. 3 to 5: accuracy +0.05, cleared.
    assert changes(alarms(), flat) == [(6, "reward_without_accuracy", True), (10, "reward_without_accuracy", False)]


def test_reward_that_rises_with_accuracy_or_before_the_last_stage_is_fine() -> None:
    assert changes(alarms(), evaluated((0.5, 0.4), (0.6, 0.41), (0.7, 0.42))) == []
    assert changes(alarms(), evaluated((0.5, 0.4), (0.6, 0.4), (0.7, 0.4), stage=0)) == []


@pytest.mark.parametrize("absent", [None, math.nan, math.inf, "missing"])
def test_a_step_without_the_figure_changes_nothing(absent: Any) -> None:
    rows = [{"policy/kl_sampler": value} for value in (0.1, absent, 0.1, absent, 0.0, absent, 0.0)]
    if absent == "missing":
        rows = [{} if row["policy/kl_sampler"] == absent else row for row in rows]
    assert changes(alarms(), rows) == [(3, "sampler_mismatch", True), (7, "sampler_mismatch", False)]


def test_a_message_is_one_line_with_figure_bound_and_what_to_do() -> None:
    watched = alarms()
    watched.observe(1, {"policy/kl_sampler": 0.02})
    [event] = watched.observe(2, {"policy/kl_sampler": 0.03})
    assert (
        event.message
        == f"sampler_mismatch: policy/kl_sampler 0.03, bound 0.01 for 2 steps; {ADVICE['sampler_mismatch']}"
    )
    assert watched.raised == ("sampler_mismatch",)
    assert watched.metrics()["health/alarm/sampler_mismatch"] == 1.0


def test_a_resumed_run_raises_the_same_at_whatever_step_it_was_saved() -> None:
    rows = evaluated((0.5, 0.4), (0.6, 0.4), (0.7, 0.4), (0.8, 0.6))
    entropies, truncated = (0.5, 0.5, 0.04, 0.04, 0.5, 0.5, 2.2, 2.2), (0.1, 0.1, 0.2, 0.4, 0.4, 0.4, 0.1, 0.1)
    for row, entropy, frac in zip(rows, entropies, truncated, strict=True):
        row |= {"policy/entropy": entropy, "rollout/truncated_frac": frac, "health/skipped_updates": float(frac > 0.3)}
    expected = changes(alarms(), rows)
    assert len(expected) >= 6
    for saved_after in range(len(rows)):
        before, after = alarms(), alarms()
        told = changes(before, rows[:saved_after])
        after.load_state_dict(json.loads(json.dumps(before.state_dict())))
        assert after.state_dict() == before.state_dict()
        assert told + changes(after, rows[saved_after:], saved_after + 1) == expected


def test_an_alarm_younger_than_the_saved_state_has_seen_nothing_and_the_others_stay() -> None:
    before, after = alarms(), alarms()
    changes(before, [{"reward/invalid_frac": 0.2, "policy/kl_sampler": 0.2}] * 2)
    state = before.state_dict()
    del state["states"]["sampler_mismatch"]
    after.load_state_dict(state)
    assert after.raised == ("invalid_scores",)
