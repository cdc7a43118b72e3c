"""One step's rollout groups: draw, sample, score, observe, keep those that teach, refill, carry the rest over.

G answers a group. Means in the metrics are over every rollout sampled in the step, whether it is trained on or not:
those kept are chosen by their outcome, so a mean over them says little about the policy.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from curricula.sampler import Curriculum
from curricula.surplus import SurplusBuffer, is_informative
from data.problem import Problem, Question
from rewards.metrics import score_metrics
from rewards.types import Score, Scorer
from rl.advantage import overlong_reward
from rl.rollout.engine import SampleRequest, Workers
from rl.types import Completion, Rollout, RolloutGroup

MIN_KEPT_FRAC = 0.25
"""A refill draws missing / (share of groups kept so far) problems, and takes that share to be at least this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How one step samples."""

    workers: Workers
    scorer: Scorer
    prompt_ids: Callable[[Problem], Sequence[int]]
    """Renders a problem's whole prompt, generation prompt included."""
    run_seed: int
    step: int
    num_groups: int
    """Groups the step wants to learn from."""
    group_size: int
    max_response_tokens: int
    overlong_buffer_tokens: int = 0
    """See `rl.advantage.overlong_reward`."""
    temperature: float
    top_p: float = 1.0
    top_k: int = -1
    dynamic_sampling: bool = True
    """Keep only groups whose outcomes differ; else all that have two valid outcomes."""
    max_refill_rounds: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """What a step collected."""

    groups: tuple[RolloutGroup, ...]
    """To learn from: carried over ones first, then this step's in the order they were drawn; at most num_groups."""
    untrained: tuple[RolloutGroup, ...]
    """Sampled in this step and not in `groups`: dead, invalid, or carried over to the next step."""
    num_sampled_groups: int
    """Sampled in this step."""
    num_dead_groups: int
    """Of those, groups whose valid outcomes are all equal (with dynamic sampling they are not learned from)."""
    num_invalid_groups: int
    """Of those, groups with fewer than two valid scores; never learned from."""
    num_invalid_rollouts: int
    """Rollouts of this step without a valid score."""
    num_refill_rounds: int
    num_carried_groups: int
    """Groups in `groups` that an earlier step sampled."""
    num_surplus_groups: int
    """Groups that wait for the next step."""
    metrics: dict[str, float]

    @property
    def invalid_frac(self) -> float:
        """Share of this step's rollouts without a valid score; 0 when none was sampled."""
        return self.metrics.get("reward/invalid_frac", 0.0)

    @property
    def invalid_reason(self) -> str:
        """Why one of them has none; "" where all have one."""
        scores = (rollout.score for group in (*self.groups, *self.untrained) for rollout in group.rollouts)
        return next((f"{score.status}: {score.reason}" for score in scores if score.status != "ok"), "")


def rollout_seed(run_seed: int, step: int, problem_id: str, sample_index: int) -> int:
    """A number in [0, 2**63) that is a function of its arguments alone, whoever samples, in whatever order."""
    key = f"{run_seed}\0{step}\0{problem_id}\0{sample_index}".encode()
    return int.from_bytes(blake2b(key, digest_size=8).digest()) >> 1


def sample_groups(sampling: Sampling, problems: Sequence[Problem]) -> tuple[list[RolloutGroup], dict[str, float]]:
    """One scored group per problem, in order, and `time/generate_s` and `time/score_s`.

    Raises:
        ValueError: a prompt does not fit the engine.
        RuntimeError: no worker could sample.
    """
    started = time.monotonic()
    version = sampling.workers.policy_version
    requests = [_request(sampling, problem) for problem in problems]
    completions = sampling.workers.generate(requests)
    generated = time.monotonic()
    # Only the question goes to the scorer: the document is long and no business of a reward's.
    questions = [
        Question(question=p.question, answers=p.answers, answer_type=p.answer_type, options=p.options) for p in problems
    ]
    items = [(q, c.text) for q, group in zip(questions, completions, strict=True) for c in group]
    scores = iter(sampling.scorer.score(items))
    groups = [
        RolloutGroup(
            problem=problem,
            prompt_token_ids=request.prompt_token_ids,
            rollouts=tuple(_rollout(sampling, i, completion, next(scores)) for i, completion in enumerate(group)),
            policy_version=version,
        )
        for problem, request, group in zip(problems, requests, completions, strict=True)
    ]
    return groups, {"time/generate_s": generated - started, "time/score_s": time.monotonic() - generated}


