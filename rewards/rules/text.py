"""Text answers: equal after Unicode form, case, punctuation, articles and spacing; never contained.

Where both sides are plain numbers the values decide, so `$1,758` is `1758` and `(168)` is not `168`.

Kept because they carry meaning: decimal points, signs, percent, currency, `C++`, `A-`, the letter A
where it is no article. So `20-18` is not `2018`, and `Vitamin` is not `Vitamin A`.
"""

from __future__ import annotations

import re
import unicodedata

from data.problem import Question
from rewards.extraction import MAX_ANSWER_CHARS, undress
from rewards.rules import yesno
from rewards.rules.numeral import Numeral, read_number
from rewards.rules.types import RuleVerdict

_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_PERCENT = re.compile(r"\s?(?:%|\bper\s?cent\b)", re.IGNORECASE)
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe63\uff0d"), "-")
_APOSTROPHES = frozenset("'\u2019\u2018`\u00b4\u02bc")
_CLAUSE = re.compile(
    r"(?:,\s{1,3}|\s{1,3})(?:because|since|as\s(?:stated|mentioned|shown|described|noted|the)|according\sto|based\son"
    r"|given\s(?:that|the)|due\sto\sthe\sfact)\b",
    re.IGNORECASE,
)


def judge(answer: str, question: Question) -> RuleVerdict:
    """Accepts an answer whose normalised form equals an accepted answer's."""
    if len(answer) > MAX_ANSWER_CHARS:
        return RuleVerdict(accepted=False, readable=False, reason=f"text: longer than {MAX_ANSWER_CHARS} characters")
    golds = [normalise(gold) for gold in question.answers]
    if all(gold in ("yes", "no") for gold in golds):
        return yesno.judge(answer, question)
    bare = without_explanation(answer)
    readings = {normalise(answer), normalise(bare)} - {""}
    if not readings:
        return RuleVerdict(accepted=False, readable=False, reason="text: nothing is left of the answer")
    said = read_number(bare)
    for gold, normal in zip(question.answers, golds, strict=True):
        same_number = _same_number(said, gold)
        if same_number or (same_number is None and normal in readings) or undress(gold) == answer:
            return RuleVerdict(accepted=True, readable=True, reason=f"text: equals {gold[:80]!r}")
    return RuleVerdict(accepted=False, readable=True, reason=f"text: {normalise(answer)[:80]!r} is no accepted answer")


def normalise(text: str) -> str:
    """The form in which two text answers are compared; "" where nothing is left."""
    text = unicodedata.normalize("NFKC", text).translate(_DASHES)
    text = _PERCENT.sub("%", _THOUSANDS.sub("", text))
    tokens = "".join(_kept(text, i) for i in range(len(text))).split()
    last = len(tokens) - 1
    kept = [token for i, token in enumerate(tokens) if i == last or not _is_article(token, i)]
    return unicodedata.normalize("NFKC", " ".join(kept).casefold())


def without_explanation(answer: str) -> str:
    """`answer` without a clause such as ", because ..." or "according to ..." at its end."""
    clause = _CLAUSE.search(answer, 1)
    return undress(answer[: clause.start()]) if clause else answer


def _same_number(said: Numeral | None, gold: str) -> bool | None:
    """Whether answer and gold are one printed number, as `$1,758` and `1758` are; None where either is no number."""
    meant = read_number(gold, is_gold=True)
    if said is None or meant is None or said.last_place == 0 or meant.last_place == 0:
        return None
    if said.unit != meant.unit or said.percent != meant.percent:
        return None
    return said.value == meant.value and (said.currency in ("", meant.currency) or meant.currency == "")


def _is_article(token: str, position: int) -> bool:
    return token == "a" or token.casefold() in ("the", "an") or (token == "A" and position == 0)


def _kept(text: str, i: int) -> str:
    """What becomes of the character at `i`: itself, a space, or nothing."""
    char = text[i]
    if char.isalnum():
        return char
    left = text[i - 1] if i else " "
    right = text[i + 1] if i + 1 < len(text) else " "
    if char == "&":
        return " and "
    if char == ".":
        return "." if right.isdigit() and (left.isdigit() or not left.isalnum()) else ("" if left.isalpha() else " ")
    if char in _APOSTROPHES:
        return "" if left.isalpha() else " "
    if char == "-":
        return "-" if _is_sign(text, i, left, right) else " "
    if char in "+#":
        return char if left.isalpha() or left == char or (char == "+" and right.isdigit()) else " "
    category = unicodedata.category(char)
    if category[0] == "M" or char == "%" or category == "Sc" or (category == "Sm" and char not in "|~"):
        return char
    return "" if category == "Cf" else " "


def _is_sign(text: str, i: int, left: str, right: str) -> bool:
    """A minus before a number, or the mark of `A-`; not the dash of `20-18` or `well-known`."""
    if left.isalnum():
        lone_letter = left.isalpha() and (i < 2 or not text[i - 2].isalnum())
        return lone_letter and (right.isspace() or not (right.isalnum() or right == "-"))
    return right.isdigit() or right == "." or unicodedata.category(right) == "Sc"
