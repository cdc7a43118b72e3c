from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curricula.index import ProblemIndex
from curricula.stage import Stage, is_short, num_outside_windows, plan_stages, short_positions, stage_window
from data.problem import DataError
from tests.curricula.build import problem, stage


@given(
    tokens=st.lists(st.integers(1, 50), min_size=1, max_size=60),
    bounds=st.lists(st.integers(1, 60), min_size=1, max_size=5, unique=True),
)
def test_consecutive_windows_partition_the_problems(tokens: list[int], bounds: list[int]) -> None:
    bounds = sorted(bounds)
    index = ProblemIndex([problem(f"p{i}", n) for i, n in enumerate(tokens)])
    windows = [index.window(low, high) for low, high in zip([0, *bounds], bounds, strict=False)]
    found = sorted(int(p) for window in windows for p in window)
    assert found == [i for i, n in enumerate(tokens) if n <= bounds[-1]]


def test_window_excludes_its_lower_and_includes_its_upper_bound() -> None:
    index = ProblemIndex([problem("at-low", 20), problem("inside", 21), problem("at-high", 60), problem("over", 61)])
    assert [index.id_of(p) for p in stage_window(index, stage(1, 20, 60))] == ["inside", "at-high"]


def test_empty_window_is_a_one_line_error_that_names_stage_and_window() -> None:
    index = ProblemIndex([problem("a", 120), problem("b", 900)])
    with pytest.raises(ValueError) as caught:
        stage_window(index, stage(2, 1000, 4000))
    message = str(caught.value)
    assert "stages.2" in message and "(1000, 4000]" in message and "120 to 900" in message
    assert "\n" not in message


def test_two_problems_with_one_id_are_refused() -> None:
    with pytest.raises(DataError, match="'a' stands at positions 0 and 2"):
        ProblemIndex([problem("a", 1), problem("b", 2), problem("a", 3)])


def test_every_id_is_found_and_no_other() -> None:
    index = ProblemIndex([problem(f"p{i}", 1 + i) for i in range(500)])
    assert [index.find(f"p{i}") for i in range(500)] == list(range(500))
    assert index.find("p500") is None
    with pytest.raises(ValueError, match="'p500' is not among the 500 problems"):
        index.position_of("p500")
    assert index.positions_of(["p499", "p500", "p0", ""]).tolist() == [499, -1, 0, -1]
    assert ProblemIndex([]).positions_of(["p0"]).tolist() == [-1]


def test_plan_counts_problems_by_task_and_bin() -> None:
    index = ProblemIndex([problem("a", 1, "x"), problem("b", 10, "y"), problem("c", 11, "y"), problem("d", 300, "y")])
    first, second = plan_stages(index, [stage(0, 0, 20, steps=6), stage(1, 20, 300)], num_bins=2)
    # Bins of (0, 20] in two: (0, 10] holds 1 and 10, (10, 20] holds 11.
    assert first.histogram == ((10, 2), (20, 1))
    assert first.num_by_task == {"x": 1, "y": 2}
    assert (first.num_problems, first.max_prompt_tokens) == (3, 11)
    assert first.mean_prompt_tokens == pytest.approx(22 / 3)
    assert first.num_epochs(problems_per_step=2) == 4.0
    assert second.histogram == ((160, 0), (300, 1))
    assert second.num_by_task == {"y": 1}


def test_problems_that_no_stage_trains_on_are_counted() -> None:
    index = ProblemIndex([problem("a", 5), problem("gap", 15), problem("b", 25), problem("long", 31)])
    assert num_outside_windows(index, [stage(0, 0, 10), stage(1, 20, 30)]) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"low": 5, "high": 5},
        {"low": -1},
        {"steps": 0},
        {"max_response_tokens": 0},
        {"replay_frac": 1.0},
        {"short_frac": 1.0},
    ],
)
def test_impossible_stages_are_refused(changes: dict[str, float]) -> None:
    fields = {"index": 0, "low": 0, "high": 9, "steps": 1, "max_response_tokens": 1, "replay_frac": 0.0, "lr": 1e-6}
    with pytest.raises(ValueError, match="stage 0"):
        Stage(**(fields | changes))  # type: ignore[arg-type]


def test_shares_that_leave_nothing_to_the_window_are_refused() -> None:
    with pytest.raises(DataError, match=r"stages.1: replay_frac=0.4 and short_frac=0.6 leave nothing"):
        stage(1, 0, 9, replay_frac=0.4, short_frac=0.6)


def test_short_problems_are_those_of_earlier_windows_alone() -> None:
    index = ProblemIndex([problem(f"p{n}", n) for n in (5, 10, 15, 20, 25, 30, 35)])
    stages = [stage(0, 0, 10), stage(1, 15, 25), stage(2, 20, 40)]
    assert [[index.id_of(p) for p in short_positions(index, stages, s)] for s in stages] == [
        [],
        ["p5", "p10"],
        ["p5", "p10", "p20"],
    ]
    for s in stages:
        inside = {int(p) for p in short_positions(index, stages, s)}
        assert inside == {p for p in range(7) if is_short(int(index.num_tokens[p]), stages, s)}
