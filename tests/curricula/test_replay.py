from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curricula.difficulty import DifficultyTable
from curricula.replay import ReplayPool
from tests.curricula.build import index_of

# 99.9 % points of the chi-square distribution by degrees of freedom: a right sampler fails once in a thousand seeds.
CHI_SQUARE_999 = {2: 13.82, 3: 16.27, 5: 20.52}


def pool_of(means: list[float], tasks: str = "", **changes: float) -> tuple[DifficultyTable, ReplayPool]:
    """Problems 0, 1, ... of an earlier stage with these mean rewards; of these tasks in turn, where they matter."""
    index = index_of(12, tasks=tasks or "x")
    table = DifficultyTable(index, smoothing=1.0, floor=0.05)
    settings = {"park_after_visits": 3, "unpark_after_steps": 5, "leave_pool_above": 0.9} | changes
    pool = ReplayPool(table, task_codes=index.task_codes if tasks else None, **settings)  # type: ignore[arg-type]
    for position, mean in enumerate(means):
        pool.observe(table.observe(position, [mean]), step=0)
    pool.open_stage()
    return table, pool


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_replay_probabilities_follow_a_power_of_the_difficulties(power: float) -> None:
    _, pool = pool_of([0.0, 0.2, 0.5, 0.9], power=power)
    weights = [(1 / 0.05) ** power, (1 / 0.25) ** power, (1 / 0.55) ** power, (1 / 0.95) ** power]
    rng, num_draws = random.Random(7), 100_000
    counts = Counter[int]()
    for _ in range(num_draws):
        pool.begin_step(1)
        counts.update(pool.draw(1, rng.random))
    expected = [num_draws * w / sum(weights) for w in weights]
    chi_square = sum((counts[i] - e) ** 2 / e for i, e in enumerate(expected))
    assert chi_square < CHI_SQUARE_999[3]


def test_second_draw_of_a_step_follows_what_the_first_left() -> None:
    # Weights 10, 5, 2 (means 0.05, 0.15, 0.45). An ordered pair (i, j) has probability w_i / W * w_j / (W - w_i).
    _, pool = pool_of([0.05, 0.15, 0.45])
    weights = [10.0, 5.0, 2.0]
    rng, num_draws = random.Random(11), 100_000
    counts = Counter[tuple[int, ...]]()
    for _ in range(num_draws):
        pool.begin_step(1)
        counts[tuple(pool.draw(2, rng.random))] += 1
    chi_square = 0.0
    for i in range(3):
        for j in {0, 1, 2} - {i}:
            expected = num_draws * weights[i] / 17 * weights[j] / (17 - weights[i])
            chi_square += (counts[i, j] - expected) ** 2 / expected
    assert sum(counts.values()) == num_draws
    assert chi_square < CHI_SQUARE_999[5]


def test_step_draws_each_member_at_most_once_and_the_next_step_again() -> None:
    _, pool = pool_of([0.1] * 5)
    rng = random.Random(0)
    for step in (1, 2):
        pool.begin_step(step)
        drawn = pool.draw(3, rng.random) + pool.draw(9, rng.random)
        assert sorted(drawn) == [0, 1, 2, 3, 4]


def test_held_out_members_are_not_drawn_in_this_call_and_are_in_the_next() -> None:
    _, pool = pool_of([0.1] * 4)
    pool.begin_step(1)
    assert sorted(pool.draw(4, random.Random(0).random, held_out=[1, 2])) == [0, 3]
    assert sorted(pool.draw(4, random.Random(0).random)) == [1, 2]


def test_easy_problem_leaves_the_pool_and_comes_back_when_it_turns_hard() -> None:
    table, pool = pool_of([0.5, 0.5])
    assert len(pool) == 2
    pool.observe(table.observe(0, [0.95]), step=1)
    assert (len(pool), pool.num_left) == (1, 1)
    pool.observe(table.observe(0, [0.9]), step=2)
    assert (len(pool), pool.num_left) == (2, 0)


