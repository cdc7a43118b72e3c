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
from typing import Any, Literal, Protocol

from data.columns import columns_of
from data.problem import Problem
from rewards.types import Score, Scorer
from rl.rollout.engine import SampleRequest
from rl.types import Completion, FinishReason

Decoding = Literal["greedy", "sampled"]


class Generator(Protocol):
    """The one call of an engine, or of a group of Ray workers, that evaluation needs."""

    def generate(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatedItem:
    """One answer to one held-out problem."""

    problem_id: str
    task: str
    window: int
    """Upper bound of the problem's window, in prompt tokens."""
    decoding: Decoding
    num_prompt_tokens: int
    num_response_tokens: int
    finish_reason: FinishReason
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
    num_invalid: int
    """Items without a valid score; each counts as 0 in `mean`."""
    num_truncated: int
    """Responses that hit the output limit."""
    mean: float
    """In [0, 1]."""
    low: float
    """Lower end of the 95 % Wilson interval of `mean`."""
    high: float
    """Upper end."""
    mean_response_tokens: float


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
                flat[f"{key}/invalid_frac"] = figures.num_invalid / figures.num_problems
                flat[f"{key}/truncated_frac"] = figures.num_truncated / figures.num_problems
                flat[f"{key}/mean_response_tokens"] = figures.mean_response_tokens
        return flat

    def rows(self) -> list[dict[str, Any]]:
        """The items as plain values, for JSON lines or parquet."""
        return [
            {
                "problem_id": item.problem_id,
                "task": item.task,
                "window": item.window,
                "decoding": item.decoding,
                "value": item.score.value,
                "status": item.score.status,
                "source": item.score.source,
                "answer": item.score.answer,
                "num_prompt_tokens": item.num_prompt_tokens,
                "num_response_tokens": item.num_response_tokens,
                "finish_reason": item.finish_reason,
                "response": item.response,
            }
            for item in self.items
        ]


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
    for window in sorted(problems_by_window):
        chosen = choose_problems(problems_by_window[window], problems_per_window, seed=seed)
        asked: list[tuple[Problem, Decoding]] = []
        requests: list[SampleRequest] = []
        for problem in chosen:
            prompt = tuple(prompt_ids(problem))  # both requests share it, so that a prefix cache fills it once
            seeds = (problem_seed(seed, problem.problem_id),)
            asked.append((problem, "greedy"))
            requests.append(
                SampleRequest(
                    prompt_token_ids=prompt, seeds=seeds, max_response_tokens=max_response_tokens, temperature=0.0
                )
            )
            if sampled:
                asked.append((problem, "sampled"))
                requests.append(
                    SampleRequest(
                        prompt_token_ids=prompt,
                        seeds=seeds,
                        max_response_tokens=max_response_tokens,
                        temperature=temperature,
                        top_p=top_p,
                        top_k=top_k,
                    )
                )
        items += _answered(engine, scorer, window, asked, requests)
    return EvaluationResult(items=tuple(items))


def _answered(
    engine: Generator,
    scorer: Scorer,
    window: int,
    asked: Sequence[tuple[Problem, Decoding]],
    requests: Sequence[SampleRequest],
) -> list[EvaluatedItem]:
    if not requests:
        return []
    answered = engine.generate(requests)
    if [len(completions) for completions in answered] != [1] * len(requests):
        raise RuntimeError(
            f"evaluation, window {window}: {len(requests)} requests of one sample, {len(answered)} answers"
        )
    completions = [one for (one,) in answered]
    scores = scorer.score([(problem, c.text) for (problem, _), c in zip(asked, completions, strict=True)])
    if len(scores) != len(asked):
        raise RuntimeError(f"evaluation, window {window}: {len(asked)} responses, {len(scores)} scores")
    return [
        EvaluatedItem(
            problem_id=problem.problem_id,
            task=problem.task,
            window=window,
            decoding=decoding,
            num_prompt_tokens=problem.num_prompt_tokens,
            num_response_tokens=len(completion.token_ids),
            finish_reason=completion.finish_reason,
            response=completion.text,
            score=score,
        )
        for (problem, decoding), completion, score in zip(asked, completions, scores, strict=True)
    ]


def choose_problems(problems: Sequence[Problem], count: int, *, seed: int) -> tuple[Problem, ...]:
    """The `count` problems with the smallest hash of (seed, problem_id); all of them where there are fewer.

    The choice does not depend on the order of the problems, and a larger count keeps what a smaller one chose.
    """
    ids = list(columns_of(problems).problem_ids)
    order = sorted(range(len(ids)), key=lambda i: (problem_seed(seed, ids[i]), ids[i]))
    return tuple(problems[i] for i in order[:count])


def problem_seed(seed: int, problem_id: str) -> int:
    """An evaluation seed in [0, 2^31) for one problem."""
    digest = hashlib.blake2b(f"evaluation\0{seed}\0{problem_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 33


def summarize(items: Sequence[EvaluatedItem]) -> Accuracy:
    """The figures of a non-empty set of items."""
    num = len(items)
    mean = sum(item.credit for item in items) / num
    low, high = wilson_interval(mean, num)
    return Accuracy(
        num_problems=num,
        num_invalid=sum(item.score.value is None for item in items),
        num_truncated=sum(item.finish_reason == "length" for item in items),
        mean=mean,
        low=low,
        high=high,
        mean_response_tokens=sum(item.num_response_tokens for item in items) / num,
    )


def wilson_interval(mean: float, num: int, z: float = 1.96) -> tuple[float, float]:
    """Score interval of a proportion (Wilson, 1927): (m + z^2/2n +- z sqrt(m(1-m)/n + z^2/4n^2)) / (1 + z^2/n).

    Args:
        mean: share of successes, in [0, 1].
        num: trials, at least 1.
        z: half-width in standard deviations; 1.96 is 95 %.
    """
    centre = mean + z * z / (2 * num)
    half = z * math.sqrt(mean * (1 - mean) / num + z * z / (4 * num * num))
    scale = 1 + z * z / num
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
