from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curricula.difficulty import DifficultyTable


def test_difficulty_is_the_inverse_of_the_smoothed_mean_plus_floor() -> None:
    table = DifficultyTable(smoothing=0.25, floor=0.05)
    record = table.observe("a", [1.0, 0.0, 1.0, 1.0])
    assert table.mean(record) == 0.75
    assert table.difficulty(record) == pytest.approx(1 / 0.8)
    table.observe("a", [0.0, 0.0, 0.0, 1.0])
    # 0.75 * 0.75 + 0.25 * 0.25 = 0.625
    assert table.mean(record) == pytest.approx(0.625)
    assert table.visits(record) == 2


def test_problem_that_nobody_solves_has_a_finite_difficulty() -> None:
    table = DifficultyTable(smoothing=0.5, floor=0.05)
    assert table.difficulty(table.observe("a", [0.0] * 8)) == pytest.approx(20.0)


def test_zero_streak_counts_groups_without_any_reward_and_ends_with_one() -> None:
    table = DifficultyTable(smoothing=0.5, floor=0.05)
    streaks = [table.zero_streak(table.observe("a", outcomes)) for outcomes in ([0.0], [0.0, 0.0], [0.0, 0.1], [0.0])]
    assert streaks == [1, 2, 0, 1]


@pytest.mark.parametrize("outcomes", [[], [1.5], [-0.1], [float("nan")]])
def test_outcomes_that_are_none_or_outside_the_unit_interval_are_refused(outcomes: list[float]) -> None:
    with pytest.raises(ValueError, match="problem 'a'"):
        DifficultyTable(smoothing=0.5, floor=0.05).observe("a", outcomes)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.lists(st.floats(0, 1), min_size=1, max_size=4)), max_size=30))
def test_table_survives_json_exactly(visits: list[tuple[str, list[float]]]) -> None:
    table = DifficultyTable(smoothing=0.3, floor=0.05)
    for problem_id, outcomes in visits:
        table.observe(problem_id, outcomes)
    loaded = DifficultyTable(smoothing=0.3, floor=0.05)
    loaded.load_state_dict(json.loads(json.dumps(table.state_dict())))
    assert loaded.state_dict() == table.state_dict()
    assert all(0.0 <= loaded.mean(record) <= 1.0 for record in range(len(loaded)))
    assert [loaded.record_of(table.problem_id(r)) for r in range(len(table))] == list(range(len(table)))
