"""The sampler at millions of problems: start, draw, observe, save, load, and the memory it takes.

It runs in a process of its own, so that what is resident is the sampler and not what was there before. The problems are
made when they are asked for, from columns, as a prepared set's are.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any, TypeVar

import numpy as np
import orjson

from curricula.orders import OrderName
from curricula.sampler import StagedCurriculum
from curricula.settings import CurriculumSettings
from curricula.stage import Stage
from data.columns import PackedStrings, ProblemColumns
from data.problem import Problem
from launch.resident import peak_resident_bytes, resident_bytes, restart_peak

DRAWN_PER_STEP = 128
GROUP_SIZE = 8
_NUM_TASKS = 7
_LOW, _HIGH = 20_000, 60_000
_BEFORE_EPOCH_END = 64
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class CurriculumCase:
    """What is measured."""

    problems: int
    visited: int
    """Problems of the first window that were visited before the first measured step."""
    steps: int
    """Measured steps in each of two stages, the second with replay and short problems."""
    order: OrderName = "random"


class SyntheticProblems(Sequence[Problem]):
    """Problems of 1 to 60,000 prompt tokens in seven tasks, made when they are asked for."""

    def __init__(self, num_problems: int) -> None:
        digits = (np.arange(num_problems)[:, None] // 10 ** np.arange(8, -1, -1) % 10 + ord("0")).astype(np.uint8)
        text = np.concatenate([np.tile(np.frombuffer(b"problem-", dtype=np.uint8), (num_problems, 1)), digits], axis=1)
        self.columns = ProblemColumns(
            problem_ids=PackedStrings(text.tobytes(), np.arange(1, num_problems + 1, dtype=np.int64) * text.shape[1]),
            num_prompt_tokens=np.random.default_rng(0).integers(1, _HIGH + 1, num_problems, dtype=np.int32),
            tasks=tuple(f"task-{k}" for k in range(_NUM_TASKS)),
            task_codes=(np.arange(num_problems) % _NUM_TASKS).astype(np.int32),
        )

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, position: int) -> Problem:  # type: ignore[override]
        columns = self.columns
        return Problem(
            question="Who?",
            answers=("Ada",),
            answer_type="text",
            problem_id=columns.problem_ids[position],
            task=columns.tasks[columns.task_codes[position]],
            context="",
            num_prompt_tokens=int(columns.num_prompt_tokens[position]),
        )


def bench_curriculum(case: CurriculumCase) -> dict[str, Any]:
    """The figures, measured in a fresh process."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, case).result()


def measure(case: CurriculumCase) -> dict[str, Any]:
    """Start, `visited` observations, two stages of `steps`, a save, a load, and a draw that opens every task's epoch."""
    problems = SyntheticProblems(case.problems)
    gc.collect()
    restart_peak()  # making the problems' columns is no part of it
    before = resident_bytes()
    start_s, curriculum = _timed(lambda: _curriculum(problems, case))
    resident, peak = resident_bytes(), peak_resident_bytes()
    first = curriculum.index.window(0, _LOW)[: case.visited].tolist()
    rng = random.Random(0)
    for position in first:
        curriculum.observe(problems.columns.problem_ids[position], _outcomes(rng))
    draws, observations, begins, end_s = _play(curriculum, rng)
    visited = curriculum.metrics()["curriculum/num_visited"]
    first_save_s, _ = _timed(curriculum.state_dict)
    save_s, state = _timed(partial(_saved, curriculum))
    # A load needs a second sampler; its memory is not the first one's.
    run_peak = peak_resident_bytes()
    del curriculum
    restored = _curriculum(problems, case)
    load_s, _ = _timed(lambda: restored.load_state_dict(_near_epochs_end(orjson.loads(state), restored)))
    epoch_begin_s, _ = _timed(restored.begin_step)
    epoch_draw_s, _ = _timed(lambda: restored.draw(DRAWN_PER_STEP))
    return {
        "problems": case.problems,
        "order": case.order,
        "visited": int(visited),
        "start_s": start_s,
        "start_mib": _mib_above(resident, before),
        "start_peak_mib": _mib_above(peak, before),
        "peak_mib": _mib_above(run_peak, before),
        **_spread("begin_step_ms", begins, 1e3),
        **_spread("draw_ms", draws, 1e3),
        **_spread("observe_us", observations, 1e6),
        "open_stage_s": end_s,
        "epoch_begin_s": epoch_begin_s,
        "epoch_draw_ms": 1e3 * epoch_draw_s,
        "first_save_s": first_save_s,
        "save_s": save_s,
        "state_mib": len(state) / 2**20,
        "load_s": load_s,
    }


def _saved(curriculum: StagedCurriculum) -> bytes:
    return orjson.dumps(curriculum.state_dict())


def _curriculum(problems: Sequence[Problem], case: CurriculumCase) -> StagedCurriculum:
    stages = [
        Stage(index=0, low=0, high=_LOW, steps=case.steps, max_response_tokens=1024, replay_frac=0.0, lr=1e-6),
        Stage(
            index=1, low=_LOW, high=_HIGH, steps=case.steps + 1, max_response_tokens=1024, replay_frac=0.25,
            short_frac=0.25, lr=1e-6,
        ),
    ]  # fmt: skip
    settings = CurriculumSettings(task_balanced=True, order=case.order, advance_on_plateau=10**6)
    return StagedCurriculum(problems, stages, settings=settings, seed=0)


def _play(curriculum: StagedCurriculum, rng: random.Random) -> tuple[list[float], list[float], list[float], float]:
    """Every step but the last: seconds of each draw, each observation and each begin_step; and of the slowest end_step."""
    draws: list[float] = []
    observations: list[float] = []
    begins: list[float] = []
    ends: list[float] = []
    while (stage := curriculum.stage) is not None and not (stage.index == 1 and len(draws) == 2 * stage.steps - 2):
        begins.append(_timed(curriculum.begin_step)[0])
        seconds, drawn = _timed(lambda: curriculum.draw(DRAWN_PER_STEP))
        draws.append(seconds)
        for problem in drawn:
            problem_id, outcomes = problem.problem_id, _outcomes(rng)
            before = time.perf_counter()
            curriculum.observe(problem_id, outcomes)
            observations.append(time.perf_counter() - before)
        ends.append(_timed(curriculum.end_step)[0])
    return draws, observations, begins, max(ends)


def _near_epochs_end(state: dict[str, Any], curriculum: StagedCurriculum) -> dict[str, Any]:
    """The state with every task's order a few problems before the end of its epoch."""
    codes = curriculum.index.task_codes[curriculum.index.window(_LOW, _HIGH)]
    sizes = np.bincount(codes, minlength=_NUM_TASKS).tolist()
    for task, order in state["window"]["orders"].items():
        if order:
            order["done"] = max(0, sizes[int(task[-1])] - _BEFORE_EPOCH_END)
    return state


def _outcomes(rng: random.Random) -> list[float]:
    return [float(rng.random() < 0.3) for _ in range(GROUP_SIZE)]


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    before = time.perf_counter()
    result = work()
    return time.perf_counter() - before, result


def _spread(name: str, seconds: Sequence[float], scale: float) -> dict[str, float]:
    at = np.quantile(np.array(seconds) * scale, [0.5, 0.95, 1.0]).tolist()
    return {name: at[0], f"{name}_p95": at[1], f"{name}_max": at[2]}


def _mib_above(after: int | None, before: int | None) -> float | None:
    return None if after is None or before is None else (after - before) / 2**20
