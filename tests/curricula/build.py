"""Small problems and stages for the curriculum's tests."""

from __future__ import annotations

from typing import Any

from curricula.stage import Stage
from data.problem import Problem


def problem(problem_id: str, num_prompt_tokens: int, task: str = "musique") -> Problem:
    return Problem(
        problem_id=problem_id,
        task=task,
        context="",
        question="Who?",
        answers=("Ada",),
        answer_type="text",
        num_prompt_tokens=num_prompt_tokens,
    )


def stage(index: int, low: int, high: int, **changes: Any) -> Stage:
    fields: dict[str, Any] = {"steps": 10, "max_response_tokens": 64, "replay_frac": 0.0, "lr": 1e-6}
    return Stage(index=index, low=low, high=high, **(fields | changes))
