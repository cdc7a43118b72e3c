from functools import partial

import pytest

from data.golds import unreadable_gold
from data.problem import SourceProblem
from tests.data.reading import read_as

V1 = {
    "input": "Who?",
    "context": "A doc.",
    "answers": ["Ada", "Ada L."],
    "length": 2,
    "dataset": "hotpotqa",
    "language": "en",
    "all_classes": None,
    "_id": "v1",
}
V2 = {
    "_id": "v2",
    "domain": "Single-Document QA",
    "sub_domain": "Legal",
    "difficulty": "hard",
    "length": "short",
    "question": "Which?",
    "choice_A": "red",
    "choice_B": "blue",
    "choice_C": "green",
    "choice_D": "none",
    "answer": "B",
    "context": "A doc.",
}


read = partial(read_as, "longbench")


def test_a_row_of_version_1_is_read(tmp_path):
    assert read(tmp_path, V1) == [
        SourceProblem(
            problem_id="v1",
            task="hotpotqa",
            context="A doc.",
            question="Who?",
            answers=("Ada", "Ada L."),
            answer_type="text",
        )
    ]


def test_a_row_of_version_2_is_a_choice_whose_question_lists_the_choices(tmp_path):
    (problem,) = read(tmp_path, V2)
    assert problem.question == "Which?\n(A) red\n(B) blue\n(C) green\n(D) none"
    assert (problem.answer_type, problem.answers, problem.options) == (
        "choice",
        ("B",),
        ("red", "blue", "green", "none"),
    )
    assert (problem.task, problem.problem_id) == ("Single-Document QA", "v2")
    assert unreadable_gold(problem) is None


@pytest.mark.parametrize(
    ("dataset", "answers", "answer_type"),
    [
        ("hotpotqa", ["yes"], "yesno"),
        ("qasper_e", ["No", "no"], "yesno"),
        ("qasper", ["No", "unanswerable"], "text"),
        ("trec", ["Date"], "text"),
        ("passage_retrieval_en", ["Paragraph 3"], "text"),
    ],
)
def test_the_answer_type_is_yesno_where_every_gold_says_so_else_text(tmp_path, dataset, answers, answer_type):
    (problem,) = read(tmp_path, {**V1, "dataset": dataset, "answers": answers})
    assert problem.answer_type == answer_type


def test_datasets_whose_input_is_no_question_get_one(tmp_path):
    count = {**V1, "dataset": "passage_count_e", "input": "", "answers": ["11"], "_id": "1"}
    english = {**V1, "dataset": "passage_retrieval_en", "input": "An {input} abstract.", "_id": "2"}
    chinese = {**V1, "dataset": "passage_retrieval_zh", "input": "摘要", "_id": "3"}
    first, second, third = read(tmp_path, count, english, chinese)
    assert (first.answer_type, first.answers) == ("number", ("11",))
    assert "How many different paragraphs" in first.question
    assert second.question.endswith("'Paragraph 1'.\n\nAn {input} abstract.")
    assert third.question.endswith("\n\n摘要")
