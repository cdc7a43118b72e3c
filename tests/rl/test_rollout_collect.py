"""Collecting a step's groups, with an engine and a curriculum small enough to follow by hand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import pytest

from curricula.surplus import SurplusBuffer
from data.problem import Problem, Question
from rewards.types import Score
from rl.rollout.collect import Collected, Sampling, collect_groups, rollout_metrics, rollout_seed, sample_groups
from rl.rollout.engine import SampleRequest
from rl.types import Completion, RolloutGroup

INVALID = "x"


def problem(problem_id: str) -> Problem:
    """Its id spells its samples' outcomes: `a-10x` is right, wrong, without a score."""
    return Problem(
        problem_id=problem_id,
        task=problem_id[0],
        context="document",
        question=problem_id,
        answers=("1",),
        answer_type="text",
        num_prompt_tokens=3,
    )


class SpellingWorkers:
    """Sample i of problem `a-10x` answers the i-th letter after the dash, in i + 1 tokens."""

    policy_version = 4

    def __init__(self) -> None:
        self.requests: list[SampleRequest] = []

    def generate(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        self.requests += requests
        return [
            [self._completion("".join(map(chr, r.prompt_token_ids)), i) for i in range(len(r.seeds))] for r in requests
        ]

    def _completion(self, problem_id: str, i: int) -> Completion:
        ids = tuple(range(i + 1))
        reason = "stop" if i == 0 else "length"
        return Completion(token_ids=ids, logprobs=(-1.0,) * (i + 1), text=problem_id[2 + i], finish_reason=reason)

    def score(self, token_ids: Sequence[int], num_prompt_tokens: int) -> dict[str, list[float]]:
        raise NotImplementedError

    def update_weights(self, path: str, version: int, *, rewrite: Callable[[str], None] | None = None) -> None:
        raise NotImplementedError


class LetterScorer:
    """`1` is right, `0` wrong, `x` a judge that is down."""

    def score(self, items: Sequence[tuple[Question, str]]) -> list[Score]:
        assert all(type(question) is Question for question, _ in items), "a scorer must not be sent the document"
        return [
            Score(value=None, status="infra_error", source="judge", answer=None)
            if text == INVALID
            else Score(value=float(text), status="ok", source="rule", answer=text)
            for _, text in items
        ]

    def metrics(self) -> dict[str, float]:
        return {"judge/breaker_open": 1.0}

    def close(self) -> None: ...


class ListCurriculum:
    """Hands out ids from a list, in order."""

    def __init__(self, *problem_ids: str) -> None:
        self.waiting = [problem(i) for i in problem_ids]
        self.draws: list[int] = []
        self.observed: dict[str, Sequence[float]] = {}
        self.begun = 0

    stage = None

    def begin_step(self) -> None:
        self.begun += 1

    def draw(self, n: int, exclude: Collection[str] = ()) -> list[Problem]:
        self.draws.append(n)
        drawn = [p for p in self.waiting if p.problem_id not in exclude][:n]
        self.waiting = [p for p in self.waiting if p not in drawn]
        return drawn

    def observe(self, problem_id: str, outcomes: Sequence[float]) -> None:
        self.observed[problem_id] = outcomes

    def end_step(self) -> None: ...

    def metrics(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None: ...


def sampling(*, step: int = 1, num_groups: int = 2, rounds: int = 1, **others) -> Sampling:
    return Sampling(
        workers=SpellingWorkers(),
        scorer=LetterScorer(),
        prompt_ids=lambda p: [ord(letter) for letter in p.problem_id],
        run_seed=0,
        step=step,
        num_groups=num_groups,
        group_size=2,
        max_response_tokens=10,
        temperature=1.0,
        max_refill_rounds=rounds,
        **others,
    )


def surplus_buffer(max_age: int = 1) -> SurplusBuffer[RolloutGroup]:
    return SurplusBuffer(max_age=max_age)


def ids(groups: Sequence[RolloutGroup]) -> list[str]:
    return [group.problem.problem_id for group in groups]


def test_groups_with_equal_outcomes_are_dropped_and_refilled() -> None:
    curriculum = ListCurriculum("a-11", "b-10", "c-01", "d-10")
    collected = collect_groups(sampling(), curriculum, surplus_buffer())
    # Round 1 draws 2 and keeps b; the refill misses 1 at a kept share of 1/2 and draws 2: c is taken, d is surplus.
    assert curriculum.draws == [2, 2] and curriculum.begun == 1
    assert ids(collected.groups) == ["b-10", "c-01"]
    assert ids(collected.untrained) == ["a-11", "d-10"]
    assert (collected.num_sampled_groups, collected.num_dead_groups, collected.num_refill_rounds) == (4, 1, 1)
    assert collected.metrics["curriculum/dead_group_frac"] == 0.25
    assert curriculum.observed == {"a-11": (1.0, 1.0), "b-10": (1.0, 0.0), "c-01": (0.0, 1.0), "d-10": (1.0, 0.0)}


def test_surplus_groups_are_kept_for_the_next_step_and_not_drawn_again() -> None:
    curriculum = ListCurriculum("a-11", "b-10", "c-01", "d-10", "d-10", "e-10")
    surplus = surplus_buffer()
    collect_groups(sampling(step=1), curriculum, surplus)
    second = collect_groups(sampling(step=2), curriculum, surplus)
    assert ids(second.groups) == ["d-10", "e-10"]
    assert second.num_carried_groups == 1 and second.num_sampled_groups == 1
    assert second.untrained == ()
    assert curriculum.draws == [2, 2, 1]


def test_surplus_that_grew_too_old_is_sampled_anew() -> None:
    curriculum = ListCurriculum("a-11", "b-10", "c-01", "d-10", "e-10", "f-10")
    surplus = surplus_buffer(max_age=1)
    collect_groups(sampling(step=1), curriculum, surplus)
    third = collect_groups(sampling(step=3), curriculum, surplus)
    assert ids(third.groups) == ["e-10", "f-10"] and surplus.num_expired == 1


def test_refills_are_bounded_and_the_step_learns_from_what_it_has() -> None:
    curriculum = ListCurriculum("a-10", *[f"{letter}-00" for letter in "bcdefghijklmnop"])
    collected = collect_groups(sampling(rounds=2), curriculum, surplus_buffer())
    # 2 drawn, 1 kept; then 1 missing at 1/2: 2 drawn; then 1 missing at 1/4: 4 drawn; then no more.
    assert curriculum.draws == [2, 2, 4]
    assert ids(collected.groups) == ["a-10"] and collected.num_refill_rounds == 2


def test_a_refill_never_draws_more_than_four_times_what_is_missing() -> None:
    curriculum = ListCurriculum(*[f"{letter}-00" for letter in "abcdefghijklmnop"])
    collect_groups(sampling(rounds=1), curriculum, surplus_buffer())
    assert curriculum.draws == [2, 8]


def test_an_exhausted_curriculum_ends_the_step_early() -> None:
    collected = collect_groups(sampling(rounds=5), ListCurriculum("a-10"), surplus_buffer())
    assert ids(collected.groups) == ["a-10"]
    nothing = collect_groups(sampling(), ListCurriculum(), surplus_buffer())
    assert nothing.groups == () and nothing.invalid_frac == 0.0 and "reward/mean" not in nothing.metrics


def test_a_missing_score_is_no_zero() -> None:
    curriculum = ListCurriculum("a-1x", "b-xx", "c-10", "d-10")
    collected = collect_groups(sampling(), curriculum, surplus_buffer())
    # a has one valid score and b none: both are refilled, neither is dead.
    assert ids(collected.groups) == ["c-10", "d-10"]
    assert (collected.num_invalid_groups, collected.num_dead_groups, collected.num_invalid_rollouts) == (2, 0, 3)
    assert curriculum.observed.keys() == {"c-10", "d-10"}, "a group with unknown scores says nothing about its problem"
    # Valid outcomes: 1; 1, 0; 1, 0. Three of eight rollouts have none.
    assert collected.metrics["reward/mean"] == pytest.approx(3 / 5)
    assert collected.invalid_frac == 3 / 8
    [lost] = [r for g in collected.untrained if g.problem.problem_id == "a-1x" for r in g.rollouts if r.reward is None]
    assert lost.score.status == "infra_error"


def test_without_dynamic_sampling_every_group_with_two_scores_is_learned_from() -> None:
    curriculum = ListCurriculum("a-11", "b-1x", "c-00", "d-10")
    collected = collect_groups(sampling(dynamic_sampling=False, rounds=1), curriculum, surplus_buffer())
    assert ids(collected.groups) == ["a-11", "c-00"]


def test_outcomes_decide_and_shaped_rewards_train() -> None:
    # Limit 3, buffer 2: the second sample has 2 tokens, one more than 3 - 2, so its reward is 0 - 1/2.
    config = sampling(num_groups=1, rounds=0)
    config = Sampling(**{name: getattr(config, name) for name in config.__dataclass_fields__} | {
        "max_response_tokens": 3, "overlong_buffer_tokens": 2})  # fmt: skip
    [group], _ = sample_groups(config, [problem("a-00")])
    assert [rollout.reward for rollout in group.rollouts] == [0.0, -0.5]
    assert group.outcomes == (0.0, 0.0)
    assert collect_groups(config, ListCurriculum("a-00"), surplus_buffer()).groups == ()


def test_groups_carry_the_version_that_sampled_them_and_their_prompt() -> None:
    config = sampling()
    [group], _ = sample_groups(config, [problem("a-10")])
    assert group.policy_version == 4
    assert group.prompt_token_ids == tuple(map(ord, "a-10"))
    assert [rollout.sample_index for rollout in group.rollouts] == [0, 1]


def test_a_seed_depends_on_run_step_problem_and_sample_and_nothing_else() -> None:
    base = (0, 1, "a", 0)
    others = [(1, 1, "a", 0), (0, 2, "a", 0), (0, 1, "b", 0), (0, 1, "a", 1), (0, 11, "", 0), (0, 1, "1", 0)]
    assert rollout_seed(*base) == rollout_seed(*base)
    assert len({rollout_seed(*key) for key in [base, *others]}) == 7
    assert all(0 <= rollout_seed(*key) < 2**63 for key in others)
    config = sampling(step=5)
    sample_groups(config, [problem("b-10"), problem("a-10")])
    assert [r.seeds[1] for r in config.workers.requests] == [rollout_seed(0, 5, i, 1) for i in ("b-10", "a-10")]


def test_metrics_are_means_over_all_sampled_rollouts_by_task() -> None:
    groups, _ = sample_groups(sampling(), [problem("a-11"), problem("a-10"), problem("b-0x")])
    metrics = rollout_metrics(groups)
    assert metrics["reward/mean"] == pytest.approx(3 / 5)
    assert metrics["reward/a/mean"] == 0.75 and metrics["reward/b/mean"] == 0.0
    assert metrics["rollout/response_tokens_mean"] == 1.5  # 1 and 2 tokens in every group
    assert metrics["rollout/truncated_frac"] == 0.5
    assert metrics["reward/invalid_frac"] == pytest.approx(1 / 6)


def test_counts_reach_the_metrics() -> None:
    collected: Collected = collect_groups(sampling(), ListCurriculum("a-11", "b-10", "c-01", "d-10"), surplus_buffer())
    assert collected.metrics["rollout/num_groups"] == 2.0
    assert collected.metrics["rollout/num_surplus_groups"] == 1.0
    assert collected.metrics["rollout/num_sampled_groups"] == 4.0
    assert {"time/generate_s", "time/score_s"} <= collected.metrics.keys()
