"""How a scorer is built from its configuration.

The configuration is small and picklable, so that it travels to the processes that score; the scorer is built there.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from rewards.hybrid import HybridScorer, Rule, RuleScorer
from rewards.pool import SymbolicPool
from rewards.rules import judge_by_rule
from rewards.rules.containment import judge_with_containment
from rewards.types import Scorer


@dataclass(frozen=True, kw_only=True, slots=True)
class ScorerConfig:
    """What a scorer is built from; small and picklable."""

    factory: str = ""
    """`module:function` that takes this configuration and returns a `Scorer` of your own; empty: the built-in ones."""
    judge_url: str = ""
    """Base URL of an OpenAI-compatible endpoint; empty: the rule decides alone."""
    judge_model: str = ""
    """Model name at that endpoint."""
    judge_concurrency: int = 64
    """Judge calls in flight, over all processes together."""
    judge_timeout_s: float = 60.0
    """Seconds for one verdict, its retries included; half of it may pass in silence."""
    judge_cooldown_s: float = 15.0
    """Seconds for which a judge that fails is left alone before it is asked again."""
    judge_cache: str = ""
    """File of verdicts that were given already; empty: none is kept."""
    second_opinion: bool = False
    """A judge's YES counts only where the same answer gets a NO beside a wrong reference."""
    canaries_per_batch: int = 0
    """Cases with a known verdict that are asked beside every batch; when too many go wrong, the judge abstains."""
    contain: bool = False
    """A short text answer that holds a gold as whole words is accepted too, where nothing in it could turn it round."""
    require_closed_think: bool = False
    """The prompt opens `<think>`: a response that never closes it has no answer."""


def build_scorer(config: ScorerConfig) -> Scorer:
    """The scorer that `config` describes, or what its factory makes of it.

    Raises:
        ValueError: a factory that cannot be found, a judge model without a url, a judge setting that cannot be used.
    """
    if config.factory:
        return _factory(config.factory)(config)
    return rule_or_hybrid(config, judge_with_containment if config.contain else judge_by_rule)


def rule_or_hybrid(config: ScorerConfig, rule: Rule = judge_by_rule) -> Scorer:
    """The rule alone, or max(rule, judge) where a judge is configured; `rule` replaces the built-in ones.

    Raises:
        ValueError: a judge model without a url, or a judge setting that cannot be used.
    """
    by_rule = RuleScorer(require_closed_think=config.require_closed_think, rule=rule, symbolic=SymbolicPool())
    if not config.judge_url:
        if config.judge_model:
            raise ValueError(f"judge model {config.judge_model!r} has no judge url; give the endpoint's, or neither")
        return by_rule
    from rewards.breaker import BreakerPolicy
    from rewards.judge import Judge
    from rewards.judge_client import JudgePolicy

    judge = Judge(
        url=config.judge_url,
        model=config.judge_model,
        concurrency=config.judge_concurrency,
        cache=config.judge_cache,
        second_opinion=config.second_opinion,
        canaries_per_batch=config.canaries_per_batch,
        policy=JudgePolicy(total_s=config.judge_timeout_s, read_s=config.judge_timeout_s / 2),
        breaker=BreakerPolicy(cooldown_s=config.judge_cooldown_s),
    )
    return HybridScorer(by_rule, judge)


def require_module(factory: str) -> None:
    """Checks that the module of `module:function` is there, without running it: scorers run in their own processes.

    Raises:
        ValueError: it is not, or the name has another form.
    """
    module, colon, function = factory.partition(":")
    try:
        found = bool(module and colon and function) and importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        raise ValueError(
            f"scorer {factory!r}: no such module; name a function as module:function, importable from here"
        )


def _factory(name: str) -> Callable[[ScorerConfig], Scorer]:
    require_module(name)
    module, _, function = name.partition(":")
    found = getattr(importlib.import_module(module), function, None)
    if not callable(found):
        raise ValueError(f"scorer {name!r}: the module has no function {function!r}; name one that it has")
    return cast(Callable[[ScorerConfig], Scorer], found)
