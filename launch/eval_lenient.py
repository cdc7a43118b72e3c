"""The lenient score: what published evaluations of these sets credit, so that figures can be laid beside theirs.

It follows what the released code of QwenLong-L1 (arXiv 2505.17667) counts as right, known weaknesses included: a gold
inside the answer or the answer inside the gold, a number's sign and power of ten left aside, an answer read out of an
unfinished thought. Never a reward, and never the figure to train or choose by.
"""

from __future__ import annotations

import math
import re
import string

from data.problem import Question

_ANSWER_IS = "the answer is"
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NUMBER = re.compile(r"[-+]?\d[\d,]{0,40}(?:\.\d{1,40})?")
_CHOICE = re.compile(r"answer is:?\s{0,3}\(?([A-D])\b")
_TOLERANCE = 0.0015
MAX_ANSWER_CHARS = 20_000


def lenient_match(response: str, question: Question) -> bool:
    """Whether the published match would count this response as right."""
    said = _said(response)
    match question.answer_type:
        case "choice":
            found = _CHOICE.findall(said.replace("*", ""))
            return bool(found) and found[0] in question.answers
        case "number":
            after = said.rpartition(_ANSWER_IS)[2]
            return any(_same_number(after, gold) for gold in question.answers)
        case _:
            answer = said.rpartition(_ANSWER_IS)[2] if _ANSWER_IS in said else said
            return any(_contains(answer, gold) for gold in question.answers)


def lenient_value(value: float | None, response: str, question: Question) -> float | None:
    """max(the strict score, the published match); None where the first is unknown and the second is no match."""
    if response and lenient_match(response, question):
        return 1.0
    return value


def _said(response: str) -> str:
    """What follows the thought, or all of it where the thought has no end."""
    return response.rpartition("</think>")[2][-MAX_ANSWER_CHARS:]


def _contains(answer: str, gold: str) -> bool:
    said, meant = _plain(answer), _plain(gold)
    return bool(answer.strip()) and (meant in said or said in meant)


def _plain(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text.casefold().translate(_PUNCTUATION)).split())


def _same_number(text: str, gold: str) -> bool:
    said, meant = _number(text), _number(gold)
    if said is None or meant is None:
        return False
    said, meant = abs(said), abs(meant)
    if said == 0 or meant == 0:
        return said == meant
    power = math.log10(said / meant)
    return abs(said - meant) <= _TOLERANCE * meant or math.isclose(power, round(power), abs_tol=1e-9)


def _number(text: str) -> float | None:
    found = _NUMBER.search(text)
    return None if found is None else float(found[0].replace(",", ""))
