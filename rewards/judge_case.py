"""One question to the judge, and the same beside a reference that is certainly wrong.

A decoy turns a judge's YES into evidence: an answer that gets a YES beside a wrong reference too persuaded the judge by
something else than its meaning, whatever that was. Decoys are a function of the content alone, so that caches and
resumed runs see the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b

import orjson

from data.problem import Question
from rewards.judge_prompt import as_data, judge_prompt
from rewards.rules.choice import options_of, read_choice
from rewards.rules.numeral import read_number
from rewards.rules.yesno import read_yesno

_DECOY_TEXTS = (
    "Ostrik Venderholm", "the Lake of Tarn Quille", "Mirabel Oxenfoord", "a wooden barometer", "Port Eskandale",
    "the Halvorsen ferry strike", "Yusra Tanembe", "three copper kettles", "the Duchy of Brannock", "Dr. Ilse Karvonen",
    "polishing the lighthouse lens", "the Sablewood Quartet",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeCase:
    """What the judge is asked: does `candidate` mean one of `references`?"""

    question: Question
    references: tuple[str, ...]
    """Shown as accepted; the question's own answers, or a decoy."""
    candidate: str
    """The answer that was read from the response."""

    def prompt(self, *, structured: bool) -> str:
        """The user turn, with marks of its own."""
        return judge_prompt(self.question.question, self.references, self.candidate, structured=structured)

    def key(self, *words: str) -> str:
        """Identifies the content that the judge sees, the prompt's wording, and `words` (its name, for instance)."""
        shown = [as_data(text) for text in (self.question.question, self.candidate, *self.references)]
        return blake2b(orjson.dumps([_WORDING, *words, *shown]), digest_size=16).hexdigest()


_WORDING = judge_prompt("q", ["r"], "c", structured=True, mark="m") + judge_prompt(
    "q", ["r"], "c", structured=False, mark="m"
)


def judge_case(question: Question, candidate: str) -> JudgeCase:
    """The case of one answer; a choice's letters are shown with their options, which the judge cannot look up."""
    return JudgeCase(
        question=question, references=tuple(_with_option(a, question) for a in question.answers), candidate=candidate
    )


def with_decoy(case: JudgeCase) -> JudgeCase:
    """The same candidate beside one wrong reference of the question's kind."""
    return replace(case, references=(_decoy(case),))


def _with_option(answer: str, question: Question) -> str:
    options = options_of(question) if question.answer_type == "choice" else ()
    letter = read_choice(answer, options) if options else None
    return answer if letter is None else f"{letter}) {options[ord(letter) - ord('A')]}"


def _decoy(case: JudgeCase) -> str:
    question = case.question
    golds = question.answers
    match question.answer_type:
        case "choice":
            options = options_of(question)
            meant = {read_choice(gold, options) for gold in golds}
            letters = [chr(ord("A") + i) for i in range(len(options) or 4)]
            wrong = [letter for letter in letters if letter not in meant]
            if wrong and None not in meant:
                return _with_option(wrong[_draw(case) % len(wrong)], question)
        case "yesno":
            meanings = {read_yesno(gold) for gold in golds}
            if meanings in ({True}, {False}):
                return "no" if meanings == {True} else "yes"
        case "number":
            numbers = [number for gold in golds if (number := read_number(gold, is_gold=True))]
            if numbers:
                return str(int(max(abs(number.value) for number in numbers)) * 3 + 17 + _draw(case) % 23)
        case "text":
            pass
    words = case.candidate.casefold()
    return next((t for t in _rotated(case) if t.casefold() not in words), _DECOY_TEXTS[0])


def _rotated(case: JudgeCase) -> tuple[str, ...]:
    start = _draw(case) % len(_DECOY_TEXTS)
    return _DECOY_TEXTS[start:] + _DECOY_TEXTS[:start]


def _draw(case: JudgeCase) -> int:
    return int.from_bytes(blake2b(case.question.question.encode("utf-8", "replace"), digest_size=4).digest())
