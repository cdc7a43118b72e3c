"""A judge that misbehaves in every known way, as a step of the loop meets it: nothing invalid enters a group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from data.problem import Problem
from rewards.breaker import BreakerPolicy
from rewards.hybrid import HybridScorer, RuleScorer
from rewards.judge import Judge
from rewards.judge_client import JudgePolicy
from rl.advantage import group_advantages
from rl.rollout.collect import Sampling, sample_groups
from rl.rollout.engine import SampleRequest
from rl.types import Completion, RolloutGroup
from tests.rewards.judge_server import MISBEHAVIOURS, JudgeServer, compared, judge_server

NUM_GROUPS, GROUP_SIZE = 10, 8
NUM_JUDGED = NUM_GROUPS * 5
"""Of a group's answers two are right by the rule, one is missing, five are the judge's to decide."""
FAST = JudgePolicy(connect_s=0.5, read_s=0.5, total_s=1.2, max_attempts=3, wait_s=0.01, max_wait_s=0.02)


class Answering:
    """Of every problem: right, right, a truncated thought, then five answers that no other rollout gives."""

    policy_version = 0

    def generate(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        return [[self._completion(request, i) for i in range(len(request.seeds))] for request in requests]

    def _completion(self, request: SampleRequest, i: int) -> Completion:
        answer = ["the answer is Ada", "Answer: Ada", "<think>it must be"]
        text = answer[i] if i < 3 else f"the answer is person {request.prompt_token_ids[0]} {i}"
        return Completion(token_ids=(1,), logprobs=(-1.0,), text=text, finish_reason="stop")

    def score(self, token_ids: Sequence[int], num_prompt_tokens: int) -> dict[str, list[float]]:
        raise NotImplementedError

    def update_weights(self, path: str, version: int, *, rewrite: Callable[[str], None] | None = None) -> None:
        raise NotImplementedError


def step(scorer: HybridScorer, number: int) -> list[RolloutGroup]:
    """One step's groups; every step gives other answers, so that nothing is known from before."""
    problems = [
        Problem(
            problem_id=f"p{i}", task="t", context="", question="Who?", answers=("Ada",), answer_type="text",
            num_prompt_tokens=1,
        )
        for i in range(NUM_GROUPS)
    ]  # fmt: skip
    sampling = Sampling(
        workers=Answering(),
        scorer=scorer,
        prompt_ids=lambda problem: [100 * number + int(problem.problem_id[1:])],
        run_seed=0,
        step=number,
        num_groups=NUM_GROUPS,
        group_size=GROUP_SIZE,
        max_response_tokens=8,
        temperature=1.0,
    )
    return sample_groups(sampling, problems)[0]


@contextmanager
def hybrid(server: JudgeServer, policy: JudgePolicy = FAST, concurrency: int = 4, **settings) -> Iterator[HybridScorer]:
    judge = Judge(
        url=server.url,
        model="judge",
        concurrency=concurrency,
        policy=policy,
        breaker=BreakerPolicy(cooldown_s=0.3),
        **settings,
    )
    scorer = HybridScorer(RuleScorer(), judge)
    try:
        yield scorer
    finally:
        scorer.close()


@pytest.mark.parametrize("mode", MISBEHAVIOURS)
def test_an_outage_leaves_unknowns_opens_the_breaker_and_ends_with_the_outage(mode: str) -> None:
    with judge_server(mode) as server, hybrid(server) as scorer:
        server.retry_after = "0"
        groups = step(scorer, 1)
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        unknown = [rollout for rollout in rollouts if rollout.score.status != "ok"]
        assert len(unknown) == NUM_JUDGED
        assert all(rollout.score.value is None and rollout.reward is None for rollout in unknown)
        assert {group.outcomes for group in groups} == {(1.0, 1.0, 0.0)}
        state = scorer.metrics()
        assert (state["judge/breaker_open"], state["judge/num_breaker_opened"]) == (1.0, 1.0)
        # Twenty failures open it, three more calls were on their way, and one later call found it still failing.
        assert 20 <= state["judge/num_calls"] <= 25
        assert len(server.requests) <= 25
        server.mode = "ok"
        server.released.set()
        recovered = step(scorer, 2)
        assert {group.outcomes for group in recovered} == {(1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0)}
        assert scorer.metrics()["judge/breaker_open"] == 0.0


def test_an_unknown_leaves_its_groups_advantages_untouched() -> None:
    with judge_server("500") as server, hybrid(server) as scorer:
        [group, *_] = step(scorer, 1)
    known = RolloutGroup(
        problem=group.problem,
        prompt_token_ids=group.prompt_token_ids,
        rollouts=group.valid_rollouts,
        policy_version=group.policy_version,
    )
    assert len(known.rollouts) == 3
    for std in ("none", "group", "task", "batch"):
        assert group_advantages([group], std=std) == group_advantages([known], std=std)


def accepts(prompt: str) -> bool:
    """A judge that knows three of a group's five other names for Ada."""
    reference, candidate = compared(prompt)
    return reference == "Ada" and (candidate == "Ada" or candidate[-2:] in (" 3", " 5", " 6"))


@pytest.mark.parametrize("second_opinion", [False, True])
def test_a_judge_that_fails_three_calls_in_ten_gives_the_scores_of_a_healthy_one(second_opinion: bool) -> None:
    policy = JudgePolicy(wait_s=0.001, max_wait_s=0.002)
    with judge_server() as server:
        server.decide = accepts
        scores = []
        for failure_frac in (0.0, 0.3):
            server.failure_frac = failure_frac
            with hybrid(server, policy, concurrency=16, second_opinion=second_opinion, canaries_per_batch=4) as scorer:
                groups = [group for number in range(1, 7) for group in step(scorer, number)]
            scores.append([(r.score.value, r.score.status, r.score.answer) for g in groups for r in g.rollouts])
    assert scores[0] == scores[1]
    judged = [value for value, _, answer in scores[0] if answer and answer.startswith("person")]
    assert (len(judged), sum(judged)) == (6 * NUM_JUDGED, 6 * NUM_GROUPS * 3)
