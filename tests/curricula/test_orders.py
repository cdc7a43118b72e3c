from __future__ import annotations

import json
import random
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curricula import orders
from curricula.difficulty import DifficultyTable
from curricula.index import ProblemIndex
from curricula.orders import EasyFirst, EpochOrder, LengthSorted, Order, VarianceFirst
from curricula.packed import unpack, unpack_strings
from data.columns import PackedStrings
from tests.curricula.build import curriculum_of, index_of, play_step, problem, saved, stage

CHI_SQUARE_999 = {4: 18.47, 11: 31.26}


def lengths_of(*num_tokens: int) -> ProblemIndex:
    return ProblemIndex([problem(f"p{i}", n) for i, n in enumerate(num_tokens)])


def whole(index: ProblemIndex) -> Any:
    return np.arange(len(index), dtype=np.int32)


def epoch_of(order: Order) -> list[int]:
    return [order.draw(()) for _ in range(len(order))]


def test_length_sorted_epochs_go_from_short_to_long_and_break_ties_anew() -> None:
    index = lengths_of(9, 3, 3, 3, 3, 3, 7, 1)
    order = EpochOrder(index, whole(index), 5, arrangement=LengthSorted(index))
    epochs = [epoch_of(order) for _ in range(6)]
    assert all([int(index.num_tokens[p]) for p in epoch] == [1, 3, 3, 3, 3, 3, 7, 9] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_easy_first_goes_by_length_before_anything_is_known_and_by_reward_afterwards() -> None:
    index = lengths_of(40, 10, 30, 20)
    table = DifficultyTable(index, smoothing=1.0, floor=0.05)
    order = EpochOrder(index, whole(index), 5, arrangement=EasyFirst(index, table))
    assert epoch_of(order) == [1, 3, 2, 0]
    for position, mean in enumerate([0.9, 0.0, 1.0, 0.5]):
        table.observe(position, [mean])
    assert epoch_of(order) == [2, 0, 3, 1]


def test_easy_first_puts_the_visited_before_the_others() -> None:
    index = lengths_of(40, 10, 30, 20)
    table = DifficultyTable(index, smoothing=1.0, floor=0.05)
    table.observe(0, [0.1])
    table.observe(2, [0.2])
    assert epoch_of(EpochOrder(index, whole(index), 5, arrangement=EasyFirst(index, table))) == [2, 0, 1, 3]


def test_easy_first_epoch_stands_when_it_is_opened_also_after_a_restart() -> None:
    index = lengths_of(*range(1, 13))
    table = DifficultyTable(index, smoothing=0.5, floor=0.05)
    rng = random.Random(0)
    for position in range(0, 12, 2):
        table.observe(position, [rng.random()])
    order = EpochOrder(index, whole(index), 5, arrangement=EasyFirst(index, table))
    first = [order.draw(()) for _ in range(4)]
    # What comes in meanwhile, of old and new problems, is for the next epoch.
    for position in range(12):
        table.observe(position, [rng.random()])
    state = json.loads(json.dumps([table.state_dict(), order.state_dict()]))
    loaded_table = DifficultyTable(index, smoothing=0.5, floor=0.05)
    loaded_table.load_state_dict(state[0])
    loaded = EpochOrder(index, whole(index), 5, arrangement=EasyFirst(index, loaded_table))
    loaded.load_state_dict(state[1])
    rest = [order.draw(()) for _ in range(20)]
    assert [loaded.draw(()) for _ in range(20)] == rest
    assert sorted(first + rest[:8]) == list(range(12))


@settings(max_examples=60)
@given(
    steps=st.lists(st.tuples(st.integers(0, 9), st.sets(st.integers(0, 19), max_size=9)), max_size=20),
    sort=st.booleans(),
    data=st.data(),
)
def test_long_windows_next_epoch_is_opened_early_and_the_draws_are_the_same(
    steps: list[tuple[int, set[int]]], sort: bool, data: st.DataObject
) -> None:
    index = index_of(20)

    def draws(*, is_long: bool, restart: int) -> list[int]:
        def make() -> EpochOrder:
            return EpochOrder(index, whole(index), 5, arrangement=LengthSorted(index) if sort else None)

        order, drawn = make(), []
        for step, (n, excluded) in enumerate(steps):
            if step == restart:
                state = json.loads(json.dumps(order.state_dict()))
                order = make()
                order.load_state_dict(state)
            order.begin_step()
            forbidden = set(excluded)
            for _ in range(n):
                drawn.append(order.draw(forbidden))
                forbidden.add(drawn[-1])
        if is_long and sum(n for n, _ in steps) > 20:
            assert order.state_dict()["epoch"] > 0
        return drawn

    plain = draws(is_long=False, restart=-1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orders, "_LONG_WINDOW", 10)
        patch.setattr(orders, "_AHEAD", 6)
        early = draws(is_long=True, restart=data.draw(st.integers(-1, len(steps))))
    # A position that was out of reach for a whole epoch is owed once: only then may the two differ.
    if not any(excluded for _, excluded in steps):
        assert early == plain
    assert len(early) == len(plain)


def variance_first(
    index: ProblemIndex, table: DifficultyTable, rng: random.Random, *, prior: float = 0.25, floor: float = 0.01
) -> VarianceFirst:
    return VarianceFirst(whole(index), table, prior=prior, floor=floor, uniform=rng.random)


VISITED = {0: [1.0, 0.0], 1: [1.0, 0.0, 0.0, 0.0], 2: [1.0] * 4, 3: [0.0] * 4}
"""Variances 0.25, 0.1875, 0 and 0; problem 4 is never visited."""


def test_variance_first_draws_by_smoothed_variance_plus_floor_and_prior() -> None:
    index = index_of(5)
    table = DifficultyTable(index, smoothing=1.0, floor=0.05)
    order = variance_first(index, table, random.Random(1), prior=0.1, floor=0.02)
    for position, outcomes in VISITED.items():
        table.observe(position, outcomes)
        order.observed(position)
    weights = [0.27, 0.2075, 0.02, 0.02, 0.12]
    num_draws, counts = 100_000, Counter[int]()
    for _ in range(num_draws):
        order.begin_step()
        counts[order.draw(())] += 1
    expected = [num_draws * w / sum(weights) for w in weights]
    assert sum((counts[i] - e) ** 2 / e for i, e in enumerate(expected)) < CHI_SQUARE_999[4]


def test_variance_firsts_second_draw_of_a_step_follows_what_the_first_and_the_forbidden_left() -> None:
    index = index_of(5)
    table = DifficultyTable(index, smoothing=1.0, floor=0.05)
    for position, outcomes in VISITED.items():
        table.observe(position, outcomes)
    order = variance_first(index, table, random.Random(2), prior=0.1, floor=0.05)
    # Problem 1 is forbidden; the others weigh 0.3, 0.05, 0.05 and 0.15.
    weights = {0: 0.3, 2: 0.05, 3: 0.05, 4: 0.15}
    num_draws, counts = 100_000, Counter[tuple[int, int]]()
    for _ in range(num_draws):
        order.begin_step()
        first = order.draw({1})
        counts[first, order.draw({1, first})] += 1
    total, chi_square = sum(weights.values()), 0.0
    for i in weights:
        for j in weights.keys() - {i}:
            expected = num_draws * weights[i] / total * weights[j] / (total - weights[i])
            chi_square += (counts[i, j] - expected) ** 2 / expected
    assert counts.total() == num_draws
    assert chi_square < CHI_SQUARE_999[11]


@pytest.mark.parametrize("changes", [{"prior": 0.3}, {"prior": -0.1}, {"floor": 0.0}])
def test_impossible_variances_are_refused(changes: dict[str, float]) -> None:
    index = index_of(2)
    with pytest.raises(ValueError, match="variance_prior"):
        variance_first(index, DifficultyTable(index, smoothing=1.0, floor=0.05), random.Random(0), **changes)


@pytest.mark.parametrize("order", ["easy_first", "length_sorted"])
def test_curricula_draw_their_windows_in_order(order: str) -> None:
    problems = [problem(f"p{i}", 1 + 7 * i % 40) for i in range(40)]
    curriculum = curriculum_of(problems, [stage(0, 0, 40, steps=20)], order=order)
    tokens = {p.problem_id: p.num_prompt_tokens for p in problems}
    first = [sorted(tokens[name] for name in play_step(curriculum, 4)) for _ in range(10)]
    assert [n for step in first for n in step] == list(range(1, 41))
    if order == "length_sorted":
        assert [n for _ in range(10) for n in sorted(tokens[name] for name in play_step(curriculum, 4))] == list(
            range(1, 41)
        )
    else:
        means = saved_means(curriculum)
        second = [[means[name] for name in play_step(curriculum, 4)] for _ in range(10)]
        assert all(min(before) >= max(after) for before, after in pairwise(second))


def saved_means(curriculum: Any) -> dict[str, float]:
    state = saved(curriculum)["difficulty"]
    names = PackedStrings(*unpack_strings(state["problem_ids"]))
    return dict(zip(names, unpack(state["means"]).tolist(), strict=True))


def test_variance_first_curriculum_prefers_problems_that_vary() -> None:
    problems = [problem(f"p{i}", 5) for i in range(40)]
    curriculum = curriculum_of(problems, [stage(0, 0, 20, steps=60)], order="variance_first", variance_floor=0.02)
    counts = Counter[str]()
    for step in range(60):
        curriculum.begin_step()
        for p in curriculum.draw(4):
            varies = int(p.problem_id[1:]) < 10
            curriculum.observe(p.problem_id, [1.0, 0.0] if varies else [0.0, 0.0])
            if step >= 30:
                counts["varies" if varies else "does not"] += 1
        curriculum.end_step()
    # Once all are known: 10 of weight 0.27 against 30 of 0.02, 2.7 to 0.6.
    assert counts["varies"] > 2 * counts["does not"] > 0
