"""The unit of work: a question with its document.

Three frozen types, each complete when it is constructed, each adding what one more room of the
house knows: a `Question` is all that a reward may see, a `SourceProblem` is what a data file
holds, and a `Problem` is a source problem whose prompt was measured with the run's own tokenizer
and chat template.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AnswerType = Literal["text", "number", "choice", "yesno"]
ANSWER_TYPES: tuple[AnswerType, ...] = ("text", "number", "choice", "yesno")


class DataError(ValueError):
    """Input data that cannot be used; the message names file, row, column, value and fix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What a reward needs to judge a response, and nothing else."""

    question: str
    """The question as asked, without the document."""
    answers: tuple[str, ...]
    """Accepted answers, at least one, none of them blank."""
    answer_type: AnswerType
    """Which rule reads the answer."""
    options: tuple[str, ...] = ()
    """For `choice`: the texts of the choices, A first; empty when only the letters are known."""

    def __post_init__(self) -> None:
        if not self.answers or not all(a.strip() for a in self.answers):
            raise DataError(f"question {self.question[:60]!r}: answers is empty or holds a blank string")
        if self.answer_type not in ANSWER_TYPES:
            allowed = ", ".join(ANSWER_TYPES)
            raise DataError(
                f"question {self.question[:60]!r}: answer_type {self.answer_type!r} is not one of {allowed}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceProblem(Question):
    """A question with its document, as a data file holds it."""

    problem_id: str
    """Unique within a run; the seed of every rollout derives from it."""
    task: str
    """The unit of balancing, for instance `musique` or `lookup`."""
    context: str
    """The document."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem(SourceProblem):
    """A source problem whose prompt was measured."""

    num_prompt_tokens: int
    """Length of the whole rendered prompt (chat template and generation prompt included)."""
