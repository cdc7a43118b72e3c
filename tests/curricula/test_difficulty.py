from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curricula.difficulty import DifficultyTable
from curricula.index import ProblemIndex
from tests.curricula.build import index_of, problem


def table_of(*, smoothing: float = 0.5, num_problems: int = 4) -> DifficultyTable:
    return DifficultyTable(index_of(num_problems), smoothing=smoothing, floor=0.05)


def test_difficulty_is_the_inverse_of_the_smoothed_mean_plus_floor() -> None:
    table = table_of(smoothing=0.25)
    record = table.observe(2, [1.0, 0.0, 1.0, 1.0])
    assert table.mean(record) == 0.75
    assert table.difficulty(record) == pytest.approx(1 / 0.8)
    table.observe(2, [0.0, 0.0, 0.0, 1.0])
    # 0.75 * 0.75 + 0.25 * 0.25 = 0.625
    assert table.mean(record) == pytest.approx(0.625)
    assert table.visits(record) == 2
    assert (table.position(record), table.record_of(2), table.record_of(1)) == (2, record, None)


def test_variance_is_the_smoothed_population_variance_of_a_group() -> None:
    table = table_of(smoothing=0.5)
    record = table.observe(0, [1.0, 0.0, 0.0, 0.0])
    assert table.variance(record) == pytest.approx(0.25 * 0.75)
    # Outcomes that never differ within a group teach nothing, however much the groups differ.
    table.observe(0, [1.0] * 4)
    assert table.variance(record) == pytest.approx(0.25 * 0.75 / 2)


def test_problem_that_nobody_solves_has_a_finite_difficulty() -> None:
    table = table_of()
    assert table.difficulty(table.observe(0, [0.0] * 8)) == pytest.approx(20.0)


def test_zero_streak_counts_groups_without_any_reward_and_ends_with_one() -> None:
    table = table_of()
    streaks = [table.zero_streak(table.observe(0, outcomes)) for outcomes in ([0.0], [0.0, 0.0], [0.0, 0.1], [0.0])]
    assert streaks == [1, 2, 0, 1]


@pytest.mark.parametrize("outcomes", [[], [1.5], [-0.1], [float("nan")]])
def test_outcomes_that_are_none_or_outside_the_unit_interval_are_refused(outcomes: list[float]) -> None:
    with pytest.raises(ValueError, match="problem 'p1'"):
        table_of().observe(1, outcomes)


def test_visited_problems_are_counted_by_the_bin_of_their_smoothed_mean() -> None:
    table = table_of(smoothing=1.0, num_problems=9)
    for position, mean in enumerate([0.0, 1e-9, 0.25, 0.5, 0.51, 0.75, 0.76, 1.0]):
        table.observe(position, [mean])
    expected = {"0": 1, "to_0.25": 2, "to_0.5": 1, "to_0.75": 2, "below_1": 1, "1": 1}
    assert table.num_by_reward() == expected
    table.observe(0, [1.0])
    assert table.num_by_reward() == expected | {"0": 0, "1": 2}


@given(st.lists(st.tuples(st.integers(0, 3), st.lists(st.floats(0, 1), min_size=1, max_size=4)), max_size=30))
def test_table_survives_json_exactly(visits: list[tuple[int, list[float]]]) -> None:
    def facts(table: DifficultyTable) -> list[Any]:
        own = [[f(r) for f in (table.mean, table.variance, table.visits, table.zero_streak, table.position)]
               for r in range(len(table))]  # fmt: skip
        return [own, table.num_by_reward()]

    table = table_of(smoothing=0.3)
    for position, outcomes in visits:
        table.observe(position, outcomes)
    loaded = table_of(smoothing=0.3)
    loaded.observe(3, [0.5])
    loaded.load_state_dict(json.loads(json.dumps(table.state_dict())))
    assert facts(loaded) == facts(table)
    assert loaded.state_dict() == table.state_dict()
    assert [loaded.record_of(position) for position in range(4)] == [table.record_of(position) for position in range(4)]


def test_records_follow_their_problems_to_other_positions() -> None:
    table = DifficultyTable(index_of(6), smoothing=0.5, floor=0.05)
    for position in (4, 1):
        table.observe(position, [0.25 * position])
    moved = ProblemIndex([problem(name, 5) for name in ("new", "p4", "p0", "p1")])
    loaded = DifficultyTable(moved, smoothing=0.5, floor=0.05)
    loaded.load_state_dict(table.state_dict())
    assert [loaded.position(record) for record in (0, 1)] == [1, 3]
    assert [loaded.mean(record) for record in (0, 1)] == [1.0, 0.25]


def test_data_that_lost_a_visited_problem_is_refused_by_name_and_changes_nothing() -> None:
    table = table_of(num_problems=6)
    table.observe(5, [0.5])
    smaller = table_of(num_problems=4)
    smaller.observe(1, [0.25])
    before = smaller.state_dict()
    with pytest.raises(ValueError, match="problem 'p5' was visited and is not among the 4 problems"):
        smaller.load_state_dict(table.state_dict())
    assert smaller.state_dict() == before
