from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from curricula.orders import OrderName
from data.columns import columns_of
from launch.bench_curriculum import CurriculumCase, SyntheticProblems, measure


def test_synthetic_problems_are_what_their_columns_say() -> None:
    problems = SyntheticProblems(30)
    read = columns_of([problems[i] for i in range(30)])
    assert list(problems.columns.problem_ids) == list(read.problem_ids)
    assert len(set(read.problem_ids)) == 30
    assert problems.columns.tasks == read.tasks
    for name in ("num_prompt_tokens", "task_codes"):
        assert np.array_equal(getattr(problems.columns, name), getattr(read, name))


@pytest.mark.parametrize("order", get_args(OrderName))
def test_figures_of_every_order_are_there(order: OrderName) -> None:
    figures = measure(CurriculumCase(problems=1500, visited=100, steps=3, order=order))
    # 100 before, and at most 128 new ones in each of the 3 + 3 measured steps.
    assert 100 < figures["visited"] <= 100 + 6 * 128
    for key in ("start_s", "draw_ms", "draw_ms_max", "observe_us", "save_s", "load_s", "state_mib", "epoch_draw_ms"):
        assert figures[key] > 0
    assert figures["draw_ms"] <= figures["draw_ms_p95"] <= figures["draw_ms_max"]
