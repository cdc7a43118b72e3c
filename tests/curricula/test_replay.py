from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curricula.difficulty import DifficultyTable
from curricula.replay import ReplayPool, SumTree

# 99.9 % points of the chi-square distribution by degrees of freedom: a right sampler fails once in a thousand seeds.
CHI_SQUARE_999 = {3: 16.27, 5: 20.52}


def pool_of(means: list[float], **changes: float) -> tuple[DifficultyTable, ReplayPool]:
    """Problems p0, p1, ... of an earlier stage with these mean rewards."""
    table = DifficultyTable(smoothing=1.0, floor=0.05)
    settings = {"park_after_visits": 3, "unpark_after_steps": 5, "leave_pool_above": 0.9} | changes
    pool = ReplayPool(table, **settings)  # type: ignore[arg-type]
    for i, mean in enumerate(means):
        pool.observe(table.observe(f"p{i}", [mean]), step=0)
    pool.open_stage()
    return table, pool


def test_replay_probabilities_follow_the_difficulties() -> None:
    _, pool = pool_of([0.0, 0.2, 0.5, 0.9])
    weights = [1 / 0.05, 1 / 0.25, 1 / 0.55, 1 / 0.95]
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
    pool.observe(table.observe("p0", [0.95]), step=1)
    assert len(pool) == 1
    pool.observe(table.observe("p0", [0.9]), step=2)
    assert len(pool) == 2


def test_problem_of_the_present_stage_joins_only_when_the_next_one_opens() -> None:
    table, pool = pool_of([0.5])
    pool.observe(table.observe("new", [0.5]), step=1)
    assert len(pool) == 1
    pool.open_stage()
    assert len(pool) == 2


def test_parked_problem_comes_back_after_its_steps_and_one_more_zero_parks_it_again() -> None:
    table, pool = pool_of([0.5, 0.5], park_after_visits=2, unpark_after_steps=5)
    for step in (1, 2):
        pool.begin_step(step)
        pool.observe(table.observe("p0", [0.0, 0.0]), step=step)
    assert (len(pool), pool.num_parked) == (1, 1)
    members = {}
    for step in range(3, 8):
        pool.begin_step(step)
        members[step] = sorted(pool.draw(2, random.Random(step).random))
    # Parked in step 2 for five steps: back in step 7.
    assert members == {3: [1], 4: [1], 5: [1], 6: [1], 7: [0, 1]}
    assert pool.num_parked == 0
    pool.observe(table.observe("p0", [0.0]), step=7)
    assert (len(pool), pool.num_parked) == (1, 1)


def test_solved_while_parked_is_parked_no_longer() -> None:
    table, pool = pool_of([0.0], park_after_visits=1)
    assert (len(pool), pool.num_parked) == (0, 1)
    pool.observe(table.observe("p0", [0.5]), step=1)
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


@given(events=events, seed=st.integers(0, 2**32))
def test_loaded_pool_draws_what_the_saved_one_draws(events: list[tuple[str, int, float]], seed: int) -> None:
    def play(
        pool: ReplayPool, table: DifficultyTable, rng: random.Random, part: list[tuple[str, int, float]]
    ) -> list[int]:
        nonlocal step
        drawn: list[int] = []
        for kind, number, mean in part:
            if kind == "observe":
                pool.observe(table.observe(f"p{number}", [mean]), step)
            elif kind == "draw":
                drawn += pool.draw(number, rng.random)
            elif kind == "step":
                step += 1
                pool.begin_step(step)
            else:
                pool.open_stage()
        return drawn

    step, middle = 0, len(events) // 2
    table, pool = pool_of([0.3, 0.6], park_after_visits=2, unpark_after_steps=2)
    play(pool, table, random.Random(seed), events[:middle])
    state = json.loads(json.dumps([table.state_dict(), pool.state_dict()]))
    loaded_table, loaded = pool_of([], park_after_visits=2, unpark_after_steps=2)
    loaded_table.load_state_dict(state[0])
    loaded.load_state_dict(state[1])
    step_at_save = step
    original = play(pool, table, random.Random(seed), events[middle:])
    step = step_at_save
    assert play(loaded, loaded_table, random.Random(seed), events[middle:]) == original
    assert (len(loaded), loaded.num_parked) == (len(pool), pool.num_parked)


@given(
    changes=st.lists(st.tuples(st.integers(0, 40), st.floats(0, 1e6)), max_size=60),
    share=st.floats(0, 1, exclude_max=True),
)
def test_sums_depend_on_the_weights_alone_and_search_never_finds_an_empty_leaf(
    changes: list[tuple[int, float]], share: float
) -> None:
    tree, weights = SumTree(), [0.0] * 41
    for leaf, weight in changes:
        tree[leaf] = weight
        weights[leaf] = weight
    rebuilt = SumTree()
    rebuilt.build(weights)
    assert rebuilt.total == tree.total
    if tree.total > 0.0:
        assert tree.search(share) == rebuilt.search(share)
        assert weights[tree.search(share)] > 0.0


def test_search_finds_the_leaf_in_which_the_share_falls() -> None:
    tree = SumTree()
    tree.build([1.0, 0.0, 2.0, 1.0])
    # Of a total of 4: leaf 0 holds [0, 1/4), leaf 2 [1/4, 3/4), leaf 3 [3/4, 1).
    assert [tree.search(s) for s in (0.0, 0.2499, 0.25, 0.7499, 0.75, 0.9999)] == [0, 0, 2, 2, 3, 3]


@pytest.mark.parametrize("changes", [{"park_after_visits": 0}, {"unpark_after_steps": 0}])
def test_impossible_parking_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        pool_of([], **changes)
