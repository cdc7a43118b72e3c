"""Golds that no rule can read: a light look before training, not the rules themselves."""

from __future__ import annotations

import re

from data.problem import Question

_NUMBER = re.compile(
    r"[-+]?\s*\(?\s*(?:[A-Z]{3}\s*)?[$€£¥]?\s*[-+]?(?:\d[\d,]*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
    r"(?:\s*/\s*\d[\d,]*(?:\.\d+)?)?\s*(?:%|¢|percent)?\s*\)?"
    r"(?:\s*(?:thousand|million|billion|trillion))?"
)
"""One number, maybe signed, in parentheses, with currency, thousands commas, exponent, denominator, percent, scale."""


def unreadable_gold(question: Question) -> str | None:
    """Why no accepted answer can be read as `answer_type`; None where at least one can.

    A number must look like one, a choice must be a letter A-Z (and one of the options, where they are
    known), a yesno must be yes, no, true or false. Any text can be read.
    """
    if question.answer_type == "text":
        return None
    if any(_readable(answer.strip(), question) for answer in question.answers):
        return None
    wanted = {"number": "a number", "choice": _letters(question), "yesno": "yes or no"}[question.answer_type]
    return f"{question.answers[0][:60]!r} is not {wanted}"


def _readable(answer: str, question: Question) -> bool:
    if question.answer_type == "number":
        return _NUMBER.fullmatch(answer) is not None
    if question.answer_type == "choice":
        last = chr(64 + len(question.options)) if question.options else "Z"
        return len(answer) == 1 and "A" <= answer <= last
    return answer.rstrip(".").lower() in ("yes", "no", "true", "false")


def _letters(question: Question) -> str:
    return f"a letter A-{chr(64 + len(question.options))}" if question.options else "a letter A-Z"
