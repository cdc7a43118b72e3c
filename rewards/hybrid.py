"""The two scorers: the rule alone, and r = max(rule, judge) (QwenLong-L1, arXiv 2505.17667, equation 14).

The judge is asked only where there is an answer and the rule did not accept it, once per different
(question, answer) in a batch. What the judge could not settle is unknown (`value` None), never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from data.problem import Question
from rewards.extraction import extract_answer
from rewards.rules import judge_by_rule
from rewards.types import Score

if TYPE_CHECKING:
    from rewards.judge import JudgeClient


class RuleScorer:
    """The rule decides alone: 1 where it accepts, else 0; a response without an answer is 0."""

    def __init__(self, *, require_closed_think: bool = False) -> None:
        """`require_closed_think`: the prompt opens `<think>`, so a response that never closes it has no answer."""
        self._require_closed_think = require_closed_think

    def score(self, items: Sequence[tuple[Question, str]]) -> list[Score]:
        return [self._score_one(question, response) for question, response in items]

    def _score_one(self, question: Question, response: str) -> Score:
        found = extract_answer(response, thinking=self._require_closed_think)
        if found.answer is None:
            return Score(value=0.0, status="ok", source="rule", answer=None, reason=f"no answer: {found.how}")
        answer, verdict = found.answer, judge_by_rule(found.answer, question)
        if found.uncut and not verdict.accepted and question.answer_type == "text":
            whole = judge_by_rule(found.uncut, question)
            answer, verdict = (found.uncut, whole) if whole.accepted else (answer, verdict)
        reason = f"{verdict.reason} (read {found.how})"
        return Score(value=float(verdict.accepted), status="ok", source="rule", answer=answer, reason=reason)


class HybridScorer:
    """max(rule, judge): a rule's 1 stands whatever the judge does; a rule's 0 is the judge's to confirm."""

    def __init__(self, judge: JudgeClient, *, require_closed_think: bool = False) -> None:
        self._rule = RuleScorer(require_closed_think=require_closed_think)
        self._judge = judge

    def score(self, items: Sequence[tuple[Question, str]]) -> list[Score]:
        scores = self._rule.score(items)
        open_cases: dict[tuple[str, tuple[str, ...], str], list[int]] = {}
        for i, ((question, _), score) in enumerate(zip(items, scores, strict=True)):
            if score.value == 0.0 and score.answer is not None:
                open_cases.setdefault((question.question, question.answers, score.answer), []).append(i)
        replies = self._judge.ask([(items[at[0]][0], answer) for (_, _, answer), at in open_cases.items()])
        for at, reply in zip(open_cases.values(), replies, strict=True):
            for i in at:
                scores[i] = Score(
                    value=None if reply.same is None else float(reply.same),
                    status=reply.status,
                    source="judge",
                    answer=scores[i].answer,
                    reason=f"judge: {reply.detail}; {scores[i].reason}",
                    latency_s=reply.latency_s,
                    attempts=reply.attempts,
                )
        return scores

    def close(self) -> None:
        """Ends the judge's connections and its thread; the scorer cannot be used afterwards."""
        self._judge.close()
