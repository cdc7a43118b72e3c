"""Scoring in worker processes, and how a scorer is built from its configuration.

Workers are spawned, import no tensor library, and get a question without its document. Left out
here: deadlines per item and the recycling of workers.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace

from data.problem import Question
from rewards.hybrid import HybridScorer, RuleScorer
from rewards.types import Score, Scorer


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


class ScoringPool:
    """A `Scorer` whose batches are cut into one run of items per worker process."""

    def __init__(self, scorer_config: ScorerConfig, workers: int) -> None:
        """Starts no process yet; the first batch does.

        Raises:
            ValueError: fewer than one worker, or a configuration that `build_scorer` refuses.
        """
        if workers < 1:
            raise ValueError(f"scoring workers {workers}: must be at least 1")
        probe = build_scorer(scorer_config)
        if isinstance(probe, HybridScorer):
            probe.close()
        share = max(1, scorer_config.judge_concurrency // workers)
        self._config = replace(scorer_config, judge_concurrency=share)
        self._workers = workers
        self._executor = self._start()

    def score(self, items: Sequence[tuple[Question, str]]) -> list[Score]:
        """One score per item, in order; where a worker died, its items are `infra_error` and a new pool serves the next call."""
        bare = [(_without_document(question), response) for question, response in items]
        size = max(1, -(-len(bare) // self._workers))
        runs = [bare[i : i + size] for i in range(0, len(bare), size)]
        try:
            futures = [self._executor.submit(_score_run, run) for run in runs]
        except BrokenProcessPool as error:
            self._restart()
            return [_lost(error)] * len(bare)
        scores: list[Score] = []
        broken = False
        for run, future in zip(runs, futures, strict=True):
            result = _result(future, len(run))
            broken = broken or isinstance(future.exception(), BrokenProcessPool)
            scores.extend(result)
        if broken:
            self._restart()
        return scores

    def close(self) -> None:
        """Ends the workers."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            max_workers=self._workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(self._config,),
        )

    def _restart(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._executor = self._start()


_worker_scorer: Scorer | None = None
"""The one scorer, with its one judge client, of a worker process."""


def _start_worker(config: ScorerConfig) -> None:
    global _worker_scorer
    _worker_scorer = build_scorer(config)


def _score_run(items: list[tuple[Question, str]]) -> list[Score]:
    assert _worker_scorer is not None, "the pool's initializer builds the scorer first"
    return _worker_scorer.score(items)


def _result(future: Future[list[Score]], num_items: int) -> list[Score]:
    error = future.exception()
    if error is None:
        return future.result()
    return [_lost(error)] * num_items


def _lost(error: BaseException) -> Score:
    reason = f"the scoring worker failed: {type(error).__name__} {error}"
    return Score(value=None, status="infra_error", source="rule", answer=None, reason=" ".join(reason.split())[:300])


def _without_document(question: Question) -> Question:
    """The question alone: a problem's document, often megabytes, is not sent to the workers."""
    if type(question) is Question:
        return question
    return Question(
        question=question.question,
        answers=question.answers,
        answer_type=question.answer_type,
        options=question.options,
    )
