from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.problem import Problem
from rewards.types import Score
from rl.advantage import AdvantageStd, group_advantages, overlong_reward, population_std, sample_std
from rl.types import Rollout, RolloutGroup


def rollout(sample_index: int, reward: float | None) -> Rollout:
    """None: a rollout that could not be scored."""
    if reward is None:
        score = Score(value=None, status="infra_error", source="judge", answer=None)
    else:
        score = Score(value=min(1.0, max(0.0, reward)), status="ok", source="rule", answer="Ada")
    return Rollout(
        sample_index=sample_index,
        token_ids=(1,),
        sampling_logprobs=(-0.5,),
        text="Ada",
        finish_reason="stop",
        score=score,
        reward=reward,
    )


def group(rewards: Sequence[float | None], task: str = "musique") -> RolloutGroup:
    problem = Problem(
        problem_id=f"{task}-{len(rewards)}",
        task=task,
        context="",
        question="Who?",
        answers=("Ada",),
        answer_type="text",
        num_prompt_tokens=9,
    )
    rollouts = tuple(rollout(i, r) for i, r in enumerate(rewards))
    return RolloutGroup(problem=problem, prompt_token_ids=(1, 2), rollouts=rollouts, policy_version=0)


def test_without_std_the_advantage_is_the_centred_reward() -> None:
    assert group_advantages([group([1.0, 0.0, 0.0, 1.0]), group([1.0, 0.0])], std="none") == [
        (0.5, -0.5, -0.5, 0.5),
        (0.5, -0.5),
    ]


def test_group_std_divides_by_n_minus_1_and_adds_eps() -> None:
    # Rewards 1, 0, 0, 0: mean 1/4, squares 9/16 + 3/16 = 3/4, over n - 1 = 3 a variance of 1/4, std 1/2.
    (got,) = group_advantages([group([1.0, 0.0, 0.0, 0.0])], std="group", eps=0.0)
    assert got == pytest.approx((1.5, -0.5, -0.5, -0.5), rel=1e-15)
    (got,) = group_advantages([group([1.0, 0.0, 0.0, 0.0])], std="group", eps=0.5)
    assert got == pytest.approx((0.75, -0.25, -0.25, -0.25), rel=1e-15)
    (got,) = group_advantages([group([1.0, 0.0, 0.0, 0.0])], std="group")
    assert got[0] == pytest.approx(0.75 / 0.5001, rel=1e-15)


def test_task_std_is_over_all_rewards_of_the_task_and_no_other() -> None:
    # Task x holds 1, 0, 1, 1: mean 3/4, squares 3/16 + 9/16 = 3/4, variance 1/4, std 1/2; task y holds 1, 0: std sqrt(1/2).
    groups = [group([1.0, 0.0], "x"), group([1.0, 0.0], "y"), group([1.0, 1.0], "x")]
    x, y, constant = group_advantages(groups, std="task", eps=0.0)
    assert x == pytest.approx((1.0, -1.0), rel=1e-15)
    assert y == pytest.approx((sqrt(0.5), -sqrt(0.5)), rel=1e-15)
    assert constant == (0.0, 0.0)


def test_batch_std_is_over_all_rewards_of_all_groups() -> None:
    groups = [group([1.0, 0.0], "x"), group([1.0, 1.0], "y")]
    # 1, 0, 1, 1: std 1/2 as above.
    assert group_advantages(groups, std="batch", eps=0.0)[0] == pytest.approx((1.0, -1.0), rel=1e-15)


@pytest.mark.parametrize("std", ["none", "group", "task", "batch"])
def test_rollout_without_a_score_leaves_the_others_untouched(std: AdvantageStd) -> None:
    other = group([0.0, 0.5, 1.0])
    with_hole = group_advantages([group([1.0, 1.0, None, 0.0]), other], std=std)
    without = group_advantages([group([1.0, 1.0, 0.0]), other], std=std)
    assert with_hole == without
    assert len(with_hole[0]) == 3


@pytest.mark.parametrize("std", ["none", "group", "task", "batch"])
def test_groups_with_one_valid_rollout_or_none_are_zero_and_empty(std: AdvantageStd) -> None:
    assert group_advantages([group([None, 1.0]), group([None, None])], std=std) == [(0.0,), ()]
    assert group_advantages([], std=std) == []


@given(reward=st.floats(-1, 1), size=st.integers(1, 9), std=st.sampled_from(["none", "group", "task", "batch"]))
def test_equal_rewards_have_advantages_of_exactly_zero(reward: float, size: int, std: AdvantageStd) -> None:
    got = group_advantages([group([reward] * size), group([0.0, 1.0])], std=std)
    assert got[0] == (0.0,) * size


