from __future__ import annotations

from typing import Any

import pytest

from curricula import identity
from curricula.sampler import StagedCurriculum
from curricula.stage import Stage
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

LONG_RUN = [
    stage(0, 0, 20, steps=60),
    stage(1, 20, 60, steps=70, replay_frac=0.3, short_frac=0.2),
    stage(2, 10, 60, steps=171, replay_frac=0.25, short_frac=0.3),
]
PARKING = {"park_after_visits": 2, "unpark_after_steps": 7}
ALL_OPTIONS = PARKING | {
    "task_balanced": True,
    "replay_power": 0.7,
    "advance_on_plateau": 12,
    "plateau_min_steps": 40,
    "difficulty_smoothing": 0.3,
}


@pytest.mark.parametrize(
    "options",
    [
        PARKING,
        PARKING | {"task_balanced": True},
        PARKING | {"order": "easy_first"},
        *(ALL_OPTIONS | {"order": order} for order in ("random", "easy_first", "length_sorted", "variance_first")),
    ],
    ids=lambda options: " ".join(str(value) for value in options.values()),
)
def test_state_loaded_at_any_of_200_steps_draws_what_the_run_drew(options: dict[str, Any]) -> None:
    problems = [problem(f"p{i}", 1 + i * 7 % 60, "xyz"[i % 3]) for i in range(40)]

    def fresh() -> StagedCurriculum:
        return curriculum_of(problems, LONG_RUN, 3, **options)

    def play(curriculum: StagedCurriculum, step: int) -> list[str]:
        return play_step(curriculum, 5, refill=2, exclude=(f"p{step % 40}",))

    curriculum = fresh()
    states, drawn, metrics = [], [], []
    for step in range(202):
        states.append(saved(curriculum))
        drawn.append(play(curriculum, step))
        metrics.append(curriculum.metrics())
    opened = [m["curriculum/stage"] for m in metrics].index(1)
    assert (opened < 60) == ("advance_on_plateau" in options)
    assert metrics[-1]["curriculum/stage"] == 2
    for share in ("curriculum/replay_frac", "curriculum/short_frac"):
        shares = [m[share] for m in metrics]
        assert max(shares[:opened]) == 0.0 and max(shares[opened:]) > 0.0
    assert max(m["curriculum/parked"] for m in metrics) > 0
    for step, state in enumerate(states[:200]):
        loaded = fresh()
        loaded.load_state_dict(state)
        assert saved(loaded) == state
        for ahead in (step, step + 1):
            assert play(loaded, ahead) == drawn[ahead]
            assert loaded.metrics() == metrics[ahead]


@pytest.mark.parametrize("order", ["random", "easy_first", "length_sorted", "variance_first"])
def test_state_loaded_within_a_step_goes_on_within_it(order: str) -> None:
    stages = [stage(0, 0, 20, steps=3), stage(1, 10, 60, steps=4, replay_frac=0.3, short_frac=0.3)]
    for stop in range(5):
        curriculum, loaded = (curriculum_of(stages=stages, order=order) for _ in range(2))
        for _ in range(stop):
            play_step(curriculum, 5)
        curriculum.begin_step()
        first = curriculum.draw(6)
        for p in first[:3]:
            curriculum.observe(p.problem_id, outcomes_of(p.problem_id, stop))
        loaded.load_state_dict(saved(curriculum))
        rests = []
        for one in (curriculum, loaded):
            rest = one.draw(5)
            for p in [*first[3:], *rest]:
                one.observe(p.problem_id, outcomes_of(p.problem_id, stop))
            one.end_step()
            rests.append([[p.problem_id for p in rest], one.metrics(), play_step(one, 5)])
        assert rests[0] == rests[1]
        assert not {p.problem_id for p in first} & set(rests[0][0])


