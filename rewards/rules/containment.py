"""An optional rule: a short answer that holds a gold as whole words, and says nothing that could turn it round.

Not the default, because a sentence can hold a gold and mean another thing (`the year before Waterloo`). So it is
guarded: one short answer, no negation, hedge or alternative anywhere, the gold neither a number nor yes or no, neither
the start of a longer name nor what something else is said about.
"""

from __future__ import annotations

import re

from data.problem import Question
from rewards.doubt import DENYING_WORDS
from rewards.phrases import words_of
from rewards.rules import judge_by_rule
from rewards.rules.numeral import gold_number
from rewards.rules.text import normal_gold, normalise
from rewards.rules.types import RuleVerdict

MAX_WORDS = 30
MIN_GOLD_CHARS = 2

_TURNS = DENYING_WORDS | frozenset(
    "no nothing without except but or either and maybe perhaps possibly probably might may could would should unlike instead rather"
    " than versus vs if unless although though however before after until against almost nearly allegedly supposedly former t non".split()
)
_JOINERS = re.compile(r"[;|/&+\n\u2192]|,(?!\s(?:an?|the|who|which|where|in|at|on|born)\s)")
_OF = re.compile(
    r"(?:^|\s)(?!(?:city|town|village|kingdom|republic|state|county|island|month|year|name|died|because|called)\s)(\w+)\sof(?:\s\w+){0,2}$"
)


def judge_with_containment(answer: str, question: Question) -> RuleVerdict:
    """`judge_by_rule`, and for text also an answer that safely contains a gold."""
    verdict = judge_by_rule(answer, question)
    if verdict.accepted or not verdict.is_one_answer or question.answer_type != "text":
        return verdict
    words = words_of(answer)
    if len(answer.split()) > MAX_WORDS or not words.isdisjoint(_TURNS) or _JOINERS.search(answer):
        return verdict
    said = f" {normalise(answer)} "
    for gold in question.answers:
        normal = normal_gold(gold)
        if len(normal) < MIN_GOLD_CHARS or normal in ("yes", "no", "true", "false") or gold_number(gold) is not None:
            continue
        before, found, _ = said.partition(f" {normal} ")
        if found and not _OF.search(before) and not _is_part_of_a_name(answer, gold):
            return RuleVerdict(accepted=True, readable=True, reason=f"text: contains {gold[:80]!r}")
    return verdict


def _is_part_of_a_name(answer: str, gold: str) -> bool:
    """Whether a capital or a digit follows the gold's last word, as in `Utrecht University`."""
    last = re.escape(gold.split()[-1].strip(".,"))
    return re.search(rf"\b{last}(?:['\u2019]s)?\s+(?-i:[A-Z0-9])", answer, re.IGNORECASE) is not None
