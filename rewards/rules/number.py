"""Numeric answers: the values must agree, sign and scale included.

Tolerance. A gold printed with decimals (`15.57`): within half a unit of its last printed place, or
0.1 %. A gold printed whole (`2019`, `27.0`, `3 million`): only an answer printed finer may differ,
by half a unit of the gold's last place and by 0.1 % at most, so 2018 and 2018.0 are not 2019.

Percent and scale words belong to the value where both sides carry them. Where one side does and the
other does not, the question decides: `5` is `5%` when it asks for a percentage, `621` is
`$621 million` when it asks "in millions". Different currencies or units are different answers.
"""

from __future__ import annotations

import re
from fractions import Fraction

from data.problem import Question
from rewards.rules.numeral import Numeral, read_number
from rewards.rules.text import normalise, without_explanation
from rewards.rules.types import RuleVerdict

RELATIVE_TOLERANCE = Fraction(1, 1000)
_ASKS_PERCENT = re.compile(r"%|\bper\s?cent|\bpercentage", re.IGNORECASE)
_ASKS_SCALE = re.compile(
    r"\b(?:in|of|\$|usd)[\s(]{0,2}(?:us\$\s?|\$\s?)?(thousand|million|billion)s?\b|\((thousand|million|billion)s?\)",
    re.I,
)
_SCALE = {"thousand": 10**3, "million": 10**6, "billion": 10**9}


def judge(answer: str, question: Question) -> RuleVerdict:
    """Accepts an answer whose value equals an accepted answer's; a gold that is no number is compared as text."""
    said = read_number(without_explanation(answer))
    reason = "number: the answer is not one plain number"
    for gold in question.answers:
        meant = read_number(gold, is_gold=True)
        if meant is None or said is None:
            if (normal := normalise(gold)) and normal == normalise(answer[:2000]):
                return RuleVerdict(accepted=True, readable=True, reason=f"number: same text as {gold[:80]!r}")
        elif equal(said, meant, question.question):
            return RuleVerdict(accepted=True, readable=True, reason=f"number: {said.show()} equals {gold[:80]!r}")
        else:
            reason = f"number: {said.show()} is not {gold[:80]!r}"
    return RuleVerdict(accepted=False, readable=said is not None, reason=reason)


def equal(said: Numeral, meant: Numeral, question: str = "") -> bool:
    """Whether the answer `said` is the gold `meant`; `question` settles percent and scale where only one has them."""
    if said.kind and meant.kind and said.kind != meant.kind:
        return False
    if said.unit and meant.unit and said.unit != meant.unit:
        return False
    return any(
        _close(said.value * factor, said.last_place * factor, meant) for factor in _factors(said, meant, question)
    )


def _factors(said: Numeral, meant: Numeral, question: str) -> list[Fraction]:
    """What the answer's value may be multiplied by before it is compared; usually just 1."""
    same = Fraction(1)
    if said.percent != meant.percent:
        asks_percent = _ASKS_PERCENT.search(question) is not None
        if said.percent:
            hundredth = Fraction(1, 100)
            return [hundredth, same] if asks_percent or abs(meant.value) >= 1 else [hundredth]
        return [same] if asks_percent else [same, Fraction(100)]
    asked = _ASKS_SCALE.search(question)
    if asked:
        scale = _SCALE[(asked.group(1) or asked.group(2)).lower()]
        if meant.scale == 1:
            return [same, Fraction(1, scale)]
        if said.scale == 1 and meant.scale == scale:
            return [same, Fraction(scale)]
    return [same]


def _close(value: Fraction, last_place: Fraction, meant: Numeral) -> bool:
    difference = abs(value - meant.value)
    half_place, relative = meant.last_place / 2, abs(meant.value) * RELATIVE_TOLERANCE
    if difference == 0:
        return True
    if meant.is_whole:
        return last_place < meant.last_place and difference <= min(half_place, relative)
    return difference <= max(half_place, relative)
