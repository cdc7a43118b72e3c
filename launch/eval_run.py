"""Answers what an evaluation still lacks, batch by batch, onto the disk; what is there is not asked again."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from data.problem import Problem
from data.prompts import PromptTemplate
from launch.cli import ConfigError
from launch.eval_answers import AnswerFile
from launch.eval_endpoint import known_tokens
from launch.eval_figures import SuiteItem
from launch.eval_lenient import lenient_value
from launch.eval_suites import Fitted, Suite
from rewards.types import Score, Scorer
from rl.evaluate import Ask, Decoding, EvaluatedItem, Reply, SamplingLimits, asks_about, scored

Key = tuple[str, str, Decoding]
"""What one request asks: suite, problem id, decoding."""


class Model(Protocol):
    """Whatever answers: an engine in this process, or an endpoint."""

    def replies(self, asks: Sequence[Ask], template: PromptTemplate, limits: SamplingLimits) -> list[list[Reply]]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A suite's chosen problems, and how each is asked."""

    suite: Suite
    problems: Mapping[int, Sequence[Fitted]]
    """By the window's upper bound."""
    limits: SamplingLimits
    greedy: bool
    num_samples: int
    """Sampled answers a problem; 0: none."""
    seed: int

    def asks(self, fits: Sequence[Fitted], window: int) -> list[Ask]:
        """What is asked about these problems of one window."""
        samples, seed = self.num_samples, self.seed
        return [
            ask
            for fit in fits
            for ask in asks_about(fit.problem, window, greedy=self.greedy, num_samples=samples, seed=seed)
        ]

    def key(self, ask: Ask) -> Key:
        return self.suite.name, ask.problem.problem_id, ask.decoding


class Answers:
    """Every item so far, by request and sample; on disk as well where there is a file."""

    def __init__(self, file: AnswerFile | None) -> None:
        self._file = file
        self._items: dict[Key, dict[int, SuiteItem]] = {}
        if file is not None:
            for row in file.rows:
                self._keep(_item_of(row, file))

    def add(self, items: Sequence[SuiteItem]) -> None:
        """Later items replace earlier ones of the same request and sample."""
        if self._file is not None:
            self._file.append(item.row() for item in items)
        for item in items:
            self._keep(item)

    def of(self, key: Key) -> dict[int, SuiteItem]:
        """By sample."""
        return self._items.get(key, {})

    def in_order(self, parts: Sequence[Part]) -> tuple[SuiteItem, ...]:
        """All items, by suite, window, problem, decoding and sample, however often the evaluation was interrupted."""
        return tuple(
            self._items[part.key(ask)][sample]
            for part in parts
            for window, fits in part.problems.items()
            for ask in part.asks(fits, window)
            for sample in range(len(ask.seeds))
        )

    def _keep(self, item: SuiteItem) -> None:
        self._items.setdefault(item.key, {})[item.item.sample] = item


def answer_missing(
    parts: Sequence[Part],
    answers: Answers,
    model: Callable[[], Model],
    scorer: Scorer,
    *,
    batch: int,
) -> None:
    """Asks for every answer that is missing, and scores again the responses that have no valid score.

    Args:
        model: called at the first question, so that a complete evaluation starts no engine.
        batch: problems between two writes to disk.
    """
    work = [
        (part, window, fits[first : first + batch])
        for part in parts
        for window, fits in part.problems.items()
        for first in range(0, len(fits), batch)
    ]
    total, done, started = sum(len(fits) for _, _, fits in work), 0, time.monotonic()
    for part, window, fits in work:
        done += len(fits)
        unasked, unscored = [], []
        for ask in part.asks(fits, window):
            known = answers.of(part.key(ask))
            if any(i not in known or known[i].item.finish_reason is None for i in range(len(ask.seeds))):
                unasked.append(ask)  # all its samples, as the first time
            elif any(one.item.score.value is None for one in known.values()):
                unscored.append(ask)
        if not unasked and not unscored:
            continue
        again = _as_items(part, fits, scored(unscored, [_replies(answers.of(part.key(a))) for a in unscored], scorer))
        again = [item for item in again if answers.of(item.key)[item.item.sample].item.score.value is None]
        replies = model().replies(unasked, part.suite.template, part.limits) if unasked else []
        answers.add(again + _as_items(part, fits, scored(unasked, replies, scorer)))
        print(f"{part.suite.name}: {done} of {total} problems, {time.monotonic() - started:.0f} s", file=sys.stderr)


def _replies(known: Mapping[int, SuiteItem]) -> list[Reply]:
    items = [known[sample].item for sample in sorted(known)]
    return [
        Reply(text=item.response, num_response_tokens=item.num_response_tokens, finish_reason=item.finish_reason)
        for item in items
    ]


def _as_items(part: Part, fits: Sequence[Fitted], items: Sequence[EvaluatedItem]) -> list[SuiteItem]:
    by_id = {fit.problem.problem_id: fit for fit in fits}
    return [
        SuiteItem(
            suite=part.suite.name,
            num_cut_tokens=by_id[item.problem_id].num_cut_tokens,
            lenient=lenient_value(item.score.value, item.response, by_id[item.problem_id].problem),
            item=item,
        )
        for item in items
    ]


def _item_of(row: Mapping[str, Any], file: AnswerFile) -> SuiteItem:
    try:
        return SuiteItem(
            suite=row["suite"],
            num_cut_tokens=row["num_cut_tokens"],
            lenient=row["lenient"],
            item=EvaluatedItem(
                problem_id=row["problem_id"],
                task=row["task"],
                window=row["window"],
                decoding=row["decoding"],
                sample=row["sample"],
                num_prompt_tokens=row["num_prompt_tokens"],
                num_response_tokens=known_tokens(row["num_response_tokens"]),
                finish_reason=row["finish_reason"],
                response=row["response"],
                score=Score(
                    value=row["value"],
                    status=row["status"],
                    source=row["source"],
                    answer=row["answer"],
                    reason=row["failure"],
                ),
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        told = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{file.path}: a line is no answer ({told}); remove the file or name another out") from None


def problems_of(part: Part) -> list[Problem]:
    """Every problem as it is asked."""
    return [fit.problem for fits in part.problems.values() for fit in fits]
