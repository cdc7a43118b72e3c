"""What was left out of a prepared set, one line a problem in its `dropped.jsonl`: which, by what, why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data.problem import SourceProblem

if TYPE_CHECKING:
    from data.filters import Filter

OVERLONG = "overlong"
"""In place of a filter's name: the prompt was longer than allowed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """A problem that was left out."""

    problem_id: str
    filter: str
    """The filter's name, or `OVERLONG`."""
    reason: str


def filtered(problem: SourceProblem, filters: Sequence[Filter]) -> SourceProblem | Dropped:
    """The problem, or the word of the first filter that leaves it out; filters after that are not asked."""
    for each in filters:
        reason = each.reason(problem)
        if reason is not None:
            return Dropped(problem_id=problem.problem_id, filter=each.name, reason=reason)
    return problem