def collect_groups(sampling: Sampling, curriculum: Curriculum, surplus: SurplusBuffer[RolloutGroup]) -> Collected:
    """Fill a step: surplus groups that are still fresh first, then drawn problems, then up to max_refill_rounds refills.

    Begins the curriculum's step (the caller ends it) and tells it the outcomes of every group without an unknown score:
    during a judge's outage only rule-accepted answers are known, and their mean would make every problem look easy.
    Groups beyond num_groups go into surplus. When the refills are used up, or nothing is left to draw, the step is what
    it is.

    Raises: as `sample_groups`.
    """
    curriculum.begin_step()
    kept = surplus.take(sampling.num_groups, sampling.step)
    carried_ids = {group.problem.problem_id for group in kept}
    num_carried = len(kept)
    sampled: list[RolloutGroup] = []
    seconds: dict[str, float] = defaultdict(float)
    num_rounds = 0
    while (missing := sampling.num_groups - len(kept)) > 0 and num_rounds <= sampling.max_refill_rounds:
        kept_frac = (len(kept) - num_carried) / len(sampled) if sampled else 1.0
        problems = curriculum.draw(math.ceil(missing / max(kept_frac, MIN_KEPT_FRAC)), exclude=carried_ids)
        if not problems:
            break
        groups, spent = sample_groups(sampling, problems)
        for group in groups:
            if len(group.outcomes) == len(group.rollouts):
                curriculum.observe(group.problem.problem_id, group.outcomes)
        sampled += groups
        kept += [group for group in groups if _is_kept(sampling, group)]
        for name, value in spent.items():
            seconds[name] += value
        num_rounds += 1
    for group in kept[sampling.num_groups :]:
        surplus.put(group, sampling.step)
    groups_to_learn = tuple(kept[: sampling.num_groups])
    trained = {id(group) for group in groups_to_learn}
    counts = {
        "num_sampled_groups": len(sampled),
        "num_dead_groups": sum(len(g.outcomes) >= 2 and not is_informative(g.outcomes) for g in sampled),
        "num_invalid_groups": sum(len(g.outcomes) < 2 for g in sampled),
        "num_invalid_rollouts": sum(len(g.rollouts) - len(g.valid_rollouts) for g in sampled),
        "num_refill_rounds": max(0, num_rounds - 1),
        "num_carried_groups": num_carried,
        "num_surplus_groups": len(surplus),
    }
    metrics = (
        rollout_metrics(sampled)
        | sampling.scorer.metrics()
        | seconds
        | {f"rollout/{name}": float(n) for name, n in counts.items()}
    )
    metrics["rollout/num_groups"] = float(len(groups_to_learn))
    if sampled:
        metrics["curriculum/dead_group_frac"] = counts["num_dead_groups"] / len(sampled)
    return Collected(
        groups=groups_to_learn,
        untrained=tuple(group for group in sampled if id(group) not in trained),
        metrics=metrics,
        **counts,
    )


def rollout_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Means over all rollouts of the groups; rewards are unshaped outcomes, over those with a valid score. {} for none."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    if not rollouts:
        return {}
    metrics = {
        **score_metrics([rollout.score for rollout in rollouts]),
        "rollout/response_tokens_mean": sum(len(r.token_ids) for r in rollouts) / len(rollouts),
        "rollout/truncated_frac": sum(r.finish_reason == "length" for r in rollouts) / len(rollouts),
        "rollout/prompt_tokens_mean": sum(len(g.prompt_token_ids) for g in groups) / len(groups),
    }
    by_task: dict[str, list[float]] = defaultdict(list)
    for group in groups:
        by_task[group.problem.task] += group.outcomes
    valid = [value for values in by_task.values() for value in values]
    if valid:
        metrics["reward/mean"] = sum(valid) / len(valid)
    return metrics | {f"reward/{task}/mean": sum(values) / len(values) for task, values in by_task.items() if values}


def _is_kept(sampling: Sampling, group: RolloutGroup) -> bool:
    return is_informative(group.outcomes) if sampling.dynamic_sampling else len(group.outcomes) >= 2


def _request(sampling: Sampling, problem: Problem) -> SampleRequest:
    seeds = (rollout_seed(sampling.run_seed, sampling.step, problem.problem_id, i) for i in range(sampling.group_size))
    return SampleRequest(
        prompt_token_ids=tuple(sampling.prompt_ids(problem)),
        seeds=tuple(seeds),
        max_response_tokens=sampling.max_response_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
    )


def _rollout(sampling: Sampling, sample_index: int, completion: Completion, score: Score) -> Rollout:
    reward = None
    if score.value is not None:
        num_tokens = len(completion.token_ids)
        reward = overlong_reward(score.value, num_tokens, sampling.max_response_tokens, sampling.overlong_buffer_tokens)
    return Rollout(
        sample_index=sample_index,
        token_ids=completion.token_ids,
        sampling_logprobs=completion.logprobs,
        text=completion.text,
        finish_reason=completion.finish_reason,
        score=score,
        reward=reward,
    )
