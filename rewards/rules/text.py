"""Text answers: equal after Unicode form, case, punctuation, articles and spacing; never contained.

Where both sides are plain numbers the values decide, so `$1,758` is `1758` and `(168)` is not `168`.

Kept because they carry meaning: decimal points, signs, percent, currency, `C++`, `A-`, the letter A
where it is no article. So `20-18` is not `2018`, and `Vitamin` is not `Vitamin A`.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from data.problem import Question
from rewards.doubt import CROSSES, hedges
from rewards.extraction import MAX_ANSWER_CHARS, undress
from rewards.rules import yesno
from rewards.rules.numeral import gold_number, read_number
from rewards.rules.types import RuleVerdict

MAX_CACHED_GOLDS = 2_048
"""Golds (and options) whose forms are kept: a group judges the same ones again and again."""

_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_PERCENT = re.compile(r"\s?(?:%|\bper\s?cent\b)", re.IGNORECASE)
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe63\uff0d"), "-") | {0x2BC: "'"}
_SUPERSCRIPT = re.compile("(?<=[0-9])(?=[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207b])")
_SIGNS = re.compile(r"[^\w\s]")
_KINDS = re.compile("[%$\u20ac\u00a3\u00a5\u20b9\u20a9]")
_NO_LETTER = re.compile(r"[\W_]+")
_INITIALS = re.compile(r"(?<!\S)[^\W\d_](?: [^\W\d_])+(?!\S)")
_MARK = re.compile(r"[^\w\s]|_")
_APOSTROPHES = frozenset("'\u2019\u2018`\u00b4\u02bc")
_CLAUSE = re.compile(
    r"(?:,\s{1,3}|\s{1,3})(?:because|since|as\s(?:stated|mentioned|shown|described|noted|the)|according\sto|based\son"
    r"|given\s(?:that|the)|due\sto\sthe\sfact)\b",
    re.IGNORECASE,
)
_POINTER = re.compile(
    r"\s\((?:see|cf\.?|as|from|per|according|page|p\.|pp\.|line|paragraph|section|source)\s[^()]{1,80}\)$",
    re.IGNORECASE,
)


def judge(answer: str, question: Question) -> RuleVerdict:
    """Accepts an answer whose normalised form equals an accepted answer's."""
    if len(answer) > MAX_ANSWER_CHARS:
        return RuleVerdict(accepted=False, readable=False, reason=f"text: longer than {MAX_ANSWER_CHARS} characters")
    golds = [normal_gold(gold) for gold in question.answers]
    if all(gold in ("yes", "no") for gold in golds):
        return yesno.judge(answer, question)
    bare = without_explanation(answer)
    normal = normalise(answer)
    readings = {normal, normal if bare == answer else normalise(bare)} - {""}
    if not readings:
        return RuleVerdict(accepted=False, readable=False, reason="text: nothing is left of the answer")
    for gold, normal_of_gold in zip(question.answers, golds, strict=True):
        same_number = _same_number(bare, gold)
        if same_number or (same_number is None and normal_of_gold in readings) or undress(gold) == answer:
            return RuleVerdict(accepted=True, readable=True, reason=f"text: equals {gold[:80]!r}")
    settled = len(golds) == 1 and _differs_in_signs(normal, golds[0])
    reason = f"text: {normal[:80]!r} is no accepted answer"
    return RuleVerdict(accepted=False, readable=True, is_settled=settled, reason=reason)


def _differs_in_signs(said: str, gold: str) -> bool:
    """Whether two texts have the same letters and digits but other signs that carry meaning: `C` and `C++`, `-40` and `40`.

    A percent or currency sign that only one side has is left to a judge, who knows what was asked.
    """
    if _NO_LETTER.sub("", said) != _NO_LETTER.sub("", gold):
        return False
    signs, signs_of_gold = _SIGNS.findall(said), _SIGNS.findall(gold)
    kinds, kinds_of_gold = _KINDS.findall(said), _KINDS.findall(gold)
    if kinds and kinds_of_gold:
        return signs != signs_of_gold
    return [s for s in signs if s not in kinds] != [s for s in signs_of_gold if s not in kinds_of_gold]


def normalise(text: str) -> str:
    """The form in which two text answers are compared; "" where nothing is left."""
    is_ascii = text.isascii()
    if not is_ascii:
        text = unicodedata.normalize("NFKC", _SUPERSCRIPT.sub("^", text)).translate(_DASHES)
    if "," in text:
        text = _THOUSANDS.sub("", text)
    if "%" in text or "cent" in text.casefold():
        text = _PERCENT.sub("%", text)
    tokens = _MARK.sub(lambda mark: _kept(text, mark.start()), text).split()
    last = len(tokens) - 1
    kept = [token for i, token in enumerate(tokens) if len(token) > 3 or i == last or not _is_article(token, i)]
    if len(kept) == 1 and len(tokens) > 1 and _is_article(kept[0], 0):
        kept = tokens
    normal = " ".join(kept)
    if len(kept) > 1:
        normal = _INITIALS.sub(lambda letters: letters.group().replace(" ", ""), normal)
    normal = normal.casefold()
    return normal if is_ascii else unicodedata.normalize("NFKC", normal)


normal_gold = lru_cache(maxsize=MAX_CACHED_GOLDS)(normalise)
"""`normalise` for golds and options, which come again; answers, which do not, are not kept."""


def without_explanation(answer: str) -> str:
    """`answer` without a clause such as ", because ..." or "(see page 3)" at its end; whole where the clause hedges."""
    if answer.endswith(")"):
        answer = _POINTER.sub("", answer)
    clause = _CLAUSE.search(answer, 1)
    if clause is None:
        return answer
    rest = answer[clause.start() :]
    if hedges(rest) or _CLAUSE.search(answer, clause.end()):
        return answer
    return undress(answer[: clause.start()])


def _same_number(answer: str, gold: str) -> bool | None:
    """Whether answer and gold are one printed number, as `$1,758` and `1758` are; None where either is no number."""
    meant = gold_number(gold)
    said = None if meant is None else read_number(answer)
    if said is None or meant is None or said.last_place == 0 or meant.last_place == 0:
        return None
    if said.unit != meant.unit or said.percent != meant.percent:
        return None
    return said.value == meant.value and (said.currency in ("", meant.currency) or meant.currency == "")


def _is_article(token: str, position: int) -> bool:
    return token == "a" or token.casefold() in ("the", "an") or (token == "A" and position == 0)


def _kept(text: str, i: int) -> str:
    """What becomes of the mark at `i`: itself, a space, or nothing."""
    char = text[i]
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
    if char in "/^" and left.isdigit() and right.isdigit():
        return char
    if char in CROSSES:
        return " not "
    if category[0] == "M" or char == "%" or category == "Sc" or (category == "Sm" and char not in "|~"):
        return char
    return "" if category == "Cf" else " "


def _is_sign(text: str, i: int, left: str, right: str) -> bool:
    """A minus before a number, or the mark of `A-`; not the dash of `20-18` or `well-known`."""
    if left.isalnum():
        lone_letter = left.isalpha() and (i < 2 or not text[i - 2].isalnum())
        return lone_letter and (right.isspace() or not (right.isalnum() or right == "-"))
    return right.isdigit() or right == "." or unicodedata.category(right) == "Sc"
