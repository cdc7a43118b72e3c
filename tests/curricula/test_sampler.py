from __future__ import annotations

import json
from collections import Counter
from hashlib import blake2b
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curricula.sampler import Curriculum, CurriculumSettings, StagedCurriculum
from curricula.stage import Stage
from data.problem import Problem
from tests.curricula.build import problem, stage

TWO_STAGES = [stage(0, 0, 20, steps=3), stage(1, 20, 60, steps=4, replay_frac=0.5)]


def short_and_long(num_short: int = 12, num_long: int = 12) -> list[Problem]:
    return [problem(f"short{i}", 1 + i % 20) for i in range(num_short)] + [
        problem(f"long{i}", 21 + i % 40) for i in range(num_long)
    ]


def curriculum_of(
    problems: list[Problem] | None = None, stages: list[Stage] | None = None, seed: int = 0, **changes: Any
) -> StagedCurriculum:
    return StagedCurriculum(
        short_and_long() if problems is None else problems,
        TWO_STAGES if stages is None else stages,
        settings=CurriculumSettings(**changes),
        seed=seed,
    )


def outcomes_of(problem_id: str, step: int) -> list[float]:
    """Two made-up outcomes that depend on the problem and the step alone; many are zero."""
    return [float(byte % 3 == 0) for byte in blake2b(f"{problem_id} {step}".encode(), digest_size=2).digest()]


def play_step(curriculum: StagedCurriculum, n: int, refill: int = 0, exclude: tuple[str, ...] = ()) -> list[str]:
    step = curriculum.num_steps
    curriculum.begin_step()
    drawn = curriculum.draw(n, exclude)
    for p in drawn:
        curriculum.observe(p.problem_id, outcomes_of(p.problem_id, step))
    drawn += curriculum.draw(refill, exclude)
    for p in drawn[n:]:
        curriculum.observe(p.problem_id, outcomes_of(p.problem_id, step))
    curriculum.end_step()
    return [p.problem_id for p in drawn]


def saved(curriculum: StagedCurriculum) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(json.dumps(curriculum.state_dict()))
    return state


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
    seed=st.integers(0, 99),
)
def test_no_problem_comes_twice_in_a_step_and_draws_are_as_large_as_the_window_allows(
    num_short: int, num_long: int, draws: list[int], exclude: set[str], high: int, balanced: bool, seed: int
) -> None:
    # The second stage's window holds the first's as well: pool and window can offer the same problem.
    stages = [stage(0, 0, 20, steps=4), stage(1, 0, high, steps=6, replay_frac=0.5)]
    problems = short_and_long(num_short, num_long)
    curriculum = curriculum_of(
        problems, stages, seed, task_balanced=balanced, park_after_visits=1, unpark_after_steps=2
    )
    while (now := curriculum.stage) is not None:
        allowed = {p.problem_id for p in problems if p.num_prompt_tokens <= now.high} - exclude
        curriculum.begin_step()
        drawn: list[str] = []
        for n in draws:
            got = [p.problem_id for p in curriculum.draw(n, exclude)]
            assert len(got) == min(n, len(allowed) - len(drawn))
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
    curriculum.end_step()
    assert len(drawn) == 4
    assert curriculum.metrics() == {
        "curriculum/stage": 0,
        "curriculum/replay_frac": 0.0,
        # The next stage is open: both problems visited so far can be replayed.
        "curriculum/pool_size": 2,
        "curriculum/parked": 0,
        "curriculum/difficulty_mean": pytest.approx((1 / 0.05 + 1 / 0.55) / 2),
        "curriculum/max_prompt_tokens": 4,
    }
    assert curriculum.stage is not None and curriculum.stage.index == 1


LONG_RUN = [
    stage(0, 0, 20, steps=60),
    stage(1, 20, 60, steps=70, replay_frac=0.3),
    stage(2, 10, 60, steps=71, replay_frac=0.45),
]


@pytest.mark.parametrize("balanced", [False, True])
def test_state_loaded_at_any_of_200_steps_draws_what_the_run_drew(balanced: bool) -> None:
    problems = [problem(f"p{i}", 1 + i * 7 % 60, "xyz"[i % 3]) for i in range(40)]

    def fresh() -> StagedCurriculum:
        return curriculum_of(problems, LONG_RUN, 3, task_balanced=balanced, park_after_visits=2, unpark_after_steps=7)

    curriculum = fresh()
    states, drawn, metrics = [], [], []
    for step in range(201):
        states.append(saved(curriculum))
        drawn.append(play_step(curriculum, 5, refill=2, exclude=(f"p{step % 40}",)))
        metrics.append(curriculum.metrics())
    assert curriculum.stage is None
    replayed = [m["curriculum/replay_frac"] for m in metrics]
    assert max(replayed[:60]) == 0.0 and min(replayed[61:]) > 0.0
    assert max(m["curriculum/parked"] for m in metrics) > 0
    for step, state in enumerate(states):
        loaded = fresh()
        loaded.load_state_dict(state)
        assert saved(loaded) == state
        for ahead in range(step, min(step + 3, 201)):
            assert play_step(loaded, 5, refill=2, exclude=(f"p{ahead % 40}",)) == drawn[ahead]
            assert loaded.metrics() == metrics[ahead]


