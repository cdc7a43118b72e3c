from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from data.problem import Problem
from rewards.types import Score
from rl.aepo import EntropyGate, batch_entropy
from rl.config import LearnerSection
from rl.types import Rollout, RolloutGroup

ADVANTAGES = [(1.5, -0.5, -0.5, -0.5), (0.0, 0.0)]
POSITIVE = [(1.5, 0.0, 0.0, 0.0), (0.0, 0.0)]


def group(*logprobs: Sequence[float]) -> RolloutGroup:
    """One answer per list of its tokens' log-probabilities."""
    problem = Problem(
        problem_id="p", task="t", context="", question="?", answers=("a",), answer_type="text", num_prompt_tokens=1
    )
    rollouts = tuple(
        Rollout(
            sample_index=i,
            token_ids=(1,) * len(own),
            sampling_logprobs=tuple(own),
            text="a",
            finish_reason="stop",
            score=Score(value=1.0, status="ok", source="rule", answer="a"),
            reward=1.0,
        )
        for i, own in enumerate(logprobs)
    )
    return RolloutGroup(problem=problem, prompt_token_ids=(1,), rollouts=rollouts, policy_version=0)


def of_entropy(nats: float) -> list[RolloutGroup]:
    return [group([-nats] * 3, [-nats]), group([-nats] * 2)]


def test_the_batch_s_entropy_is_the_mean_over_answers_of_their_mean_surprise() -> None:
    # (1 + 3) / 2 = 2 for the first answer, 0.5 for the second: their mean is 1.25, though 4.5 / 3 = 1.5 a token.
    assert batch_entropy([group([-1.0, -3.0]), group([-0.5])]) == pytest.approx(1.25)
    assert batch_entropy([group([])]) is None
    assert batch_entropy([]) is None


def test_the_gate_closes_above_the_band_opens_below_it_and_stays_within_it() -> None:
    gate = EntropyGate.between(0.2, 0.6)
    seen = []
    for nats in (0.5, 0.6, 0.61, 0.4, 0.2, 0.19, 0.4, 0.7, 0.59):
        masked = gate.apply(of_entropy(nats), ADVANTAGES)
        assert masked == (POSITIVE if gate.is_closed else ADVANTAGES)
        seen.append(gate.is_closed)
    assert seen == [False, False, True, True, True, False, False, True, True]
    assert gate.metrics() == {"policy/sampled_entropy": pytest.approx(0.59), "loss/num_masked_negatives": 3.0}


def test_without_a_lower_bound_there_is_no_band() -> None:
    gate = EntropyGate.between(None, 0.6)
    closed = []
    for nats in (0.7, 0.59, 0.61):
        gate.apply(of_entropy(nats), ADVANTAGES)
        closed.append(gate.is_closed)
    assert closed == [True, False, True]


def test_out_of_use_it_leaves_everything_as_it_is_and_says_nothing() -> None:
    gate = EntropyGate.between(None, None)
    assert gate.apply(of_entropy(99.0), ADVANTAGES) == ADVANTAGES
    assert gate.metrics() == {}


def test_a_step_without_groups_changes_nothing() -> None:
    gate = EntropyGate.between(0.2, 0.6)
    gate.apply(of_entropy(0.7), ADVANTAGES)
    assert gate.apply([], []) == []
    assert gate.is_closed


@given(
    nats=st.lists(st.floats(0.0, 2.0), min_size=1, max_size=30),
    band=st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)).map(sorted),
)
def test_its_one_flag_is_all_its_state(nats: list[float], band: list[float]) -> None:
    gate = EntropyGate.between(band[0], band[1] + 0.01)
    for value in nats:
        again = EntropyGate(low=gate.low, high=gate.high, is_closed=gate.is_closed)
        assert again.apply(of_entropy(value), ADVANTAGES) == gate.apply(of_entropy(value), ADVANTAGES)
        assert again.is_closed == gate.is_closed


def test_a_band_that_is_upside_down_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"aepo_entropy_low: 0.5 is above aepo_entropy_high=0.4"):
        LearnerSection(aepo_entropy_low=0.5, aepo_entropy_high=0.4)
    with pytest.raises(ValidationError, match=r"aepo_entropy_low: 0.5 is above aepo_entropy_high=None"):
        LearnerSection(aepo_entropy_low=0.5)
