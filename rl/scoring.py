"""Scoring in processes of its own: Ray actors with one scorer each, behind one front."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl.ray_actors import cause_of_death  # isort: skip  sets what ray reads when it is imported
import ray
from ray.exceptions import RayActorError

from data.problem import Question
from rewards.metrics import merged
from rewards.service import ScorerConfig, build_scorer
from rewards.types import Score
from rl.config import RunConfig

JUDGE_CACHE = "judge_cache.sqlite"
"""In the run's folder: verdicts already given."""


class ScoringWorker:
    """One scorer. Runs as an actor."""

    def __init__(self, config: ScorerConfig) -> None:
        self._scorer = build_scorer(config)

    def score(self, items: Sequence[tuple[Question, str]]) -> list[Score]:
        return self._scorer.score(items)

    def metrics(self) -> dict[str, float]:
        return self._scorer.metrics()


class ScoringPool:
    """The scoring workers behind one front (`rewards.types.Scorer`)."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = list(actors)

    def score(self, items: Sequence[tuple[Question, str]]) -> list[Score]:
        """One score per item, in order. What a worker died over too often is `infra_error`: excluded, never a zero."""
        num_workers = min(len(self._actors), len(items))
        parts = [list(items[i::num_workers]) for i in range(num_workers)]
        refs = [actor.score.remote(part) for actor, part in zip(self._actors, parts, strict=False)]
        scores: list[Score] = [_UNSCORED] * len(items)
        for i, (ref, part) in enumerate(zip(refs, parts, strict=True)):
            scores[i::num_workers] = self._part(ref, i, part)
        return scores

    def metrics(self) -> dict[str, float]:
        """See `Scorer.metrics`: of all workers that answer."""
        refs = [actor.metrics.remote() for actor in self._actors]
        return merged([one for ref in refs if (one := _unless_dead(ref)) is not None])

    def close(self) -> None:
        """See `Scorer.close`; the cluster ends the workers."""

    def _part(self, ref: Any, worker: int, items: list[tuple[Question, str]]) -> list[Score]:
        try:
            result: list[Score] = ray.get(ref)
        except RayActorError as error:
            reason = f"scoring worker {worker}: {cause_of_death(error)}"
            return [Score(value=None, status="infra_error", source="rule", answer=None, reason=reason)] * len(items)
        return result


def _unless_dead(ref: Any) -> dict[str, float] | None:
    try:
        metrics: dict[str, float] = ray.get(ref)
    except RayActorError:
        return None
    return metrics


_UNSCORED = Score(value=None, status="infra_error", source="rule", answer=None, reason="not scored")


def scorer_config(config: RunConfig, *, require_closed_think: bool) -> ScorerConfig:
    """What each of the run's scoring workers builds its scorer from; they share the judge's concurrency and cache."""
    reward = config.reward
    return ScorerConfig(
        factory=reward.scorer,
        contain=reward.contain,
        judge_url=reward.judge_url,
        judge_model=reward.judge_model,
        judge_concurrency=max(1, reward.judge_concurrency // reward.workers),
        judge_cache=str(Path(config.run.dir).absolute() / JUDGE_CACHE) if reward.judge_cache else "",
        judge_timeout_s=reward.judge_timeout_s,
        judge_cooldown_s=reward.judge_cooldown_s,
        second_opinion=reward.second_opinion,
        canaries_per_batch=reward.canaries_per_batch,
        require_closed_think=require_closed_think,
    )
