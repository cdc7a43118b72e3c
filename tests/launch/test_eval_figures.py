"""From items to figures, by hand: avg@k, pass@k, strict beside lenient, grids, and the text of both tables."""

from __future__ import annotations

import pytest

from data.problem import AnswerType, Question
from data.synthesis.cells import Cell
from launch.eval_figures import SuiteItem, all_figures, figures_of, grid_table, grids, table
from launch.eval_lenient import lenient_match, lenient_value
from rewards.types import Score
from rl.evaluate import Decoding, EvaluatedItem


def item(
    problem_id: str,
    value: float | None,
    *,
    lenient: float | None = None,
    sample: int = 0,
    suite: str = "s",
    task: str = "a",
    decoding: Decoding = "sampled",
    window: int = 100,
    num_cut_tokens: int = 0,
) -> SuiteItem:
    status = "ok" if value is not None else "timeout"
    evaluated = EvaluatedItem(
        problem_id=problem_id, task=task, window=window, decoding=decoding, sample=sample, num_prompt_tokens=90,
        num_response_tokens=10, finish_reason="stop", response="r",
        score=Score(value=value, status=status, source="cache", answer="r", reason="said so"),
    )  # fmt: skip
    return SuiteItem(
        suite=suite, num_cut_tokens=num_cut_tokens, lenient=value if lenient is None else lenient, item=evaluated
    )


def test_avg_and_pass_at_k_of_four_samples() -> None:
    # p0: 1 of 4 right; p1: 2 of 4 right and one unknown, which counts as not right.
    values = {"p0": [1.0, 0.0, 0.0, 0.0], "p1": [1.0, 1.0, None, 0.0]}
    items = [item(name, value, sample=i) for name, own in values.items() for i, value in enumerate(own)]
    figures = figures_of(items)
    assert figures.strict.mean == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert (figures.strict.num_problems, figures.strict.num_items, figures.strict.num_invalid) == (2, 8, 1)
    # pass@2: 1 - C(3,2)/C(4,2) = 1 - 3/6 and 1 - C(2,2)/C(4,2) = 1 - 1/6
    assert figures.pass_at == {1: pytest.approx(3 / 8), 2: pytest.approx((1 / 2 + 5 / 6) / 2), 4: 1.0}


def test_a_sample_is_right_from_a_score_of_one_half_on_as_on_the_reports_page() -> None:
    values = {"p0": [0.5, 0.0], "p1": [0.49, 0.0]}
    items = [item(name, value, sample=i) for name, own in values.items() for i, value in enumerate(own)]
    assert figures_of(items).pass_at == {1: 0.25, 2: 0.5}  # one of two answers to p0, none to p1


def test_the_lenient_figure_stands_beside_the_strict_one_over_the_same_problems() -> None:
    figures = figures_of(
        [item("p0", 0.0, lenient=1.0), item("p1", 1.0, lenient=1.0), item("p2", None), item("p3", 0.0, lenient=0.0)]
    )
    assert (figures.strict.mean, figures.lenient.mean) == (0.25, 0.5)
    assert (figures.strict.num_problems, figures.lenient.num_problems, figures.strict.num_invalid) == (4, 4, 1)
    assert figures.plain()["lenient"]["low"] < 0.5 < figures.plain()["lenient"]["high"]


def test_suites_windows_and_tasks_are_told_apart() -> None:
    items = [
        item("p0", 1.0, suite="x", window=20), item("p1", 0.0, suite="x"), item("p2", 0.0, suite="x", task="b"),
        item("p0", 1.0, suite="y", num_cut_tokens=7),
    ]  # fmt: skip
    told = [(one.suite, one.window, one.task, one.strict.mean, one.num_cut) for one in all_figures(items)]
    assert told == [
        ("x", 20, None, 1.0, 0), ("x", 100, None, 0.0, 0), ("x", None, None, pytest.approx(1 / 3), 0),
        ("x", None, "a", 0.5, 0), ("x", None, "b", 0.0, 0), ("y", 100, None, 1.0, 1), ("y", None, None, 1.0, 1),
    ]  # fmt: skip
    lines = table(all_figures(items)).splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["x:", "sampled"]
    assert lines[5].split()[1:4] == ["a", "2", "0.500"]
    assert lines[-1] == "sampled, mean of 2 suites: accuracy 0.667, lenient 0.667"  # (1/3 + 1) / 2


def test_a_grid_is_told_by_its_problems_ids_and_shown_length_by_depth() -> None:
    def cell(length: int, depth: float | None) -> str:
        return Cell(task="lookup", split="test", seed=0, min_tokens=0, max_tokens=length, depth=depth).problem_id(3)

    items = [
        item(cell(400, 0.5), 1.0),
        item(cell(400, 1.0), 0.0),
        item(cell(800, 0.5), 0.0),
        item(cell(800, None), 1.0),
    ]
    items.append(item(cell(400, 0.5).removesuffix("3") + "4", 0.0))
    assert [(c.length, c.depth, c.strict.mean, c.strict.num_problems) for c in grids(items)] == [
        (400, 0.5, 0.5, 2), (400, 1.0, 0.0, 1), (800, 0.5, 0.0, 1),
    ]  # fmt: skip
    assert [line.split() for line in grid_table(grids(items)).splitlines()[1:]] == [
        ["length", "0.5", "1"], ["400", "0.50", "0.00"], ["800", "0.00", "-"],
    ]  # fmt: skip
    assert grids([item("p0", 1.0)]) == []


def test_a_row_tells_why_there_is_no_score_and_nothing_that_depends_on_when_it_ran() -> None:
    unknown, known = item("p0", None).row(), item("p0", 1.0, lenient=1.0).row()
    assert (unknown["value"], unknown["lenient"], unknown["failure"]) == (None, None, "said so")
    assert (known["failure"], known["source"]) == ("", "judge")


@pytest.mark.parametrize(
    ("response", "gold", "answer_type", "counts"),
    [
        ("so the answer is Barack Obama, born in Hawaii", "Barack Obama", "text", True),
        ("the answer is not Barack Obama", "Barack Obama", "text", True),  # a known weakness, kept
        ("the answer is Obama", "Barack Obama", "text", True),
        ("the answer is Angela Merkel", "Barack Obama", "text", False),
        ("Obama? the answer is Merkel", "Obama", "text", False),
        ("Obama, I think, but the thought has no end", "Obama", "text", True),
        ("<think>Obama</think> Merkel", "Obama", "text", False),
        ("", "Obama", "text", False),
        ("the answer is -5", "5", "number", True),
        ("the answer is $1,234.50", "1234.5", "number", True),
        ("the answer is 500", "5", "number", True),
        ("the answer is 6", "5", "number", False),
        ("the answer is none", "5", "number", False),
        ("the answer is 0", "0", "number", True),
        ("the correct answer is **(B)**", "B", "choice", True),
        ("the answer is A. No, the answer is B", "B", "choice", False),
    ],
)  # fmt: skip
def test_what_the_published_match_counts(response: str, gold: str, answer_type: AnswerType, counts: bool) -> None:
    question = Question(question="q", answers=(gold,), answer_type=answer_type)
    assert lenient_match(response, question) == counts


def test_the_lenient_score_is_never_below_the_strict_one_and_unknown_only_where_that_is() -> None:
    question = Question(question="q", answers=("Obama",), answer_type="text")
    assert lenient_value(1.0, "the answer is the 44th president", question) == 1.0
    assert lenient_value(None, "the answer is not Obama", question) == 1.0
    assert lenient_value(None, "the answer is Merkel", question) is None
    assert lenient_value(0.0, "the answer is Merkel", question) == 0.0