@given(
    rewards=st.lists(st.lists(st.floats(-1, 1), min_size=2, max_size=8), min_size=1, max_size=4),
    std=st.sampled_from(["none", "group", "task", "batch"]),
)
def test_advantages_of_a_group_sum_to_zero_and_keep_the_order_of_rewards(
    rewards: list[list[float]], std: AdvantageStd
) -> None:
    for own, got in zip(rewards, group_advantages([group(r) for r in rewards], std=std), strict=True):
        assert sum(got) == pytest.approx(0.0, abs=1e-9 * max(1.0, *map(abs, got)))
        by_reward = sorted(range(len(own)), key=own.__getitem__)
        ordered = [got[i] for i in by_reward]
        assert ordered == sorted(ordered)


def test_valid_rollout_without_a_reward_is_an_error_that_names_it() -> None:
    broken = group([1.0, 0.0])
    unshaped = Rollout(
        sample_index=1,
        token_ids=(1,),
        sampling_logprobs=(-0.5,),
        text="Ada",
        finish_reason="stop",
        score=broken.rollouts[0].score,
        reward=None,
    )
    broken = RolloutGroup(
        problem=broken.problem, prompt_token_ids=(1,), rollouts=(broken.rollouts[0], unshaped), policy_version=0
    )
    with pytest.raises(ValueError, match=r"'musique-2', sample 1: the score is ok but reward is None"):
        group_advantages([broken], std="group")


@pytest.mark.parametrize(
    ("num_tokens", "penalty"),
    [
        (1, 0.0),
        (75, 0.0),  # L - C = 100 - 25
        (76, -0.04),  # (75 - 76) / 25
        (80, -0.2),
        (100, -1.0),  # the end of the buffer meets the last piece
        (101, -1.0),
    ],
)
@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_overlong_reward_follows_its_three_pieces(outcome: float, num_tokens: int, penalty: float) -> None:
    assert overlong_reward(outcome, num_tokens, 100, 25) == pytest.approx(outcome + penalty, rel=1e-15)


def test_overlong_buffer_of_zero_turns_the_penalty_off() -> None:
    assert [overlong_reward(1.0, n, 100, 0) for n in (99, 100, 101)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("buffer_tokens", [-1, 100])
def test_overlong_buffer_outside_its_range_is_refused(buffer_tokens: int) -> None:
    with pytest.raises(ValueError, match=f"overlong_buffer_tokens={buffer_tokens} .* max_response_tokens=100"):
        overlong_reward(1.0, 5, 100, buffer_tokens)


def test_population_std_divides_by_n() -> None:
    # Rewards 1, 0, 0, 0: squares 3/4, over n = 4 a variance of 3/16; the sample form above has 1/4.
    (got,) = group_advantages([group([1.0, 0.0, 0.0, 0.0])], std="group", std_form="population", eps=0.0)
    assert got[0] == pytest.approx(0.75 / sqrt(3 / 16), rel=1e-15)
    assert population_std([1.0, 0.0, 0.0, 0.0]) / sample_std([1.0, 0.0, 0.0, 0.0]) == pytest.approx(sqrt(3 / 4))
    eight = [1.0] + [0.0] * 7
    assert 1 - population_std(eight) / sample_std(eight) == pytest.approx(0.065, abs=1e-3)  # the 7 % at G = 8


def test_population_std_is_taken_over_the_task_and_the_batch_too() -> None:
    groups = [group([1.0, 0.0], "x"), group([1.0, 0.0], "y"), group([1.0, 1.0], "x")]
    # Task x: 1, 0, 1, 1 has squares 3/4 over 4; task y: 1, 0 has squares 1/2 over 2; the batch, 4 of 6: 4/6 * 2/6.
    x, y, _ = group_advantages(groups, std="task", std_form="population", eps=0.0)
    assert x[0] == pytest.approx(0.5 / sqrt(3 / 16), rel=1e-15)
    assert y[0] == pytest.approx(0.5 / sqrt(1 / 4), rel=1e-15)
    x, y, _ = group_advantages(groups, std="batch", std_form="population", eps=0.0)
    assert x[0] == y[0] == pytest.approx(0.5 / sqrt(2 / 9), rel=1e-15)


@given(rewards=st.lists(st.floats(-1, 1), min_size=1, max_size=9))
def test_leaving_one_out_takes_off_the_mean_of_the_others(rewards: list[float]) -> None:
    (got,) = group_advantages([group(rewards)], std="none", baseline="leave_one_out")
    for i, advantage in enumerate(got):
        others = rewards[:i] + rewards[i + 1 :]
        expected = rewards[i] - sum(others) / len(others) if others else 0.0
        assert advantage == pytest.approx(expected, abs=1e-12)
