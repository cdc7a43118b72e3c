from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import columns as module
from data.columns import PackedStrings, ProblemColumns, columns_of, sorted_tasks
from data.problem import Problem


def problem(name: str, task: str, num_tokens: int) -> Problem:
    return Problem(
        problem_id=name, task=task, context="", question="?", answers=("a",), answer_type="text",
        num_prompt_tokens=num_tokens,
    )  # fmt: skip


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=20), st.integers(1, 7))
def test_packed_strings_are_the_strings_however_they_are_read(strings: list[str], rows_at_a_time: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ROWS_AT_A_TIME", rows_at_a_time)
        packed = PackedStrings.pack(strings)
        assert len(packed) == len(strings)
        assert list(packed) == strings
        assert [packed[i] for i in range(len(packed))] == strings
        chosen = np.arange(len(strings))[::-2]
        assert list(packed.take(chosen)) == strings[::-2]
        assert list(pickle.loads(pickle.dumps(packed))) == strings  # noqa: S301 (our own bytes)


def test_columns_of_problems_are_read_in_one_pass_with_tasks_sorted() -> None:
    columns = columns_of([problem("p1", "b", 3), problem("p2", "a", 5), problem("p3", "b", 4)])
    assert list(columns.problem_ids) == ["p1", "p2", "p3"]
    assert columns.num_prompt_tokens.tolist() == [3, 5, 4]
    assert columns.tasks == ("a", "b")
    assert columns.task_codes.tolist() == [1, 0, 1]


def test_a_sequence_that_has_columns_is_not_read() -> None:
    class Stored(Sequence[Problem]):
        columns = columns_of([problem("p1", "b", 3)])

        def __len__(self) -> int:
            return 1

        def __getitem__(self, position: int) -> Problem:  # type: ignore[override]
            raise AssertionError("a text was read")

    assert columns_of(Stored()) is Stored.columns
    assert isinstance(Stored.columns, ProblemColumns)


def test_no_problems_have_empty_columns() -> None:
    columns = columns_of([])
    assert len(columns) == 0
    assert columns.tasks == ()


def test_tasks_of_a_later_stage_do_not_reorder_those_before() -> None:
    names, codes = sorted_tasks(["c", "a"], np.array([0, 1, 0], dtype=np.int32))
    assert (names, codes.tolist()) == (("a", "c"), [1, 0, 1])