def test_later_stages_may_get_new_data() -> None:
    curriculum = curriculum_of()
    play_step(curriculum, 4)
    loaded = curriculum_of(short_and_long(12, 30))
    loaded.load_state_dict(saved(curriculum))
    # The first stage goes on as before; the second has the new problems.
    assert [play_step(loaded, 4) for _ in range(2)] == [play_step(curriculum, 4) for _ in range(2)]
    assert {name for _ in range(4) for name in play_step(loaded, 12)} & {f"long{i}" for i in range(12, 30)}


@pytest.mark.parametrize("order", ["random", "easy_first", "length_sorted", "variance_first"])
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("steps_before", [1, 2, 3])
def test_resume_with_a_later_stages_new_data_draws_what_the_uninterrupted_run_draws(
    order: str, balanced: bool, steps_before: int
) -> None:
    # New problems stand before, between and behind the old ones, with tasks of their own: every position moves.
    short = [problem(f"short{i}", 1 + i, "nq"[i % 2]) for i in range(12)]
    old = [*short, *(problem(f"old{i}", 21 + i, "q") for i in range(9))]
    new = [problem("a-first", 50, "a")]
    for i, p in enumerate(short):
        new += [p, problem(f"new{i}", 21 + 3 * i, "amz"[i % 3])]
    stages = [stage(0, 0, 20, steps=3), stage(1, 20, 60, steps=6, replay_frac=0.4, short_frac=0.2)]
    options = {"order": order, "task_balanced": balanced}
    whole = curriculum_of(new, stages, **options)
    drawn = [play_step(whole, 5) for _ in range(9)]
    first = curriculum_of(old, stages, **options)
    before = [play_step(first, 5) for _ in range(steps_before)]
    # After the third step the second stage is open but has drawn nothing: its data may still be new.
    resumed = curriculum_of(new, stages, **options)
    resumed.load_state_dict(saved(first))
    assert before + [play_step(resumed, 5) for _ in range(9 - steps_before)] == drawn
    assert resumed.metrics() == whole.metrics()


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


def changed(**by_id: Problem) -> list[Problem]:
    """The usual problems, with these in place of those of the same name; None leaves one out."""
    replaced = [by_id.get(p.problem_id, p) for p in short_and_long()]
    return [p for p in replaced if p is not None]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, ["seed=0", "1"]),
        ({"task_balanced": True}, ["task_balanced=False"]),
        ({"order": "easy_first"}, ["order=random", "easy_first"]),
        ({"stages": [stage(0, 0, 20, steps=2), TWO_STAGES[1]]}, ["stage 0 is over", "steps=3", "2"]),
        ({"stages": [stage(0, 0, 20, steps=3, lr=1e-5), TWO_STAGES[1]]}, ["stage 0 is over", "lr=1e-06", "1e-05"]),
        ({"stages": two_stages(high=50)}, ["stage 1 is in progress", "high=60", "50"]),
        ({"stages": two_stages(steps=1)}, ["2 steps of stage 1", "allows 1", "stages.1.steps"]),
        ({"stages": TWO_STAGES[:1]}, ["in stage 1", "ends with stage 0"]),
        (
            {"problems": short_and_long(12, 13)},
            ["stage 1", "(20, 60]", "12 problems in the checkpoint and 13 in the data", "added: 'long12'"],
        ),
        (
            {"problems": short_and_long(11, 12)},
            ["stage 0", "(0, 20]", "12 problems in the checkpoint and 11 in the data", "gone: 'short11'"],
        ),
        ({"problems": short_and_long()[::-1]}, ["stage 0", "another order from problem 1 on", "'short11' now stands"]),
        (
            {"problems": changed(short3=problem("short3", 9))},
            ["stage 0", "other prompt tokens: 'short3' ('short3' had 4, has 9)"],
        ),
        (
            {"problems": changed(short3=problem("short3", 4, "nq"))},
            ["stage 0", "other task: 'short3' ('short3' was of 'musique', is of 'nq')"],
        ),
        (
            {"problems": changed(short3=problem("short3", 25))},
            ["stage 0", "11 in the data", "'short3' had 4, has 25"],
        ),
        (
            {"problems": changed(short3=problem("other", 4))},
            ["stage 0", "gone: 'short3'", "added: 'other'"],
        ),
    ],
)  # fmt: skip
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


