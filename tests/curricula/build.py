"""Small problems, stages and curricula for the curriculum's tests."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

from curricula.index import ProblemIndex
from curricula.sampler import StagedCurriculum
from curricula.settings import CurriculumSettings
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


def index_of(num_problems: int, *, tasks: str = "x") -> ProblemIndex:
    """Problems p0, p1, ... of the tasks in turn."""
    return ProblemIndex([problem(f"p{i}", 1 + i, tasks[i % len(tasks)]) for i in range(num_problems)])


TWO_STAGES = [stage(0, 0, 20, steps=3), stage(1, 20, 60, steps=4, replay_frac=0.5)]


def short_and_long(num_short: int = 12, num_long: int = 12) -> list[Problem]:
    return [problem(f"short{i}", 1 + i % 20) for i in range(num_short)] + [
        problem(f"long{i}", 21 + i % 40) for i in range(num_long)
    ]


def curriculum_of(
    problems: list[Problem] | None = None, stages: list[Stage] | None = None, seed: int = 0, **changes: Any
) -> StagedCurriculum:
    return StagedCurriculum(
        short_and_long() if problems is None else problems,
        TWO_STAGES if stages is None else stages,
        settings=CurriculumSettings(**changes),
        seed=seed,
    )


def outcomes_of(problem_id: str, step: int) -> list[float]:
    """Two made-up outcomes that depend on the problem and the step alone; many are zero."""
    return [float(byte % 3 == 0) for byte in blake2b(f"{problem_id} {step}".encode(), digest_size=2).digest()]


def play_step(curriculum: StagedCurriculum, n: int, refill: int = 0, exclude: tuple[str, ...] = ()) -> list[str]:
    step = curriculum.num_steps
    curriculum.begin_step()
    drawn = curriculum.draw(n, exclude)
    for p in drawn:
        curriculum.observe(p.problem_id, outcomes_of(p.problem_id, step))
    drawn += curriculum.draw(refill, exclude)
    for p in drawn[n:]:
        curriculum.observe(p.problem_id, outcomes_of(p.problem_id, step))
    curriculum.end_step()
    return [p.problem_id for p in drawn]


def saved(curriculum: StagedCurriculum) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(json.dumps(curriculum.state_dict()))
    return state
