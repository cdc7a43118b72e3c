"""Golds that no rule can read, and golds that are not of their type: a look before training, not the rules themselves.

A gold is readable if the rules accept `Therefore, the answer is GOLD`. A gold of another type still is: it is compared
word for word. What is called unreadable here is refused there, whatever the type; the reverse nearly holds: outside
text, golds that the answer's extraction unwraps or shortens (tags, TeX, a second sentence) are refused and not called so.
"""

from __future__ import annotations

import re
import unicodedata

from data.problem import Question

MAX_GOLD_CHARS = 2_000
"""A longer answer is an essay to the rules, so no answer can equal such a gold."""

_REORDERED = re.compile("[\u202d\u202e]")
_BOX = re.compile(r"\\f?box(?:ed)?\s{0,3}\{")
_ANSWER_IS = re.compile(r"\bthe answer (?:is|was)\b|\banswer\s?[:=]", re.IGNORECASE)
_YES_OR_NO = re.compile(r"\W*(?:yes|no|true|false)\b", re.IGNORECASE)
_LETTER = re.compile(
    r"\W*(?:(?:the|my|it|is|this|that|i|it's|correct|right|best|final|definitely|certainly|clearly|must|be|choose|pick"
    r"|select|option|choice|answer|letter)\b\W*)*(?P<first>[A-Z])(?![\w'\u2019])|.*\W\(?(?P<last>[A-Z])\)?\W*$",
    re.IGNORECASE | re.DOTALL,
)
_WORD = re.compile(r"[^\W\d_]{2,}")
_NUMBER_WORDS = frozenset(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred hundreds thousand thousands million"
    " millions billion billions trillion trillions dozen half third thirds quarter quarters minus negative and percent per"
    " cent about approximately".split()
)
_MAX_UNIT_WORDS = 3


def unreadable_gold(question: Question) -> str | None:
    """Why no answer can equal any of the accepted ones, so that every response scores 0; None where one can."""
    reasons = [_unreadable(answer.strip(), question.answer_type == "choice") for answer in question.answers]
    return None if None in reasons else f"{question.answers[0][:60]!r} {reasons[0]}"


def mistyped_gold(question: Question) -> str | None:
    """Why no accepted answer looks like `answer_type`, so that only its very words are accepted; None where one does.

    A number must hold a digit or a number's word and few others, a choice a letter A-Z that stands alone or an
    option's text, a yesno must open with yes, no, true or false. Any text is text.
    """
    if question.answer_type == "text" or any(_looks_right(answer.strip(), question) for answer in question.answers):
        return None
    wanted = {"number": "a number", "choice": f"a letter A-{_last_letter(question)}", "yesno": "yes or no"}[
        question.answer_type
    ]
    return f"{question.answers[0][:60]!r} is not {wanted}"


def _unreadable(gold: str, is_choice: bool) -> str | None:
    if not any(char.isalnum() for char in unicodedata.normalize("NFKC", gold)):
        return "holds no letter and no digit"
    if _num_chars(gold) > MAX_GOLD_CHARS:
        return f"is longer than {MAX_GOLD_CHARS} characters"
    if _REORDERED.search(gold):
        return "holds marks that show it in another order than it is written; remove U+202D and U+202E"
    if "<think>" in gold.rpartition("</think>")[2]:
        return "opens a thought and does not close it; remove <think>"
    if _BOX.search(gold):
        return "holds a box, whose content alone is read as the answer; remove \\boxed{}"
    if _ANSWER_IS.search(gold) and not is_choice and not _YES_OR_NO.match(gold):
        return "says what the answer is, and only the words after that are read as the answer; keep those alone"
    return None


def _num_chars(gold: str) -> int:
    """Characters without the marks around the answer, of which extraction takes some away."""
    first = next((i for i, char in enumerate(gold) if char.isalnum()), 0)
    last = next((i for i, char in enumerate(reversed(gold)) if char.isalnum()), 0)
    return len(gold) - first - last


def _looks_right(gold: str, question: Question) -> bool:
    if len(gold) > MAX_GOLD_CHARS:
        return False
    if question.answer_type == "number":
        words = [word.lower() for word in _WORD.findall(gold)]
        holds_number = any(map(str.isnumeric, gold)) or not _NUMBER_WORDS.isdisjoint(words)
        return holds_number and sum(word not in _NUMBER_WORDS for word in words) <= _MAX_UNIT_WORDS
    if question.answer_type == "choice":
        if gold.casefold() in (option.strip().casefold() for option in question.options):
            return True
        found = _LETTER.match(gold)
        letter = (found["first"] or found["last"]).upper() if found else ""
        return "A" <= letter <= _last_letter(question)
    return _YES_OR_NO.match(gold) is not None


def _last_letter(question: Question) -> str:
    return chr(64 + min(len(question.options), 26)) if question.options else "Z"
