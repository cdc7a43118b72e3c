"""Evaluation on held-out problems, window by window: the same code inside a run and in `launch.eval`.

Every chosen problem stays in the denominator: a response that could not be scored counts as not correct,
and is counted as invalid beside that, so that an outage can lower a figure but never raise it.
Nothing here imports torch, vllm or ray: the engine is whatever answers `generate`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from data.columns import columns_of
from data.problem import Problem
from rewards.types import Score, Scorer
from rl.rollout.engine import SampleRequest
from rl.types import Completion, FinishReason

Decoding = Literal["greedy", "sampled"]
RIGHT_FROM = 0.5
"""For pass@k an answer is right from this score on."""
Z95 = 1.959964
"""97.5 % quantile of the standard normal distribution."""


class Generator(Protocol):
    """The one call of an engine, or of a group of Ray workers, that evaluation needs."""

    def generate(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One problem put to a model under one way of decoding."""

    problem: Problem
    window: int
    """Upper bound of the problem's window, in prompt tokens."""
    decoding: Decoding
    seeds: tuple[int, ...]
    """One per sample; a greedy answer has one too, which changes nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingLimits:
    """How answers are drawn."""

    max_response_tokens: int
    temperature: float
    """Of sampled answers; greedy ones have 0."""
    top_p: float = 1.0
    top_k: int = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What one sample came to."""

    text: str
    """The response; empty where there is none."""
    num_response_tokens: int | None
    """None: unknown."""
    finish_reason: FinishReason | None
    """None where there is no response."""
    failure: str = ""
    """Why there is no response, in one line; empty where there is one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatedItem:
    """One answer to one held-out problem."""

    problem_id: str
    task: str
    window: int
    """Upper bound of the problem's window, in prompt tokens."""
    decoding: Decoding
    sample: int
    """0 .. samples - 1 among the answers to this problem under this decoding."""
    num_prompt_tokens: int
    num_response_tokens: int | None
    """None: unknown."""
    finish_reason: FinishReason | None
    """None where there is no response."""
    response: str
    score: Score

    @property
    def credit(self) -> float:
        """What the item adds to the numerator: the score's value, 0 where there is none."""
        return 0.0 if self.score.value is None else self.score.value


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """Mean credit over a set of items, all of them in the denominator."""

    num_problems: int
    num_items: int
    """Answers: problems times samples."""
    num_invalid: int
    """Items without a valid score; each counts as 0 in `mean`."""
    num_truncated: int
    """Responses that hit the output limit."""
    mean: float
    """In [0, 1]: over problems, of the mean over a problem's samples (avg@k)."""
    low: float
    """Lower end of the 95 % Wilson interval of `mean`, with the problems as trials."""
    high: float
    """Upper end."""
    mean_response_tokens: float | None
    """Over the answers whose length is known; None where there are none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationResult:
    """Every item, and the figures that follow from them."""

    items: tuple[EvaluatedItem, ...]

    @property
    def windows(self) -> tuple[int, ...]:
        """Upper bounds, ascending."""
        return tuple(sorted({item.window for item in self.items}))

    @property
    def decodings(self) -> tuple[Decoding, ...]:
        present = {item.decoding for item in self.items}
        order: tuple[Decoding, ...] = ("greedy", "sampled")
        return tuple(d for d in order if d in present)

    def accuracy(self, decoding: Decoding, *, window: int | None = None, task: str | None = None) -> Accuracy:
        """Over one window and task, or over all of them (None).

        Raises:
            ValueError: no item matches.
        """
        chosen = [
            item
            for item in self.items
            if item.decoding == decoding and window in (None, item.window) and task in (None, item.task)
        ]
        if not chosen:
            raise ValueError(
                f"no evaluated item is {decoding} in window {window} of task {task}; windows: {self.windows}"
            )
        return summarize(chosen)

    def metrics(self, prefix: str) -> dict[str, float]:
        """`<prefix>/<decoding>/<window>/accuracy` and its kin for the metrics log; `all` is every window together."""
        flat: dict[str, float] = {}
        for decoding in self.decodings:
            for window in (*self.windows, None):
                figures = self.accuracy(decoding, window=window)
                key = f"{prefix}/{decoding}/{'all' if window is None else window}"
                flat[f"{key}/accuracy"] = figures.mean
                flat[f"{key}/invalid_frac"] = figures.num_invalid / figures.num_items
                flat[f"{key}/truncated_frac"] = figures.num_truncated / figures.num_items
                if figures.mean_response_tokens is not None:
                    flat[f"{key}/mean_response_tokens"] = figures.mean_response_tokens
        return flat


def evaluate(
    engine: Generator,
    problems_by_window: Mapping[int, Sequence[Problem]],
    prompt_ids: Callable[[Problem], Sequence[int]],
    scorer: Scorer,
    *,
    problems_per_window: int,
    max_response_tokens: int,
    sampled: bool,
    temperature: float,
    top_p: float = 1.0,
    top_k: int = -1,
    seed: int,
) -> EvaluationResult:
    """Answer and score up to `problems_per_window` problems of each window, greedily and, if asked, once sampled.

    Args:
        problems_by_window: upper bound in prompt tokens -> its problems.
        prompt_ids: [P] token ids of a problem's prompt.
        sampled: also draw one answer at `temperature`, `top_p`, `top_k` for each problem.
        seed: chooses the problems and seeds their draws; the same seed asks the same questions of every model.

    Raises:
        RuntimeError: the engine or the scorer returned another number of results than it was asked for.
    """
    items: list[EvaluatedItem] = []
    limits = SamplingLimits(max_response_tokens=max_response_tokens, temperature=temperature, top_p=top_p, top_k=top_k)
    for window in sorted(problems_by_window):
        chosen = choose_problems(problems_by_window[window], problems_per_window, seed=seed)
        asks = [ask for problem in chosen for ask in asks_about(problem, window, num_samples=int(sampled), seed=seed)]
        items += scored(asks, engine_replies(engine, asks, prompt_ids, limits), scorer)
    return EvaluationResult(items=tuple(items))


def asks_about(problem: Problem, window: int, *, greedy: bool = True, num_samples: int, seed: int) -> list[Ask]:
    """What is asked about one problem: greedily once, then `num_samples` answers (0: none) in one request."""
    asks = []
    if greedy:
        asks.append(
            Ask(problem=problem, window=window, decoding="greedy", seeds=(problem_seed(seed, problem.problem_id),))
        )
    if num_samples:
        seeds = tuple(problem_seed(seed, problem.problem_id, sample=i) for i in range(num_samples))
        asks.append(Ask(problem=problem, window=window, decoding="sampled", seeds=seeds))
    return asks


def engine_replies(
    engine: Generator,
    asks: Sequence[Ask],
    prompt_ids: Callable[[Problem], Sequence[int]],
    limits: SamplingLimits,
) -> list[list[Reply]]:
    """An engine's replies, one a sample.

    Raises:
        RuntimeError: the engine returned another number of results than it was asked for.
    """
    if not asks:
        return []
    prompts: dict[str, tuple[int, ...]] = {}  # the asks of a problem share it, so that a prefix cache fills it once
    for ask in asks:
        if ask.problem.problem_id not in prompts:
            prompts[ask.problem.problem_id] = tuple(prompt_ids(ask.problem))
    answered = engine.generate([_request(ask, prompts[ask.problem.problem_id], limits) for ask in asks])
    if [len(completions) for completions in answered] != [len(ask.seeds) for ask in asks]:
        raise RuntimeError(
            f"evaluation: {sum(len(ask.seeds) for ask in asks)} samples in {len(asks)} requests were asked for, "
            f"{sum(map(len, answered))} in {len(answered)} came back"
        )
    return [
        [Reply(text=c.text, num_response_tokens=len(c.token_ids), finish_reason=c.finish_reason) for c in completions]
        for completions in answered
    ]


def _request(ask: Ask, prompt: tuple[int, ...], limits: SamplingLimits) -> SampleRequest:
    if ask.decoding == "greedy":
        return SampleRequest(
            prompt_token_ids=prompt,
            seeds=ask.seeds,
            max_response_tokens=limits.max_response_tokens,
            temperature=0.0,
        )
    return SampleRequest(
        prompt_token_ids=prompt,
        seeds=ask.seeds,
        max_response_tokens=limits.max_response_tokens,
        temperature=limits.temperature,
        top_p=limits.top_p,
        top_k=limits.top_k,
    )


def scored(asks: Sequence[Ask], replies: Sequence[Sequence[Reply]], scorer: Scorer) -> list[EvaluatedItem]:
    """Every reply as an item, in order: scored, or `infra_error` where there is no response.

    Raises:
        RuntimeError: the scorer returned another number of results than it was asked for.
    """
    samples = [(ask, i, reply) for ask, own in zip(asks, replies, strict=True) for i, reply in enumerate(own)]
    responses = [(ask.problem, reply.text) for ask, _, reply in samples if not reply.failure]
    scores = scorer.score(responses) if responses else []
    if len(scores) != len(responses):
        raise RuntimeError(f"evaluation: {len(responses)} responses, {len(scores)} scores")
    following = iter(scores)
    return [
        EvaluatedItem(
            problem_id=ask.problem.problem_id,
            task=ask.problem.task,
            window=ask.window,
            decoding=ask.decoding,
            sample=i,
            num_prompt_tokens=ask.problem.num_prompt_tokens,
            num_response_tokens=reply.num_response_tokens,
            finish_reason=reply.finish_reason,
            response=reply.text,
            score=_no_response(reply) if reply.failure else next(following),
        )
        for ask, i, reply in samples
    ]


def _no_response(reply: Reply) -> Score:
    return Score(value=None, status="infra_error", source="rule", answer=None, reason=f"no response: {reply.failure}")


def choose_problems(problems: Sequence[Problem], count: int, *, seed: int) -> tuple[Problem, ...]:
    """The `count` problems with the smallest hash of (seed, problem_id); all of them where there are fewer.

    The choice does not depend on the order of the problems, and a larger count keeps what a smaller one chose.
    """
    ids = list(columns_of(problems).problem_ids)
    order = sorted(range(len(ids)), key=lambda i: (problem_seed(seed, ids[i]), ids[i]))
    return tuple(problems[i] for i in order[:count])


def problem_seed(seed: int, problem_id: str, *, sample: int = 0) -> int:
    """An evaluation seed in [0, 2^31) for one sample of one problem."""
    own = f"evaluation\0{seed}\0{problem_id}" + (f"\0{sample}" if sample else "")
    return int.from_bytes(hashlib.blake2b(own.encode(), digest_size=8).digest(), "big") >> 33


def summarize(items: Sequence[EvaluatedItem]) -> Accuracy:
    """The figures of a non-empty set of items."""
    credits: dict[str, list[float]] = {}
    for item in items:
        credits.setdefault(item.problem_id, []).append(item.credit)
    mean = sum(sum(own) / len(own) for own in credits.values()) / len(credits)
    low, high = wilson_interval(mean, len(credits))
    lengths = [item.num_response_tokens for item in items if item.num_response_tokens is not None]
    return Accuracy(
        num_problems=len(credits),
        num_items=len(items),
        num_invalid=sum(item.score.value is None for item in items),
        num_truncated=sum(item.finish_reason == "length" for item in items),
        mean=mean,
        low=low,
        high=high,
        mean_response_tokens=sum(lengths) / len(lengths) if lengths else None,
    )


def pass_at_k(num: int, num_right: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): the chance that k of n answers, c of them right, hold a right one.

    Unbiased for independent answers (arXiv 2107.03374, eq. 1).

    Raises:
        ValueError: unless 1 <= k <= n and 0 <= c <= n.
    """
    if not (1 <= k <= num and 0 <= num_right <= num):
        raise ValueError(f"pass@{k}: needs 1 <= k <= n and 0 <= c <= n, got n = {num}, c = {num_right}")
    return 1 - math.comb(num - num_right, k) / math.comb(num, k)


def wilson_interval(mean: float, num: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson, 1927): (m + z^2/2n +- z sqrt(m(1-m)/n + z^2/4n^2)) / (1 + z^2/n).

    Args:
        mean: share of successes, in [0, 1].
        num: trials, at least 1.
    """
    centre = mean + Z95**2 / (2 * num)
    half = Z95 * math.sqrt(mean * (1 - mean) / num + Z95**2 / (4 * num**2))
    scale = 1 + Z95**2 / num
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