def test_state_loaded_within_a_step_still_refuses_what_the_step_drew() -> None:
    curriculum = curriculum_of(short_and_long(5, 1), [stage(0, 0, 20)])
    curriculum.begin_step()
    first = {p.problem_id for p in curriculum.draw(3)}
    loaded = curriculum_of(short_and_long(5, 1), [stage(0, 0, 20)])
    loaded.load_state_dict(saved(curriculum))
    rest = [p.problem_id for p in loaded.draw(5)]
    assert rest == [p.problem_id for p in curriculum.draw(5)]
    assert len(rest) == 2 and not first & set(rest)


def test_seeds_draw_in_different_orders() -> None:
    assert play_step(curriculum_of(seed=1), 12) != play_step(curriculum_of(seed=2), 12)


def test_later_stages_may_get_new_data() -> None:
    curriculum = curriculum_of()
    play_step(curriculum, 4)
    loaded = curriculum_of(short_and_long(12, 30))
    loaded.load_state_dict(saved(curriculum))
    # The first stage goes on as before; the second has the new problems.
    assert [play_step(loaded, 4) for _ in range(2)] == [play_step(curriculum, 4) for _ in range(2)]
    assert {name for _ in range(4) for name in play_step(loaded, 12)} & {f"long{i}" for i in range(12, 30)}


def test_finished_run_goes_on_with_a_further_stage_or_more_steps() -> None:
    curriculum = curriculum_of(stages=TWO_STAGES[:1])
    for _ in range(3):
        play_step(curriculum, 4)
    assert curriculum.stage is None
    further = curriculum_of()
    further.load_state_dict(saved(curriculum))
    assert further.stage == TWO_STAGES[1]
    assert further.metrics()["curriculum/pool_size"] > 0
    longer = curriculum_of(stages=[stage(0, 0, 20, steps=5)])
    longer.load_state_dict(saved(curriculum))
    for _ in range(2):
        play_step(longer, 4)
    assert longer.stage is None


def two_stages(**second: Any) -> list[Stage]:
    return [TWO_STAGES[0], stage(1, **({"low": 20, "high": 60, "steps": 4, "replay_frac": 0.5} | second))]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, ["seed=0", "1"]),
        ({"task_balanced": True}, ["task_balanced=False"]),
        ({"problems": short_and_long(12, 13)}, ["stage 1", "(20, 60]", "12 problems", "13 in the data"]),
        ({"problems": short_and_long(11, 12)}, ["stage 0", "(0, 20]", "12 problems", "11 in the data"]),
        ({"problems": short_and_long()[::-1]}, ["stage 0", "order"]),
        ({"stages": [stage(0, 0, 20, steps=2), TWO_STAGES[1]]}, ["stage 0 is over", "steps=3", "2"]),
        ({"stages": [stage(0, 0, 20, steps=3, lr=1e-5), TWO_STAGES[1]]}, ["stage 0 is over", "lr=1e-06", "1e-05"]),
        ({"stages": two_stages(high=50)}, ["stage 1 is in progress", "high=60", "50"]),
        ({"stages": two_stages(steps=1)}, ["2 steps of stage 1", "allows 1", "stages.1.steps"]),
        ({"stages": TWO_STAGES[:1]}, ["in stage 1", "ends with stage 0"]),
    ],
)
def test_state_of_another_run_is_refused_by_name_and_changes_nothing(changes: dict[str, Any], named: list[str]) -> None:
    curriculum = curriculum_of()
    for _ in range(5):
        play_step(curriculum, 4)
    other = curriculum_of(**changes)
    before = saved(other)
    with pytest.raises(ValueError) as caught:
        other.load_state_dict(saved(curriculum))
    assert all(part in str(caught.value) for part in named), caught.value
    assert "\n" not in str(caught.value)
    assert saved(other) == before


def test_stage_in_progress_may_change_its_steps_rate_and_replay() -> None:
    curriculum = curriculum_of()
    for _ in range(5):
        play_step(curriculum, 4)
    other = curriculum_of(stages=two_stages(steps=9, lr=1e-5, replay_frac=0.0))
    other.load_state_dict(saved(curriculum))
    play_step(other, 4)
    assert other.metrics()["curriculum/replay_frac"] == 0.0


def test_stages_must_be_numbered_from_zero() -> None:
    with pytest.raises(ValueError, match=r"indices \[1\]"):
        curriculum_of(stages=[stage(1, 0, 20)])
