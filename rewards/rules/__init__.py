"""One rule per answer type, each a pure function of (answer, question), exact by default.

All are linear in the text's length and hand model text to no interpreter (`eval`, `sympify`, `float`).
Left out here: symbolic equality, which needs worker processes that can be killed.
"""

from __future__ import annotations

from data.problem import Question
from rewards.rules import choice, number, text, yesno
from rewards.rules.one_answer import objection
from rewards.rules.types import RuleVerdict

_JUDGES = {"text": text.judge, "number": number.judge, "choice": choice.judge, "yesno": yesno.judge}


def judge_by_rule(answer: str, question: Question) -> RuleVerdict:
    """The verdict of the rule for `question.answer_type` on an extracted answer, and whether it is one answer at all."""
    verdict = _JUDGES[question.answer_type](answer, question)
    if verdict.accepted or verdict.is_settled:
        return verdict
    reason = objection(answer, question, was_read=verdict.readable)
    if not reason:
        return verdict
    return RuleVerdict(
        accepted=False, readable=False, is_one_answer=False, reason=f"{question.answer_type}: not one answer: {reason}"
    )
