import pytest

import data.check
from data.check import check_problems
from data.golds import unreadable_gold
from data.prepare import prepare
from data.problem import Question, SourceProblem
from data.prompts import measured
from tests.data.test_readers_jsonl import DOCQA, OURS, write
from tests.data.tokenizers import byte_tokenizer, word_tokenizer


def problem(problem_id, *, task="t", answer_type="text", answers=("x",), context="c"):
    return SourceProblem(
        problem_id=problem_id, task=task, context=context, question="?", answers=answers, answer_type=answer_type
    )


def test_problems_are_counted_by_task_and_type():
    report = check_problems(
        [problem("1"), problem("2", task="u"), problem("3", task="u", answer_type="number", answers=("1",))], [10]
    )
    assert report.num_problems == 3
    assert {task: dict(kinds) for task, kinds in report.counts.items()} == {
        "t": {"text": 1},
        "u": {"text": 1, "number": 1},
    }


def test_problems_with_the_same_document_and_question_are_duplicates():
    report = check_problems([problem("1"), problem("2"), problem("3", context="d"), problem("4")], [10])
    assert report.duplicates == (("1", "2", "4"),)


def test_measured_problems_fill_a_histogram_and_unmeasured_ones_none():
    assert check_problems([problem("1")], [10]).histogram is None
    report = check_problems([measured(problem(str(n)), n) for n in (1, 10, 11, 31)], [10, 30])
    assert report.histogram is not None
    assert (report.histogram.counts, report.histogram.num_beyond) == ((2, 1), 1)


@pytest.mark.parametrize(
    ("answer_type", "answers", "readable"),
    [
        ("text", ["anything"], True),
        *[("number", [gold], True) for gold in ["5", "-8.99%", "$2,163", "8.50¢", "1e6", "5/2", "(5)", "-$5", ".5"]],
        *[("number", [gold], True) for gold in ["USD 5", "3.2 million", "+4", "1,084,498"]],
        *[("number", [gold], False) for gold in ["five", "5 or 6", "2019-2020", "nan", "n/a", "-", "$"]],
        ("number", ["about five", "5"], True),
        *[("choice", [gold], True) for gold in ["A", "C"]],
        *[("choice", [gold], False) for gold in ["D", "AB", "a", "(A)", "the text"]],
        *[("yesno", [gold], True) for gold in ["Yes", "no", "NO.", "True"]],
        *[("yesno", [gold], False) for gold in ["maybe", "Insufficient information"]],
    ],
)
def test_golds_are_read_by_their_type(answer_type, answers, readable):
    options = ("u", "v", "w") if answer_type == "choice" else ()
    question = Question(question="?", answers=tuple(answers), answer_type=answer_type, options=options)
    assert (unreadable_gold(question) is None) == readable


def test_the_report_on_docqa_names_its_one_unreadable_gold(capsys):
    if not DOCQA.exists():
        pytest.skip("../shared/data/docqa_train.jsonl is not there")
    assert data.check.main([str(DOCQA)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["task", "text", "number", "choice", "yesno", "all"]
    assert "total" in out and " 703" in out
    assert "prompt tokens: not measured; give --tokenizer PATH" in out
    assert "duplicates (same document and question): 0" in out
    assert "golds that no rule can read: 1" in out
    assert "aitqa-q-490: 'Transportation Workers" in out and "is not a number" in out


def test_a_source_is_measured_with_a_tokenizer_and_a_prepared_set_without(tmp_path, capsys):
    word_tokenizer().save_pretrained(tmp_path / "tokenizer")
    source = write(tmp_path / "a.jsonl", OURS, {**OURS, "problem_id": "p2"})
    assert data.check.main([str(source), "--tokenizer", str(tmp_path / "tokenizer"), "--windows", "10,100"]) == 0
    measured_out = capsys.readouterr().out
    prepare([problem("1"), problem("2")], byte_tokenizer(), tmp_path / "set")
    assert data.check.main([str(tmp_path / "set"), "--windows", "10,1000"]) == 0
    prepared_out = capsys.readouterr().out
    for out, name in ((measured_out, "11..100"), (prepared_out, "11..1000")):
        (line,) = [line for line in out.splitlines() if name in line]
        assert line.split()[:2] == [name, "2"]
    assert "p1 = p2" in measured_out


def test_data_that_cannot_be_used_exits_with_2_and_one_line(tmp_path, capsys):
    for argument in (str(tmp_path / "nothing.jsonl"), str(tmp_path)):
        assert data.check.main([argument]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1
