"""How a scorer is built from its configuration.

The configuration is small and picklable, so that it travels to the processes that score; the scorer is built there.
"""

from __future__ import annotations

from dataclasses import dataclass

from rewards.hybrid import HybridScorer, RuleScorer
from rewards.types import Scorer


@dataclass(frozen=True, kw_only=True, slots=True)
class ScorerConfig:
    """What a scorer is built from; small and picklable."""

    judge_url: str = ""
    """Base URL of an OpenAI-compatible endpoint; empty: the rule decides alone."""
    judge_model: str = ""
    """Model name at that endpoint."""
    judge_concurrency: int = 64
    """Judge calls in flight, over all processes together."""
    judge_cache: str = ""
    """File of verdicts that were given already; empty: none is kept."""
    second_opinion: bool = False
    """A judge's YES counts only where the same answer gets a NO beside a wrong reference."""
    canaries_per_batch: int = 0
    """Cases with a known verdict that are asked beside every batch; when too many go wrong, the judge abstains."""
    require_closed_think: bool = False
    """The prompt opens `<think>`: a response that never closes it has no answer."""


def build_scorer(config: ScorerConfig) -> Scorer:
    """The scorer that `config` describes.

    Raises:
        ValueError: a judge model without a url, or a judge setting that cannot be used.
    """
    rule = RuleScorer(require_closed_think=config.require_closed_think)
    if not config.judge_url:
        if config.judge_model:
            raise ValueError(f"judge model {config.judge_model!r} has no judge url; give the endpoint's, or neither")
        return rule
    from rewards.judge import Judge

    judge = Judge(
        url=config.judge_url,
        model=config.judge_model,
        concurrency=config.judge_concurrency,
        cache=config.judge_cache,
        second_opinion=config.second_opinion,
        canaries_per_batch=config.canaries_per_batch,
    )
    return HybridScorer(rule, judge)
