from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curricula.orders import OrderName
from curricula.sampler import Curriculum, StagedCurriculum
from curricula.settings import CurriculumSettings
from data.columns import columns_of
from data.problem import Problem
from tests.curricula.build import (
    TWO_STAGES,
    curriculum_of,
    outcomes_of,
    play_step,
    problem,
    saved,
    short_and_long,
    stage,
)


def test_staged_curriculum_is_a_curriculum() -> None:
    curriculum: Curriculum = curriculum_of()
    assert curriculum.stage == TWO_STAGES[0]


def test_stages_follow_one_another_and_end_with_none() -> None:
    curriculum = curriculum_of()
    seen = []
    while (now := curriculum.stage) is not None:
        seen.append(now.index)
        play_step(curriculum, 2)
    assert seen == [0, 0, 0, 1, 1, 1, 1]
    for act in (curriculum.begin_step, curriculum.end_step, lambda: curriculum.draw(1)):
        with pytest.raises(RuntimeError, match="all 7 steps of 2 stages are done"):
            act()


def test_every_epoch_draws_each_problem_of_the_window_once_in_another_order() -> None:
    curriculum = curriculum_of(stages=[stage(0, 0, 20, steps=12)])
    drawn = [name for _ in range(12) for name in play_step(curriculum, 4)]
    epochs = [drawn[start : start + 12] for start in range(0, 48, 12)]
    assert all(sorted(epoch) == sorted(f"short{i}" for i in range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@settings(max_examples=60)
@given(
    num_short=st.integers(1, 9),
    num_long=st.integers(1, 9),
    draws=st.lists(st.integers(0, 7), min_size=1, max_size=3),
    exclude=st.sets(st.sampled_from([f"{kind}{i}" for kind in ("short", "long") for i in range(9)]), max_size=6),
    high=st.sampled_from([20, 60]),
    balanced=st.booleans(),
    order=st.sampled_from(get_args(OrderName)),
    short_frac=st.sampled_from([0.0, 0.4]),
    seed=st.integers(0, 99),
)
def test_no_problem_comes_twice_in_a_step_and_draws_are_as_large_as_the_window_allows(
    num_short: int,
    num_long: int,
    draws: list[int],
    exclude: set[str],
    high: int,
    balanced: bool,
    order: OrderName,
    short_frac: float,
    seed: int,
) -> None:
    # The windows overlap, wholly or in part: pool, window and shorter windows can offer the same problem.
    low = 10 if short_frac and num_long > 1 and high == 60 else 0
    stages = [stage(0, 0, 20, steps=4), stage(1, low, high, steps=6, replay_frac=0.5, short_frac=short_frac)]
    problems = short_and_long(num_short, num_long)
    curriculum = curriculum_of(
        problems, stages, seed, task_balanced=balanced, order=order, park_after_visits=1, unpark_after_steps=2,
        advance_on_plateau=2,
    )  # fmt: skip
    while (now := curriculum.stage) is not None:
        allowed = {p.problem_id for p in problems if p.num_prompt_tokens <= now.high} - exclude
        curriculum.begin_step()
        drawn: list[str] = []
        for n in draws:
            window = {p.problem_id for p in problems if now.low < p.num_prompt_tokens <= now.high} & allowed
            got = [p.problem_id for p in curriculum.draw(n, exclude)]
            assert min(n, len(window - set(drawn))) <= len(got) <= min(n, len(allowed) - len(drawn))
            drawn += got
        assert len(set(drawn)) == len(drawn)
        assert set(drawn) <= allowed
        for name in drawn:
            curriculum.observe(name, outcomes_of(name, curriculum.num_steps))
        curriculum.end_step()


def test_excluded_problem_is_owed_and_comes_in_the_same_epoch() -> None:
    curriculum = curriculum_of(short_and_long(6, 1), [stage(0, 0, 20, steps=3)])
    first = play_step(curriculum, 3, exclude=("short2",))
    second = play_step(curriculum, 3)
    assert "short2" in second
    assert sorted(first + second) == [f"short{i}" for i in range(6)]


def test_problem_excluded_for_many_epochs_is_owed_once_only() -> None:
    curriculum = curriculum_of(short_and_long(2, 1), [stage(0, 0, 20, steps=16)])
    for _ in range(10):
        assert play_step(curriculum, 1, exclude=("short0",)) == ["short1"]
    drawn = [name for _ in range(6) for name in play_step(curriculum, 1)]
    # One owed, then five draws from epochs of two that hold it once each: at most 1 + 3.
    assert drawn[0] == "short0"
    assert drawn.count("short0") <= 4


def test_window_smaller_than_the_draw_returns_fewer_and_the_next_step_all_again() -> None:
    curriculum = curriculum_of(short_and_long(3, 1), [stage(0, 0, 20, steps=2)])
    for _ in range(2):
        assert sorted(play_step(curriculum, 8, refill=2)) == ["short0", "short1", "short2"]


def test_first_stage_has_nothing_to_replay() -> None:
    curriculum = curriculum_of(stages=[stage(0, 0, 20, steps=2, replay_frac=0.5)])
    play_step(curriculum, 4)
    assert curriculum.metrics()["curriculum/replay_frac"] == 0.0
    assert len(play_step(curriculum, 4)) == 4


def test_replay_share_is_exact_over_draws_that_do_not_divide_it() -> None:
    # A quarter of 3 is 0.75: rounded down with the rest owed, four draws hold 0 + 1 + 1 + 1 replayed problems.
    stages = [stage(0, 0, 20, steps=3), stage(1, 20, 60, steps=4, replay_frac=0.25)]
    curriculum = curriculum_of(stages=stages, park_after_visits=99, leave_pool_above=1.0)
    for _ in range(3):
        play_step(curriculum, 4)
    shares = []
    for _ in range(4):
        drawn = play_step(curriculum, 3)
        shares.append(sum(name.startswith("short") for name in drawn))
        assert curriculum.metrics()["curriculum/replay_frac"] == pytest.approx(shares[-1] / 3)
    assert shares == [0, 1, 1, 1]


def test_pool_that_is_too_small_is_filled_from_the_window() -> None:
    curriculum = curriculum_of()
    for _ in range(3):
        curriculum.begin_step()
        curriculum.end_step()
    # Nothing was observed in the first stage, so the second replays nothing.
    drawn = play_step(curriculum, 6)
    assert len(drawn) == 6 and all(name.startswith("long") for name in drawn)


def test_replay_prefers_the_hard_and_never_draws_the_easy_or_parked() -> None:
    curriculum = curriculum_of(
        short_and_long(4, 40),
        [stage(0, 0, 20, steps=3), stage(1, 20, 60, steps=400, replay_frac=0.5)],
        unpark_after_steps=10_000,
    )
    for _ in range(3):
        curriculum.begin_step()
        for name, outcome in (("short0", 0.0), ("short1", 0.05), ("short2", 0.45), ("short3", 1.0)):
            curriculum.observe(name, [outcome])
        curriculum.end_step()
    counts = Counter[str]()
    for _ in range(400):
        curriculum.begin_step()
        counts.update(p.problem_id for p in curriculum.draw(2) if p.problem_id.startswith("short"))
        curriculum.end_step()
    # short0 is parked, short3 easy; weights 1 / 0.1 and 1 / 0.5 give 5 : 1, sigma = sqrt(400 * 5/6 * 1/6) = 7.5.
    assert set(counts) == {"short1", "short2"}
    assert counts.total() == 400
    assert abs(counts["short1"] - 400 * 5 / 6) < 4 * 7.5


def test_parked_problem_stays_in_its_window_and_is_counted() -> None:
    curriculum = curriculum_of(short_and_long(2, 1), [stage(0, 0, 20, steps=9)], park_after_visits=1)
    curriculum.begin_step()
    curriculum.observe("short0", [0.0, 0.0])
    assert curriculum.metrics()["curriculum/parked"] == 1
    curriculum.end_step()
    assert sorted(play_step(curriculum, 2)) == ["short0", "short1"]


def test_group_without_valid_outcomes_changes_nothing() -> None:
    curriculum = curriculum_of()
    curriculum.begin_step()
    before = saved(curriculum)
    curriculum.observe("short0", [])
    assert saved(curriculum) == before


def test_problem_that_the_data_does_not_hold_cannot_be_observed() -> None:
    with pytest.raises(ValueError, match="'other' is not among the 24 problems"):
        curriculum_of().observe("other", [1.0])


def test_task_balanced_draws_take_every_task_equally_often() -> None:
    problems = [problem(f"m{i}", 5, "musique") for i in range(30)] + [problem(f"d{i}", 5, "docmath") for i in range(3)]
    problems += [problem(f"c{i}", 5, "choice") for i in range(9)]
    curriculum = curriculum_of(problems, [stage(0, 0, 20, steps=8)], task_balanced=True)
    drawn = [play_step(curriculum, 4) for _ in range(6)]
    # 24 draws over three tasks are 8 each; a step of 4 holds 2, 1 and 1.
    assert Counter(name[0] for step in drawn for name in step) == {"m": 8, "d": 8, "c": 8}
    assert all(sorted(Counter(name[0] for name in step).values()) == [1, 1, 2] for step in drawn)


def test_task_that_runs_out_in_a_step_leaves_its_turn_to_the_others() -> None:
    problems = [problem(f"m{i}", 5, "musique") for i in range(5)] + [problem("d0", 5, "docmath")]
    curriculum = curriculum_of(problems, [stage(0, 0, 20)], task_balanced=True)
    assert sorted(play_step(curriculum, 6)) == ["d0", "m0", "m1", "m2", "m3", "m4"]


def test_metrics_describe_the_step_also_after_it_ended_a_stage() -> None:
    curriculum = curriculum_of(short_and_long(4, 4), [stage(0, 0, 20, steps=1), stage(1, 20, 60)])
    curriculum.begin_step()
    drawn = curriculum.draw(4)
    curriculum.observe("short0", [0.0, 0.0])
    curriculum.observe("short1", [1.0, 0.0])
    curriculum.observe("short2", [1.0, 1.0])
    curriculum.end_step()
    assert len(drawn) == 4
    assert curriculum.metrics() == {
        "curriculum/stage": 0,
        "curriculum/stage_step": 1,
        "curriculum/replay_frac": 0.0,
        "curriculum/short_frac": 0.0,
        # The next stage is open: two of the problems visited so far can be replayed, the third is too easy.
        "curriculum/pool_size": 2,
        "curriculum/num_left": 1,
        "curriculum/parked": 0,
        "curriculum/num_visited": 3,
        "curriculum/visited_by_reward/0": 1,
        "curriculum/visited_by_reward/to_0.25": 0,
        "curriculum/visited_by_reward/to_0.5": 1,
        "curriculum/visited_by_reward/to_0.75": 0,
        "curriculum/visited_by_reward/below_1": 0,
        "curriculum/visited_by_reward/1": 1,
        "curriculum/difficulty_mean": pytest.approx((1 / 0.05 + 1 / 0.55 + 1 / 1.05) / 3),
        "curriculum/max_prompt_tokens": 4,
        "curriculum/prompt_tokens/20": 1 + 2 + 3 + 4,
        "curriculum/prompt_tokens/60": 0,
    }
    assert curriculum.stage is not None and curriculum.stage.index == 1


def test_metrics_tell_what_became_of_the_replayed() -> None:
    curriculum = curriculum_of(short_and_long(2, 9), [stage(0, 0, 20, steps=1), stage(1, 20, 60, replay_frac=0.5)])
    curriculum.begin_step()
    curriculum.observe("short0", [0.0, 1.0])
    curriculum.observe("short1", [0.0, 0.0])
    curriculum.end_step()
    curriculum.begin_step()
    drawn = {p.problem_id for p in curriculum.draw(4)}
    assert {"short0", "short1"} < drawn
    for name, outcomes in (("short0", [1.0, 1.0]), ("short1", [1.0, 0.0])):
        curriculum.observe(name, outcomes)
    for name in drawn - {"short0", "short1"}:
        curriculum.observe(name, [0.0, 0.0])
    metrics = curriculum.metrics()
    assert metrics["curriculum/replay_reward_mean"] == 0.75
    # 1 - 0.5 and 0.5 - 0.
    assert metrics["curriculum/replay_gain"] == 0.5
    assert metrics["curriculum/prompt_tokens/20"] == 1 + 2
    assert metrics["curriculum/stage_step"] == 1


@settings(max_examples=40)
@given(draws=st.lists(st.integers(0, 9), min_size=1, max_size=12), replay=st.sampled_from([0.0, 0.1, 0.3]),
       short=st.sampled_from([0.2, 0.6]))  # fmt: skip
def test_shares_of_a_mix_are_exact_within_one_problem(draws: list[int], replay: float, short: float) -> None:
    stages = [stage(0, 0, 20, steps=2), stage(1, 20, 60, steps=20, replay_frac=replay, short_frac=short)]
    curriculum = curriculum_of(short_and_long(60, 60), stages, leave_pool_above=1.0, park_after_visits=99)
    for _ in range(2):
        play_step(curriculum, 20)
    replayed = mixed_in = 0.0
    for n in draws:
        curriculum.begin_step()
        assert len(curriculum.draw(n)) == n
        metrics = curriculum.metrics()
        replayed += metrics["curriculum/replay_frac"] * n
        mixed_in += metrics["curriculum/short_frac"] * n
        curriculum.end_step()
    assert abs(replayed - replay * sum(draws)) < 1 + 1e-6
    assert abs(mixed_in - short * sum(draws)) < 1 + 1e-6


def test_short_problems_come_from_all_earlier_windows_alike_and_not_from_the_stages_own() -> None:
    problems = [problem(f"a{i}", 5) for i in range(4)] + [problem(f"b{i}", 15) for i in range(4)]
    problems += [problem(f"c{i}", 25) for i in range(8)] + [problem("gap", 45)]
    stages = [stage(0, 0, 10, steps=1), stage(1, 10, 30, steps=1), stage(2, 20, 40, steps=16, short_frac=0.5)]
    curriculum = curriculum_of(problems, stages)
    for _ in range(2):
        play_step(curriculum, 1)
    drawn = Counter(name for _ in range(16) for name in play_step(curriculum, 4))
    # Two of every four: 32 short draws are four epochs of the eight, and 32 of the window four of its own.
    assert drawn == {f"{kind}{i}": 4 for kind, n in (("a", 4), ("b", 4), ("c", 8)) for i in range(n)}


def test_first_stage_has_nothing_shorter() -> None:
    curriculum = curriculum_of(stages=[stage(0, 0, 20, steps=1, short_frac=0.6)])
    assert len(play_step(curriculum, 5)) == 5
    assert curriculum.metrics()["curriculum/short_frac"] == 0.0


def test_balanced_draws_take_tasks_in_turn_from_the_shorter_windows_too() -> None:
    problems = [problem(f"{task}{i}", 5, task) for task, n in (("m", 9), ("d", 2)) for i in range(n)]
    problems += [problem(f"long{i}", 25, "m") for i in range(9)]
    stages = [stage(0, 0, 20, steps=1), stage(1, 20, 60, steps=5, short_frac=0.5)]
    curriculum = curriculum_of(problems, stages, task_balanced=True)
    play_step(curriculum, 1)
    drawn = [play_step(curriculum, 4) for _ in range(5)]
    assert all(Counter(name[0] for name in step) == {"m": 1, "d": 1, "l": 2} for step in drawn)


def plateau_run(steps: int, **changes: Any) -> list[int]:
    """The stage of each step of a run whose reward never changes."""
    stages = [stage(0, 0, 20, steps=steps), stage(1, 20, 60, steps=9)]
    curriculum = curriculum_of(stages=stages, **changes)
    seen = []
    while (now := curriculum.stage) is not None:
        seen.append(now.index)
        curriculum.begin_step()
        for p in curriculum.draw(2):
            curriculum.observe(p.problem_id, [1.0, 0.0])
        curriculum.end_step()
    return seen


def test_stage_on_a_plateau_gives_way_to_the_next_and_the_last_one_runs_to_its_end() -> None:
    assert plateau_run(8) == [0] * 8 + [1] * 9
    # The first step sets the best, three more do not improve on it.
    assert plateau_run(8, advance_on_plateau=3) == [0] * 4 + [1] * 9
    assert plateau_run(8, advance_on_plateau=3, plateau_min_steps=6) == [0] * 6 + [1] * 9
    assert plateau_run(8, advance_on_plateau=99) == [0] * 8 + [1] * 9


def test_plateau_steps_are_told_also_of_the_step_that_ended_the_stage() -> None:
    stages = [stage(0, 0, 20, steps=8), stage(1, 20, 60, steps=9)]
    curriculum = curriculum_of(stages=stages, advance_on_plateau=2)
    told = []
    for _ in range(4):
        first = curriculum.stage
        curriculum.begin_step()
        for p in curriculum.draw(2):
            curriculum.observe(p.problem_id, [1.0, 0.0])
        curriculum.end_step()
        told.append((curriculum.metrics()["curriculum/plateau_steps"], curriculum.stage is not first))
    assert told == [(0, False), (1, False), (2, True), (0, False)]


def test_replayed_and_short_problems_do_not_count_for_the_plateau() -> None:
    stages = [stage(0, 0, 20, steps=1), stage(1, 20, 60, steps=30, short_frac=0.5), stage(2, 60, 61)]
    curriculum = curriculum_of([*short_and_long(), problem("z", 61)], stages, advance_on_plateau=3)
    play_step(curriculum, 2)
    for step in range(20):
        curriculum.begin_step()
        for p in curriculum.draw(4):
            # Shorter problems get ever better, the window's stay as they are.
            is_short = p.problem_id.startswith("short")
            curriculum.observe(p.problem_id, [step / 20 if is_short else 0.5])
        curriculum.end_step()
        if curriculum.stage is stages[2]:
            break
    assert step == 3


class Lazy(Sequence[Problem]):
    """Has columns, and counts the problems that are read."""

    def __init__(self, problems: list[Problem]) -> None:
        self._problems = problems
        self.columns = columns_of(problems)
        self.num_read = 0

    def __len__(self) -> int:
        return len(self._problems)

    def __getitem__(self, position: Any) -> Any:
        self.num_read += 1
        return self._problems[position]


def test_only_drawn_problems_are_read_where_the_data_has_columns() -> None:
    problems = short_and_long()
    lazy = Lazy(problems)
    curriculum = StagedCurriculum(lazy, TWO_STAGES, settings=CurriculumSettings(), seed=0)
    assert lazy.num_read == 0
    drawn = play_step(curriculum, 5)
    saved(curriculum)
    assert lazy.num_read == 5
    assert drawn == play_step(curriculum_of(problems), 5)


def test_default_settings_draw_what_they_always_drew() -> None:
    # Published figures depend on it: a change here is a change of every run's data.
    drawn = []
    curriculum = curriculum_of(seed=7)
    while curriculum.stage is not None:
        drawn.append(" ".join(name[0] + name.strip("shortlng") for name in play_step(curriculum, 4)))
    assert drawn == [
        "s2 s7 s5 s10", "s9 s8 s1 s3", "s4 s6 s11 s0", "l0 s7 l3 s3", "s11 s1 l6 l10", "l7 l8 s10 s8", "s6 s1 l9 l1",
    ]  # fmt: skip


def test_seeds_draw_in_different_orders() -> None:
    assert play_step(curriculum_of(seed=1), 12) != play_step(curriculum_of(seed=2), 12)


def test_stages_must_be_numbered_from_zero() -> None:
    with pytest.raises(ValueError, match=r"indices \[1\]"):
        curriculum_of(stages=[stage(1, 0, 20)])
