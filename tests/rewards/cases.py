"""Shared by the reward tests: short ways to write a question and to score one response."""

from __future__ import annotations

from data.problem import AnswerType, Question
from rewards.hybrid import RuleScorer
from rewards.types import Score

CITIES = ("London", "Paris", "The author does not say", "Rome")


def ask(
    *golds: str, answer_type: AnswerType = "text", question: str = "Which?", options: tuple[str, ...] = ()
) -> Question:
    return Question(question=question, answers=golds, answer_type=answer_type, options=options)


def rule(question: Question, response: str) -> Score:
    return RuleScorer().score([(question, response)])[0]


def says(question: Question, answer: str) -> float | None:
    """The rule's value for a response in the documented format."""
    return rule(question, f"<think>x</think>Therefore, the answer is {answer}").value
