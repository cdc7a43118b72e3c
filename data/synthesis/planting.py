"""What a task builder returns: the facts to plant, and the question they answer."""

from __future__ import annotations

from dataclasses import dataclass

from data.problem import AnswerType


@dataclass(frozen=True, kw_only=True, slots=True)
class Planting:
    """One problem before it has a document."""

    facts: tuple[str, ...]
    """Sentences to plant in any order: the needed ones first, then the distractors of the same form."""
    num_needed: int
    """How many of the facts the answer needs."""
    num_hops: int = 1
    """How many of them are read one through the other."""
    question: str
    answers: tuple[str, ...]
    answer_type: AnswerType
    options: tuple[str, ...] = ()
    chain_of_thought: str
    """The gold reasoning, read from the facts."""
