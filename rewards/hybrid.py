"""The two scorers: the rule alone, and r = max(rule, judge) (QwenLong-L1, arXiv 2505.17667, equation 14).

The judge is asked only where there is one answer and the rule did not accept it. What the judge could not settle is
unknown (`value` None), never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data.problem import Question
from rewards.extraction import extract_answer
from rewards.judge_case import judge_case
from rewards.rules import judge_by_rule
from rewards.rules.types import RuleVerdict
from rewards.types import Score

if TYPE_CHECKING:
    from rewards.judge import Judge


Rule = Callable[[str, Question], RuleVerdict]
"""(extracted answer, question) -> verdict."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ruled:
    """What the rule says about one response, and whether that is the last word."""

    score: Score
    open: bool
    """There is one answer, and the rule did not accept it: a judge may be asked."""


class RuleScorer:
    """The rule decides alone: 1 where it accepts, else 0; a response without an answer is 0."""

    def __init__(self, *, require_closed_think: bool = False, rule: Rule = judge_by_rule) -> None:
        """A scorer without state.

        Args:
            require_closed_think: the prompt opens `<think>`, so a response that never closes it has no answer.
            rule: what compares an answer with the accepted ones; the rule of its type where none is given.
        """
        self._require_closed_think = require_closed_think
        self._rule = rule

    def score(self, items: Sequence[tuple[Question, str]]) -> list[Score]:
        """See `Scorer.score`."""
        return [ruled.score for ruled in self.verdicts(items)]

    def verdicts(self, items: Sequence[tuple[Question, str]]) -> list[Ruled]:
        """The rule's score of each item, in order, and whether a judge may be asked."""
        return [self._score_one(question, response) for question, response in items]

    def metrics(self) -> dict[str, float]:
        """See `Scorer.metrics`."""
        return {}

    def close(self) -> None:
        """See `Scorer.close`."""

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
        return Ruled(score=score, open=not verdict.accepted and verdict.is_one_answer)


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
