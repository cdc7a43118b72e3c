"""How a scorer is built from its configuration.

The configuration is small and picklable, so that it travels to the processes that score; the scorer is built there.
"""

from __future__ import annotations

from dataclasses import dataclass

from rewards.hybrid import HybridScorer, RuleScorer


@dataclass(frozen=True, kw_only=True, slots=True)
class ScorerConfig:
    """What a scorer is built from; small and picklable."""

    judge_url: str = ""
    """Base URL of an OpenAI-compatible endpoint; empty: the rule decides alone."""
    judge_model: str = ""
    """Model name at that endpoint."""
    judge_concurrency: int = 64
    """Judge calls in flight, over all processes together."""
    require_closed_think: bool = False
    """The prompt opens `<think>`: a response that never closes it has no answer."""


def build_scorer(config: ScorerConfig) -> RuleScorer | HybridScorer:
    """The scorer that `config` describes.

    Raises:
        ValueError: a judge model without a url, or a url, model or concurrency that cannot be used.
    """
    if not config.judge_url:
        if config.judge_model:
            raise ValueError(f"judge model {config.judge_model!r} has no judge url; give the endpoint's, or neither")
        return RuleScorer(require_closed_think=config.require_closed_think)
    from rewards.judge import JudgeClient

    judge = JudgeClient(url=config.judge_url, model=config.judge_model, concurrency=config.judge_concurrency)
    return HybridScorer(judge, require_closed_think=config.require_closed_think)
