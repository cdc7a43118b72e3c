"""Numeric answers: the values must agree, sign and scale included.

Tolerance. A gold printed with decimals (`15.57`): within half a unit of its last printed place, or
0.1 %. A gold printed whole (`2019`, `27.0`, `3 million`): only an answer printed finer or coarser may
differ, by half a unit of the coarser last place and by 0.1 % at most: `12.38 million` is 12381521, but
2018 and 2018.0 are not 2019.

Percent and scale words belong to the value where both sides carry them. Where one side does and the
other does not, the question decides: `5` is `5%` when it asks for a percentage, `621` is
`$621 million` when it asks "in millions". Different currencies or units are different answers.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from data.problem import Question
from rewards.extraction import MAX_ANSWER_CHARS
from rewards.rules.numeral import MAX_CACHED_GOLDS, Numeral, asked_currencies, gold_number, read_number
from rewards.rules.text import normal_gold, normalise, without_explanation
from rewards.rules.types import RuleVerdict
from rewards.rules.units import changes_a_number, is_measure, question_allows

RELATIVE_TOLERANCE = Fraction(1, 1000)
_SAME = Fraction(1)
_ASKS_PERCENT = re.compile(r"%|\bper\s?cent|\bpercentage", re.IGNORECASE)
_ASKS_SCALE = re.compile(
    r"\b(?:in|of|\$|usd)[\s(]{0,2}(?:us\$\s?|\$\s?)?(thousand|million|billion)s?\b|\((thousand|million|billion)s?\)",
    re.I,
)
_SCALE = {"thousand": 10**3, "million": 10**6, "billion": 10**9}


def judge(answer: str, question: Question) -> RuleVerdict:
    """Accepts an answer whose value equals an accepted answer's; a gold that is no number is compared as text."""
    bare = without_explanation(answer)
    said = read_number(bare)
    reason = "number: the answer is not one plain number"
    settled = said is not None
    for gold in question.answers:
        meant = gold_number(gold)
        if meant is None:
            if (normal := normal_gold(gold)) and normal == normalise(answer[:MAX_ANSWER_CHARS]):
                return RuleVerdict(accepted=True, readable=True, reason=f"number: same text as {gold[:80]!r}")
            settled = False
            continue
        if "(" in bare and "(" in gold:
            said = read_number(bare, is_gold=True)
        if said is not None and equal(said, meant, question.question):
            return RuleVerdict(accepted=True, readable=True, reason=f"number: {said.show()} equals {gold[:80]!r}")
        if said is not None:
            reason = f"number: {said.show()} is not {gold[:80]!r}"
            # Parentheses are dress in an answer and a minus in accounting: which of them, only a judge can tell.
            accounting = read_number(bare, is_gold=True) if "(" in bare else None
            could_be = accounting is not None and equal(accounting, meant, question.question)
            settled = settled and _is_settled(said, meant) and not could_be
    return RuleVerdict(accepted=False, readable=said is not None, is_settled=settled, reason=reason)


def _is_settled(said: Numeral, meant: Numeral) -> bool:
    """Whether no judge could find two differing numbers equal: only a conversion, or words unknown here, are left to one."""
    if said.unit == meant.unit:
        return True
    if said.unit and not is_measure(said.unit):
        return changes_a_number(f"1 {said.unit}")
    return said.value == meant.value


def equal(said: Numeral, meant: Numeral, question: str = "") -> bool:
    """Whether the answer `said` is the gold `meant`; `question` settles percent and scale where only one has them."""
    if said.kind and meant.kind and said.kind != meant.kind:
        return False
    if said.unit and meant.unit and said.unit != meant.unit:
        return False
    if said.unit and not meant.unit and not _unit_fits(said, question):
        return False
    if said.currency and not meant.currency:
        asked = asked_currencies(question)
        if asked and said.currency not in asked:
            return False
    return any(_close(said, factor, meant) for factor in _factors(said, meant, question))


def _unit_fits(said: Numeral, question: str) -> bool:
    """Whether a unit that the gold does not name may stand in the answer."""
    known_or_asked = question_allows(said.unit, question)
    return known_or_asked or (said.unit_is_plain and not is_measure(said.unit))


def _factors(said: Numeral, meant: Numeral, question: str) -> list[Fraction]:
    """What the answer's value may be multiplied by before it is compared; usually just 1."""
    same = _SAME
    if said.percent != meant.percent:
        asks_percent, _ = _asked(question)
        if said.percent:
            hundredth = Fraction(1, 100)
            return [hundredth, same] if asks_percent or abs(meant.value) >= 1 else [hundredth]
        return [same] if asks_percent else [same, Fraction(100)]
    _, scale = _asked(question)
    if scale > 1:
        if meant.scale == 1:
            return [same, Fraction(1, scale)]
        if said.scale == 1 and meant.scale == scale:
            return [same, Fraction(scale)]
    return [same]


@lru_cache(maxsize=MAX_CACHED_GOLDS)
def _asked(question: str) -> tuple[bool, int]:
    """Whether a question asks for a percentage, and the scale that it asks for; 1 for none."""
    scale = _ASKS_SCALE.search(question)
    return (
        _ASKS_PERCENT.search(question) is not None,
        _SCALE[(scale.group(1) or scale.group(2)).lower()] if scale else 1,
    )


def _close(said: Numeral, factor: Fraction, meant: Numeral) -> bool:
    value, last_place = said.value, said.last_place
    if factor is not _SAME:
        value, last_place = value * factor, last_place * factor
    if value == meant.value:
        return True
    difference = abs(value - meant.value)
    half_place, relative = meant.last_place / 2, abs(meant.value) * RELATIVE_TOLERANCE
    if meant.is_whole and last_place > meant.last_place:
        return difference <= min(last_place / 2, relative)
    if meant.is_whole:
        return last_place < meant.last_place and difference <= min(half_place, relative)
    return difference <= max(half_place, relative)
