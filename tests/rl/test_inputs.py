"""The run's data: chosen by columns, cut once, read from disk when it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.columns import columns_of
from data.prepare import prepare
from data.prepared import PreparedSet, load_prepared
from data.problem import DataError
from data.prompts import CUT_MARK, render_prompt_ids
from rl.config import RunConfig
from rl.inputs import _by_window, _fit
from tests.rl.tiny_run import TEMPLATE, problems, tokenizer

# A prompt has 7 tokens beside the 10, 20 or 30 words of its document, two of which "door says oak" adds.


@pytest.fixture
def prepared(tmp_path: Path) -> PreparedSet:
    sources = [p for num_words in (30, 10, 20) for p in problems(4, num_words, 1)]
    prepare(sources, tokenizer(), tmp_path / "set", template=TEMPLATE)
    return load_prepared(tmp_path / "set")


def config(**data: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "run": {"dir": "run"},
            "model": {"path": "model"},
            "data": {"train": "train", **data},
            "stages": [{"max_prompt_tokens": 24, "steps": 1, "max_response_tokens": 8}],
        }
    )


def test_lengths_are_those_of_the_comment(prepared: PreparedSet) -> None:
    assert columns_of(prepared.problems).num_prompt_tokens.tolist() == [37] * 4 + [17] * 4 + [27] * 4


def test_a_set_that_fits_is_taken_as_it_is(prepared: PreparedSet) -> None:
    assert _fit(prepared, tokenizer(), 37, config()) == (prepared.problems, 0, 0)


def test_longer_problems_are_dropped_by_their_columns_alone(
    prepared: PreparedSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.stored_problems.os.pread", None)
    train, num_dropped, num_cut = _fit(prepared, tokenizer(), 30, config(overlong="drop"))
    assert (len(train), num_dropped, num_cut) == (8, 4, 0)
    assert list(columns_of(train).problem_ids) == [f"p1-{n}-{i}" for n in (10, 20) for i in range(4)]
    windows = _by_window(prepared, [20, 40], "test")
    assert {high: len(chosen) for high, chosen in windows.items()} == {20: 4, 40: 8}
    monkeypatch.undo()
    assert [p.num_prompt_tokens for p in train] == [17] * 4 + [27] * 4
    assert [p.problem_id for p in windows[40]] == [f"p1-{n}-{i}" for n in (30, 20) for i in range(4)]


def test_longer_problems_are_cut_in_place_and_measured(prepared: PreparedSet) -> None:
    train, num_dropped, num_cut = _fit(prepared, tokenizer(), 30, config(overlong="cut_middle"))
    assert (len(train), num_dropped, num_cut) == (12, 0, 4)
    for position, problem in enumerate(train):
        ids = render_prompt_ids(tokenizer(), problem, TEMPLATE)
        assert len(ids) == problem.num_prompt_tokens == train.columns.num_prompt_tokens[position] <= 30
        assert (CUT_MARK in problem.context) == (position < 4)
        assert problem.question == "door ?"


def test_a_longer_problem_is_an_error_on_request(prepared: PreparedSet) -> None:
    with pytest.raises(DataError, match=r"problem 'p1-30-0': 37 prompt tokens > 30, the longest stage's"):
        _fit(prepared, tokenizer(), 30, config(overlong="error"))


def test_an_empty_evaluation_window_is_named(prepared: PreparedSet) -> None:
    with pytest.raises(DataError, match=r"no problem in the windows ending at \[5\]"):
        _by_window(prepared, [5, 40], "test")