def refusal(then: list[Problem], now: list[Problem]) -> str:
    """What is said when one step of one problem was done with `then` and the data is `now`."""
    curriculum = curriculum_of(then, [stage(0, 0, 60)])
    curriculum.begin_step()
    curriculum.draw(1)
    with pytest.raises(ValueError) as caught:
        curriculum_of(now, [stage(0, 0, 60)]).load_state_dict(saved(curriculum))
    return str(caught.value)


def test_problem_that_was_never_visited_is_placed_where_it_stood() -> None:
    problems = [problem(f"p{i}", 5) for i in range(9)]
    assert "gone without ever being visited: 1, the first stood as problem 4 of the window, after 'p2'" in refusal(
        problems, problems[:3] + problems[4:]
    )
    assert "the first stood as first of the window" in refusal(problems, problems[1:])
    told = refusal(problems, [*problems[:3], problem("p3", 6), *problems[4:]])
    assert "other prompt tokens or task: 'p3'" in told and "gone" not in told
    assert "added: 'q0', 'q1', 'q2' and 2 more" in refusal(problems, problems + [problem(f"q{i}", 5) for i in range(5)])


def test_difference_in_a_large_window_is_placed_in_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_MAX_CHUNKS", 4)
    problems = [problem(f"p{i}", 5) for i in range(30)]
    told = refusal(problems, [*problems[:19], problem("new", 5), *problems[20:]])
    # 30 problems in chunks of 8.
    assert "the first difference is among problems 17 to 24 of the window, in the data 'p16' to 'p23'" in told
    assert "problems 9 to 16 of the window, in the data 'p8' to 'p16'" in refusal(
        problems, problems[:9] + problems[10:]
    )
    assert "problems 25 to 31" in refusal(problems, [*problems, problem("new", 5)])


def test_window_that_halves_is_still_refused_with_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_MAX_CHUNKS", 4)
    problems = [problem(f"p{i}", 5) for i in range(30)]
    assert "30 problems in the checkpoint and 9 in the data" in refusal(problems, problems[:9])


def test_state_of_another_format_is_refused() -> None:
    for state in ({"seed": 0, "stages": [], "difficulty": {}}, saved(curriculum_of()) | {"format": 99}):
        with pytest.raises(ValueError, match="this version reads 2"):
            curriculum_of().load_state_dict(state)


def test_stage_in_progress_may_change_its_steps_rate_and_shares() -> None:
    curriculum = curriculum_of()
    for _ in range(5):
        play_step(curriculum, 4)
    other = curriculum_of(stages=two_stages(steps=9, lr=1e-5, replay_frac=0.0, short_frac=0.5))
    other.load_state_dict(saved(curriculum))
    play_step(other, 4)
    assert other.metrics()["curriculum/replay_frac"] == 0.0
    assert other.metrics()["curriculum/short_frac"] == 0.5


def test_fingerprint_changes_with_ids_tokens_tasks_and_order_and_not_with_other_windows() -> None:
    def fingerprint(*problems: tuple[str, int, str]) -> str:
        curriculum = curriculum_of([problem(*fields) for fields in problems], [stage(0, 0, 20)])
        curriculum.begin_step()
        curriculum.draw(1)
        return str(saved(curriculum)["windows"][0]["fingerprint"])

    base = fingerprint(("a", 10, "m"), ("b", 20, "m"))
    others = [
        fingerprint(("a", 10, "m"), ("c", 20, "m")),
        fingerprint(("a", 11, "m"), ("b", 20, "m")),
        fingerprint(("a", 10, "m"), ("b", 20, "n")),
        fingerprint(("b", 20, "m"), ("a", 10, "m")),
    ]
    assert len({base, *others}) == 5
    # New data of a later stage, with a task that sorts first.
    assert fingerprint(("new", 21, "a"), ("a", 10, "m"), ("b", 20, "m")) == base
