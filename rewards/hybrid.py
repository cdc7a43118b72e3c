"""The two scorers: the rule alone, and r = max(rule, judge) (QwenLong-L1, arXiv 2505.17667, equation 14).

The judge is asked only where there is one answer and the rule did not accept it. What the judge could not settle is
unknown (`value` None), never 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from data.problem import Question
from rewards.extraction import extract_answer
from rewards.judge_case import judge_case
from rewards.pool import SymbolicPool, SymbolicReply
from rewards.rules import judge_by_rule
from rewards.rules.symbolic import symbolic_pair
from rewards.rules.types import RuleVerdict
from rewards.types import Score, ScoreStatus

if TYPE_CHECKING:
    from rewards.judge import Judge


Rule = Callable[[str, Question], RuleVerdict]
"""(extracted answer, question) -> verdict."""


FORMULAS_S = 60.0
"""Time that one batch's formulas may take together, so that answers made to be slow stall no step."""
_PAIRS_PER_CALL = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Ruled:
    """What the rule says about one response, and whether that is the last word."""

    score: Score
    open: bool
    """There is one answer, and the rule did not accept it: a judge may be asked."""


class RuleScorer:
    """The rule decides alone: 1 where it accepts, else 0; a response without an answer is 0."""

    def __init__(
        self,
        *,
        require_closed_think: bool = False,
        rule: Rule = judge_by_rule,
        symbolic: SymbolicPool | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            require_closed_think: the prompt opens `<think>`, so a response that never closes it has no answer.
            rule: what compares an answer with the accepted ones; the rule of its type where none is given.
            symbolic: compares formulas, in processes of its own; closed with the scorer. None: nobody does.
        """
        self._require_closed_think = require_closed_think
        self._rule = rule
        self._symbolic = symbolic

    def score(self, items: Sequence[tuple[Question, str]]) -> list[Score]:
        """See `Scorer.score`."""
        return [ruled.score for ruled in self.verdicts(items)]

    def verdicts(self, items: Sequence[tuple[Question, str]]) -> list[Ruled]:
        """The rule's score of each item, in order, and whether a judge may be asked."""
        ruled = [self._score_one(question, response) for question, response in items]
        if self._symbolic is not None:
            self._compare_formulas([question for question, _ in items], ruled, self._symbolic)
        return ruled

    def metrics(self) -> dict[str, float]:
        """See `Scorer.metrics`."""
        return {}

    def close(self) -> None:
        """See `Scorer.close`."""
        if self._symbolic is not None:
            self._symbolic.close()

    def _compare_formulas(self, questions: Sequence[Question], ruled: list[Ruled], pool: SymbolicPool) -> None:
        """Replaces the verdicts that the pool changes: accepted, or unknown where it got no time or no process."""
        pairs = {
            i: of_item
            for i, question in enumerate(questions)
            if ruled[i].open and (of_item := _pairs(question, ruled[i]))
        }
        replies = _replies(dict.fromkeys(pair for of_item in pairs.values() for pair in of_item), pool)
        for i, of_item in pairs.items():
            best = max((replies[pair] for pair in of_item), key=lambda reply: _WEIGHT.get(reply.status, 0))
            if best.status in _WEIGHT:
                ruled[i] = _with_formula(ruled[i], best)

    def _score_one(self, question: Question, response: str) -> Ruled:
        found = extract_answer(response, thinking=self._require_closed_think)
        if found.answer is None:
            none = Score(value=0.0, status="ok", source="rule", answer=None, reason=f"no answer: {found.how}")
            return Ruled(score=none, open=False)
        answer, verdict = found.answer, self._rule(found.answer, question)
        if found.uncut and not verdict.accepted and question.answer_type == "text":
            whole = self._rule(found.uncut, question)
            answer, verdict = (found.uncut, whole) if whole.accepted else (answer, verdict)
        reason = f"{verdict.reason} (read {found.how})"
        score = Score(value=float(verdict.accepted), status="ok", source="rule", answer=answer, reason=reason)
        return Ruled(score=score, open=not (verdict.accepted or verdict.is_settled) and verdict.is_one_answer)


_WEIGHT = {"failed": 1, "timeout": 2, "equal": 3}
"""The replies that change a verdict: over several accepted answers the one that weighs most stands."""


def _replies(pairs: Iterable[tuple[str, str]], pool: SymbolicPool) -> dict[tuple[str, str], SymbolicReply]:
    """The pool's reply to each pair; once `FORMULAS_S` have passed, the rest are `timeout`."""
    replies: dict[tuple[str, str], SymbolicReply] = {}
    waiting, started = list(pairs), time.monotonic()
    while waiting and time.monotonic() - started < FORMULAS_S:
        part, waiting = waiting[:_PAIRS_PER_CALL], waiting[_PAIRS_PER_CALL:]
        replies |= zip(part, pool.compare(part), strict=True)
    late = SymbolicReply(status="timeout", detail=f"the batch's {FORMULAS_S:.0f} s for formulas are used up")
    return replies | dict.fromkeys(waiting, late)


def _pairs(question: Question, ruled: Ruled) -> list[tuple[str, str]]:
    """What the pool is asked about one open answer: it and each accepted answer, where both may be formulas."""
    if question.answer_type not in ("text", "number") or ruled.score.answer is None:
        return []
    pairs = (symbolic_pair(ruled.score.answer, gold) for gold in question.answers)
    return [pair for pair in pairs if pair is not None]


def _with_formula(ruled: Ruled, reply: SymbolicReply) -> Ruled:
    if reply.status == "equal":
        reason = f"symbolic: the same formula ({ruled.score.reason})"
        return Ruled(score=replace(ruled.score, value=1.0, reason=reason), open=False)
    status: ScoreStatus = "timeout" if reply.status == "timeout" else "infra_error"
    reason = f"symbolic: {reply.detail}; {ruled.score.reason}"
    return Ruled(score=replace(ruled.score, value=None, status=status, reason=reason), open=True)


class HybridScorer:
    """max(rule, judge): a rule's 1 stands whatever the judge does; a rule's 0 is the judge's to confirm."""

    def __init__(self, rule: RuleScorer, judge: Judge) -> None:
        self._rule = rule
        self._judge = judge

    def score(self, items: Sequence[tuple[Question, str]]) -> list[Score]:
        """See `Scorer.score`."""
        ruled = self._rule.verdicts(items)
        scores = [one.score for one in ruled]
        asked = [i for i, one in enumerate(ruled) if one.open]
        replies = self._judge.decide([judge_case(items[i][0], scores[i].answer or "") for i in asked])
        for i, reply in zip(asked, replies, strict=True):
            scores[i] = Score(
                value=None if reply.same is None else float(reply.same),
                status=reply.status,
                source="cache" if reply.cached else "judge",
                answer=scores[i].answer,
                reason=f"judge: {reply.detail}; {scores[i].reason}",
                latency_s=reply.latency_s,
                attempts=reply.attempts,
            )
        return scores

    def metrics(self) -> dict[str, float]:
        """See `Scorer.metrics`."""
        return self._rule.metrics() | self._judge.metrics()

    def close(self) -> None:
        """See `Scorer.close`."""
        self._rule.close()
        self._judge.close()
