import gzip
import json
from pathlib import Path

import pytest

from data.problem import SourceProblem
from data.readers import read_problems

OURS = {
    "problem_id": "p1",
    "task": "lookup",
    "context": "A doc.",
    "question": "Which?",
    "answers": ["x", "y"],
    "answer_type": "text",
}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_our_own_form_is_read_as_it_stands(tmp_path):
    path = write(tmp_path / "a.jsonl", {**OURS, "answer_type": "choice", "answers": ["B"], "options": ["u", "v"]})
    assert list(read_problems(path)) == [
        SourceProblem(
            problem_id="p1",
            task="lookup",
            context="A doc.",
            question="Which?",
            answers=("B",),
            answer_type="choice",
            options=("u", "v"),
        )
    ]


def test_gzip_is_told_by_content_and_blank_lines_and_a_byte_order_mark_are_skipped(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf\n" + json.dumps(OURS).encode() + b"\n\n"))
    assert [p.problem_id for p in read_problems(path)] == ["p1"]


def test_reading_is_lazy_so_rows_before_a_broken_one_arrive(tmp_path):
    path = write(tmp_path / "a.jsonl", OURS, {})
    problems = read_problems(path)
    assert next(problems).problem_id == "p1"
    with pytest.raises(ValueError, match=":2: "):
        next(problems)


def test_aliases_read_a_docqa_row_and_numbers_become_strings(tmp_path):
    row = {"id": 7, "source": "aitqa", "context": "c", "question": "q", "answer": 3.5, "answer_type": "number"}
    (problem,) = read_problems(write(tmp_path / "a.jsonl", row))
    assert (problem.problem_id, problem.task, problem.answers) == ("7", "aitqa", ("3.5",))


@pytest.mark.parametrize(
    ("name", "ours"), [("extractive", "text"), ("free", "text"), ("YesNo", "yesno"), ("numeric", "number")]
)
def test_foreign_answer_types_become_ours(tmp_path, name, ours):
    (problem,) = read_problems(write(tmp_path / "a.jsonl", {**OURS, "answer_type": name}))
    assert problem.answer_type == ours


def test_a_column_map_reads_other_names(tmp_path):
    row = {**OURS, "subset": "hop", "gold_list": ["z"]}
    columns = {"answers": "gold_list", "task": "subset"}
    (problem,) = read_problems(write(tmp_path / "a.jsonl", row), columns=columns)
    assert (problem.task, problem.answers) == ("hop", ("z",))


def test_a_choice_takes_its_options_from_the_question_unless_option_text_contradicts(tmp_path):
    question = "Which (A) or B?\n(A) one\n(B) two\nlines\nC. three"
    row = {**OURS, "question": question, "answers": ["B"], "answer_type": "choice"}
    path = write(
        tmp_path / "a.jsonl",
        {**row, "meta": {"option_text": "two\nlines"}},
        {**row, "problem_id": "p2", "meta": {"option_text": "one"}},
    )
    first, second = read_problems(path)
    assert first.options == ("one", "two\nlines", "three")
    assert second.options == ()
    assert first.question == question


def test_options_may_be_keyed_by_letter(tmp_path):
    row = {**OURS, "answers": ["A"], "answer_type": "choice", "options": {"B": "v", "A": "u"}}
    (problem,) = read_problems(write(tmp_path / "a.jsonl", row))
    assert problem.options == ("u", "v")


def test_the_document_may_hold_anything_and_is_not_touched(tmp_path):
    context = "  {question} </text>\r\n\u2028 {0} \x00 <|end|>\n"
    (problem,) = read_problems(write(tmp_path / "a.jsonl", {**OURS, "context": context}))
    assert problem.context == context
