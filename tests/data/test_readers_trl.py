import json
from functools import partial

import pytest

from data.problem import SourceProblem
from data.prompts import L1_PROMPT
from data.readers import read_problems
from tests.data.reading import read_as

PROMPT = "Read.\n\n<text>\nA doc.\n</text>\n\nWho?"
TRL = {"prompt": PROMPT, "answer": "Ada"}


read = partial(read_as, "trl")


@pytest.mark.parametrize(
    "prompt",
    [
        PROMPT,
        [{"role": "user", "content": PROMPT}],
        [{"role": "system", "content": "s"}, {"role": "user", "content": PROMPT}],
    ],
)
def test_a_prompt_of_either_form_becomes_document_and_question(tmp_path, prompt):
    (problem,) = read(tmp_path, {"prompt": prompt, "answer": "Ada"})
    assert (problem.context, problem.question, problem.answers) == ("A doc.", "Who?", ("Ada",))
    assert (problem.task, problem.answer_type, problem.options) == ("trl", "text", ())


def test_columns_of_their_own_go_before_the_prompt(tmp_path):
    (problem,) = read(tmp_path, {**TRL, "context": "Another.", "question": "Where?"})
    assert (problem.context, problem.question) == ("Another.", "Where?")


@pytest.mark.parametrize("name", ["answer", "answers", "solution", "ground_truth", "reference"])
def test_the_gold_may_have_any_of_its_usual_names(tmp_path, name):
    (problem,) = read(tmp_path, {"prompt": PROMPT, name: ["x", "y"]})
    assert problem.answers == ("x", "y")


def test_a_null_gold_gives_way_to_one_under_another_name(tmp_path):
    (problem,) = read(tmp_path, {"prompt": PROMPT, "answer": None, "solution": "x"})
    assert problem.answers == ("x",)


@pytest.mark.parametrize(
    ("row", "answer_type", "answers"),
    [
        ({"answer": 12.5}, "number", ("12.5",)),
        ({"answer": "12.5"}, "text", ("12.5",)),
        ({"answer": ["Yes."]}, "yesno", ("Yes.",)),
        ({"answer": ["no", "none"]}, "text", ("no", "none")),
        ({"answer": "blue", "options": ["red", "blue"]}, "choice", ("B",)),
        ({"answer": "(b)", "choices": {"A": "red", "B": "blue"}}, "choice", ("B",)),
        ({"answer": "12", "answer_type": "numeric"}, "number", ("12",)),
        ({"answer": "yes", "answer_type": "free"}, "text", ("yes",)),
    ],
)
def test_the_answer_type_is_the_written_one_or_follows_from_gold_and_options(tmp_path, row, answer_type, answers):
    (problem,) = read(tmp_path, {"prompt": PROMPT, **row})
    assert (problem.answer_type, problem.answers) == (answer_type, answers)


def test_ids_and_tasks_are_taken_or_made_from_content(tmp_path):
    given = {**TRL, "id": 7, "task": "hop"}
    named, first, copy, other = read(tmp_path, given, TRL, TRL, {**TRL, "prompt": PROMPT + " Now?"})
    assert (named.problem_id, named.task) == ("7", "hop")
    assert first.problem_id.startswith("trl-")
    assert copy.problem_id == f"{first.problem_id}#2"
    assert other.problem_id not in (first.problem_id, copy.problem_id)


def test_a_column_map_reads_a_prompt_that_is_only_the_question(tmp_path):
    row = {"prompt": "Who?", "doc": "A doc.", "answer": "Ada", "type": "text", "id": "1", "task": "t"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (problem,) = read_problems(tmp_path / "a.jsonl", columns={"question": "prompt", "context": "doc"})
    assert (problem.context, problem.question) == ("A doc.", "Who?")


@pytest.mark.parametrize(
    "question", [" Who?\n", "Who?\n\n\n", "Does it say\n\nFormat your response as follows?", "\tq"]
)
@pytest.mark.parametrize("context", ["\n\nA </text> doc <text>\n", " a ", "Format your response as follows: no"])
def test_what_our_own_template_rendered_comes_back_exactly(tmp_path, context, question):
    problem = SourceProblem(
        problem_id="1", task="t", context=context, question=question, answers=("x",), answer_type="text"
    )
    (read_back,) = read(tmp_path, {"prompt": L1_PROMPT.render(problem), "answer": "x", "id": "1", "task": "t"})
    assert read_back == problem