def test_balanced_replay_takes_tasks_in_turn_and_draws_by_difficulty_within_each() -> None:
    # Tasks x, y, z in turn: x has records 0, 3, 6, y has 1, 4, 7, z has 2 and 5. Means of x: 0.05, 0.15, 0.45.
    means = [0.05, 0.5, 0.5, 0.15, 0.5, 0.5, 0.45, 0.5]
    _, pool = pool_of(means, tasks="xyz")
    rng, num_steps = random.Random(3), 30_000
    counts, by_task = Counter[int](), Counter[int]()
    for step in range(num_steps):
        pool.begin_step(step)
        drawn = pool.draw(1, rng.random)
        counts.update(drawn)
        by_task.update(record % 3 for record in drawn)
    assert by_task == {0: num_steps // 3, 1: num_steps // 3, 2: num_steps // 3}
    weights = {0: 10.0, 3: 5.0, 6: 2.0}
    expected = {record: num_steps / 3 * weight / 17 for record, weight in weights.items()}
    assert sum((counts[r] - e) ** 2 / e for r, e in expected.items()) < CHI_SQUARE_999[2]


def test_task_without_a_member_leaves_its_turn_to_the_others() -> None:
    _, pool = pool_of([1.0, 0.5, 0.5, 1.0, 0.5], tasks="xyz")
    pool.begin_step(1)
    assert sorted(pool.draw(9, random.Random(0).random)) == [1, 2, 4]
    assert (len(pool), pool.num_left) == (3, 2)


def test_problem_of_the_present_stage_joins_only_when_the_next_one_opens() -> None:
    table, pool = pool_of([0.5])
    pool.observe(table.observe(7, [0.5]), step=1)
    assert len(pool) == 1
    pool.open_stage()
    assert len(pool) == 2


def test_parked_problem_comes_back_after_its_steps_and_one_more_zero_parks_it_again() -> None:
    table, pool = pool_of([0.5, 0.5], park_after_visits=2, unpark_after_steps=5)
    for step in (1, 2):
        pool.begin_step(step)
        pool.observe(table.observe(0, [0.0, 0.0]), step=step)
    assert (len(pool), pool.num_parked) == (1, 1)
    members = {}
    for step in range(3, 8):
        pool.begin_step(step)
        members[step] = sorted(pool.draw(2, random.Random(step).random))
    # Parked in step 2 for five steps: back in step 7.
    assert members == {3: [1], 4: [1], 5: [1], 6: [1], 7: [0, 1]}
    assert pool.num_parked == 0
    pool.observe(table.observe(0, [0.0]), step=7)
    assert (len(pool), pool.num_parked) == (1, 1)


def test_solved_while_parked_is_parked_no_longer() -> None:
    table, pool = pool_of([0.0], park_after_visits=1)
    assert (len(pool), pool.num_parked) == (0, 1)
    pool.observe(table.observe(0, [0.5]), step=1)
    assert (len(pool), pool.num_parked) == (1, 0)


events = st.lists(
    st.one_of(
        st.tuples(st.just("observe"), st.integers(0, 9), st.sampled_from([0.0, 0.3, 1.0])),
        st.tuples(st.just("draw"), st.integers(0, 4), st.just(0.0)),
        st.tuples(st.just("step"), st.just(0), st.just(0.0)),
        st.tuples(st.just("stage"), st.just(0), st.just(0.0)),
    ),
    max_size=40,
)


@given(events=events, seed=st.integers(0, 2**32), tasks=st.sampled_from(["", "xyz"]), power=st.sampled_from([1.0, 0.7]))
def test_loaded_pool_draws_what_the_saved_one_draws(
    events: list[tuple[str, int, float]], seed: int, tasks: str, power: float
) -> None:
    def play(
        pool: ReplayPool, table: DifficultyTable, rng: random.Random, part: list[tuple[str, int, float]]
    ) -> list[int]:
        nonlocal step
        drawn: list[int] = []
        for kind, number, mean in part:
            if kind == "observe":
                pool.observe(table.observe(number, [mean]), step)
            elif kind == "draw":
                drawn += pool.draw(number, rng.random)
            elif kind == "step":
                step += 1
                pool.begin_step(step)
            else:
                pool.open_stage()
        return drawn

    step, middle = 0, len(events) // 2
    table, pool = pool_of([0.3, 0.6], tasks, park_after_visits=2, unpark_after_steps=2, power=power)
    play(pool, table, random.Random(seed), events[:middle])
    state = json.loads(json.dumps([table.state_dict(), pool.state_dict()]))
    loaded_table, loaded = pool_of([], tasks, park_after_visits=2, unpark_after_steps=2, power=power)
    loaded_table.load_state_dict(state[0])
    loaded.load_state_dict(state[1])
    step_at_save = step
    original = play(pool, table, random.Random(seed), events[middle:])
    step = step_at_save
    assert play(loaded, loaded_table, random.Random(seed), events[middle:]) == original
    sizes = [(len(p), p.num_parked, p.num_left, p.state_dict()) for p in (loaded, pool)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("changes", [{"park_after_visits": 0}, {"unpark_after_steps": 0}, {"power": -1.0}])
def test_impossible_settings_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        pool_of([], **changes)
